"""`ospo experiment FILE`: run what is missing, print the tables, write the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError
from ospo_cli.instruments.experiment import outcomes, page
from ospo_cli.instruments.experiment.analysis import Compared, Found, Row, ToLevel, comparisons, rows_of, to_level
from ospo_cli.instruments.experiment.plan import Doors, Plan, read
from ospo_cli.instruments.experiment.running import Folders, is_done, run_missing
from ospo_cli.maths.over_trainings import TrainingDifference
from ospo_cli.tables.files import write_text

ALONG = {"tokens": "sampled tokens", "reward_calls": "distinct texts scored", "cpu_seconds": "processor time, rollout to update"}


def outlook(path: Path, folder: Path, doors: Doors) -> list[tuple[str, str]]:
    """Return each training with `done` or `to run`, and what its rollouts come to."""
    plan, folders = read(path, doors), Folders(folder)
    found = []
    for training in plan.trainings():
        params = plan.params(training)
        rollouts = params.train.iterations * params.rollout.prompts_per_iteration * params.rollout.group_size
        state = "done" if is_done(plan, folders, training) else f"to run: {params.train.iterations} iterations, {rollouts:,} rollouts"
        found.append((str(training.folder), state))
    return found


def execute(path: Path, folder: Path, doors: Doors, jobs: int = 1, runs: bool = True, into: Path | None = None) -> list[str]:
    """Run what is missing (unless `runs` is false), print the tables, write experiment.html; return the trainings that are not there.

    `into`: a Markdown page whose blocks of this file's tasks are written anew (`written_into`).

    Raises:
        ParameterError: the file is at fault.
        OspoError: no training has an outcome; or the page has no block of this file.
    """
    plan, folders = read(path, doors), Folders(folder)
    blocks = _blocks(into, path.name) if into is not None else None  # before hours of training
    failed = run_missing(plan, folders, jobs) if runs else []
    data = gathered(path, plan, folders, failed[0][1] if failed else "none was run")
    sys.stdout.write(text(data))
    write_text(folder / "experiment.html", page.render(data))
    if into is not None and blocks is not None:
        write_text(into, written_into(into.read_text(encoding="utf-8"), blocks, data, into))
    return list(data["absent"])


def gathered(path: Path, plan: Plan, folders: Folders, problem: str = "none was run") -> dict[str, Any]:
    """Return what is printed and drawn, from the outcomes that are there; raise OspoError, naming the problem, where there is none."""
    done = {training: is_done(plan, folders, training) for training in plan.trainings()}
    kept = {training: outcomes.read(folders.outcome(training), training) if done[training] else None for training in done}
    found: Found = {training: outcome for training, outcome in kept.items() if outcome is not None}
    if not found:
        raise OspoError(
            folders.root, "no training has an outcome", found=problem, remedy="`ospo experiment FILE` without --tables runs them"
        )
    tasks = [task_data(plan, task, found) for task in plan.tasks if any(training.task == task for training in found)]
    absent = [str(training.folder) for training in kept if training not in found]
    return {"file": path.name, "text": path.read_text(encoding="utf-8"), "absent": absent, "tasks": tasks, "along": ALONG}


def written_into(page_text: str, blocks: re.Pattern[str], data: dict[str, Any], where: object) -> str:
    """Return a Markdown page in which each block `<!-- experiment FILE TASK -->` … `<!-- end -->` holds the task's tables.

    Raises:
        OspoError: a block is of a task that has no outcome.
    """
    tasks = {task["task"]: task for task in data["tasks"]}

    def block(found: re.Match[str]) -> str:
        if found["task"] not in tasks:
            raise OspoError(where, "holds a block of a task without outcomes", found=found["task"], expected=", ".join(tasks))
        return f"{found['head']}\n" + "\n".join(_task_lines(tasks[found["task"]])[2:]).rstrip() + "\n<!-- end -->"

    return blocks.sub(block, page_text)


def _blocks(into: Path, file: str) -> re.Pattern[str]:
    """Return what finds the blocks of an experiment's file in a page; raise OspoError where there is none."""
    blocks = re.compile(rf"(?P<head><!-- experiment {re.escape(file)} (?P<task>\S+) -->)\n.*?<!-- end -->", re.DOTALL)
    if not into.is_file() or not blocks.search(into.read_text(encoding="utf-8")):
        expected = f"a Markdown page with <!-- experiment {file} TASK --> … <!-- end -->"
        raise OspoError(into, "has no block of this experiment", found="no file" if not into.is_file() else "no block", expected=expected)
    return blocks


