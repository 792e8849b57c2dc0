"""The only reader of params.yaml: one frozen dataclass per section, unknown or missing names refused."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.errors import OspoError, ParameterError, shorten
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.execution import Execution
from ospo_cli.params.policy import Policy
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.report import Report
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.segment import Segment
from ospo_cli.params.store import Store
from ospo_cli.params.train import Train
from ospo_cli.params.update import Update
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.text.close_names import check_names, did_you_mean


@dataclass(frozen=True)
class Params:
    """Everything in params.yaml, one section per stage."""

    train: Train = dataclasses.field(default_factory=Train)
    policy: Policy = dataclasses.field(default_factory=Policy)
    prepare_data: PrepareData = dataclasses.field(default_factory=PrepareData)
    retrieval: Retrieval = dataclasses.field(default_factory=Retrieval)
    warm_start: WarmStart = dataclasses.field(default_factory=WarmStart)
    rollout: Rollout = dataclasses.field(default_factory=Rollout)
    segment: Segment = dataclasses.field(default_factory=Segment)
    score_coalitions: ScoreCoalitions = dataclasses.field(default_factory=ScoreCoalitions)
    attribute: Attribute = dataclasses.field(default_factory=Attribute)
    update: Update = dataclasses.field(default_factory=Update)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    report: Report = dataclasses.field(default_factory=Report)
    execution: Execution = dataclasses.field(default_factory=Execution)
    store: Store = dataclasses.field(default_factory=Store)

    @property
    def evaluated_iterations(self) -> list[int]:
        """Iterations whose policies are evaluated: 0 (the warm start), every evaluate.every-th and the last, ascending."""
        return sorted({*range(0, self.train.iterations, self.evaluate.every), self.train.iterations})


LARGEST_INTEGER = 2**31 - 1


LARGEST_FLOAT = 1e9  # far beyond any use; weights and rates of 1e300 overflow float32 somewhere deep inside


SECTIONS: dict[str, type] = {field.name: typing.get_type_hints(Params)[field.name] for field in dataclasses.fields(Params)}


LARGEST_FILE = 100_000  # values in params.yaml, each alias counted with all that it stands for


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without silent overwriting (a key that occurs twice is an error) and without aliases that grow a few lines into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; count what it holds, and refuse more than LARGEST_FILE values."""
        node = super().compose_node(parent, index)
        sizes: dict[int, int] = self.__dict__.setdefault("sizes", {})
        if node is not None and id(node) not in sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            # An alias to a node that is still being composed counts as one; the constructor refuses it.
            parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
            sizes[id(node)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            if sizes[id(node)] > LARGEST_FILE:
                raise yaml.composer.ComposerError(None, None, f"more than {LARGEST_FILE} values, aliases included", node.start_mark)
        return node


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
    if doubled:
        raise yaml.constructor.ConstructorError(None, None, f"duplicate key {', '.join(doubled)}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _decimal_number(loader: _UniqueKeyLoader, node: yaml.ScalarNode) -> int | float:
    # YAML 1.1 reads 010 as 8 and 1:30 as 90; YAML 1.2, by which DVC reads the same file, does not.
    if re.match(r"[-+]?0[0-9_]", node.value) or ":" in node.value:
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is no decimal number", node.start_mark)
    is_whole = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if is_whole else loader.construct_yaml_float(node)


for _tag in ("int", "float"):
    _UniqueKeyLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _decimal_number)
_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load(path: Path) -> Params:
    """Read params.yaml; raise ParameterError on an unknown name, a wrong type or a value out of range.

    A name that is missing has its default, and one line on stderr says so: a project of an earlier version goes on working.
    """
    content, absent = read(path), list[str]()
    params = from_mapping(_filled(Params, content, "", absent) if isinstance(content, dict) else content, where=str(path))
    if absent:
        names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        sys.stderr.write(f"{shorten(path)}: not there, so at the default: {names}; `ospo params --write` adds what is missing\n")
    return params


def _filled(kind: type, content: dict[Any, Any], section: str, absent: list[str]) -> dict[Any, Any]:
    """Return the content with the defaults of missing names, which are added to `absent` in declared order."""
    filled, default = dict(content), kind()
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            inner = filled.get(name, {})
            if isinstance(inner, dict):
                filled[name] = _filled(typing.cast(type, hint), inner, f"{section}{name}.", absent)
        elif name not in filled:
            filled[name] = getattr(default, name)
            absent.append(f"{section}{name}")
    return filled


def read(path: Path) -> object:
    """Return what the file holds, unchecked; raise ParameterError where it is not there or no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506  (a SafeLoader)
    except FileNotFoundError:
        raise ParameterError(path, "no such file", remedy="run `ospo init DIR --preset demo` or go to the project's folder") from None
    # PyYAML raises many kinds: ValueError for `2026-13-01`, KeyError for `!!bool maybe`, AttributeError for `!!timestamp x`.
    except (OSError, yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ParameterError(path, "cannot be read as YAML", found=" ".join(str(error).split())) from None


def from_mapping(content: object, where: str = "params.yaml") -> Params:
    """Return the checked parameters of a mapping section -> name -> value."""
    if not isinstance(content, dict):
        raise ParameterError(where, "is not a mapping of sections", found=type(content).__name__, expected=", ".join(SECTIONS))
    _check_names(where, "section", content, SECTIONS)
    params = Params(**{name: _section(where, name, kind, content[name]) for name, kind in SECTIONS.items()})
    for name in SECTIONS:
        section = getattr(params, name)
        if hasattr(section, "check"):
            section.check(f"{where}: {name}")
    return params


def check_retrievers(evaluate: Evaluate, score_coalitions: ScoreCoalitions, retrieval: Retrieval) -> None:
    """Raise ParameterError where evaluation would fail after all the training: its list of retrievers, and fields that one cannot weigh."""
    names, training = evaluate.retrievers, score_coalitions.retriever
    if training not in names or len(set(names)) < len(names):
        remedy = f"put {training} (score_coalitions.retriever) into the list" if training not in names else "name each once"
        raise ParameterError(
            "evaluate.retrievers", "needs the training retriever and no name twice", found=", ".join(names) or "none", remedy=remedy
        )
    weighted = [field for field in retrieval.fields if "^" in field]
    if weighted and training != "bm25":
        raise ParameterError(
            "score_coalitions.retriever",
            f"weighted fields ({weighted[0]}) are known to bm25 alone",
            found=training,
            expected="bm25, or retrieval.fields without weights",
        )


def to_mapping(params: Params) -> dict[str, dict[str, Any]]:
    """Return section -> name -> plain value, in declared order."""
    return {name: dataclasses.asdict(getattr(params, name)) for name in SECTIONS}


def to_sections(params: Params) -> dict[str, dict[str, Any]]:
    """Return dotted section (`retrieval`, `retrieval.dense`) -> name -> plain value, in declared order."""
    found: dict[str, dict[str, Any]] = {}

    def walk(section: str, values: Any) -> None:
        found[section] = {}
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if dataclasses.is_dataclass(value):
                walk(f"{section}.{field.name}", value)
            else:
                found[section][field.name] = value

    for name in SECTIONS:
        walk(name, getattr(params, name))
    return found


def describe() -> list[dict[str, str]]:
    """Return one row per parameter: name (dotted, with its sections), type, default, allowed, meaning."""
    return [row for section, kind in SECTIONS.items() for row in _described(section, kind)]


def _described(section: str, kind: type) -> list[dict[str, str]]:
    rows = []
    hints = typing.get_type_hints(kind)
    defaults = kind()
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            rows += _described(f"{section}.{field.name}", hints[field.name])
            continue
        hint, metadata = _plain(hints[field.name], field.metadata)
        rows.append(
            {
                "name": f"{section}.{field.name}",
                "type": _type_name(hint),
                "default": yaml.safe_dump(getattr(defaults, field.name), default_flow_style=True, width=10_000)
                .replace("\n...", "")
                .strip(),
                "allowed": _allowed(metadata),
                "meaning": field.metadata["meaning"],
            }
        )
    return rows


def _section(where: str, name: str, kind: type, content: object) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise ParameterError(f"{where}: {name}", "is not a mapping", found=type(content).__name__, expected=", ".join(fields))
    _check_names(f"{where}: {name}", "parameter", content, fields)
    values = {}
    for key, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            values[key] = _section(where, f"{name}.{key}", typing.cast(type, hint), content[key])
        else:
            plain, metadata = _plain(hint, fields[key].metadata)
            if content.get(metadata["open_with"]):
                metadata = {**metadata, "choices": ()}
            values[key] = _value(f"{where}: {name}.{key}", plain, metadata, content[key])
    return kind(**values)


def _plain(hint: Any, metadata: typing.Mapping[str, Any]) -> tuple[Any, typing.Mapping[str, Any]]:
    """Return a field's type, and what is declared of it, with the texts of a Literal as choices of a str."""
    return (str, {**metadata, "choices": typing.get_args(hint)}) if typing.get_origin(hint) is typing.Literal else (hint, metadata)


def _check_names(where: str, noun: str, content: dict[Any, Any], known: typing.Iterable[str]) -> None:
    known = list(known)
    check_names(where, noun, content, known)
    missing = [key for key in known if key not in content]
    if missing:
        raise ParameterError(
            where,
            f"missing {noun}",
            found="nothing",
            expected=", ".join(missing),
            remedy="`ospo params --write` adds them with their defaults",
        )


def _value(where: str, hint: Any, metadata: typing.Mapping[str, Any], value: Any) -> Any:
    if hint == dict[str, float] and isinstance(value, dict):
        odd = [str(key) for key in value if not _reads(metadata, str(key))]
        if odd:
            raise ParameterError(where, "unknown name", found=odd[0], expected=metadata["meaning"])
        return {str(key): _value(f"{where}.{key}", float, {"minimum": 0}, item) for key, item in value.items()}
    if hint == list[float] and isinstance(value, list):
        return [_value(f"{where}[{index}]", float, metadata, item) for index, item in enumerate(value)]
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST_INTEGER:
            raise ParameterError(
                where,
                "out of range",
                found=f"{'-' if value < 0 else ''}10^{int(math.log10(abs(value)))} or so",
                expected=f"at most {LARGEST_INTEGER}",
            )
        value = float(value) if _accepts_float(hint) else value
    if isinstance(value, str) and _accepts_float(hint):  # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if not _matches(hint, value):
        remedy = "put it in quotes, so that YAML reads it as text" if hint is str and value is not None else None
        raise ParameterError(where, "wrong type", found=f"{value!r} ({type(value).__name__})", expected=_type_name(hint), remedy=remedy)
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(where, "is not a finite number", found=value)
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise ParameterError(where, "out of range", found=value, expected=f"at most {LARGEST_FLOAT:g}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    low, high, choices = metadata.get("minimum"), metadata.get("maximum"), metadata.get("choices")
    if number and ((low is not None and value < low) or (high is not None and value > high)):
        raise ParameterError(where, "out of range", found=value, expected=_allowed(metadata))
    unknown = [item for item in (value if isinstance(value, list) else [value]) if item not in choices] if choices else []
    if unknown:
        remedy = did_you_mean(str(unknown[0]), map(str, choices or ()))
        raise ParameterError(where, "unknown value", found=value, expected=_allowed(metadata), remedy=remedy)
    if isinstance(value, str) and not _reads(metadata, value):
        raise ParameterError(where, "unknown value", found=value, expected=metadata["meaning"])
    return value


def _reads(metadata: typing.Mapping[str, Any], text: str) -> bool:
    """Tell whether a text is what the parameter's pattern or parser takes, where it has one."""
    if metadata.get("parser"):
        try:
            metadata["parser"].found()(text)
        except OspoError:
            return False
    return not metadata.get("pattern") or re.fullmatch(metadata["pattern"], text) is not None


def _accepts_float(hint: Any) -> bool:
    return hint is float or float in typing.get_args(hint)


def _matches(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_matches(argument, value) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_matches(arguments[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_matches(arguments[0], k) and _matches(arguments[1], v) for k, v in value.items())
    if hint is type(None):
        return value is None
    return type(value) is hint


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_type_name(argument) for argument in arguments)}]"
    return "null" if hint is type(None) else hint.__name__


def _allowed(metadata: typing.Mapping[str, Any]) -> str:
    if metadata.get("choices"):
        return ", ".join(str(choice) for choice in metadata["choices"])
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"≥ {low:g}" if low is not None else (f"≤ {high:g}" if high is not None else "")
