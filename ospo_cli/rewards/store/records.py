"""An entry as bytes: the rest of its key, the parts of its value, ranked products, and a checksum over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.rewards.store.keys import Keys


@dataclass(frozen=True)
class Shape:
    """How many parts (float64) and ranked products (int32, −1 where nothing more is retrieved) a value has."""

    parts: int
    ranks: int = 0

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return 8 + 8 * self.parts + 4 * self.ranks + 4

    @property
    def dtype(self) -> np.dtype[Any]:
        """Layout of a record, little-endian and without gaps: what the row number does not hold of the key, value, checksum."""
        return np.dtype([("rest", "u1", 8), ("parts", "<f8", self.parts), ("products", "<i4", self.ranks), ("check", "<u4")])


def row_numbers(keys: Keys) -> NDArray[np.int64]:
    """Return the first 8 bytes of each key as a signed number: SQLite's row number, which orders the file."""
    return np.ascontiguousarray(keys[:, :8]).view(">i8")[:, 0].astype(np.int64)


def packed(shape: Shape, keys: Keys, parts: NDArray[np.float64], products: NDArray[np.int64] | None) -> bytes:
    """Return the records of all rows, one after another."""
    records = np.zeros(len(keys), dtype=shape.dtype)
    records["rest"], records["parts"] = keys[:, 8:], parts
    if shape.ranks and products is not None:
        records["products"] = products
    records["check"] = _checks(row_numbers(keys), records)
    return records.tobytes()


def unpacked(shape: Shape, content: bytes) -> NDArray[Any]:
    """Return the records in bytes; raise ValueError where these are no whole number of records."""
    return np.frombuffer(content, dtype=shape.dtype)


def is_sound(rows: NDArray[np.int64], records: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell of each record whether its checksum is that of its row number and content."""
    return np.asarray(records["check"] == _checks(rows, records))


def _checks(rows: NDArray[np.int64], records: NDArray[Any]) -> NDArray[np.uint32]:
    # 32-bit words, one column at a time for all rows: multiply and fold (as FNV does, but 64 bits wide). SQLite itself has no checksum
    # of its pages.
    if not len(records):
        return np.zeros(0, dtype=np.uint32)
    words = np.frombuffer(records.tobytes(), dtype="<u4").reshape(len(records), -1)[:, :-1]
    found = np.asarray(rows).view(np.uint64) ^ np.uint64(0xCBF29CE484222325)
    for column in range(words.shape[1]):
        found = (found ^ words[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return (found >> np.uint64(32)).astype(np.uint32)
