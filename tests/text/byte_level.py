"""Small byte-level tokenizers, trained on the spot."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ospo_cli.policies.token_pieces import TokenPieces

TEXT = [
    "navy wool coat, waterproof, for men",
    "café crème 漢字 漢字 🔥🔥 שלום עולם",
    "<answer>15.6 inch laptop</answer>",
    "<think>a red dress</think>",
] * 5
END = "<|im_end|>"


@cache
def tokenizer(vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE; 257 entries are the bytes alone and the end token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    return made


@cache
def pieces(vocabulary_size: int) -> TokenPieces:
    return TokenPieces(tokenizer(vocabulary_size))
