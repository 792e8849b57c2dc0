"""What a run will take: exact counts of its work, times what a unit took in the last run here; else by a rule of thumb or in a sample."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.graph import declared, nodes, runner
from ospo_cli.graph.records import section_values
from ospo_cli.graph.standing import standing
from ospo_cli.instruments.plan import rules
from ospo_cli.instruments.plan.rules import ORACLE
from ospo_cli.layout import Layout
from ospo_cli.maths.coalitions import Budget
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report.number_text import count, short
from ospo_cli.report.plan_sections import HEADER, UNITS, cells, total
from ospo_cli.report.staleness import Values
from ospo_cli.report.terminal import Terminal
from ospo_cli.rewards.coalition_sizes import BYTES_PER_CELL, MOST_CELLS, largest_answer
from ospo_cli.rewards.judged_reward import Sections
from ospo_cli.rewards.opening import open_reward
from ospo_cli.tables import files, placed, unfinished
from ospo_cli.tables.plan import PAPER, PLAN
from ospo_cli.tables.prepared import PROMPTS

# Parameters that change how many units a stage has, and hardly what one of them takes.
FREE = {
    "train.seed", "warm_start.steps", "warm_start.max_epochs", "rollout.prompts_per_iteration", "rollout.group_size",
    "rollout.further_rounds", "update.groups_per_step", "update.max_groups", "evaluate.max_prompts",
    "evaluate.choose_prompts", "evaluate.bootstrap",
}  # fmt: skip
_SUMMED = (("seconds", 1.0), ("cpu_seconds", 1.0), ("bytes", 1e6))
SECONDS, CPU_SECONDS = 60.0, 10.0  # where a round of one rollout group takes longer, the last one is of two
MOST_STEPS = 4  # of the warm start in a round
WARM_SECONDS = 5.0  # of the processor, which the warm start's further sample may take
EVALUATED = 16  # most prompts of a round's evaluation
# Parts of an evaluation that do not grow with all its answers: the oracle's with its prompts, the rankings with the answers to the
# evaluated prompts (to the whole depth: those by which is chosen are ranked to the metric's), the others not at all.
RANKED, ONCE = "evaluate: ranked", "evaluate: once"
INDEX = "the index of the catalogue"
PARTS = {
    ORACLE: ("oracle",),
    RANKED: ("ranking by ",),
    ONCE: ("policies and tables", "index of ", "words of the catalogue", "intervals and verdict"),
}
Record = dict[str, Any]
Counts = Mapping[str, tuple[int, int, int]]  # stage -> what its time grows with, its units, and its tokens


def plan(
    layout: Layout,
    params: Params,
    tell: Callable[[Mapping[str, int], Counts, str | None], bool] = lambda *_: True,
    sample: bool = False,
) -> tuple[pl.DataFrame, dict[str, Any]] | None:
    """Return table plan and the facts behind it; write both to data/plan, and the prepared tables where there are none.

    If not all stages have recorded rates, `tell` is given the runs of each stage, the counts, and why rates will be sampled (None: a rule
    gives them), as soon as these are known; where it returns False nothing is sampled or written, and None is returned.

    Args:
        sample: sample the rates that no run recorded, also where there is a rule for them.
    """
    if not layout.prepared("prompts.parquet").is_file():
        runner.execute(nodes.plan(params)[0], layout, params)
    made_by, values = list(standing(layout, params)), to_mapping(params)
    records = {made.stage: recorded(layout, made, values) for made, _ in made_by}
    runs = Counter(made.stage for made, _ in made_by)
    ruled: dict[str, Record] = {}
    with unfinished.folder(layout.cache, "plan") as folder, contextlib.redirect_stderr(io.StringIO()):
        scratch = _Scratch(layout.root, layout.cache / folder.name)
        missing, found = [stage for stage, runs in records.items() if not runs], dict[str, list[Record]]()
        if made_by[0][1] and records["prepare-data"]:
            shutil.copytree(layout.prepared(""), scratch.prepared(""))
        else:
            found["prepare-data"] = [runner.measured(made_by[0][0], scratch, params)[1]]
        exact = counts(scratch, params)
        if unmeasured := {*missing} - {"prepare-data"}:
            why = "--sample asks for it" if sample else rules.refusal(unmeasured, params, layout.root) or None
            if not tell(runs, exact, why):
                return None
            if why is None:
                ruled = rules.expected(scratch, params, exact)
            else:
                found |= _sampled(layout, scratch, params)
        records |= {stage: runs for stage, runs in found.items() if stage in missing or (stage in PARTS and "evaluate" in missing)}
    rows, making = [], found.get(INDEX, [])
    for made, by in made_by:
        rate = "run" if made.stage not in missing else "rule" if made.stage in ruled else "sample"
        took = _by_rule(made.stage, exact, ruled) if rate == "rule" else _expected(made.stage, exact, records)
        if rate == "sample" and made.stage in ("score-queries", "score-coalitions") and making:
            took = _also(took, making.pop())
        rows.append((made.stage, made.iteration or 0, *took, rate, bool(by)))
    table = pl.DataFrame(rows, schema=PLAN.schema, orient="row")
    placed.write(table, PLAN, layout)
    owners = [by for _, by in made_by if by]
    scoring = params.score_coalitions
    most = largest_answer(params.rollout.group_size, scoring, Budget(**scoring.coalition_budget))
    facts = {"params": values, "made_by": {name: owners.count(name) for name in sorted(set(owners))}, "most_segments": most}
    files.write_json(layout.plan("plan.json"), facts)
    return table, facts


def counts(layout: Layout, params: Params) -> dict[str, tuple[int, int, int]]:
    """Return stage -> what its time grows with, its units, and its tokens: exact, but for tokens and steps of update, which are at most."""
    from ospo_cli.stages.warm_start import teacher_pairs

    prompts, teacher = placed.read(PROMPTS, layout), params.warm_start.teacher
    if teacher == "catalogue":
        from ospo_cli.rewards.catalogue_teacher import PHRASES, REPEATS

        return _counted(prompts, params, PHRASES + REPEATS * prompts.filter(pl.col("split") == "train").height)
    return _counted(prompts, params, None if teacher == "judgments" else teacher_pairs(layout, params, prompts).height)


def on_paper(params: Params, prompts: Mapping[str, int]) -> pl.DataFrame:
    """Return table plan for a data set that is not here: counts alone, of so many prompts in each split; distinct texts are not known."""
    rows = [(f"{split}{number}", split) for split, size in prompts.items() for number in range(size)]
    frame = pl.DataFrame(rows, schema={"prompt_id": pl.String, "split": pl.String}, orient="row")
    exact = _counted(frame, params, 0 if params.warm_start.teacher == "none" else None)
    exact["score-coalitions"] = (0, 0, 0)
    found = [
        (made.stage, made.iteration or 0, exact[made.stage][1], UNITS[made.stage][0], exact[made.stage][2], 0.0, 0.0, 0, 0, PAPER, False)
        for made in nodes.plan(params)
    ]
    return pl.DataFrame(found, schema=PLAN.schema, orient="row")


def _counted(prompts: pl.DataFrame, params: Params, pairs: int | None) -> dict[str, tuple[int, int, int]]:
    """Return the counts on these prompts; without a number of teacher pairs there is one a prompt, and no more than training can see."""
    from ospo_cli.sampling.held_out import passes
    from ospo_cli.stages.evaluate import choosing_prompts
    from ospo_cli.stages.warm_start import planned_steps

    train, held_out = (prompts.filter(pl.col("split") == split) for split in ("train", params.evaluate.split))
    rollout, warm, update = params.rollout, params.warm_start, params.update
    pairs = min(train.height, warm.steps * warm.batch_size) if pairs is None else pairs
    steps, groups = planned_steps(pairs, warm), min(rollout.prompts_per_iteration, train.height)
    completions, most = groups * rollout.group_size, rollout.max_new_tokens
    evaluated = min(held_out.height, params.evaluate.max_prompts or held_out.height)
    chosen_on = choosing_prompts(prompts, params)[0].height
    per_prompt = sum(each.samples + each.greedy_rows for each in passes(rollout, params.evaluate))
    of_policies = len(params.evaluated_iterations) * per_prompt
    answers, ranked = (evaluated + chosen_on) * of_policies, evaluated * (1 + (params.evaluate.oracle_edits > 0) + of_policies)
    updates = update.epochs * -(-min(groups, update.max_groups or groups) // update.groups_per_step)
    # Unless it is said otherwise below, a stage works on the prompts, or on an iteration's answers.
    number = {name: completions if stage.is_iterated else prompts.height for name, stage in declared.STAGES.items()}
    return {name: (each, each, 0) for name, each in number.items()} | {
        "warm-start": (steps, steps, 0),
        "rollout": (completions, completions, completions * most),
        "update": (completions, updates, completions * most * update.epochs),
        "evaluate": (answers, answers, answers * most),
        ORACLE: (evaluated, evaluated, 0),
        RANKED: (ranked, ranked, 0),
        ONCE: (1, 1, 0),
        "report": (params.train.iterations, params.train.iterations, 0),
    }


def recorded(layout: Layout, made: declared.Node, values: Values) -> list[Record]:
    """Return the records of a stage's last runs, one per iteration: those of the same parameters but FREE, that found no finished work."""
    present, found = _weighty(section_values(made, values)), []
    for path in sorted(layout.plan("actual").glob(f"{made.stage}.json" if made.iteration is None else f"{made.stage}@*.json")):
        with contextlib.suppress(OspoError):
            record = files.read_json(path)
            if "params" in record and _weighty(record["params"]) == present and not record["counts"].get("reused_values"):
                found.append(record)
    return found


