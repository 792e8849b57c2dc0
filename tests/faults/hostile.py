"""Hostile input: parameters, tables, files of text, policies and command lines. Every one ends well or as one line of ours."""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from ospo_cli.executors.progress import Progress
from tests.faults import commands
from tests.faults.found import Found, Place

LONG = "a" * 100_000
TEXTS = (
    "", " ", "\0", "\x1b[31m", "\u202e", "\ud800", "nan", "inf", "-1", "0", "1e400", "../../etc/passwd", "/", ".", "~", "/dev/null", "/dev/full",
    "/proc/self/mem", "a\0b", LONG, "/" + LONG, "a/" * 50_000, "${HOME}", "{query}", "{0}", "%s", "*", "data", "catalogue", "params.yaml", "🔥" * 300,
    "a\nb", "--help", "bm25", "demo", "漢字", "'", '"', "<script>", "file:///etc/passwd", "http://[::1", "a:b", "title^nan", "ndcg@", "ndcg@0",
)  # fmt: skip
VALUES = (
    *TEXTS, None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), [], {}, [[]], [None],
    ["a"], ["a", "a"], [1], {"a": 1}, {"": None}, {1: 2}, [{"a": []}], [LONG], {LONG: 1}, [[["deep"] * 3] * 3],
)  # fmt: skip
# Shares of the inputs in process, by what is tried; what is dear is tried less often.
SHARES = {"parameter": 40, "text": 22, "table": 15, "json": 15, "yaml": 3, "rollouts of others": 2, "catalogue": 2, "policy": 1}


def in_process(place: Place, found: Found, random: Random) -> None:
    """Try so many inputs in a child of this process."""
    result, folder = place.root / "hostile.json", place.finished("hostile")
    seed, terminal = random.random(), os.dup(2)

    def work() -> None:
        with open(terminal, "w", encoding="utf-8") as stream:
            progress = Progress(found.part, found.count, "inputs", stream, every_seconds=30.0)
            result.write_text(json.dumps(_tried(folder, progress, Random(seed))))
        os._exit(0)

    result.unlink(missing_ok=True)
    child = commands.start(folder, ("hostile",), place.root / "output", before=work)
    child.wait(3600.0)
    if not result.is_file():
        found.faults.append(f"status {child.status}: {child.errors[-1500:]}")
    else:
        counts, found.faults = json.loads(result.read_text())
        found.counts = Counter(counts)
    print("".join(f"{found.part}: {fault}\n" for fault in found.faults), end="", flush=True)


def _tried(folder: Path, progress: Progress, random: Random) -> tuple[dict[str, int], list[str]]:
    from ospo_cli.errors import OspoError

    makers = {"parameter": _Parameters, "text": _Texts, "table": _Tables, "json": _Json, "yaml": _Yaml, "rollouts of others": _Foreign,
              "catalogue": _Catalogue, "policy": _Policy}  # fmt: skip
    tries = {name: makers[name](folder, random) for name in SHARES}
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for name in random.choices(list(SHARES), list(SHARES.values()), k=progress.total):
        what = tries[name].make()
        counts[name] += 1
        try:
            tries[name].use()
        except OspoError as error:
            counts["refused"] += 1
            if "\n" in error.line() or len(error.line()) > 4000:
                faults.append(f"{name}: {what[:200]!r}: no one line: {error.line()[:300]!r}")
        except MemoryError:
            raise
        except BaseException:
            faults.append(f"{name}: {what[:300]!r}: {traceback.format_exc()[-700:]}")
        progress.advance(detail=f"{len(faults)} faults")
        if len(faults) > 50:
            break
    return dict(counts), faults


class _Parameters:
    """One or two parameters with a value of another kind."""

    def __init__(self, folder: Path, random: Random) -> None:
        from ospo_cli.params import whole

        self.random, self.whole, self.content = random, whole, whole.to_mapping(whole.load(folder / "params.yaml"))

    def make(self) -> str:
        self.tried = copy.deepcopy(self.content)
        said = []
        for _ in range(self.random.randint(1, 2)):
            section = self.random.choice(list(self.tried))
            inner: Any = self.tried[section]
            name = self.random.choice(list(inner))
            while isinstance(inner[name], dict) and inner[name] and self.random.random() < 0.8:
                inner = inner[name]
                name = self.random.choice(list(inner))
            inner[name] = self.random.choice(VALUES)
            said.append(f"{section} {name} {str(inner[name])[:80]!r}")
        return "; ".join(said)

    def use(self) -> None:
        self.whole.from_mapping(self.tried)


