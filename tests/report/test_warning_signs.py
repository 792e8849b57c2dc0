"""Each warning: silent on a healthy run, raised by what it names, and never by what was not measured."""

import polars as pl
import pytest

from ospo_cli.report.iteration_measures import MEASURES, measure_iteration
from ospo_cli.report.warning_signs import _overshoot, warning_signs
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.rollout import ROLLOUTS
from tests.report import small_project
from tests.tables.sampled import sampled_frame

HEALTHY = {
    "tokens": 20.0, "cut_off_share": 0.0, "repeated_words": 0.1, "entropy": 1.5, "degenerate_share": 0.2,
    "untagged_share": 0.0, "clipped_fraction": 0.1, "segments": 5.0,
    "after_clipped_fraction": 0.2, "line_factor": 2.0, "last_epoch_kl": 0.02, "earlier_epoch_kl": 0.01, "last_ratio_01": 0.9, "last_ratio_99": 1.1, "effective_share": 0.98, "logprob_mismatch": 1e-6,
}  # fmt: skip


def signs(first, last, prompts=200):
    rows = [HEALTHY | first | {"iteration": 1}, HEALTHY | last | {"iteration": 2}]
    return {sign.name: sign for sign in warning_signs(rows, token_cap=48, held_out_prompts=prompts)}


def test_a_healthy_run_crosses_no_threshold():
    assert [name for name, sign in signs({}, {}).items() if sign.is_crossed is not False] == []


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("Length drift", {}, {"tokens": 40.0}),
        ("Length drift", {}, {"cut_off_share": 0.06}),
        ("Length drift", {"tokens": 10.0}, {"tokens": 16.0}),
        ("Repetition", {}, {"repeated_words": 0.6}),
        ("Entropy collapse", {}, {"entropy": 0.4}),
        ("Entropy collapse", {"entropy": 0.06}, {"entropy": 0.04}),
        ("Degenerate groups", {"degenerate_share": 0.6}, {}),
        ("Format failures", {}, {"untagged_share": 0.06}),
        ("Steps too large", {"clipped_fraction": 0.4}, {}),
        ("Ratio explosion", {"last_ratio_99": 4.1}, {}),
        ("Ratio explosion", {}, {"last_ratio_01": 0.2}),
        ("Ratio explosion", {}, {"effective_share": 0.4}),
        ("Held by the clip", {}, {"after_clipped_fraction": 0.6}),
        ("Overshoot", {}, {"line_factor": 0.5}),
        ("Idle epochs", {}, {"last_epoch_kl": 0.0101}),
        ("Sampler mismatch", {"logprob_mismatch": 0.02}, {}),
        ("Too few segments", {}, {"segments": 1.4}),
    ],
)
def test_what_goes_wrong_crosses_its_threshold_and_no_other(name, first, last):
    crossed = [found for found, sign in signs(first, last).items() if sign.is_crossed]
    assert crossed == [name]


def test_the_worst_iteration_is_named():
    assert signs({"last_ratio_99": 3.0}, {})["Ratio explosion"].found == "0.90 (iteration 1) to 3.00 (iteration 1), effective sample 98%"
    assert "(iteration 2)" in signs({}, {"logprob_mismatch": 0.5})["Sampler mismatch"].found


def test_entropy_that_the_warm_start_used_up_is_not_blamed_on_the_update():
    found = signs({"entropy": 0.01}, {"entropy": 0.01})
    assert "warm_start.max_epochs" in found["Entropy collapse"].advice
    later = signs({"entropy": 1.0}, {"entropy": 0.01})
    assert "update.learning_rate" in later["Entropy collapse"].advice


def test_epochs_of_a_single_pass_are_not_idle():
    once = {"last_epoch_kl": None, "earlier_epoch_kl": None}
    assert signs(once, once)["Idle epochs"].is_crossed is None
    assert signs(once, {"last_epoch_kl": 0.0099})["Idle epochs"].found == "at least 1% (iteration 2)"


def test_few_held_out_prompts_are_said():
    assert signs({}, {}, prompts=99)["Few held-out prompts"].is_crossed
    assert "Few held-out prompts" not in signs({}, {}, prompts=None)


def test_what_was_not_measured_is_neither_fine_nor_a_warning():
    found = signs({"entropy": None}, {"entropy": None})["Entropy collapse"]
    assert (found.is_crossed, found.found) == (None, "not measured")
    assert all(sign.is_crossed is None for sign in warning_signs([], 48, None))


def test_measures_are_the_means_of_the_tables(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    tables = {
        name: parquet.read(layout.iteration(1, f"{name}.parquet"), reference.TABLES[name]) for name in ("rollouts", "segments", "rewards")
    }
    found = measure_iteration(
        1, tables["rollouts"], tables["segments"], tables["rewards"], {"update": {"clipped_fraction": 0.25, "reference_kl": 0.0}}
    )
    rollouts = tables["rollouts"]
    assert found["reward"] == pytest.approx(tables["rewards"]["reward"].mean())
    assert found["tokens"] == pytest.approx(rollouts["token_ids"].list.len().mean())
    assert found["segments"] == pytest.approx(tables["segments"].height / rollouts.height)
    assert found["untagged_share"] == pytest.approx(1 - rollouts["has_answer_tags"].mean())
    assert (found["clipped_fraction"], found["reference_kl"], found["entropy"]) == (0.25, None, None)
    assert found["best_of_group"] >= found["retrieval"]
    assert {measure.name for measure in MEASURES} <= found.keys()


@pytest.mark.parametrize(("folding", "expected"), [("standard", 0.0), ("turkish", 1.0)])
def test_repeated_words_are_those_of_the_folding(folding, expected):
    rollouts = sampled_frame(("001:p:00", "p", "<answer>IŞIK ışık</answer>"))
    assert measure_iteration(1, rollouts, None, None, {}, folding)["repeated_words"] == expected


def test_a_table_that_is_not_there_leaves_its_measures_empty(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    found = measure_iteration(1, rollouts, None, None, {})
    assert [found[name] for name in ("reward", "segments", "degenerate_share")] == [None, None, None]
    assert measure_iteration(1, rollouts.head(0), None, None, {})["tokens"] is None
    assert isinstance(pl.DataFrame(found), pl.DataFrame)


def test_overshoot_in_few_of_many_iterations_is_no_sign():
    def sign(short):
        return _overshoot([{"iteration": number, "line_factor": 0.5 if number < short else 1.0} for number in range(8)])

    assert [sign(short).is_crossed for short in (0, 2, 3, 8)] == [False, False, True, True]
    assert sign(2).found == "in 2 of 8 iterations"
