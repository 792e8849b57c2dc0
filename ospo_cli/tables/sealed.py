"""Folders of the cache that carry the hashes of their files: what a kill cut short, or a disk changed, is never taken for a result."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from ospo_cli.errors import shorten
from ospo_cli.tables.files import as_json, write_text

SEAL = "hashes.json"


def digest(path: Path) -> str:
    """Return the BLAKE2b (32 hex digits) of a file's bytes: about a gigabyte a second."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def seal(folder: Path) -> None:
    """Write the hashes of all files of a folder into it: last, so that a folder without them was never finished."""
    write_text(folder / SEAL, as_json(_hashes(folder)))


def is_sealed(folder: Path) -> bool:
    """Tell whether the folder was finished and is as it was then; one that was finished and differs is said on stderr."""
    try:
        written = (folder / SEAL).read_bytes()
    except OSError:
        return False
    try:
        if json.loads(written) == _hashes(folder):
            return True
    except (OSError, ValueError, RecursionError):
        pass
    say_damaged(folder, "computed again")
    return False


def say_damaged(path: Path, what_follows: str) -> None:
    """Write one line on stderr about something that is kept to spare time."""
    sys.stderr.write(f"{shorten(str(path), 300)}: is not what was written (damaged?): {what_follows}\n")


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SEAL and not path.name.endswith(".tmp"))
    return {name: digest(folder / name) for name in names}
