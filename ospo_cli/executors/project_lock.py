"""The lock on a project: one command at a time writes into it; who holds it is said, and what a killed one left is cleared away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ospo_cli.errors import FileError, OspoError
from ospo_cli.layout import Layout
from ospo_cli.tables import unfinished

# What a file system says that keeps no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# DVC itself waits so long for another command of its own.
DVC_SECONDS = 3.0
LOOK_SECONDS = 0.25


class LockedError(OspoError):
    """Another command writes into the project."""


class ProjectLock:
    """Context manager: the project is this command's alone to write into.

    The kernel keeps the lock (flock on data/project.lock) and gives it back when the process ends, however it ends. The file says who
    has it. It goes when a command ends in order, so that one which is there and not locked tells of a kill; then leftovers are removed.

    Args:
        layout: the project.
        command: what is run, for those who find it locked.
        wait: wait for another command, in place of an error.

    Raises:
        LockedError: another command has it, or one of another machine had it and did not end in order.
        FileError: the file cannot be written.
    """

    def __init__(self, layout: Layout, command: str, wait: bool = False) -> None:
        self.layout, self.command, self.wait = layout, command, wait
        self.path = layout.lock
        self._file: int | None = None
        self._is_waiting = False

    def __enter__(self) -> ProjectLock:
        try:
            while not self._taken():
                time.sleep(LOOK_SECONDS)
            if "DVC_STAGE" not in os.environ:
                self._yield_to_dvc()
            before = _owner(self.path)
            self._write(_record(self.command))
            self._clear(was_killed=bool(before))
        except OSError as error:
            self._close()
            raise FileError(
                self.path, "cannot be written", found=error.strerror or error, remedy="free space or mend the permissions"
            ) from None
        except BaseException:  # Ctrl-C may come as soon as the lock is there
            if self._file is not None:
                self._give_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *trace: object) -> None:
        if kind is not None:  # Ctrl-C may come between the making of a temporary file and what would remove it
            unfinished.remove_left_over(self.layout.data, is_deep=True, of_own=True)
        else:  # of this command's workers, which are ended wherever they stand
            self._remove_readers_left_over()
        self._give_back()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # those who wait for this very file see that it is gone, and make another
            self.path.unlink()
            self.layout.data.rmdir()  # where a command that failed has made nothing else
        self._close()

    def _taken(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileExistsError, FileNotFoundError):
            if self.path.parent.exists() and not self.path.parent.is_dir():
                raise
            return False  # another command has just removed the folder that it made
        try:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._or_wait(_owner(self.path))
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return self._taken_by_name(opened)
            owner = _owner(self.path)
            if not _is_same(opened, self.path):  # deleted meanwhile, as by `rm -r data`
                return False
            # The kernel that keeps this lock has forgotten another's. Another machine's may be kept by another kernel.
            if owner and not _is_here(owner):
                self._refuse_another_machine(owner)
            self._file, opened = opened, -1
            return True
        finally:
            if opened >= 0:
                os.close(opened)

    def _taken_by_name(self, opened: int) -> bool:
        # No locks here: the record alone tells. Two that begin in the same instant would not see each other.
        owner = _owner(self.path)
        if owner and not _is_here(owner):
            self._refuse_another_machine(owner)
        if owner and unfinished.is_running(int(owner["pid"]), int(owner["start"])):
            self._or_wait(owner)
            return False
        self._file = os.dup(opened)
        return True

    def _or_wait(self, owner: dict[str, Any]) -> None:
        if not self.wait:
            remedy = "wait for its end, or give --wait"
            raise LockedError(self.path, "another command writes into this project", found=_said(owner), remedy=remedy)
        self._say_waiting(_said(owner))

    def _refuse_another_machine(self, owner: dict[str, Any]) -> None:
        raise LockedError(
            self.path,
            "a command of another machine did not give the project back; whether it still runs cannot be seen from here",
            found=_said(owner),
            remedy="if it does not, delete this file",
        )

    def _yield_to_dvc(self) -> None:
        # `dvc repro` calls one stage after another, and is at work between them too.
        give_up = time.monotonic() + DVC_SECONDS
        while found := _dvc_at_work(self.layout.root):
            if self.wait:
                self._say_waiting(found)
            elif time.monotonic() > give_up:
                raise LockedError(self.layout.root, "DVC works in this project", found=found, remedy="wait for its end, or give --wait")
            time.sleep(LOOK_SECONDS)

    def _say_waiting(self, whom: str) -> None:
        if not self._is_waiting:
            sys.stderr.write(f"{self.command}: waiting for {whom}\n")
            sys.stderr.flush()
        self._is_waiting = True

    def _clear(self, was_killed: bool) -> None:
        places = [self.layout.data] if was_killed else []
        gone = [path for place in places for path in unfinished.remove_left_over(place, is_deep=True)]
        if gone := gone + self._remove_readers_left_over():
            sys.stderr.write(f"{self.command}: removed what a killed command left half written ({len(gone)})\n")

    def _remove_readers_left_over(self) -> list[Path]:
        """What readers and workers write, who need no lock."""
        cache = self.layout.cache
        places = (cache, cache / "index", cache / "dense", cache / "dense" / "shards")
        return [path for place in places for path in unfinished.remove_left_over(place)]

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(record, sort_keys=True) + "\n").encode(), 0)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None


def _record(command: str) -> dict[str, Any]:
    return asdict(unfinished.own_process()) | {"command": command, "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def _owner(path: Path) -> dict[str, Any]:
    # Empty where nobody has it, or where the record is just being written.
    try:
        found = json.loads(path.read_bytes() or b"{}")
        return found if isinstance(found, dict) and {*_record("")} <= set(found) else {}
    except (OSError, ValueError):
        return {}


def _is_here(owner: dict[str, Any]) -> bool:
    own = unfinished.own_process()
    return owner["host"] == own.host or bool(own.boot and owner["boot"] == own.boot)


def _said(owner: dict[str, Any]) -> str:
    if not owner:
        return "one that has just begun"
    return f"`{owner['command']}`, process {owner['pid']} on {owner['host']}, since {owner['since']}"


def _is_same(opened: int, path: Path) -> bool:
    own = os.fstat(opened)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _dvc_at_work(root: Path) -> str:
    """Return which DVC command works here, or an empty text: it lists the stage it runs in a file, and locks another between stages."""
    folder = root / ".dvc" / "tmp"
    try:
        listed = json.loads((folder / "rwlock").read_bytes())
        infos = [*listed.get("write", {}).values(), *(info for infos in listed.get("read", {}).values() for info in infos)]
        running = next((info for info in infos if unfinished.is_running(int(info["pid"]))), None)
        if running:
            return f"`{running['cmd']}`, process {running['pid']}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # no DVC, none at work, or one that was killed while it wrote
    try:
        opened = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "a command that holds .dvc/tmp/lock"
    except OSError:
        return ""
    finally:
        os.close(opened)
    return ""
