"""A small Llama-type policy from nothing: byte-level BPE trained on given text, weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import ParameterError
from ospo_cli.maths import seeding
from ospo_cli.params.policy import Policy
from ospo_cli.policies.folder import hide_progress_bars
from ospo_cli.policies.small_tokenizer import CHAT_TEMPLATE, END, START

# Tags are ordinary text in the completion, spelled by one token each: they stay when special tokens are left out.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CONTEXT_LENGTH = 2048


def write_small_llama(texts: Iterable[str], policy: Policy, seed: int, folder: Path) -> None:
    """Write a model folder: tokenizer trained on `texts`, Llama with the sizes of `policy`, weights from `seed`."""
    hide_progress_bars()
    tokenizer = train_tokenizer(texts, policy.vocabulary_size)
    model = build_model(policy, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, seed)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, safe_serialization=True)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Return a byte-level BPE in a transformers tokenizer with chat template; equal texts in any order give equal merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = [AddedToken(START, special=True), AddedToken(END, special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(TAGS),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=START, eos_token=END, pad_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def build_model(policy: Policy, vocabulary_size: int, start_token_id: int, end_token_id: int, seed: int) -> Any:
    """Return a Llama with tied embeddings; every weight comes from a generator of its own, keyed by seed and name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if policy.hidden_size % (2 * policy.heads):
        raise ParameterError(
            "policy.hidden_size",
            "is no even multiple of policy.heads",
            found=f"{policy.hidden_size} and {policy.heads} heads",
            expected=f"a multiple of {2 * policy.heads}",
        )
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=policy.hidden_size,
        intermediate_size=policy.intermediate_size,
        num_hidden_layers=policy.layers,
        num_attention_heads=policy.heads,
        num_key_value_heads=policy.heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=start_token_id,
        eos_token_id=end_token_id,
        pad_token_id=end_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                # Not the usual 0.02: at these widths attention then starts so flat that the demo's warm start never reads its prompt.
                weight.normal_(0.0, policy.hidden_size**-0.5, generator=torch_generator(seed, f"small-llama/{name}"))
            else:
                weight.fill_(1.0)
    return model


def torch_generator(seed: int, row_id: str) -> torch.Generator:
    """Return torch's generator for one purpose, seeded as `maths.seeding` does."""
    return torch.Generator().manual_seed(int(seeding.generator(seed, row_id).integers(1 << 62)))
