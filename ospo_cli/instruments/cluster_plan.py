"""What a planned run would take on a cluster: hours, bytes, memory and cost per stage, the bottleneck, and what one more device buys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

import polars as pl

from ospo_cli.errors import ParameterError
from ospo_cli.params import whole
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.rollout import Rollout
from ospo_cli.report.number_text import count, short
from ospo_cli.report.plan_sections import UNITS
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables.plan import PAPER

# Stages whose shards, or whose steps' rows, are shared among devices; the others run on one core.
SHARDED = ("rollout", "score-coalitions", "evaluate")
SHARED = (*SHARDED, "update", "warm-start")
GROUPS_PER_SHARD, PROMPTS_PER_SHARD = 64, 64
_NUMBERS = {"gpus": 0.0, "cores": 1.0, "gpu_hour": 0.0, "core_hour": 0.0}


class Reads(Protocol):
    """What tells a stage's shards."""

    @property
    def rollout(self) -> Rollout: ...
    @property
    def evaluate(self) -> Evaluate: ...


@dataclass(frozen=True)
class Rate:
    """What one device does of a stage in a second."""

    per_second: float
    of: str
    on: str


@dataclass(frozen=True)
class Cluster:
    """Devices, what an hour of one costs, and rates; work of a stage in place of the plan's, all its runs together.

    `prompts`, split -> how many, is a data set that is not here: the counts then are those of the parameters on it, not the plan's.
    """

    gpus: int
    cores: int
    gpu_hour: float
    core_hour: float
    rates: Mapping[str, Rate]
    work: Mapping[str, float]
    prompts: Mapping[str, int] = field(default_factory=dict)

    def hourly(self) -> float:
        """Return what an hour of all of it costs."""
        return self.gpus * self.gpu_hour + self.cores * self.core_hour


@dataclass(frozen=True)
class Expected:
    """A stage on a cluster, all runs together; `devices` is how many have something to do."""

    stage: str
    runs: int
    work: float
    rate: Rate
    devices: int
    seconds: float
    bytes: float
    peak_bytes: int


def read(path: Path) -> Cluster:
    """Read a cluster's file.

    Raises:
        ParameterError: it is none, names what is unknown, or a number is none.
    """
    content = whole.read(path)
    known = (*_NUMBERS, "rates", "work", "prompts")
    if not isinstance(content, dict) or set(content) - set(known):
        found = type(content).__name__ if not isinstance(content, dict) else ", ".join(sorted(map(str, set(content) - set(known))))
        raise ParameterError(path, "is no cluster", found=found, expected=", ".join(known))
    numbers = {name: _number(path, name, content.get(name, least), least) for name, least in _NUMBERS.items()}
    rates = {stage: _rate(path, stage, own) for stage, own in _mapping(path, "rates", content).items()}
    work = {stage: _number(path, f"work.{stage}", value, 1.0) for stage, value in _mapping(path, "work", content).items()}
    prompts = {split: int(_number(path, f"prompts.{split}", value, 1.0)) for split, value in _mapping(path, "prompts", content).items()}
    made = Cluster(int(numbers["gpus"]), int(numbers["cores"]), numbers["gpu_hour"], numbers["core_hour"], rates, work, prompts)
    if not made.gpus and (lacking := [stage for stage, rate in rates.items() if rate.on == "gpu"]):
        raise ParameterError(path, f"a rate of {lacking[0]} is that of a GPU", found="gpus: 0", expected="1 or more")
    return made


def expected(plan: pl.DataFrame, cluster: Cluster, params: Reads, shared: Sequence[str] = SHARED) -> list[Expected]:
    """Return what each stage of table plan takes on the cluster; stages that are not `shared` take one device.

    A loop over s equal shards on n devices takes ⌈s/n⌉ rounds: more devices than shards have nothing to do. Update and warm start share
    each step's rows among the devices, without a loss for their exchange. A rate that is not given is the plan's: that of one core here;
    on paper there is none, and the stage is left out. Work in tokens makes answers longer, and not more of them or of their shards.

    Raises:
        ParameterError: on paper, the distinct texts that are scored are not given.
    """
    found = []
    for stage in (name for name in UNITS if name in plan["stage"].to_list()):
        rows = plan.filter(pl.col("stage") == stage)
        if stage not in cluster.rates and rows["rate_from"][0] == PAPER:
            continue
        units, tokens, cpu = (float(rows[name].sum()) for name in ("units", "tokens", "cpu_seconds"))
        rate = cluster.rates.get(stage) or Rate(max(units, 1.0) / max(cpu, 1e-9), "units", "core")
        planned = tokens if rate.of == "tokens" else units
        work = cluster.work.get(stage, planned)
        if stage == "score-coalitions" and not work:
            raise ParameterError(f"work.{stage}", "is not given", expected="distinct texts of all answers, which no parameter tells")
        available = (cluster.gpus if rate.on == "gpu" else cluster.cores) if stage in shared else 1
        grown = work / planned if planned else 1.0
        shards = _shards(stage, units * (grown if rate.of == "units" else 1.0) / rows.height, params.rollout, params.evaluate)
        rounds = math.ceil(shards / available) / shards if math.isfinite(shards) else 1.0 / available
        written = float(rows["bytes"].sum()) * grown
        seconds = work / rate.per_second * rounds
        devices = min(available, int(shards)) if math.isfinite(shards) else available
        found.append(Expected(stage, rows.height, work, rate, devices, seconds, written, max(rows["peak_bytes"])))
    return found


