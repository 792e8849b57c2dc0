"""The code that a stage's work can reach, as one hash: what a change of code must re-run.

A stage reaches the modules that it imports, directly or not, within functions too. Of a registry (a mapping of names to "module:attribute"
at the top of a module) it reaches only the entries that its parameters choose, where its node says which. What is too much is taken along:
every branch of a module counts, whether or not the parameters lead there; a registry about which the node says nothing counts whole.

The hash is over syntax trees, so comments and formatting do not count. Docstrings do not either, nor the words of messages: text within
`raise`, `assert`, calls of error classes and writes to stderr or stdout, and what `parameter`, `Column` and `Table` say that they mean.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

from ospo_cli.errors import OspoError
from ospo_cli.graph.declared import Node
from ospo_cli.layout import Layout
from ospo_cli.tables import files

PACKAGE = Path(__file__).resolve().parent.parent
# Position of the meaning in the calls that declare something; where it is given by name, the name ends in "meaning".
MEANINGS = {"parameter": 1, "Column": 2, "Table": 1}
_TOLD = {"print", "echo", "Progress"}
_STREAMS = {"sys.stderr.write", "sys.stdout.write"}
_ENTRY = re.compile(r"\w+(\.\w+)+:\w+")


@dataclass(frozen=True)
class Facts:
    """What is known of a module from its text.

    Attributes:
        digest: SHA-256 (hex) of its syntax tree, entries of registries left out.
        names: dotted names of this package that it imports or holds as text; some are attributes, not modules.
        entries: of its registries, name -> "module:attribute".
    """

    digest: str
    names: list[str] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)


class Code:
    """The modules of a package, each read once.

    Args:
        package: its folder.
        known: JSON file of what was found in modules before, by content; parsing them all takes longer than a short stage. None: no file.
    """

    def __init__(self, package: Path = PACKAGE, known: Path | None = None) -> None:
        self.package, self._known_path = package, known
        self._facts: dict[str, Facts] = {}
        self._files: dict[str, Path | None] = {}
        self._hashes: dict[object, str] = {}

    def hash(self, wanted: Node) -> str:
        """Return the SHA-256 (hex) over all that a stage reaches; raise as `reached` does."""
        start = (wanted.modules, wanted.uses)  # the same for all iterations of a stage
        if start not in self._hashes:
            digest = hashlib.sha256()
            for name, content in sorted(self.reached(wanted).items()):
                digest.update(f"{name}\0{content}\0".encode())
            self._remember()
            self._hashes[start] = digest.hexdigest()
        return self._hashes[start]

    def reached(self, wanted: Node) -> dict[str, str]:
        """Return what a stage reaches: name -> hash of a module, `module:name` -> target of an entry, path -> hash of another file.

        Raises:
            OspoError: a module of the stage is not there, or one that it reaches is no valid Python.
        """
        # Where shards run changes no result.
        chosen = {f"{self.package.name}.executors": ()} | dict(wanted.uses)
        found: dict[str, str] = {}
        waiting = list(wanted.modules)
        for name in waiting:
            if self._file(name) is None:
                raise OspoError(name, "no such module in this package", remedy="install ospo again")
        while waiting:
            name = waiting.pop()
            path = self._file(name)
            if path is None or name in found:
                continue
            facts = self._read(name, path)
            entries = {each: target for each, target in facts.entries.items() if each in chosen.get(name, facts.entries)}
            found[name] = facts.digest
            found |= {f"{name}:{each}": target for each, target in entries.items()} | self._files_beside(path)
            waiting += [*facts.names, *(target.partition(":")[0] for target in entries.values()), name.rpartition(".")[0]]
        return found

    def _file(self, module: str) -> Path | None:
        if module not in self._files:
            base = self.package.parent.joinpath(*module.split("."))
            paths = (base.with_suffix(".py"), base / "__init__.py") if module.partition(".")[0] == self.package.name else ()
            self._files[module] = next((path for path in paths if path.is_file()), None)
        return self._files[module]

    def _read(self, module: str, path: Path) -> Facts:
        if module not in self._facts:
            content = path.read_bytes()
            key = hashlib.sha256(content).hexdigest()
            facts = self._known.get(key)
            if facts is None:
                try:
                    facts = self._known[key] = facts_of(content, self.package.name)
                except SyntaxError as error:
                    raise OspoError(f"{path}, line {error.lineno}", "is no valid Python", found=error.msg) from None
                self._is_new = True
            self._facts[module] = facts
        return self._facts[module]

    def _files_beside(self, path: Path) -> dict[str, str]:
        # Templates, styles and the like that the module names, or whose folder it names.
        text, found = path.read_bytes(), {}
        for other, names in _data_files(path.parent):
            if any(f"{quote}{name}{quote}".encode() in text for name in names for quote in "\"'"):
                found[other.relative_to(self.package).as_posix()] = files.sha256_of(other)
        return found

    @cached_property
    def _known(self) -> dict[str, Facts]:
        self._is_new = False
        try:
            content = json.loads(self._known_path.read_text(encoding="utf-8")) if self._known_path else {}
            if content.get("made_by") != _own_hash() or content["hash"] != _hash_of(content["modules"]):
                return {}
            return {key: Facts(**facts) for key, facts in content["modules"].items()}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return {}

    def _remember(self) -> None:
        if self._known_path and self._is_new:
            self._is_new = False
            modules = {key: asdict(facts) for key, facts in self._known.items()}
            files.write_text(self._known_path, json.dumps({"made_by": _own_hash(), "modules": modules, "hash": _hash_of(modules)}))


def of_project(root: Path) -> Code:
    """Return the installed package's code; what was found in it is kept in the project's cache."""
    return Code(known=Layout(root).cache / "code.json")


@cache
def _own_hash() -> str:
    return files.sha256_of(Path(__file__))


def _hash_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _data_files(folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the files of a folder that are no Python, and of those below it that are no packages, each with its name and its folders'."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            found += [(other, (path.name, *names)) for other, names in _data_files(path)]
        elif path.is_file() and path.suffix != ".py":
            found.append((path, (path.name,)))
    return found


@cache
def facts_of(content: bytes, package: str) -> Facts:
    """Return what is known of a module with this text; raise SyntaxError where it is no valid Python."""
    reader = _Reader(package)
    tree = ast.parse(content)
    for statement in tree.body:
        if not reader.keep_registry(statement):
            reader.read(statement)
    digest = hashlib.sha256("\n".join(reader.pieces).encode()).hexdigest()
    return Facts(digest, sorted(reader.names), reader.entries)


class _Reader:
    """One walk over a syntax tree."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.pieces: list[str] = []
        self.names: set[str] = set()
        self.entries: dict[str, str] = {}

    def keep_registry(self, statement: ast.stmt) -> bool:
        """Keep the entries of an assigned registry; tell whether it was one."""
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if not isinstance(value, ast.Dict) or not value.values:
            return False
        pairs = [(_text(each), _text(target)) for each, target in zip(value.keys, value.values, strict=True)]
        if not all(each and self._is_own(target) and _ENTRY.fullmatch(target) for each, target in pairs):
            return False
        self.entries |= pairs
        return True

    def read(self, node: ast.AST, is_message: bool = False) -> None:
        """Add a node's own words to the pieces, then those of what it holds."""
        match node:
            case ast.Constant(value=str(text)):
                if self._is_own(text):
                    self.names.add(text.partition(":")[0])
                self.pieces.append("message" if is_message else repr(text))
                return
            case ast.Constant():
                self.pieces.append(f"{type(node.value).__name__} {node.value!r}")
                return
            case ast.JoinedStr() if is_message:
                self.pieces.append("message")
                for value in node.values:
                    if isinstance(value, ast.FormattedValue):
                        self.read(value.value, is_message)
                return
            case ast.Expr(value=ast.Constant(value=str())):
                return  # a docstring
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return  # never run
            case ast.Import():
                self.names |= {alias.name for alias in node.names if self._is_own(alias.name)}
            case ast.ImportFrom(module=str(module)) if self._is_own(module):
                self.names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        self.pieces.append(f"({type(node).__name__}")
        messages = [id(each) for each in _messages(node)]
        for name, value in ast.iter_fields(node):
            if value in (None, []) or name == "ctx":
                continue
            self.pieces.append(name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ast.AST):
                    self.read(item, is_message or id(item) in messages)
                else:
                    self.pieces.append(repr(item))
        self.pieces.append(")")

    def _is_own(self, name: str) -> bool:
        return name == self.package or name.startswith(f"{self.package}.")


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _messages(node: ast.AST) -> list[ast.AST | None]:
    """Return those of a node's children whose text is only said to a person."""
    match node:
        case ast.Raise():
            return [node.exc]
        case ast.Assert():
            return [node.msg]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            if name.endswith("Error") or name in _TOLD or (name == "write" and ast.unparse(node.func) in _STREAMS):
                return [*node.args, *node.keywords]
            place = MEANINGS.get(name, len(node.args))
            named = [each for each in node.keywords if name in MEANINGS and each.arg and each.arg.endswith("meaning")]
            return [*node.args[place : place + 1], *named]
    return []