def _weighty(sections: Mapping[str, Any]) -> Any:
    flat: dict[str, Any] = {}
    for section, value in sections.items():
        flat |= {f"{section}.{name}": own for name, own in value.items()} if isinstance(value, dict) else {section: value}
    return json.loads(json.dumps({name: value for name, value in flat.items() if name not in FREE}))


def _expected(stage: str, exact: Mapping[str, tuple[int, int, int]], records: Mapping[str, Sequence[Record]]) -> tuple[Any, ...]:
    """Return units, unit, most tokens, seconds, processor seconds, bytes and peak memory of one run of a stage."""
    (work, units, tokens), own = exact[stage], records[stage]
    took = _cost(stage, own, work)
    for part in PARTS if stage == "evaluate" else ():
        if part in records:
            took = [one + other for one, other in zip(took, _cost(part, records[part], exact[part][0]), strict=True)]
    if stage == "score-coalitions":
        units = round(work * sum(each["counts"]["distinct_values"] for each in own) / sum(_work(stage, each) for each in own))
    return (units, UNITS[stage][0], tokens, *took[:2], round(took[2]), max(record["peak_bytes"] for record in own))


def _also(took: tuple[Any, ...], further: Record) -> tuple[Any, ...]:
    return (*took[:3], took[3] + further["seconds"], took[4] + further["cpu_seconds"], *took[5:])


def _by_rule(stage: str, exact: Counts, ruled: Mapping[str, Record]) -> tuple[Any, ...]:
    own = ruled[stage]
    return (own["units"], UNITS[stage][0], exact[stage][2], *(own[name] for name in ("seconds", "cpu_seconds", "bytes", "peak_bytes")))


def _work(stage: str, record: Record) -> float:
    if stage == ONCE:
        return 1.0
    name = {"score-coalitions": "rollouts", "update": "rollouts", ORACLE: "prompts", RANKED: "ranked"}.get(stage) or UNITS[stage][1]
    return max(float(record["counts"][name]), 1.0)


def _cost(stage: str, records: Sequence[Record], units: float) -> list[float]:
    """Return seconds, processor seconds and bytes of so many units.

    Two runs of unlike size are the sample's: their difference is the units', the rest is fixed. Runs of a loop are alike: the median of
    what a unit took in each is taken times the units.
    """
    few, many = records[0], records[-1]
    small, large, took = _work(stage, few), _work(stage, many), {}
    for name in ("cpu_seconds", "bytes"):
        if large > 1.5 * small:
            slope = max(many[name] - few[name], 0.0) / (large - small)
            took[name] = max(many[name] - slope * large, 0.0) + slope * units
        else:
            took[name] = statistics.median(record[name] / _work(stage, record) for record in records) * units
    # Other work on the machine stretches runs unevenly: the difference is taken of processor seconds alone.
    stretched = sum(record["seconds"] for record in records) / max(sum(record["cpu_seconds"] for record in records), 1e-9)
    return [took["cpu_seconds"] * stretched, took["cpu_seconds"], took["bytes"]]


@dataclass(frozen=True)
class _Scratch(Layout):
    """The project's folder for its inputs, and another one for everything that is written."""

    folder: Path

    @property
    def data(self) -> Path:
        """The scratch folder."""
        return self.folder


def _sampled(layout: Layout, scratch: _Scratch, params: Params) -> dict[str, list[Record]]:
    """Return stage -> records of two rounds of the loop on prepared tables: of one rollout group, and of as many as one batch samples.

    What the retriever keeps of the catalogue, such as its index, is made once in a run: by the warm start where it asks for rewards, and so
    in its samples; else by the first stage that scores. It is made before the rounds, so that their scores are those of a later iteration.

    Policy 000 of the project is sampled where it is there. Else the one of the warm start's sample is, which may hardly ever stop: it may
    go on for as many tokens as the teacher's answers have in the mean.
    """
    making = _begin(scratch, _few(params, 1))
    warm, policy, most = _warm_starts(layout, scratch, params)
    rounds: list[dict[str, Record]] = []
    batch = max(2, params.rollout.batch_size // params.rollout.group_size)
    stretched = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # by other work, which says nothing of how dear a round is
    for groups in (1, min(batch, params.rollout.prompts_per_iteration)):
        own = _Scratch(scratch.root, scratch.folder / f"round-{len(rounds)}")
        shutil.copytree(scratch.prepared(""), own.prepared(""))
        shutil.copytree(policy, own.policy(0))
        shutil.copytree(scratch.cache, own.cache, copy_function=os.link)
        seconds, cpu = (sum(record[name] for record in rounds[-1].values()) if rounds else 0.0 for name in ("seconds", "cpu_seconds"))
        few = _few(params, min(groups, 2) if seconds > SECONDS * stretched or cpu > CPU_SECONDS else groups)
        rounds.append(_round(own, _replaced(few, {"rollout": {"max_new_tokens": most}})))
    found: dict[str, list[Record]] = {"warm-start": warm} | {stage: [each[stage] for each in rounds] for stage in rounds[0]}
    if not (params.warm_start.teacher == "judgments" or params.warm_start.look_every):
        found[INDEX] = [making]
    if declared.uses_raw_query_values(params.rollout):
        found["score-queries"] = [runner.measured(nodes.node("score-queries", None, params), scratch, _few(params, 1))[1]]
    return found


def _warm_starts(layout: Layout, scratch: _Scratch, params: Params) -> tuple[list[Record], Path, int]:
    """Train for one step, then for as many as tell what a step takes; return both records, the policy to sample, and its most tokens.

    Answers of a policy that has hardly trained name few words of the catalogue, and are ranked sooner than a trained one's.
    """

    def trained(number: int, steps: int) -> tuple[_Scratch, Any, Record]:
        own = _Scratch(scratch.root, scratch.folder / f"warm-start-{number}")
        shutil.copytree(scratch.prepared(""), own.prepared(""))
        few = _replaced(_few(params, 1), {"warm_start": {"steps": steps, "max_epochs": 0.0}})
        return own, *runner.measured(nodes.node("warm-start", None, few), own, few)

    made = [trained(number, min(steps, params.warm_start.steps)) for number, steps in enumerate((1, MOST_STEPS))]
    one, four = (record["cpu_seconds"] for _, _, record in made)
    if steps := _further_steps(one, four, params.warm_start.steps):
        made[1] = trained(2, steps)
    records, (own, result, _), most = [record for _, _, record in made], made[1], params.rollout.max_new_tokens
    if (layout.policy(0) / "tokenizer.json").is_file():
        return records, layout.policy(0), most
    return records, own.policy(0), min(most, math.ceil(result.get("mean_completion_tokens", most)))


def _begin(layout: Layout, params: Sections) -> Record:
    """Pay what a process pays once, so that the first round does not: imports, a first step, the reward's compiled loops.

    Returns:
        What it took to make what the retriever keeps of the catalogue: opening it the first time less opening it again.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    )
    model(torch.zeros((1, 2), dtype=torch.long)).logits.sum().backward()
    torch.optim.AdamW(model.parameters()).step()
    first = placed.read(PROMPTS, layout).head(1)
    layout.cache.mkdir(parents=True, exist_ok=True)
    began = [(time.monotonic(), time.process_time())]
    for _ in range(2):
        open_reward(layout, params).values(first["prompt_id"].to_list(), first["query"].to_list())
        began.append((time.monotonic(), time.process_time()))
    twice = [[after - before for before, after in zip(*pair, strict=True)] for pair in itertools.pairwise(began)]
    return {name: max(one - again, 0.0) for name, one, again in zip(("seconds", "cpu_seconds"), *twice, strict=True)}


def _further_steps(one: float, four: float, planned: int) -> int:
    """Return how many steps of the warm start are worth a further sample, from the processor seconds of one and of four; 0: none.

    Few short steps differ by less than the machine's noise, so that their difference says little; a tenth of all is taken for the least.
    """
    steps = min(planned, int(3 * WARM_SECONDS / max(four - one, four / 10, 1e-9)))
    return steps if steps > MOST_STEPS else 0


def _few(params: Params, groups: int) -> Params:
    wanted: dict[str, dict[str, Any]] = {
        "train": {"iterations": 1},
        "rollout": {"prompts_per_iteration": groups, "prompts": "all", "further_rounds": 0},
        # How many rollout groups will be degenerate, or hold a target, is not known: all count.
        "score_coalitions": {"degenerate_groups": "evaluate"},
        "update": {"objective": "policy-gradient", "groups": "all", "examples_file": ""},
        "evaluate": {"max_prompts": min(groups, EVALUATED), "choose_prompts": min(groups, EVALUATED)},
        "store": {"values": "never"},  # what the store holds would make the rates those of a look-up
    }
    return _replaced(params, wanted)


def _replaced(params: Params, wanted: dict[str, dict[str, Any]]) -> Params:
    return dataclasses.replace(params, **{name: dataclasses.replace(getattr(params, name), **own) for name, own in wanted.items()})


def _round(scratch: _Scratch, params: Params) -> dict[str, Record]:
    """Run every stage once from policy 000 on; return their records, parts of the evaluation by themselves."""
    records = {}
    for made in nodes.plan(params)[1:]:
        if made.stage == "warm-start":
            continue
        result, records[made.stage] = runner.measured(made, scratch, params)
        if made.stage == "evaluate":
            whole = left = records["evaluate"]
            for part, names in PARTS.items():
                share = sum(took for name, took in result["parts"].items() if name.startswith(names)) / max(whole["cpu_seconds"], 1e-9)
                times = {name: whole[name] * share for name in ("seconds", "cpu_seconds")}
                records[part] = whole | times | {"bytes": 0}
                left = left | {name: left[name] - took for name, took in times.items()}
            records["evaluate"] = left
    return records


def print_counts(runs: Mapping[str, int], exact: Counts, stream: TextIO | None = None) -> None:
    """Print what is counted before any rate is known; distinct texts are not."""
    output = Terminal(stream)
    header = ["stage", "runs", "units a run", "of what", "most tokens"]
    rows = [
        [stage, str(runs[stage]), count(exact[stage][1]), "answers" if stage == "score-coalitions" else unit, count(exact[stage][2])]
        for stage, (unit, _, _) in UNITS.items()
        if stage in runs
    ]
    output.grid(header, rows, numbers=["runs", "units a run", "most tokens"])
    output.line()


def print_plan(table: pl.DataFrame, facts: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print a line per stage, all iterations together, the sums, and what they rest on."""
    output, todo = Terminal(stream), table.filter(~pl.col("is_current"))
    words = ["stage", "of what", "rate from"]
    header = [words[0], "runs", "up to date", "units a run", words[1], "most tokens", words[2], "s a run", "s", "CPU s", "MB", "MB memory"]
    rows = []
    for stage, (unit, _, _) in UNITS.items():
        if (own := table.filter(pl.col("stage") == stage)).height:
            first, left = own.row(0, named=True), todo.filter(pl.col("stage") == stage)
            told = [str(own.height), str(own.height - left.height), count(first["units"]), unit, count(first["tokens"]), first["rate_from"]]
            rows.append([stage, *told, short(first["seconds"]), *_sums(left), short(first["peak_bytes"] / 1e6)])
    rows.append(["to do", str(todo.height), *[""] * 6, *_sums(todo), short(max([0, *todo["peak_bytes"]]) / 1e6)])
    output.grid(header, rows, numbers=[name for name in header if name not in words])
    output.line()
    if ruled := float(todo.filter(pl.col("rate_from") == "rule")["seconds"].sum()):
        known, factor = float(todo["seconds"].sum()) - ruled, rules.FACTOR
        span = " to ".join(f"{(known + took) / 60:.1f}" for took in (ruled / factor, ruled * factor))
        output.line(f"Rates from a rule of thumb, not from runs here: likely {span} min in all. `ospo plan --sample` times a few prompts.")
    memory, segments = short(MOST_CELLS * BYTES_PER_CELL / 1e9), count(facts["most_segments"])
    output.line(f"Answers of up to {segments} segments are scored, a rollout group at a time in {memory} GB; longer ones are refused.")
    if facts["made_by"]:
        made = ", ".join(f"{number} by {name}" for name, number in facts["made_by"].items())
        output.line(f"Up to date: {made}. `ospo run` skips what it or a command of its stages made, `dvc repro` what stands in dvc.lock.")


def _sums(rows: pl.DataFrame) -> list[str]:
    return [short(float(rows[name].sum()) / scale) for name, scale in _SUMMED]


def print_actual(found: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print plan against actual, for the stages that ran."""
    output = Terminal(stream)
    if found["changed"]:
        output.line(f"The plan was made for other parameters: {', '.join(found['changed'][:8])}.", style="yellow")
    output.grid(list(HEADER), [cells(row) for row in [*found["rows"], total(found["rows"])]], numbers=HEADER[1:])
