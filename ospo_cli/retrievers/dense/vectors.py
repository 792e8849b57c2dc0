"""What gives a vector to a query or a document, and how vectors are rounded so that their products are exact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError

Side = Literal["query", "passage"]
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


def digest(*parts: object) -> str:
    """Return the SHA-256 (hex) of the parts' representations and of texts."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else repr(part).encode()
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()
