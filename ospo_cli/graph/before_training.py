"""What parameters name in the prepared data, looked for before hours of training and not when a late stage reads it."""

from __future__ import annotations

import sys

import polars as pl

from ospo_cli.errors import ParameterError, SourceError
from ospo_cli.layout import Layout
from ospo_cli.maths.group_game import GROUP_GAMES
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.update import Update
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.params.whole import Params
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.prepared import DOCUMENTS, PROMPTS


def check_fields(layout: Layout, retrieval: Retrieval, warm_start: WarmStart) -> None:
    """Raise ParameterError where retrieval.fields or warm_start.title_fields name no text field of the documents."""
    schema = parquet.schema(DOCUMENTS.path(layout))
    known = [name for name, dtype in schema.items() if dtype == pl.String and name != "doc_id"]
    titles = warm_start.title_fields if warm_start.teacher == "judgments" else []
    asked = (("retrieval.fields", [field.partition("^")[0] for field in retrieval.fields]), ("warm_start.title_fields", titles))
    for name, fields in asked:
        missing = [field for field in fields if field not in known]
        if missing:
            raise ParameterError(name, "no such text field in documents", found=missing[0], expected=", ".join(known))


def check_splits(layout: Layout, evaluate: Evaluate) -> None:
    """Raise SourceError where there is no prompt to train on, or none to evaluate."""
    counts = dict(placed.read(PROMPTS, layout)["split"].value_counts().iter_rows())
    found = ", ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "dev", "test"))
    for split, what, remedy in (
        ("train", "to train on", "see data/prepared/card.json for why"),
        (evaluate.split, "to evaluate after training (evaluate.split)", "set evaluate.split to one that has prompts"),
    ):
        if not counts.get(split):
            raise SourceError(
                PROMPTS.path(layout), f"no prompt {what}: none is in split {split}", found=found, expected="at least one", remedy=remedy
            )


def check_estimator(attribute: Attribute, score_coalitions: ScoreCoalitions) -> None:
    """Raise ParameterError where attribute.estimator is a group game whose texts are not evaluated."""
    name, evaluated = attribute.estimator, score_coalitions.estimators
    if name in GROUP_GAMES and name not in evaluated:
        raise ParameterError(
            "attribute.estimator",
            f"{name} reads texts that score-coalitions does not evaluate",
            found=f"score_coalitions.estimators: [{', '.join(evaluated)}]",
            expected=f"{name} among them",
        )


def check(layout: Layout, params: Params) -> None:
    """Check all that is here; the prepared tables are there."""
    check_fields(layout, params.retrieval, params.warm_start)
    check_splits(layout, params.evaluate)
    check_estimator(params.attribute, params.score_coalitions)
    say_single_rollouts(params.rollout, params.attribute, params.update)


def say_single_rollouts(rollout: Rollout, attribute: Attribute, update: Update) -> None:
    """Say where rollout groups of one cannot teach anything: there is nothing to compare a reward with."""
    compares = update.objective != "sft" and not update.examples_file
    if rollout.group_size == 1 and attribute.baseline == "group" and compares:
        sys.stderr.write(
            "rollout.group_size: 1, and attribute.baseline: group: no reward has another to be compared with, every advantage is 0 "
            "and nothing is learned; set group_size to 2 or more, or attribute.baseline: batch\n"
        )
