"""Names of temporary files and folders: each says which process makes it, so that what a kill left is told from what is being written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SUFFIX = ".tmp"
DAY_SECONDS = 86_400.0
_OWNED = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)\.[^.]*\.tmp$")


@dataclass(frozen=True)
class Process:
    """A process of this or another machine.

    Attributes:
        host: the machine's name.
        boot: what the kernel drew when it started; containers of one kernel share it. Empty where the system has none.
        pid: its number, which another process may have later.
        start: when it began, in the kernel's ticks since its start; 0 where the system does not tell.
    """

    host: str
    boot: str
    pid: int
    start: int

    @property
    def tag(self) -> str:
        """How names of files spell it."""
        return f"{_host_tag(self.host)}-{self.pid}-{self.start}"


def own_process() -> Process:
    """Return this process; asked again after a fork."""
    host, boot = _machine()
    return Process(host, boot, os.getpid(), _start_of(os.getpid()) or 0)


def is_running(pid: int, start: int | None = None) -> bool:
    """Tell whether a process of this machine is there and began when that one did, if known (its number may be another's now)."""
    found = _start_of(pid)
    if found is not None:
        return start in (None, found)
    if os.path.exists("/proc/self/stat"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def prefix(name: str) -> str:
    """Return how a temporary name beside `name` begins; a random part and SUFFIX follow."""
    return f".{name[:128]}.{own_process().tag}."


@contextlib.contextmanager
def folder(place: Path, name: str) -> Iterator[Path]:
    """Make a temporary folder in `place`, which is made too; it goes with the block."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=prefix(name), suffix=SUFFIX, dir=place) as made:
        yield Path(made)


def is_left_over(path: Path, of_own: bool = False) -> bool:
    """Tell whether a temporary file or folder belongs to nobody: its process is gone, or it is another machine's and a day old.

    With `of_own` those of this process are, too: it ends, and writes nothing more.
    """
    if not (path.name.startswith(".") and path.name.endswith(SUFFIX)):
        return False
    owner = _OWNED.search(path.name)
    if owner is None:  # a policy that stepped aside, or one of an earlier version
        return True
    if owner["host"] == _host_tag(_machine()[0]):
        is_own = of_own and int(owner["pid"]) == os.getpid()
        return is_own or not is_running(int(owner["pid"]), int(owner["start"]))
    try:
        return time.time() - path.stat().st_mtime > DAY_SECONDS
    except OSError:
        return False


def remove_left_over(whole: Path, is_deep: bool = False, of_own: bool = False) -> list[Path]:
    """Delete what killed processes left half written in a folder, with `is_deep` in those below it too; return what went."""
    gone = []
    for place, folders, names in os.walk(whole):
        for name in sorted((*folders, *names)):
            path = Path(place) / name
            if name.startswith(".") and is_left_over(path, of_own):
                gone.append(path)
                remove(path)
        folders[:] = sorted(name for name in folders if not name.endswith(SUFFIX)) if is_deep else []
    return gone


def remove(path: Path) -> None:
    """Delete a file or a folder, as far as it lets itself be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def put_aside(path: Path) -> None:
    """Delete a folder or file in one step, so that nobody finds half of it; one that is gone already is no error."""
    aside = path.parent / f"{prefix(path.name)}{os.urandom(4).hex()}{SUFFIX}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
    remove(aside)


@cache
def _machine() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        boot = ""
    return socket.gethostname(), boot


@cache
def _host_tag(host: str) -> str:
    return hashlib.blake2b(host.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _start_of(pid: int) -> int | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
        # The command's name, in parentheses, may hold blanks and parentheses.
        fields = content.rpartition(b")")[2].split()
        # Dead, and its parent has not asked: in a container whose first process never does, for ever.
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
