"""The one door for code that a user wrote: FILE.py:NAME, MODULE:NAME or an entry point, run as it stands; nothing is fetched."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ospo_cli.errors import CreditError

REMEDY = "docs/own-code.md has an example"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Kind:
    """What a user may write.

    Attributes:
        parameter: dotted name of the parameter that names it, for errors.
        group: of entry points.
        expected: what the file has to hold, in words.
        takes_module: FILE.py or a dotted module alone stand for the whole module.
    """

    parameter: str
    group: str
    expected: str
    takes_module: bool = False

    @property
    def forms(self) -> str:
        """How it may be named."""
        return f"{'FILE.py, a module, ' if self.takes_module else ''}FILE.py:NAME, MODULE:NAME or an entry point of group {self.group}"


REWARD = Kind("score_coalitions.own_reward", "ospo.rewards", "def NAME(text, prompt_id, ranking)")
RULE = Kind("attribute.rule_file", "ospo.rules", "RULE or RULES", takes_module=True)
SEGMENTER = Kind("segment.own_segmenter", "ospo.segmenters", "def NAME(text)")


@dataclass(frozen=True)
class OwnCode:
    """What was found: a function, a rule, or the whole module.

    Attributes:
        name: as the user named it.
        source, content: its file, and that file's bytes (what it imports is not in them).
        attribute: the name within the file; empty where `value` is the module.
        value: the thing itself.
    """

    name: str
    source: Path
    content: bytes
    attribute: str
    value: Any

    def fingerprint(self, *settings: str) -> str:
        """Return the SHA-256 (hex) of the source file, the name within it, and settings."""
        return hashlib.sha256(f"{self.attribute}\0{','.join(settings)}\0".encode() + self.content).hexdigest()

    def run(self, what: str, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Return `function(*arguments)`; raise CreditError with the line of the user's file where it fails. `what`: for that error."""
        try:
            return function(*arguments)
        except Exception as error:
            place = _place(self.source, error)
            raise CreditError(f"{place}, {what}", "fails", found=f"{type(error).__name__}: {error}", remedy=REMEDY) from None


def load(kind: Kind, name: str, root: Path) -> OwnCode:
    """Return what `name` stands for, its file run now; `root` is the folder that files are relative to.

    Raises:
        CreditError: there is no such file, module, entry point or name, or the file cannot be run.
    """
    module_name, attribute = _target(kind, name)
    source = _source(kind, name, module_name, root)
    try:
        content = source.read_bytes()
        module = _run(source, content) if module_name.endswith(".py") else importlib.import_module(module_name)
    except SyntaxError as error:
        raise CreditError(f"{error.filename}, line {error.lineno}", "is no valid Python", found=error.msg) from None
    except OSError as error:
        raise CreditError(source, "cannot be read", found=error.strerror or error, expected="a Python file") from None
    except CreditError:
        raise
    except Exception as error:
        raise CreditError(_place(source, error), "cannot be run", found=f"{type(error).__name__}: {error}") from None
    return OwnCode(name, source, content, attribute, getattr(module, attribute, None) if attribute else module)


def load_function(kind: Kind, name: str, root: Path) -> OwnCode:
    """Return the function of that name.

    Raises:
        CreditError: as `load`; or it is no function.
    """
    found = load(kind, name, root)
    if not callable(found.value):
        what = "no such function" if found.value is None else "is no function"
        raise CreditError(f"{found.source}: {found.attribute}", what, expected=kind.expected, remedy=REMEDY)
    return found


def source_file(kind: Kind, name: str, root: Path) -> Path:
    """Return the Python file that a name stands for, as given where it is a file; the module itself is not run."""
    module, _ = _target(kind, name)
    return Path(module) if module.endswith(".py") else _source(kind, name, module, root)


def _target(kind: Kind, name: str) -> tuple[str, str]:
    """Return (file or module, name within it)."""
    if kind.takes_module and re.fullmatch(r".*\.py|\w+(\.\w+)+", name, re.DOTALL):
        return name, ""
    if ":" not in name:
        name = _entry_point(kind, name)
    module, _, attribute = name.rpartition(":")
    if not module or not attribute.isidentifier():
        raise CreditError(kind.parameter, "names nothing that can be loaded", found=name, expected=kind.forms, remedy=REMEDY)
    return module, attribute


def _entry_point(kind: Kind, name: str) -> str:
    known = importlib.metadata.entry_points(group=kind.group)
    found = sorted({entry.value for entry in known if entry.name == name})
    if len(found) != 1:
        what = f"no such entry point of group {kind.group}" if not found else "several packages have an entry point of that name"
        there = ", ".join(sorted({entry.name for entry in known})) or "none is installed"
        raise CreditError(kind.parameter, what, found=name, expected=f"{kind.forms}; installed: {there}", remedy=REMEDY)
    return found[0]


def _source(kind: Kind, name: str, module: str, root: Path) -> Path:
    if module.endswith(".py"):
        path = root / module
        if not path.is_file():
            raise CreditError(path, "no such file", expected=f"a Python file with {kind.expected}", remedy=REMEDY)
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise CreditError(kind.parameter, "cannot be imported", found=f"{name}: {error}", expected=kind.forms) from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        what = "no such module where ospo runs" if spec is None else "its source cannot be read"
        raise CreditError(kind.parameter, what, found=name, expected="a module with a .py file", remedy=REMEDY)
    return Path(spec.origin)


def _run(path: Path, content: bytes) -> types.ModuleType:
    try:
        text = importlib.util.decode_source(content)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CreditError(path, "cannot be read", found=error, expected="a Python file in UTF-8") from None
    module = types.ModuleType(f"ospo_own_code_{path.stem}")
    module.__file__ = str(path)
    # Dataclasses look their module up by name; nothing is written beside the user's file.
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102  (a local file that the user named)
    finally:
        sys.modules.pop(module.__name__, None)
    return module


def _place(path: Path, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)
