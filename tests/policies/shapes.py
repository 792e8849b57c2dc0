"""Policy folders in the shapes of well-known ones: their declarations over a tokenizer of a few hundred ids and random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
PRINTABLE = [chr(code) for code in range(33, 127)]


@dataclass(frozen=True)
class Shape:
    """What a folder declares.

    Attributes:
        kind: class of the model's configuration, in transformers.
        is_bytes: byte-level tokenizer; else pieces with ▁ and single bytes.
        first: special tokens that stand first in the vocabulary, last: those behind it; with what added_tokens says of each.
        eos: the tokenizer's end token; generation, config: eos_token_id of the two files, by name.
        padding: entries of the model beyond the tokenizer's (negative: the tokenizer has so many special tokens more).
        template: chat template.
        ends: the tokens that end an answer, the taught one first.
        system, history: what a trial of the template shows.
        names: further entries of tokenizer_config.json.
        config: further entries of the configuration.
    """

    kind: str
    is_bytes: bool
    last: tuple[str, ...]
    eos: str
    generation: tuple[str, ...]
    config_eos: tuple[str, ...]
    template: str
    ends: tuple[str, ...]
    first: tuple[str, ...] = ()
    text_tokens: tuple[str, ...] = ()
    padding: int = 0
    system: str = "taken"
    history: str = "taken"
    names: tuple[tuple[str, str], ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    encodes_first: str = ""


CHATML = (
    "{%% if messages[0]['role'] != 'system' %%}<|im_start|>system\nYou answer briefly.<|im_end|>\n{%% endif %%}"
    "{%% for message in messages %%}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n%s{%% endif %%}"
)
SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
HEADERS = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date_string }}\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}{% endif %}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ROLES = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{% set opening = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set opening = '' %}{% endif %}{{ bos_token }}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ (opening if loop.first else '') + message['content'] }}[/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}

SHAPES = {
    "qwen2.5": Shape(
        "Qwen2Config", True, QWEN, "<|im_end|>", QWEN[::-2], QWEN[2:], CHATML % "", QWEN[::-2], padding=51,
        text_tokens=("<tool_call>",), names=(("pad_token", "<|endoftext|>"),),
    ),
    "qwen3": Shape(
        "Qwen3Config", True, QWEN, "<|im_end|>", QWEN[::-2], QWEN[2:], CHATML % SWITCH, QWEN[::-2], padding=40,
        text_tokens=("<think>", "</think>"), names=(("pad_token", "<|endoftext|>"),), config=(("head_dim", 16),),
    ),
    "llama3": Shape(
        "LlamaConfig", True,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|reserved_0|>"),
        "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        HEADERS, ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"), names=(("bos_token", "<|begin_of_text|>"),),
        encodes_first="<|begin_of_text|>",
    ),
    "gemma3": Shape(
        "Gemma3TextConfig", False, ("<start_of_turn>", "<end_of_turn>", "<image_soft_token>"), "<eos>", ("<eos>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"), TURNS, ("<end_of_turn>", "<eos>"), text_tokens=("▁▁", "\n\n"), first=("<pad>", "<eos>", "<bos>", "<unk>"), padding=-1,
        system="refused: System role not supported", names=(("bos_token", "<bos>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")),
        config=(("head_dim", 16), *WINDOW.items()), encodes_first="<bos>",
    ),
    "phi3.5": Shape(
        "Phi3Config", False, ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), "<|endoftext|>",
        ("<|end|>", "<|assistant|>", "<|endoftext|>"), ("<|endoftext|>",), ROLES, ("<|end|>", "<|endoftext|>", "<|assistant|>"),
        first=("<unk>", "<s>"), text_tokens=("</s>",), padding=53,
        names=(("bos_token", "<s>"), ("pad_token", "<|endoftext|>"), ("unk_token", "<unk>")), config=(("pad_token_id", 0),),
    ),
    "smollm2": Shape(
        "LlamaConfig", True, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_end|>",), ("<|im_end|>",), CHATML % "", ("<|im_end|>",),
        first=("<|endoftext|>",), names=(("bos_token", "<|im_start|>"), ("pad_token", "<|im_end|>"), ("unk_token", "<|endoftext|>")),
        config=(("tie_word_embeddings", True),),
    ),
    "mistral": Shape(
        "MistralConfig", False, ("[INST]", "[/INST]"), "</s>", ("</s>",), ("</s>",), STRICT, ("</s>",), first=("<unk>", "<s>", "</s>"),
        names=(("bos_token", "<s>"), ("unk_token", "<unk>")), config=(("sliding_window", None),), encodes_first="<s>",
    ),
}  # fmt: skip


def tokenizer_of(shape: Shape) -> Tokenizer:
    """Return the tokenizer: single bytes, or single letters with bytes for all others."""
    if shape.is_bytes:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE({token: index for index, token in enumerate([*shape.first, *letters])}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        pieces = [*shape.first, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *PRINTABLE]
        made = Tokenizer(
            models.BPE({token: index for index, token in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in shape.first])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in shape.text_tokens])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in shape.last])
    if shape.encodes_first:
        token = shape.encodes_first
        made.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, made.token_to_id(token))])
    return made


def write(folder: Path, name: str, change: Callable[[dict[str, dict[str, Any]]], None] = lambda files: None) -> Path:
    """Write the folder of a shape; `change` may alter its JSON files before they are written."""
    import torch
    import transformers

    shape = SHAPES[name]
    tokenizer = tokenizer_of(shape)
    ids: Callable[[tuple[str, ...]], list[int]] = lambda tokens: [tokenizer.token_to_id(token) for token in tokens]  # noqa: E731
    size = tokenizer.get_vocab_size(with_added_tokens=True) + shape.padding
    eos = ids(shape.config_eos)
    options = {**SIZES, "vocab_size": size, "max_position_embeddings": 512, "tie_word_embeddings": False, **dict(shape.config)}
    config = getattr(transformers, shape.kind)(**options, bos_token_id=None, eos_token_id=eos if len(eos) > 1 else eos[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = ids(shape.generation)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": shape.eos, "chat_template": shape.template, **dict(shape.names)}
    files = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")} | {"tokenizer_config.json": named}
    change(files)
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder
