"""Runs side by side: at their ends, at equal generated tokens, and at equal reward calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.statistics import Resamples, holm

DECODINGS = ("greedy", "sampled")


@dataclass(frozen=True)
class Run:
    """A run to be compared.

    Attributes:
        name: its name; empty for the project's own.
        facts: metric, retriever and split of its evaluation; `how` it learned; `prompts`, a hash of their texts and judgments, where known.
        iterations: one mapping per iteration, from 1: tokens sampled and texts scored in it.
        values: table kept_values.
        params: what it was made with, section -> name -> value.
    """

    name: str
    facts: Mapping[str, Any]
    iterations: Sequence[Mapping[str, Any]]
    values: pl.DataFrame
    params: Mapping[str, Any] = field(default_factory=dict)

    def spent(self, what: str) -> NDArray[np.float64]:
        """Return [iterations + 1] tokens or reward_calls until each policy was there; 0 for the warm start."""
        return np.concatenate([[0.0], np.cumsum([float(each[what]) for each in self.iterations])])

    def prompts(self) -> list[str]:
        """Return the prompts that were evaluated, in order."""
        return sorted(set(self.values["prompt_id"]))

    def evaluated_on(self) -> tuple[str | None, list[str]]:
        """Return what tells its prompts from others; ids do not, since every seed of the demo shop has the same ones."""
        return self.facts.get("prompts"), self.prompts()

    def at(self, decoding: str, place: float | None, what: str = "tokens") -> NDArray[np.float64] | None:
        """Return [prompts] values of the last policy, or where `place` of tokens or calls was spent; None without such a decoding.

        Between two evaluated policies values are interpolated linearly; before the first or after the last there is no other value.
        """
        rows = self.values.filter(pl.col("decoding") == decoding).sort("iteration", "prompt_id")
        if rows.height == 0:
            return None
        evaluated = rows["iteration"].unique().sort().to_list()
        table = rows["value"].to_numpy().reshape(len(evaluated), -1)
        if place is None:
            return np.asarray(table[-1])
        spent = self.spent(what)[evaluated]
        above = int(np.searchsorted(spent, place))
        if above == 0 or above == len(spent):
            return np.asarray(table[min(above, len(spent) - 1)])
        share = (place - spent[above - 1]) / (spent[above] - spent[above - 1])
        return np.asarray((1 - share) * table[above - 1] + share * table[above])


def how(params: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in few words what a run learned from.

    >>> how({"update": {"objective": "sft"}, "attribute": {"targets": "best"}})
    'sft, targets: best'
    """
    attribute, objective = params["attribute"], params["update"]["objective"]
    if objective in ("policy-gradient", "mirror-descent"):
        credit = str(attribute["rule"])
        if credit == "none":  # a group game
            credit = attribute["estimator"] + (f"({attribute['splice_trace']:g})" if attribute["estimator"] == "splice" else "")
        elif credit != "uniform":
            credit = f"{attribute['estimator']} + {credit}"
        alive = ", unequal groups" if params["update"].get("groups") == "alive" else ""
        squared = ", mirror descent" if objective == "mirror-descent" else ""
        return f"{credit}{squared}{alive}"
    read = {"sft": f", targets: {attribute['targets']}", "dpo": f", pairs: {attribute.get('pairs')}"}
    return f"{objective}{read.get(objective, '')}"


def compared(own: Run, kept: Sequence[Run], draws: Resamples) -> dict[str, Any]:
    """Return the comparison: rows at the end, at the fewest tokens and at the fewest reward calls that any run spent; and who was left out.

    Differences are to the project's own run, paired by prompt: over prompts, for these trained policies. p is also adjusted for the
    comparisons of a table (Holm). A run that was evaluated on other prompts, by another metric or under another retriever is left out,
    with the reason.

    Args:
        own: the project's run.
        kept: the kept ones.
        draws: of as many prompts as were evaluated.
    """
    left_out, runs = [], [own]
    for run in kept:
        reasons = [f"another {name}" for name in ("metric", "retriever", "split") if run.facts[name] != own.facts[name]]
        reasons += ["other prompts"] if not _same_prompts(run, own) else []
        if reasons:
            left_out.append({"name": run.name, "reason": reasons[0]})
        else:
            runs.append(run)
    tables = []
    for what in ("", "tokens", "reward_calls"):
        place = min(float(run.spent(what)[-1]) for run in runs) if what else None
        rows = [_row(run, own, place, what or "tokens", draws) for run in runs]
        adjust(rows)
        tables.append({"what": what, "place": place, "rows": rows})
    apart = [{"name": run.name, "names": set_otherwise(own.params, run.params)} for run in runs[1:]]
    return {"tables": tables, "left_out": left_out, "set_otherwise": [each for each in apart if each["names"]]}


def _same_prompts(run: Run, own: Run) -> bool:
    """Return whether both were evaluated on the same prompts; of runs kept without a hash the ids are compared."""
    (one, ids), (other, own_ids) = run.evaluated_on(), own.evaluated_on()
    return ids == own_ids and (one == other or None in (one, other))


def adjust(rows: Sequence[Mapping[str, Any]]) -> None:
    """Add p_holm to the differences of a table's rows, which are one family of comparisons."""
    found = [row[decoding]["to_own"] for row in rows for decoding in DECODINGS if row[decoding] and "to_own" in row[decoding]]
    for cell, adjusted in zip(found, holm([cell["p_value"] for cell in found]), strict=True):
        cell["p_holm"] = adjusted


def set_otherwise(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the parameters that two runs do not share, `section.name`, but for those that change no result.

    >>> set_otherwise({"update": {"epochs": 1, "groups": "all"}}, {"update": {"epochs": 2, "groups": "all"}})
    ['update.epochs']
    """
    if not (one and other):  # not known of one of them
        return []
    first, second = _flat(one), _flat(other)
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return [name for name in names if name.partition(".")[0] not in ("report", "store", "execution")]


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found


def _row(run: Run, own: Run, place: float | None, what: str, draws: Resamples) -> dict[str, Any]:
    row: dict[str, Any] = {"name": run.name, "how": run.facts["how"]}
    row |= {name: float(run.spent(name)[-1]) for name in ("tokens", "reward_calls")}
    for decoding in DECODINGS:
        values, base = run.at(decoding, place, what), own.at(decoding, place, what)
        if values is None:
            row[decoding] = None
            continue
        mean = draws.mean(values)
        cell: dict[str, Any] = {"mean": mean.mean, "low": mean.low, "high": mean.high}
        if run is not own and base is not None:
            cell["to_own"] = draws.difference(values, base)._asdict()
        row[decoding] = cell
    return row
