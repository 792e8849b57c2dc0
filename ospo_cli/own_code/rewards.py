"""A reward that a user wrote: a Python function of their own, named by them in score_coalitions.own_reward and run as it stands."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import CreditError

GROUP = "ospo.rewards"
_REMEDY = "docs/rewards.md has an example"
_FORMS = f"FILE.py:FUNCTION, MODULE:FUNCTION or an entry point of group {GROUP}"


@dataclass(frozen=True)
class OwnReward:
    """The function, the parts that it has to give, and the SHA-256 of its source file and name (what the file imports is not in it)."""

    name: str
    source: Path
    function: Callable[..., Any]
    parts: tuple[str, ...]
    fingerprint: str

    def measure(self, text: str, prompt_id: str, ranking: Sequence[tuple[str, float]]) -> tuple[float, ...]:
        """Return the parts of a text, in the order of `parts`, each checked.

        Args:
            text: what is scored: a whole answer or the text of a coalition.
            prompt_id: whose.
            ranking: (doc_id, score) of the first documents that the retriever found, best first.

        Raises:
            CreditError: the function fails, gives other parts, or a part that is no number from -1 to 1.
        """
        where = f"own_reward {self.name}, prompt {prompt_id}, text {text[:60]!r}"
        try:
            found = self.function(text, prompt_id, list(ranking))
        except Exception as error:
            raise CreditError(
                f"{_place(self.source, error)}, {where}", "fails", found=f"{type(error).__name__}: {error}", remedy=_REMEDY
            ) from None
        expected = ", ".join(self.parts)
        if not isinstance(found, Mapping):
            raise CreditError(where, "gives no parts by name", found=type(found).__name__, expected=f"a dict of {expected}", remedy=_REMEDY)
        odd = [f"no {name}" for name in self.parts if name not in found] + [str(name) for name in found if name not in self.parts]
        if odd:
            raise CreditError(where, "gives other parts than score_coalitions.own_weights names", found=odd[0], expected=expected)
        return tuple(_number(f"{where}: part {name}", found[name]) for name in self.parts)


def load(name: str, parts: Sequence[str], root: Path) -> OwnReward:
    """Return the function of that name; `root` is the folder that files are relative to.

    Raises:
        CreditError: there is no such file, module, entry point or function, or it cannot be run.
    """
    target = _target(name)
    module_name, _, attribute = target.rpartition(":")
    source = _source(name, module_name, root)
    try:
        content = source.read_bytes()
        module = _run(source, content) if module_name.endswith(".py") else importlib.import_module(module_name)
    except SyntaxError as error:
        raise CreditError(f"{error.filename}, line {error.lineno}", "is no valid Python", found=error.msg) from None
    except OSError as error:
        raise CreditError(source, "cannot be read", found=error.strerror or error, expected="a Python file") from None
    except Exception as error:
        raise CreditError(_place(source, error), "cannot be run", found=f"{type(error).__name__}: {error}") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        what = "no such function" if function is None else "is no function"
        raise CreditError(f"{source}: {attribute}", what, expected="def NAME(text, prompt_id, ranking)", remedy=_REMEDY)
    digest = hashlib.sha256(f"{attribute}\0{','.join(parts)}\0".encode() + content).hexdigest()
    return OwnReward(name, source, function, tuple(parts), digest)


def source_file(name: str, root: Path) -> Path:
    """Return the Python file that a function's name stands for, as given where it is a file; the module itself is not run."""
    module = _target(name).rpartition(":")[0]
    return Path(module) if module.endswith(".py") else _source(name, module, root)


def _target(name: str) -> str:
    if ":" in name:
        module, _, attribute = name.rpartition(":")
        if not module or not attribute.isidentifier():
            raise CreditError("score_coalitions.own_reward", "names no function", found=name, expected=_FORMS, remedy=_REMEDY)
        return name
    known = importlib.metadata.entry_points(group=GROUP)
    found = sorted({entry.value for entry in known if entry.name == name})
    if len(found) != 1:
        what = f"no such entry point of group {GROUP}" if not found else "several packages have an entry point of that name"
        there = ", ".join(sorted({entry.name for entry in known})) or "none is installed"
        raise CreditError("score_coalitions.own_reward", what, found=name, expected=f"{_FORMS}; installed: {there}", remedy=_REMEDY)
    return found[0]


def _source(name: str, module: str, root: Path) -> Path:
    if module.endswith(".py"):
        path = root / module
        if not path.is_file():
            raise CreditError(path, "no such file", expected="a Python file of your own", remedy=_REMEDY)
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise CreditError("score_coalitions.own_reward", "cannot be imported", found=f"{name}: {error}", expected=_FORMS) from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        what = "no such module where ospo runs" if spec is None else "its source cannot be read"
        raise CreditError("score_coalitions.own_reward", what, found=name, expected="a module with a .py file", remedy=_REMEDY)
    return Path(spec.origin)


def _run(path: Path, content: bytes) -> types.ModuleType:
    module = types.ModuleType(f"ospo_own_reward_{path.stem}")
    module.__file__ = str(path)
    # Dataclasses look their module up by name; nothing is written beside the user's file.
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)  # noqa: S102  (a local file that the user named)
    finally:
        sys.modules.pop(module.__name__, None)
    return module


def _number(where: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, (str, bytes)) or not -1.0 <= number <= 1.0:
        raise CreditError(where, "is no number from -1 to 1", found=repr(value), expected="-1 to 1; weights scale it", remedy=_REMEDY)
    return number + 0.0  # no minus zero


def _place(path: Path, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)
