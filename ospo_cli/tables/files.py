"""Files and folders that are written whole or not at all, JSON, and hashes of content."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from ospo_cli.errors import FileError, MissingInputError, first_line
from ospo_cli.tables import unfinished

ABSENT = "absent"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, or of a folder's file names and their hashes; `absent` where there is neither."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\0".encode())
        return digest.hexdigest()
    if not path.is_file():
        return ABSENT
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file; read once per process as long as the file stays the same."""
    return _file_hash(path, *state_of(path))


def state_of(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced or written to: its inode, size and time of change, ns."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=256)
def _file_hash(path: Path, inode: int, size: int, modified: int) -> str:
    return sha256_of(path)


def as_json(content: object, ensure_ascii: bool = True) -> str:
    """Return sorted, indented JSON that ends with a line feed: equal content gives equal bytes."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=ensure_ascii) + "\n"


def write_json(path: Path, content: object, ensure_ascii: bool = True) -> None:
    """Write sorted, indented JSON, whole or not at all."""
    write_text(path, as_json(content, ensure_ascii))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with line feeds, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path, made_by: str = "", kind: type = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        made_by: the command that makes it, for the remedy.
        kind: what the outermost value must be: dict or list.

    Raises:
        MissingInputError: there is no such file.
        FileError: it cannot be read, or holds something else.
    """
    remedy = f"run `{made_by}` again" if made_by else "restore the file"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError(path, "no such file", remedy=f"run `{made_by}` first" if made_by else remedy) from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(path, "cannot be read as JSON", found=first_line(error), remedy=remedy) from None
    if not isinstance(content, kind):
        raise FileError(path, f"is no JSON {'object' if kind is dict else kind.__name__}", found=type(content).__name__, remedy=remedy)
    return content


class replacing:
    """Context manager: a temporary path beside `path` that takes its place when the block ends well, and is removed when not.

    Raises:
        FileError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary = self._made(unfinished.prefix(self.path.name))
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self._take_its_place()
                return
            except OSError as failure:
                error = failure
        self._remove()
        if _is_of_writing(error):
            raise _unwritable(self.path, error) from None

    def _made(self, prefix: str) -> Path:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=unfinished.SUFFIX, dir=self.path.parent)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
        return Path(name)

    def _take_its_place(self) -> None:
        _flush(self.temporary)
        os.replace(self.temporary, self.path)

    def _remove(self) -> None:
        self.temporary.unlink(missing_ok=True)


class replacing_folder(replacing):
    """The same of a folder.

    A folder cannot be renamed over one that holds files, so the old one steps aside first. A kill just then leaves it as `.NAME.old.tmp`
    and the command to be run again.
    """

    def _made(self, prefix: str) -> Path:
        for stale in self.path.parent.glob(f".{glob.escape(self.path.name)}.*{unfinished.SUFFIX}"):
            if unfinished.is_left_over(stale):
                unfinished.remove(stale)
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix=unfinished.SUFFIX, dir=self.path.parent))
        made.chmod(0o777 & ~_umask())
        return made

    def _take_its_place(self) -> None:
        mode = self.temporary.stat().st_mode & 0o666
        for path in self.temporary.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors writes for the owner alone
                _flush(path)
        old = self.path.parent / f".{self.path.name}.old.tmp"
        if self.path.exists():
            self.path.rename(old)
        try:
            self.temporary.rename(self.path)
        except OSError:
            if old.exists():
                old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _remove(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _flush(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _is_of_writing(error: BaseException | None) -> bool:
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError" or type(error).__module__.startswith("polars")


def _unwritable(path: Path, error: BaseException | None) -> FileError:
    remedy = "free space or mend the permissions, then run the command again"
    return FileError(path, "cannot be written", found=first_line(error), remedy=remedy)