def task_data(plan: Plan, task: str, found: Found) -> dict[str, Any]:
    """Return what is printed and drawn of a task: rows, comparisons, shares to the reference's level, all learning rates."""
    rows = rows_of(plan, task, found)
    rates = [row for rate in plan.rates for row in rows_of(plan, task, found, rate)] if len(plan.rates) > 1 else []
    return {
        "task": task, "reference": rows[0].method, "rows": rows, "compared": comparisons(rows),
        "levels": {along: to_level(rows, along) for along in ALONG}, "rates": rates,
    }  # fmt: skip


def text(data: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [line for task in data["tasks"] for line in _task_lines(task)]
    if data["absent"]:
        lines.append(
            f"not there: {len(data['absent'])} trainings: {', '.join(data['absent'][:5])}{' …' if len(data['absent']) > 5 else ''}"
        )
    return "\n".join(lines) + "\n"


def _task_lines(task: dict[str, Any]) -> list[str]:
    rows: list[Row] = task["rows"]
    decodings = rows[0].decodings()
    lines = [f"## {task['task']}", "", anchors(rows[0]), ""]
    lines += _table(
        ["method", "learning rate", "seeds", *decodings, "entropy", "last rollouts", "tokens", "texts scored"],
        [
            [row.method, f"{row.rate:g}", str(len(row.seeds)), *(spread(row.means("final", decoding)) for decoding in decodings),
             f"{row.along('entropy')[:, -1].mean():.2f}", f"{row.along('mean_reward')[:, -1].mean():.3f}",
             f"{row.along('tokens').sum(axis=1).mean():,.0f}", f"{row.along('reward_calls').sum(axis=1).mean():,.0f}"]
            for row in rows
        ],
    )  # fmt: skip
    for other in (task["reference"], "raw query"):
        shown = [each for each in task["compared"] if each.other == other]
        if shown:
            lines += ["", f"minus {other} (95 % interval, p, Holm's p over the task; smallest difference that could show):", ""]
            methods = list(dict.fromkeys(each.method for each in shown))
            cells = [[method, *(_cell(shown, method, decoding) for decoding in decodings)] for method in methods]
            lines += _table(["method", *decodings], cells)
    lines += ["", f"part of {task['reference']}'s cost until the rollouts earn what its own earn at the end:", ""]
    known = {each.method for found in task["levels"].values() for each in found}
    heads = [ALONG[along] for along in task["levels"]]
    cells = [[row.method, *(_level(found, row.method) for found in task["levels"].values())] for row in rows if row.method in known]
    lines += _table(["method", *heads], cells) if cells else ["(at least four iterations are needed)"]
    if task["rates"]:
        heads = ["method", "learning rate", "seeds", *decodings, "last rollouts"]
        cells = [
            [row.method, f"{row.rate:g}", str(len(row.seeds)), *(spread(row.means("final", decoding)) for decoding in decodings),
             f"{row.along('mean_reward')[:, -1].mean():.3f}"]
            for row in task["rates"]
        ]  # fmt: skip
        lines += ["", "all learning rates:", "", *_table(heads, cells)]
    return [*lines, ""]


def anchors(row: Row) -> str:
    """Return raw query, warm start and oracle of a task in one line."""
    names = [("raw query", "none"), *(("warm start", decoding) for decoding in row.decodings()), ("oracle", "none")]
    found = [(f"{name} {decoding}" if decoding != "none" else name, row.means(name, decoding)) for name, decoding in names]
    return ", ".join(f"{name} {spread(values)}" for name, values in found if not (values != values).any())


def spread(values: Any) -> str:
    """Return a mean over seeds, and the standard deviation between them."""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def difference(each: Compared) -> str:
    """Return a comparison in one cell; over prompts alone is said."""
    found = each.found
    over = "" if isinstance(found, TrainingDifference) else " over prompts"
    return (
        f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{over}, p {found.p_value:.4f}, Holm {each.adjusted_p:.3f}; "
        f"could show {found.detectable:.3f}"
    )


def level(each: ToLevel) -> str:
    """Return a share to the level in one cell."""
    if each.share is None:
        return "not reached"
    bounds = f" [{each.low:.2f}, {each.high:.2f}]" if each.low is not None and each.high is not None else ""
    return f"{each.share:.2f}{bounds} ({each.reached} of {each.seeds} seeds by themselves)"


def _cell(shown: list[Compared], method: str, decoding: str) -> str:
    return next((difference(each) for each in shown if (each.method, each.decoding) == (method, decoding)), "")


def _level(found: list[ToLevel], method: str) -> str:
    return next((level(each) for each in found if each.method == method), "")


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *(f"| {' | '.join(cells)} |" for cells in rows)]
