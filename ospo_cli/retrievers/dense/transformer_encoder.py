"""An encoder folder in the Hugging Face layout: safetensors, tokenizer.json, config.json; no pickle, no code of the folder's."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError, RetrievalError, first_line
from ospo_cli.params.retrieval import Dense
from ospo_cli.retrievers.dense.vectors import Side, digest, rounded
from ospo_cli.tables import files, model_folder

VERSION = "transformer-encoder-2"
# Matrix products of one or two rows take another path through BLAS than those of several.
ROWS = 4
# Modules of a sentence-transformers folder that are done here; a projection (Dense) after the pooling is not.
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
# Positions of these are counted from the padding id on.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")


class TransformerEncoder:
    """Forward pass and pooling of distinct token sequences, sorted by length, in batches of `tokens_per_batch` tokens.

    What is encoded together is equally long: up to 32 tokens nothing is padded, beyond to a multiple of 8. A batch of queries is filled up
    to a multiple of 4 rows. So what else is in a batch changes no bit of a query's vector on the CPUs that were tried (x86-64, AVX2), and
    elsewhere no more than rounding (2e-7 of an entry).

    Args:
        folder: config.json, tokenizer.json, *.safetensors; 1_Pooling/config.json where pooling is auto.
        settings: section retrieval.dense.

    Raises:
        RetrievalError: a file is missing, unreadable or asks for code.
        ParameterError: pooling or max_length do not fit the folder.
    """

    def __init__(self, folder: Path, settings: Dense) -> None:
        self.folder, self.settings = folder, settings
        self.config = checked_config(folder)
        self.pooling = _pooling(folder, settings.pooling)
        self.dimensions = int(self.config.get("hidden_size") or self.config.get("dim") or self.config.get("d_model") or 0)
        if not self.dimensions:
            raise RetrievalError(folder / "config.json", "does not say how wide the model is", expected="hidden_size")
        _check_length(self.config, settings.max_length)
        hashes = {path.name: files.sha256_of(path) for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}
        hashes |= {name: files.sha256_of(folder / name) for name in ("config.json", "tokenizer.json")}
        prefixes = (settings.query_prefix, settings.passage_prefix)
        changing = (settings.max_length, settings.normalize, settings.tokens_per_batch, settings.threads)
        self.fingerprint = digest(VERSION, sorted(hashes.items()), self.pooling, prefixes, changing)

    def encode(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """Return the vectors, rounded; each distinct token sequence is encoded once."""
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        prefix = self.settings.query_prefix if side == "query" else self.settings.passage_prefix
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, encoding in enumerate(self._tokenizer.encode_batch([prefix + _storable(text) for text in texts])):
            rows_of.setdefault(tuple(encoding.ids), []).append(row)
        if () in rows_of:
            raise RetrievalError(self.folder, "the tokenizer makes no token of a text", found=texts[rows_of[()][0]], expected="tokens")
        # By padded length, then by content: what is encoded together does not depend on the order of the texts.
        ordered = sorted(rows_of, key=lambda ids: (padded_length(len(ids)), ids))
        start = 0
        with self._torch_threads():
            while start < len(ordered):
                length = padded_length(len(ordered[start]))
                most = max(ROWS, self.settings.tokens_per_batch // length // ROWS * ROWS)
                batch = [ids for ids in ordered[start : start + most] if padded_length(len(ids)) == length]
                start += len(batch)
                filled = batch + [batch[0]] * (-len(batch) % ROWS if side == "query" else 0)
                found = rounded(self._forward(filled, length)[: len(batch)], self.settings.normalize, str(self.folder))
                for ids, vector in zip(batch, found, strict=True):
                    vectors[rows_of[ids]] = vector
        return vectors

    def _forward(self, rows: list[tuple[int, ...]], length: int) -> NDArray[np.float64]:
        import torch

        pad = self.config.get("pad_token_id")
        ids = torch.full((len(rows), length), 0 if pad is None else int(pad), dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        device = next(self._model.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        with torch.inference_mode():
            found = self._model(input_ids=ids, attention_mask=mask)
            if self.pooling == "pooler":
                pooled = found.pooler_output
            elif self.pooling == "cls":
                pooled = found.last_hidden_state[:, 0]
            elif self.pooling == "last":
                pooled = found.last_hidden_state[torch.arange(len(rows), device=device), mask.sum(dim=1) - 1]
            else:
                weights = mask[:, :, None].to(found.last_hidden_state.dtype)
                pooled = (found.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1)
        return np.asarray(pooled.cpu().numpy(), dtype=np.float64)

    @contextmanager
    def _torch_threads(self) -> Iterator[None]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises plain Exceptions
            raise RetrievalError(self.folder / "tokenizer.json", "cannot be read", found=first_line(error)) from None
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.settings.max_length)
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # weights of heads that are not used here are reported at length
        try:
            model, loading = AutoModel.from_pretrained(
                self.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # transformers raises many kinds for a broken folder
            raise RetrievalError(
                self.folder, "the encoder cannot be loaded", found=first_line(error), remedy="restore the folder"
            ) from None
        finally:
            logging.set_verbosity(before)
        # Left out by folders that pool without it; with pooling pooler it must be there.
        missing = [key for key in map(str, loading.get("missing_keys", ())) if self.pooling == "pooler" or not key.startswith("pooler.")]
        missing += [str(key) for key in loading.get("mismatched_keys", ())]
        if missing:
            raise RetrievalError(
                self.folder, "weights do not fit the configuration", found=", ".join(sorted(missing)), remedy="restore the folder"
            )
        model.config.use_cache = False
        model.requires_grad_(False)
        if torch.cuda.is_available():
            return model.eval().to("cuda")
        pack(model)
        return model.eval()


def pack(model: Any) -> None:
    """Lay the weights of linear layers out once as oneDNN's products read them, in place of at every call (CPU, inference)."""
    import torch

    if not (hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)
            bias = None if module.bias is None else module.bias.detach()
            module.forward = functools.partial(_product, packed, bias)  # type: ignore[method-assign]


