"""Files of a data set as bytes: what their names say of their kind, gzip and Zstandard unpacked within bounds, folders of parts."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa

from ospo_cli.errors import SourceError, first_line

PACKED = (".gz", ".zst")
_SAME = {".ndjson": ".jsonl", ".pq": ".parquet"}
# Text packs ten to one, a table of constants a hundred to one; a file that goes far beyond both is made to fill the memory.
LARGEST_GROWTH = 200
UNBOUNDED_BYTES = 1 << 30
_PIECE = 1 << 20


def kind(path: Path) -> str:
    """Return the suffix that tells a file's kind, in small letters and without that of its packing: `Products.CSV.gz` is .csv."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in PACKED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return _SAME.get(last, last)


def stem(path: Path) -> str:
    """Return a file's name up to its first dot."""
    return path.name.split(".", 1)[0]


def is_packed(path: Path) -> bool:
    """Tell whether the name ends in .gz or .zst."""
    return path.suffix.lower() in PACKED


def open_bytes(path: Path) -> BinaryIO:
    """Return a file's bytes, unpacked, as a stream that can seek.

    Raises:
        OSError: it cannot be read.
        SourceError: it is packed and broken, or holds more than LARGEST_GROWTH times its size (and more than UNBOUNDED_BYTES).
    """
    return io.BytesIO(_unpacked(path)) if is_packed(path) else open(path, "rb")


def open_text(path: Path, newline: str = "", errors: str = "strict") -> TextIO:
    """Return a file's text without its byte order mark; otherwise as `open_bytes`."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors=errors, newline=newline)


def read_bytes(path: Path) -> bytes:
    """Return all of a file's bytes, unpacked; otherwise as `open_bytes`."""
    with open_bytes(path) as stream:
        return stream.read()


def _unpacked(path: Path) -> bytes:
    most = max(UNBOUNDED_BYTES, LARGEST_GROWTH * path.stat().st_size)
    pieces, held = [], 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else pa.input_stream(path, compression="zstd") as stream:
            while piece := stream.read(_PIECE):
                pieces.append(piece)
                held += len(piece)
                if held > most:
                    raise SourceError(
                        path, "holds far more than a packed file of its size should", found=f"over {most >> 20} MiB",
                        expected=f"at most {UNBOUNDED_BYTES >> 20} MiB or {LARGEST_GROWTH} times its size",
                        remedy="unpack it by hand if it is what it should be",
                    )  # fmt: skip
    except (EOFError, OSError, pa.ArrowException) as error:
        raise SourceError(
            path, f"cannot be unpacked as {path.suffix.lower()}", found=first_line(error), remedy="fetch or export it again"
        ) from None
    return b"".join(pieces)


def parts(folder: Path) -> list[Path]:
    """Return the part files of a folder that Spark and its like write in the place of one file, by name.

    Raises:
        SourceError: it holds folders (a partitioned table), or no part of the folder's own kind.
    """
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(("_", "."))]
    within = next((entry for entry in entries if entry.is_dir()), None)
    if within is not None:
        raise SourceError(
            folder, "is a folder of folders", found=within.name, expected="one file, or a folder of part files",
            remedy="write it without partitions",
        )  # fmt: skip
    found = [entry for entry in entries if kind(entry) == kind(folder)]
    if not found:
        raise SourceError(
            folder, "is a folder without part files", found=", ".join(entry.name for entry in entries) or "an empty folder",
            expected=f"files that end in {kind(folder)}", remedy="put one file in its place, or the part files into it",
        )  # fmt: skip
    empty = [entry for entry in found if not entry.stat().st_size]
    return [entry for entry in found if entry not in empty] or found
