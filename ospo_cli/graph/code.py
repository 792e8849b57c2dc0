"""Which module files a stage depends on, read from the import statements; what a change of code must re-run."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from ospo_cli.errors import OspoError

# import A.B; from A.B import c, d as e; "A.B:C", with A this package.
_NAMED = re.compile(
    r"""^[ ]*(?:import[ ](ospo_cli[.\w]*)|from[ ](ospo_cli[.\w]*)[ ]import[ ](\([^)]*\)|[^\n#]*))|["'](ospo_cli\.[.\w]*)""", re.MULTILINE
)
PACKAGE = Path(__file__).resolve().parent.parent


def closure(module: str) -> tuple[str, ...]:
    """Return the package's files that a module imports, directly or not, sorted, relative to the package's parent.

    Imports within functions count, and so do registry entries: strings that name a module of this package.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or name in seen:
            continue
        seen.add(name)
        waiting.extend(_imports(name))
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return tuple(sorted(str(_file(name).relative_to(PACKAGE.parent).as_posix()) for name in seen))  # type: ignore[union-attr]


def content_hash(module: str) -> str:
    """Return the SHA-256 (hex) over the names and bytes of a module's closure."""
    names = closure(module)
    if not names:
        raise OspoError(module, "no such module in this package", remedy="install ospo again")
    digest = hashlib.sha256()
    for name in names:
        content = (PACKAGE.parent / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@cache
def _file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(module: str) -> tuple[str, ...]:
    path = _file(module)
    assert path is not None
    found = []
    # Patterns in place of a parser, which would take longer than a short stage; a test compares both over every module.
    for plain, origin, names, name in _NAMED.findall(path.read_text(encoding="utf-8")):
        if origin:
            found += [origin, *(f"{origin}.{alias.split()[0]}" for alias in names.strip("()").split(",") if alias.strip())]
        else:
            found.append(plain or name)
    return tuple(name for name in found if _file(name) is not None)
