"""A folder of NumPy arrays that are opened by memory map: written whole or not at all, checked against its manifest when opened."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import FileError, OspoError
from ospo_cli.tables import unfinished
from ospo_cli.tables.files import read_json, write_json
from ospo_cli.tables.sealed import digest, say_damaged

MANIFEST = "manifest.json"


def write(folder: Path, version: str, fingerprint: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the arrays; a folder that another process finished meanwhile is kept.

    Raises:
        FileError: they cannot be written.
    """
    temporary = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=unfinished.prefix(folder.name), suffix=unfinished.SUFFIX, dir=folder.parent))
        digests = {}
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", values, allow_pickle=False)
            digests[name] = digest(temporary / f"{name}.npy")
        manifest = {"version": version, "fingerprint": fingerprint, "blake2b": digests}
        write_json(temporary / MANIFEST, manifest)
        temporary.chmod(0o755)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                raise
    except OSError as error:
        remedy = "free space or mend the permissions, then run the command again"
        raise FileError(folder, "cannot be written", found=error.strerror or error, remedy=remedy) from None
    finally:
        if temporary != folder:
            unfinished.remove(temporary)


def read(folder: Path, version: str, fingerprint: str) -> dict[str, NDArray[np.generic]] | None:
    """Return the arrays, read-only and by memory map; None where there is no such folder, or one that has to be made again.

    That is one of another version, of something else, or a damaged one (a byte changed, a file cut short or gone). It is said on stderr
    and removed; a process that has it open keeps what it has.
    """
    if not folder.exists():
        return None
    try:
        manifest = read_json(folder / MANIFEST)
        if (manifest["version"], manifest["fingerprint"]) != (version, fingerprint):
            raise ValueError
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, expected in dict(manifest["blake2b"]).items():
            path = folder / f"{name}.npy"
            if digest(path) != expected:
                raise ValueError
            arrays[name] = np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None, allow_pickle=False)
    except (OspoError, OSError, ValueError, KeyError, TypeError):
        say_damaged(folder, "made again")
        unfinished.put_aside(folder)
        return None
    return arrays