def _product(packed: Any, bias: Any, inputs: Any) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def padded_length(tokens: int) -> int:
    """Return the number of tokens that a sequence is padded to."""
    return tokens if tokens <= 32 else -(-tokens // 8) * 8


def checked_config(folder: Path) -> dict[str, Any]:
    """Return config.json of an encoder's folder; raise where a file is missing, weights are pickles, or code would have to be run."""
    names = sorted(path.name for path in folder.iterdir())
    for name in ("config.json", "tokenizer.json"):
        if name not in names:
            raise RetrievalError(folder, f"encoder folder without {name}", found=", ".join(names) or "nothing", expected=name)
    model_folder.check(folder, names, [name for name in names if name.endswith(".safetensors")], RetrievalError, "encoder")
    if "modules.json" in names:
        for module in files.read_json(folder / "modules.json", kind=list):
            kind = str(module.get("type", "") if isinstance(module, dict) else module).rpartition(".")[2]
            if kind not in _KNOWN_MODULES:
                raise RetrievalError(
                    folder / "modules.json", "names a module that is not done here", found=kind, expected=", ".join(_KNOWN_MODULES)
                )
    return dict(files.read_json(folder / "config.json"))


def _pooling(folder: Path, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        raise ParameterError(
            "retrieval.dense.pooling",
            "the encoder's folder does not say how its tokens become one vector",
            found=f"auto, and no {path}",
            expected="mean, cls, last or pooler",
            remedy="set it as the encoder was trained (BGE and SimCSE: cls; E5, MPNet, MiniLM: mean)",
        )
    stated = files.read_json(path)
    flags = [name for name, value in stated.items() if name.startswith("pooling_mode_") and value is True]
    if len(flags) != 1 or flags[0] not in _POOLING_FLAGS:
        raise RetrievalError(
            path, "asks for a pooling that is not done here", found=", ".join(flags) or "none", expected=" or ".join(_POOLING_FLAGS)
        )
    return _POOLING_FLAGS[flags[0]]


def _check_length(config: dict[str, Any], max_length: int) -> None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return
    if config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    if max_length > positions:
        raise ParameterError(
            "retrieval.dense.max_length", "is more than the encoder has positions", found=max_length, expected=f"at most {positions}"
        )


def _storable(text: str) -> str:
    # Lone surrogates have no UTF-8 form, which the tokenizers library asks for.
    return text.encode("utf-8", "replace").decode("utf-8")
