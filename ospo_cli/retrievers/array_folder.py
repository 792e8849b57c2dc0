"""A folder of NumPy arrays that are opened by memory map: written whole or not at all, checked against its manifest when opened."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import OspoError, RetrievalError
from ospo_cli.tables.files import read_json, write_json

MANIFEST = "manifest.json"


def write(folder: Path, version: str, fingerprint: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the arrays; a folder that another process finished meanwhile is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name[:16]}-", dir=folder.parent))
    try:
        digests = {}
        for name, values in arrays.items():
            np.save(unfinished / f"{name}.npy", values, allow_pickle=False)
            digests[name] = _digest(unfinished / f"{name}.npy")
        manifest = {"version": version, "fingerprint": fingerprint, "blake2b": digests}
        write_json(unfinished / MANIFEST, manifest)
        unfinished.chmod(0o755)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(folder: Path, version: str, fingerprint: str) -> dict[str, NDArray[np.generic]] | None:
    """Return the arrays, read-only and by memory map; None where there is no such folder.

    Raises:
        RetrievalError: it was written by another version, for something else, or is damaged (a byte changed, a file cut short or gone).
    """
    remedy = "delete the folder: it is made again"
    if not folder.exists():
        return None
    try:
        manifest = read_json(folder / MANIFEST)
        found_version, found_fingerprint, digests = manifest["version"], manifest["fingerprint"], dict(manifest["blake2b"])
    except (OspoError, ValueError, KeyError, TypeError):
        raise RetrievalError(str(folder), "is no index, or a damaged one", expected=f"a readable {MANIFEST}", remedy=remedy) from None
    if found_version != version:
        raise RetrievalError(str(folder), "was written by another version", found=found_version, expected=version, remedy=remedy)
    if found_fingerprint != fingerprint:
        raise RetrievalError(
            str(folder), "does not match its documents and settings", found=found_fingerprint, expected=fingerprint, remedy=remedy
        )
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, digest in digests.items():
        path = folder / f"{name}.npy"
        try:
            if _digest(path) != digest:
                raise ValueError
            arrays[name] = np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None, allow_pickle=False)
        except (OSError, ValueError):
            raise RetrievalError(str(path), "is damaged or cut short", expected=f"the bytes named in {MANIFEST}", remedy=remedy) from None
    return arrays


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