def print_cluster(found: Sequence[Expected], plan: pl.DataFrame, cluster: Cluster, params: Reads, stream: TextIO | None = None) -> None:
    """Print a line per stage, the sums, the bottleneck, and what one more GPU or core buys."""
    output = Terminal(stream)
    words, rows = ["stage", "of", "on"], []
    header = [*words, "runs", "work", "per second", "devices", "hours", "cost", "GB written", "GB memory"]
    for each in found:
        hours = each.seconds / 3600
        sizes = [short(each.bytes / 1e9), short(each.peak_bytes / 1e9)] if each.peak_bytes else ["–", "–"]
        told = [
            each.stage,
            each.rate.of,
            each.rate.on,
            str(each.runs),
            count(round(each.work)),
            short(each.rate.per_second),
            str(each.devices),
        ]
        rows.append([*told, short(hours), short(hours * cluster.hourly()), *sizes])
    hours = total_hours(found)  # on paper nothing was written, and no process was looked at
    written = short(sum(each.bytes for each in found) / 1e9) if any(each.peak_bytes for each in found) else "–"
    rows.append(["all", *[""] * 6, short(hours), short(hours * cluster.hourly()), written, ""])
    output.grid(header, rows, numbers=[name for name in header if name not in words])
    if left_out := [name for name in UNITS if name in plan["stage"].to_list() and name not in [each.stage for each in found]]:
        output.line(f"Without a rate, left out: {', '.join(left_out)}.")
    worst = max(found, key=lambda each: each.seconds)
    output.line(f"Bottleneck: {worst.stage}, {worst.seconds / 36 / max(hours, 1e-12):.0f} % of the time.")
    for name in ("gpus", "cores"):
        more = replace(cluster, **{name: getattr(cluster, name) + 1})
        then = total_hours(expected(plan, more, params))
        cost = then * more.hourly() - hours * cluster.hourly()
        output.line(f"One more {name[:-1].upper() if name == 'gpus' else 'core'}: {short(hours - then)} h less, {cost:+.3g} in cost.")


def print_workers(plan: pl.DataFrame, workers: int, params: Reads, stream: TextIO | None = None) -> None:
    """Print what the stages that are to do take on so many workers of a core each; update and warm start are one process's."""
    todo = plan.filter(~pl.col("is_current"))
    alone, together = (total_hours(expected(todo, Cluster(0, cores, 0, 0, {}, {}), params, SHARDED)) for cores in (1, workers))
    line = f"On {workers} workers of a core each: {short(3600 * together)} s in place of {short(3600 * alone)}, without their start."
    Terminal(stream).line(line)


def total_hours(found: Sequence[Expected]) -> float:
    """Return the hours of all stages, one after another."""
    return sum(each.seconds for each in found) / 3600


def _shards(stage: str, units: float, rollout: Rollout, evaluate: Evaluate) -> float:
    """Return the shards of one run with so many units; infinite where a step's rows are shared."""
    per_shard = max(1, rollout.batch_size // rollout.group_size) * rollout.group_size
    if stage in ("update", "warm-start"):
        return math.inf
    each = {
        "rollout": per_shard,
        "score-coalitions": GROUPS_PER_SHARD * rollout.group_size,
        "evaluate": PROMPTS_PER_SHARD * (evaluate.samples + 1),
    }
    if stage == "score-coalitions":  # its units are distinct texts, its shards are of answers
        units = rollout.prompts_per_iteration * rollout.group_size
    return max(1.0, math.ceil(units / each[stage])) if stage in each else 1.0


def _mapping(path: Path, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    found, known = content.get(name, {}), ("train", "dev", "test") if name == "prompts" else UNITS
    if not isinstance(found, dict) or (unknown := [str(own) for own in found if own not in known]):
        raise ParameterError(
            f"{path}: {name}",
            f"names no {'split' if name == 'prompts' else 'stage'}",
            found=unknown[0] if isinstance(found, dict) else found,
            expected=", ".join(known),
        )
    return found


def _rate(path: Path, stage: str, content: Any) -> Rate:
    where, expected = f"{path}: rates.{stage}", "per_second: a number, of: units or tokens, device: gpu or core"
    if not isinstance(content, dict) or set(content) != {"per_second", "of", "device"}:
        raise ParameterError(where, "is no rate", found=content, expected=expected)
    if content["of"] not in ("units", "tokens") or content["device"] not in ("gpu", "core"):
        raise ParameterError(where, "is no rate", found=f"of {content['of']}, device {content['device']}", expected=expected)
    if content["of"] == "tokens" and not UNITS[stage][2] and stage != "evaluate":
        raise ParameterError(where, "has no tokens", expected="of: units")
    return Rate(_number(path, f"rates.{stage}.per_second", content["per_second"], 1e-9), content["of"], content["device"])


def _number(path: Path, name: str, value: Any, least: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (name in ("gpus", "cores") and value != int(value)):
        raise ParameterError(f"{path}: {name}", "is no such number", found=value, expected=f"at least {least:g}")
    return float(value)