class _Texts:
    """Answers and queries through what cuts and reads them."""

    def __init__(self, folder: Path, random: Random) -> None:
        from ospo_cli.text import segments, words

        self.random, self.segments, self.words = random, segments, words

    def make(self) -> str:
        pieces = ("navy", "wool coat", ",", ".", "<answer>", "</answer>", "<think>", "\0", "é", "e\u0301", "🔥", "👨‍👩‍👧", "漢字", "שלום", "\u200f", " ", "\n", "$50",
                  '15.6"', "\ud800", "\u2028", "1,000", "without", "''")  # fmt: skip
        self.text = "".join(self.random.choices(pieces, k=self.random.randint(0, 40)))
        return self.text

    def use(self) -> None:
        level = self.random.choice(("word", "phrase", "sentence", "window"))
        spans = self.segments.segment(self.text, level)
        assert all(0 <= span.start < span.end <= len(self.text) for span in spans)
        self.words.words(self.text)


class _Bytes:
    """A file with some bytes changed, cut, doubled or exchanged for a stretch of another's."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.random, self.folder, self.place = random, folder, folder / "tried"
        self.place.mkdir(exist_ok=True)
        self.contents = [path.read_bytes() for path in self.sources()]

    def sources(self) -> list[Path]:
        raise NotImplementedError

    def harmed(self) -> bytes:
        random, content = self.random, bytearray(self.random.choice(self.contents))
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(content) + 1)
            match random.randrange(6):
                case 0:
                    del content[at:]
                case 1:
                    content[at:at] = random.choice(TEXTS[:20]).encode("utf-8", "surrogatepass")[:200]
                case 2:
                    content[at : at + 8] = random.randbytes(8)
                case 3:
                    other = random.choice(self.contents)
                    content[at:] = other[random.randrange(len(other)) :]
                case 4:
                    del content[at : at + random.randint(1, 50)]
                case _:
                    content[at : at + 1] = random.choice((b"\0", b"\xff", b'"', b"\n", b"{", b"-", b"9", b","))
        return bytes(content)


class _Tables(_Bytes):
    def sources(self) -> list[Path]:
        from ospo_cli.tables import parquet
        from ospo_cli.tables.rollout import ROLLOUTS
        from ospo_cli.tables.segment import SEGMENTS

        self.parquet, self.tables = parquet, (ROLLOUTS, SEGMENTS)
        return [self.folder / f"data/iterations/001/{name}.parquet" for name in ("rollouts", "segments")]

    def make(self) -> str:
        content = self.harmed()
        (self.place / "table.parquet").write_bytes(content)
        return f"{len(content)} bytes"

    def use(self) -> None:
        self.parquet.read(self.place / "table.parquet", self.random.choice(self.tables))


class _Json(_Bytes):
    def sources(self) -> list[Path]:
        return [*sorted((self.folder / "data").glob("*/*.json")), *sorted((self.folder / "data/iterations").rglob("*.json"))]

    def make(self) -> str:
        content = self.harmed()
        (self.place / "x.json").write_bytes(content)
        return repr(content[:300])

    def use(self) -> None:
        from ospo_cli.tables.files import read_json

        read_json(self.place / "x.json", "ospo evaluate")


class _Yaml(_Bytes):
    def sources(self) -> list[Path]:
        lines = (self.folder / "params.yaml").read_text().splitlines()
        starts = [number for number, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
        (self.place / "part.yaml").write_text("\n".join(lines[starts[0] : starts[2]]) + "\n")
        return [self.place / "part.yaml"]

    def make(self) -> str:
        content = self.harmed()
        (self.place / "params.yaml").write_bytes(content)
        return repr(content[:300])

    def use(self) -> None:
        from ospo_cli.params import whole

        whole.load(self.place / "params.yaml")


class _Foreign(_Bytes):
    def sources(self) -> list[Path]:
        from tests.exchange.small_shop import foreign_rows

        (self.place / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in foreign_rows()), encoding="utf-8")
        return [self.place / "theirs.jsonl"]

    def make(self) -> str:
        if self.random.random() < 0.5:
            rows = [json.loads(line) for line in self.contents[0].decode().splitlines()]
            row = self.random.choice(rows)
            name = self.random.choice([*row, "answer_start"])
            value = self.random.choice(VALUES)
            row[name] = [*row[name], value] if isinstance(row.get(name), list) and self.random.random() < 0.5 else value
            content = "".join(json.dumps(each, default=str) + "\n" for each in rows).encode("utf-8", "surrogatepass")
        else:
            content = self.harmed()
        (self.place / "tried.jsonl").write_bytes(content)
        return repr(content[:300])

    def use(self) -> None:
        from ospo_cli.exchange import foreign_rollouts

        foreign_rollouts.read(self.place / "tried.jsonl")


class _Catalogue(_Bytes):
    NAMES = ("products.csv", "queries.csv", "judgments.csv")

    def sources(self) -> list[Path]:
        return [self.folder / "catalogue" / name for name in self.NAMES]

    def make(self) -> str:
        (self.place / "catalogue").mkdir(exist_ok=True)
        for name in self.NAMES:
            (self.place / "catalogue" / name).write_bytes((self.folder / "catalogue" / name).read_bytes())
        content, name = self.harmed(), self.random.choice(self.NAMES)
        (self.place / "catalogue" / name).write_bytes(content)
        return f"{name} {content[:300]!r}"

    def use(self) -> None:
        from ospo_cli.params import whole
        from ospo_cli.sources import opening

        opening.read(whole.load(self.folder / "params.yaml").prepare_data, 0, self.place)


class _Policy(_Bytes):
    def sources(self) -> list[Path]:
        self.paths = sorted((self.folder / "data/policies/001").iterdir())
        return self.paths

    def make(self) -> str:
        from tests.faults import project

        copied = project.copied(self.folder / "data/policies/001", self.place / "policy")
        path = self.random.choice(self.paths)
        self.contents = [path.read_bytes()]
        (copied / path.name).write_bytes(self.harmed())
        return path.name

    def use(self) -> None:
        from ospo_cli.policies.opening import load_policy

        load_policy(self.place / "policy", threads=1)


def by_command_line(place: Place, found: Found, random: Random) -> None:
    """Call commands with hostile values for their options, and stages under hostile parameters."""
    import typer.main

    from ospo_cli.cli import app

    group = typer.main.get_command(app)
    folder = place.finished("hostile")
    known = {name: command for name, command in group.commands.items() if not hasattr(command, "commands")}  # type: ignore[attr-defined]
    for number in found.trials():
        if number % 20 == 0:
            folder = place.finished("hostile")
        if number % 4 == 0:
            arguments, what = _under_parameters(folder, random)
        else:
            arguments = _arguments(known, random)
            what = " ".join(argument[:60] for argument in arguments)
        command = commands.run(folder, arguments, place.root / "output")
        found.ended(command, f"hostile: {what!r}")
        found.counts["commands"] += 1
        (folder / "params.yaml").write_bytes((place.whole / "params.yaml").read_bytes())


def _under_parameters(folder: Path, random: Random) -> tuple[tuple[str, ...], str]:
    import yaml

    content = yaml.safe_load((folder / "params.yaml").read_text())
    section = random.choice(list(content))
    name = random.choice(list(content[section]))
    content[section][name] = random.choice(VALUES)
    text = yaml.safe_dump(content, allow_unicode=True)
    (folder / "params.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    arguments = random.choice(
        (("run",), ("prepare-data",), ("run", "--dry-run"), ("rollout", "--iter", "1"), ("evaluate",), ("graph",), ("warm-start",))
    )
    return arguments, f"{' '.join(arguments)} under {section}.{name}: {str(content[section][name])[:80]!r}"


def _arguments(known: dict[str, Any], random: Random) -> tuple[str, ...]:
    name = random.choice([each for each in known if each not in ("init", "lab", "fetch-policy")])
    given = [name]
    for option in known[name].params:
        is_needed = option.required or option.name == "iteration"
        if option.name in ("help", "wait") or (not is_needed and random.random() < 0.6):
            continue
        value = random.choice(("1", "2")) if is_needed and random.random() < 0.7 else random.choice(TEXTS)
        value = value.replace("\0", "").encode("utf-8", "ignore").decode()
        if option.param_type_name == "argument":
            given.append(value)
        elif option.is_flag:
            given.append(option.opts[0])
        elif option.name not in ("out", "to", "html"):  # would write there
            given += [option.opts[0], value]
    return tuple(given)
