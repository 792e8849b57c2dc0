"""Rollout groups for the browser: interactions of each rollout, strongest first, with the words of both ends."""

import polars as pl

from ospo_cli.report.rollout_groups import rollout_groups
from ospo_cli.tables.attribute import INTERACTIONS
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.segment import SEGMENTS as SEGMENTS_TABLE
from tests.tables.sampled import sampled_frame, sampled_row

COMPLETION = "<answer>navy wool\x1b coat</answer>"
SEGMENTS = [("r", 0, 0, 8, 12), ("r", 1, 1, 13, 18), ("r", 2, 2, 19, 23)]


def groups(interactions, **options):
    prompts = pl.DataFrame([("p", "train", "coat", [], "coat")], schema=PROMPTS.schema, orient="row")
    rollouts = sampled_frame(sampled_row("r", "p", COMPLETION, [1, 2]))
    segments = pl.DataFrame(SEGMENTS, schema=SEGMENTS_TABLE.schema, orient="row")
    table = None if interactions is None else pl.DataFrame(interactions, schema=INTERACTIONS.schema, orient="row")
    return rollout_groups(["p"], prompts, rollouts, {"segments": segments, "interactions": table}, **options)


def test_interactions_are_the_strongest_first_with_visible_words_of_both_ends():
    found = groups([("r", 0, 1, 0.1), ("r", 0, 2, -0.3), ("r", 1, 2, 0.1), ("other", 0, 1, 9.0)])
    assert found[0]["rollouts"][0]["interactions"] == [
        [0, 2, "navy", "coat", -0.3],
        [0, 1, "navy", "wool⟨U+001B⟩", 0.1],
        [1, 2, "wool⟨U+001B⟩", "coat", 0.1],
    ]


def test_no_more_than_the_asked_number_are_kept():
    rows = [("r", 0, 1, 0.1), ("r", 0, 2, -0.3), ("r", 1, 2, 0.2)]
    assert [each[4] for each in groups(rows, most=2)[0]["rollouts"][0]["interactions"]] == [-0.3, 0.2]


def test_without_the_table_there_are_none():
    assert groups(None)[0]["rollouts"][0]["interactions"] == groups([])[0]["rollouts"][0]["interactions"] == []
