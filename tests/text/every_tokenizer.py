"""Small tokenizers of every kind that is supported, trained or written on the spot."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ospo_cli.policies.token_pieces import TokenPieces
from tests.text.byte_level import TEXT
from tests.text.byte_level import tokenizer as trained_byte_level

END = "<|im_end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ALPHABET = sorted({*"".join(TEXT), *" abcdefghijklmnopqrstuvwxyz0123456789.,<>/-'\"\u0301\u200d👨👩👧לםאé"})


def with_added(made: Tokenizer) -> Tokenizer:
    """Add the end token (special) and the tags (text)."""
    made.add_special_tokens([AddedToken(END, special=True)])
    made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return made


def byte_level() -> Tokenizer:
    return trained_byte_level(400)


def byte_level_with_tags() -> Tokenizer:
    made = Tokenizer.from_str(trained_byte_level(400).to_str())
    return with_added(made)


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Nmt()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(prepend_scheme="always"), decoders.Metaspace(prepend_scheme="always")
    made.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    )
    return with_added(made)


def sentencepiece_with_bytes() -> Tokenizer:
    """As Llama 2 and Mistral have it: blanks are ▁, what is unknown falls back to bytes, the decoder strips the first blank."""
    words = ["▁navy", "▁coat", "wool", "▁for", "▁men", "é", "漢", "▁", ",", "<", ">", "/"]
    vocabulary = {token: index for index, token in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return with_added(made)


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False))
    return with_added(made)


def suffix_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return with_added(made)


def characters() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"<unk>": 0} | {character: index + 1 for index, character in enumerate(ALPHABET)}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    return with_added(made)


def word_level() -> Tokenizer:
    words = ["<unk>", "navy", "wool", "coat", "for", "men", "red", "שלום", "🔥", " ", "  ", ",", "<", ">", "/"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s+|[^\w\s]"), "isolated")
    return with_added(made)


MAKERS: tuple[Callable[[], Tokenizer], ...] = (
    byte_level,
    byte_level_with_tags,
    unigram,
    sentencepiece_with_bytes,
    word_piece,
    suffix_bpe,
    characters,
    word_level,
)
KINDS = tuple(maker.__name__ for maker in MAKERS)


@cache
def tokenizer(kind: str) -> Tokenizer:
    """The tokenizer of a kind, made once."""
    return {maker.__name__: maker for maker in MAKERS}[kind]()


@cache
def pieces(kind: str) -> TokenPieces:
    """Its pieces."""
    return TokenPieces(tokenizer(kind))
