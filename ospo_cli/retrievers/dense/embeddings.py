"""A catalogue's vectors on disk: made once, in shards that a kill leaves whole, checked by hash and opened by memory map."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.executors import engines
from ospo_cli.executors.base import Job, Shard
from ospo_cli.retrievers.dense.vectors import Encoder, digest
from ospo_cli.tables import files
from ospo_cli.tables.sealed import say_damaged

VERSION = "embeddings-1"
TEXTS_PER_SHARD = 1024


def vectors_of(texts: Sequence[str], encoder: Encoder, folder: Path) -> tuple[NDArray[np.float32], str]:
    """Return the passages' vectors float32[texts, dimensions], mapped from `folder/<key>.npy`, and the key.

    The key is the SHA-256 of the encoder's fingerprint and the texts. A text lies in the shard that its own hash says, so that a
    catalogue with one changed product encodes one shard anew.

    What is kept and is not what was written is said on stderr and made again.

    Raises:
        FileError: they cannot be written.
        RetrievalError: what was just written cannot be read.
    """
    key = digest(VERSION, encoder.fingerprint, *texts)
    path = folder / f"{key}.npy"
    shape = (len(texts), encoder.dimensions)
    mapped = _read(path, shape)
    if mapped is None:
        shards = [(rows, *_shard([texts[row] for row in rows], encoder, folder)) for rows in _shards(texts)]

        def is_done(number: int) -> bool:
            return _read(shards[number][1], (len(shards[number][2]), encoder.dimensions)) is not None

        def do(number: int) -> None:
            _, place, part = shards[number]
            write(place, partial(np.lib.format.write_array, array=encoder.encode(part, "passage"), allow_pickle=False))

        named = [Shard(place.stem, len(rows), None) for rows, place, _ in shards]
        engines.run(Job(named, is_done, do, "dense", "documents", folder / "shards"))
        mapped = _read(path, shape)  # a worker finds what the driver has put together meanwhile
    if mapped is None:
        _put_together(path, shape, [(rows, place) for rows, place, _ in shards])
        mapped = _read(path, shape)
        if mapped is None:
            raise RetrievalError(path, "is not what was written a moment ago", remedy="check the disk")
    return mapped, key


def _put_together(path: Path, shape: tuple[int, int], parts: Sequence[tuple[list[int], Path]]) -> None:
    _mark(path).unlink(missing_ok=True)
    with files.replacing(path) as temporary:
        # Mapped, shard by shard: the whole array is never in memory at once.
        whole = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        _reserve(temporary)
        for rows, place in parts:
            whole[rows] = np.load(place, mmap_mode="r", allow_pickle=False)
        whole.flush()
        del whole
    _write_mark(path)


def write(path: Path, fill: Callable[..., object]) -> None:
    """Write a file by `fill(stream)`, then its hash beside it; a file without its hash counts as absent."""
    _mark(path).unlink(missing_ok=True)  # a kill before the new one leaves a file that counts as absent
    with files.replacing(path) as temporary, open(temporary, "wb") as stream:
        fill(stream)
    _write_mark(path)


def is_whole(path: Path) -> bool:
    """Tell whether the file is the one that was written; False where it is absent, was never finished, or is another one now (said)."""
    if not _mark(path).is_file() or not path.is_file():
        return False
    if _mark(path).read_text(encoding="ascii", errors="replace") == files.sha256_of(path):
        return True
    say_damaged(path, "made again")
    return False


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    if not is_whole(path):
        return None
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(found) if found.shape == shape and found.dtype == np.float32 else None


def _shard(part: list[str], encoder: Encoder, folder: Path) -> tuple[Path, list[str]]:
    return folder / "shards" / f"{digest(VERSION, encoder.fingerprint, *part)}.npy", part


def _shards(texts: Sequence[str]) -> list[list[int]]:
    bits = max(0, (max(1, len(texts)) - 1) // TEXTS_PER_SHARD).bit_length()
    shards: dict[int, list[int]] = {}
    for row, text in enumerate(texts):
        first = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
        shards.setdefault(first >> (32 - bits), []).append(row)
    return [shards[number] for number in sorted(shards)]


def _reserve(path: Path) -> None:
    # A mapped file has holes, and a full disk that cannot fill them ends the process without a word.
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, os.fstat(stream.fileno()).st_size))


def _mark(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _write_mark(path: Path) -> None:
    with files.replacing(_mark(path)) as temporary:
        temporary.write_text(files.sha256_of(path), encoding="ascii")
