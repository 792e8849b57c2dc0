"""All values of one reward in one SQLite file: looked up and written in batches, by several processes, whole batches or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import DamagedStoreError, StoreError
from ospo_cli.rewards.store import keys as naming
from ospo_cli.rewards.store.keys import KEY_BYTES, Keys
from ospo_cli.rewards.store.records import Shape, is_sound, packed, row_numbers, unpacked

FORMAT = 1
FILE_NAME = "values.sqlite"
# "OSPO": tells this file from any other SQLite file.
APPLICATION_ID = int.from_bytes(b"OSPO", "big")
BUSY_SECONDS = 120.0
# Before the name of a damaged book that was moved aside.
ASIDE = ".damaged-"
# SQLite takes so many numbers in one look-up without preparing another statement for every batch.
LOOK_UP_ROWS = 1000
CACHE_KIB = 32 << 10
SCAN_ROWS = 65_536
_SELECT = "SELECT number, record FROM entries WHERE number IN (" + ", ".join("?" * LOOK_UP_ROWS) + ")"  # noqa: S608
_SCAN = "SELECT number, record FROM entries WHERE number >= ? ORDER BY number LIMIT ?"
_HEADER_BYTES = 100
_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """What a look-up found, one row per key.

    Attributes:
        is_found: bool[keys]; the rows of the others hold 0 and −1.
        parts: float64[keys, parts].
        products: int64[keys, ranks], indices into the catalogue's order, −1 where nothing more was retrieved.
    """

    is_found: NDArray[np.bool_]
    parts: NDArray[np.float64]
    products: NDArray[np.int64]


class Book:
    """The values of one reward.

    A batch is written whole or not at all, also when the process is killed; every entry has a checksum over key and value. Several
    processes may read and write at once. The folder may be deleted while it is in use: what is written next starts a new one.

    Args:
        folder: the book's folder; made where there is none.
        about: JSON-able description (what the values are, `parts` and `ranks` among it); equal to that of a book that is there.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.path = folder / FILE_NAME
        self.shape = Shape(len(about["parts"]), int(about.get("ranks", 0)))
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, tuple[int, int]] = (0, (0, 0))
        self._is_marked = False

    @classmethod
    def at(cls, folder: Path) -> Book:
        """Return the book that lies in a folder, under its own description."""
        about = _described(folder / FILE_NAME)
        return cls(folder, about)

    def look_up(self, wanted: Keys) -> Found:
        """Return the values of the keys that are there.

        Raises:
            StoreError: the file is damaged, of another version or none of ours; never a wrong value.
        """
        numbers = row_numbers(wanted)
        distinct = np.unique(numbers)

        def select(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
            rows: list[tuple[int, bytes]] = []
            for start in range(0, len(distinct), LOOK_UP_ROWS):
                part = distinct[start : start + LOOK_UP_ROWS].tolist()
                part += part[-1:] * (LOOK_UP_ROWS - len(part))
                rows += connection.execute(_SELECT, part).fetchall()
            return rows

        rows = self._attempt(select)
        self._mark()
        found = Found(
            np.zeros(len(wanted), dtype=bool),
            np.zeros((len(wanted), self.shape.parts)),
            np.full((len(wanted), self.shape.ranks), -1, dtype=np.int64),
        )
        if not rows:
            return found
        there, records = self._checked(rows)
        places = np.minimum(np.searchsorted(there, numbers), len(there) - 1)
        candidates = records[places]
        # The row number is half of the key: another text may have it, and then has no value here.
        found.is_found[:] = (there[places] == numbers) & (candidates["rest"] == wanted[:, 8:]).all(axis=1)
        found.parts[found.is_found] = candidates["parts"][found.is_found]
        found.products[found.is_found] = candidates["products"][found.is_found]
        return found

    def write(self, own: Keys, parts: NDArray[np.float64], products: NDArray[np.int64] | None = None) -> None:
        """Add entries; one that is there already stays as it is.

        Raises:
            StoreError: a part is not a finite number (an error is never a value), or the file cannot be written.
        """
        if not np.isfinite(parts).all():
            raise StoreError(self.path, "a value is not a finite number", expected="values that were computed")
        content, size = packed(self.shape, own, parts, products), self.shape.size
        numbers = row_numbers(own)
        # Sorted, so that neighbours in the file are written together.
        rows = [(int(numbers[row]), content[row * size : (row + 1) * size]) for row in np.argsort(numbers, kind="stable").tolist()]

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?)", rows)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        self._attempt(insert)
        self._mark()

    def count(self) -> int:
        """Return the number of entries."""
        return int(self._attempt(lambda connection: connection.execute("SELECT count(*) FROM entries").fetchone()[0]))

    def size(self) -> int:
        """Return the bytes on disk, what was written but not yet moved into the main file among them."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def entries(self) -> Iterator[tuple[Keys, Found]]:
        """Yield all entries in parts, in the order of their row numbers; raises StoreError at the first damaged one."""
        first = -(1 << 63)
        while True:

            def select(connection: sqlite3.Connection, first: int = first) -> list[tuple[int, bytes]]:
                return connection.execute(_SCAN, (first, SCAN_ROWS)).fetchall()

            rows = self._attempt(select)
            if rows:
                numbers, records = self._checked(rows)
                keys = np.zeros((len(numbers), KEY_BYTES), dtype=np.uint8)
                keys[:, :8] = numbers.astype(">i8").view(np.uint8).reshape(-1, 8)
                keys[:, 8:] = records["rest"]
                yield keys, Found(np.ones(len(keys), dtype=bool), records["parts"].copy(), records["products"].astype(np.int64))
            if len(rows) < SCAN_ROWS or rows[-1][0] == (1 << 63) - 1:
                return
            first = rows[-1][0] + 1

    def verify(self) -> int:
        """Return the number of entries, after SQLite's own check of the file and that of every checksum.

        Raises:
            StoreError: something does not hold.
        """
        problem = self._attempt(lambda connection: connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        if problem != b"ok":
            raise _damaged(self.path, problem.decode("utf-8", "replace"))
        count = 0
        for _, found in self.entries():
            if not np.isfinite(found.parts).all():
                raise _damaged(self.path, "a value that is not a finite number")
            count += len(found.parts)
        return count

    def mend(self) -> str:
        """Delete damaged entries or, where the file itself is damaged, move the book aside; return what was done, in words.

        Raises:
            OSError: the folder cannot be moved.
        """
        try:
            if gone := self._attempt(self._delete_unsound):
                self.verify()
                return f"{gone:,} of its entries deleted"
        except StoreError:
            pass
        if self._opened[0] and not self._is_current():  # another process was faster
            return "begun anew"
        self.close()
        aside = self.folder.parent / f"{ASIDE}{self.folder.name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.folder, aside)
        os.utime(aside)
        return f"begun anew; the old one lies in {aside.name} until `ospo store gc` deletes it"

    def _delete_unsound(self, connection: sqlite3.Connection) -> int:
        damaged, first = list[int](), -(1 << 63)
        while rows := connection.execute(_SCAN, (first, SCAN_ROWS)).fetchall():
            whole = [(number, record) for number, record in rows if type(record) is bytes and len(record) == self.shape.size]
            numbers = np.array([number for number, _ in whole], dtype=np.int64)
            is_good = is_sound(numbers, unpacked(self.shape, b"".join(record for _, record in whole)))
            damaged += {number for number, _ in rows} - set(numbers[is_good].tolist())
            if rows[-1][0] == (1 << 63) - 1:
                break
            first = rows[-1][0] + 1
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM entries WHERE number = ?", [(number,) for number in damaged])
        connection.execute("COMMIT")
        return len(damaged)

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        if self._connection is not None and self._opened[0] == os.getpid():
            self._connection.close()
        self._connection = None

    def _checked(self, rows: list[tuple[int, bytes]]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        # Row numbers in ascending order and their records.
        content = [record for _, record in rows]
        try:
            if any(type(record) is not bytes or len(record) != self.shape.size for record in content):
                raise ValueError
            records = unpacked(self.shape, b"".join(content))
            numbers = np.array([number for number, _ in rows], dtype=np.int64)
        except (TypeError, ValueError, OverflowError):
            raise _damaged(self.path, "an entry of the wrong size", f"{self.shape.size} bytes") from None
        is_good = is_sound(numbers, records)
        if not is_good.all():
            raise _damaged(self.path, f"a wrong checksum of entry {int(numbers[int(is_good.argmin())])}")
        order = np.argsort(numbers, kind="stable")
        return numbers[order], records[order]

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return work(self._open())
        except sqlite3.Error as error:
            if self._is_current():
                raise _refused(self.path, error) from None
        # The folder was deleted under us.
        self.close()
        try:
            return work(self._open())
        except sqlite3.Error as error:
            raise _refused(self.path, error) from None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._opened[0] == os.getpid() and self._is_current():
            return self._connection
        self.close()  # a connection must not go through a fork
        if not self.folder.exists():
            _create(self.folder, self.about)
        found = _described(self.path)
        if naming.fingerprint(found) != naming.fingerprint(self.about):
            raise _damaged(self.path, f"values of {json.dumps(found)}", json.dumps(self.about))
        self._connection = _connect(self.path)
        status = os.stat(self.path)
        self._opened = (os.getpid(), (status.st_dev, status.st_ino))
        self._is_marked = False
        return self._connection

    def _mark(self) -> None:
        # When it was last used; upkeep, which looks nothing up, is no use.
        if not self._is_marked:
            with contextlib.suppress(FileNotFoundError):  # deleted a moment ago
                os.utime(self.path)
            self._is_marked = True

    def _is_current(self) -> bool:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return self._opened[1] == (status.st_dev, status.st_ino)


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.text_factory = bytes  # what is damaged may be no UTF-8
    # A committed batch survives the death of the process; after a power cut the last ones may be missing, never half there.
    for setting in ("synchronous = NORMAL", f"cache_size = -{CACHE_KIB}", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _create(folder: Path, about: dict[str, Any]) -> None:
    # Made beside its place and renamed: whoever finds the folder finds a whole file in it.
    temporary: str | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".new-", dir=folder.parent)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        connection = _connect(Path(temporary) / FILE_NAME, "rwc")
        for statement in (
            "PRAGMA page_size = 4096",
            f"PRAGMA application_id = {APPLICATION_ID}",
            f"PRAGMA user_version = {FORMAT}",
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE about (description TEXT NOT NULL)",
            "CREATE TABLE entries (number INTEGER PRIMARY KEY, record BLOB NOT NULL)",
        ):
            connection.execute(statement)
        connection.execute("INSERT INTO about VALUES (?)", (json.dumps(about, sort_keys=True),))
        connection.close()
        os.rename(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary or "", ignore_errors=True)
        if not (folder / FILE_NAME).exists():  # else another process was faster
            raise StoreError(
                folder, "cannot be made", found=error.strerror or error, remedy="mend that, or name another folder by OSPO_STORE"
            ) from None
    except sqlite3.Error as error:
        shutil.rmtree(temporary or "", ignore_errors=True)
        raise _refused(folder, error) from None


def _described(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise _damaged(path, "no such file", "the folder's one file") from None
    except OSError as error:
        raise StoreError(path, "cannot be read", found=error.strerror or error, remedy="mend the permissions") from None
    if len(header) < _HEADER_BYTES or header[:16] != b"SQLite format 3\0":
        raise _damaged(path, "something else, or the start of it cut off", "a SQLite file")
    application, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID:
        raise _damaged(path, f"a SQLite file of another program ({application:08x})", f"{APPLICATION_ID:08x}")
    if version != FORMAT:
        raise StoreError(
            path,
            "store of values of another version",
            found=version,
            expected=FORMAT,
            remedy="use the ospo that wrote it, name another folder by OSPO_STORE, or delete it (what it held is computed again)",
        )
    try:
        connection = _connect(path)
        try:
            (text,) = connection.execute("SELECT description FROM about").fetchone()
        finally:
            connection.close()
        about = json.loads(text)
        Shape(len(about["parts"]), int(about.get("ranks", 0)))
    except sqlite3.Error as error:
        raise _refused(path, error) from None
    except (TypeError, ValueError, KeyError, AttributeError):
        raise _damaged(path, "no description that can be read") from None
    return dict(about)


def _damaged(path: Path, found: str, expected: str | None = None) -> StoreError:
    return DamagedStoreError(
        path, "damaged store of values", found=found, expected=expected, remedy="delete its folder: what it held is computed again"
    )


def _refused(path: Path, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_SCHEMA")) or name == "SQLITE_ERROR":
        return _damaged(path, str(error))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            path, "another process holds the store of values", found=error, expected=f"less than {BUSY_SECONDS:.0f} s", remedy="wait for it"
        )
    return StoreError(
        path, "the store of values cannot be used", found=error, remedy="free space or mend the permissions, or set store.values: never"
    )


def remove(folder: Path) -> None:
    """Delete a book's folder: out of the way first, in one step, so that nobody finds half of it."""
    grave = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        os.rename(folder, grave / folder.name)
    finally:
        shutil.rmtree(grave, ignore_errors=True)
