"""Advice from a gradient audit that stands: what is written, what it says, and what it refuses."""

import dataclasses
import io
import json

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import CreditError, MissingInputError, ParameterError
from ospo_cli.instruments import advise
from ospo_cli.layout import Layout
from ospo_cli.maths.step_advice import proportional_rate
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report import staleness
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.advise import ADVICE, RATE_SEARCH
from ospo_cli.tables.audit import GRADIENT_AUDIT


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    """Trainings on halves are not run here: their gains are a parabola whose best rate is `best` times the middle one."""
    found = {"best": 2.0, "prompts": 8}

    def parabola(layout, params, iteration, wanted, rates):
        steps = np.array(rates) / wanted.learning_rate
        return np.outer(steps - steps**2 / (2 * found["best"]), np.linspace(0.9, 1.1, found["prompts"]))

    monkeypatch.setattr(advise, "held_out", parabola)
    return found


def audited(root, scale=97.0, floor=14.5, params=None, error=16.0):
    """Write a gradient audit of made-up numbers; return its project."""
    layout, params = Layout(root), params or Params()
    layout.iteration(1, "x").parent.mkdir(parents=True)
    layout.iteration(1, "token_advantages.parquet").touch()
    rows = []
    for estimator, rule in (("any", "uniform"), (params.attribute.estimator, params.attribute.rule)):
        rows += [
            (estimator, rule, params.attribute.normalize, "all", "signal", 0, 9.0 if scale else 0.5, None, 128),
            (estimator, rule, params.attribute.normalize, "all", "noise scale", 0, scale, error if scale else None, 128),
            (estimator, rule, params.attribute.normalize, "all", "floor", 0, floor, None if floor is None else 3.0, 128),
            (estimator, rule, params.attribute.normalize, "stop", "noise scale", 0, 1.0, 0.1, 128),
        ]
    path = layout.iteration(1, "gradient_audit.parquet")
    parquet.write(pl.DataFrame(rows, schema=GRADIENT_AUDIT.schema, orient="row"), path, GRADIENT_AUDIT)
    metrics = {
        "tables": staleness.fingerprints(layout, to_mapping(params), [path], []),
        "inputs": staleness.fingerprints(layout, to_mapping(params), [], ["attribute", "update.groups_per_step"]),
    }
    layout.iteration(1, "gradient_audit_metrics.json").write_text(json.dumps(metrics))
    return layout, params


def test_the_demos_figures_give_the_regime_that_was_found_by_training(tmp_path):
    layout, params = audited(tmp_path)
    found = {row["setting"]: (row["now"], row["advised"]) for row in advise.execute(layout, params, 1)[0].iter_rows(named=True)}
    assert found == {
        "update.groups_per_step": (params.update.groups_per_step, 16),
        "rollout.prompts_per_iteration": (params.rollout.prompts_per_iteration, 96),
        "train.iterations": (params.train.iterations, 96 // 6 * params.train.iterations * params.rollout.prompts_per_iteration // 1536),
        "update.epochs": (1, 1),
        "update.learning_rate": (params.update.learning_rate, pytest.approx(params.update.learning_rate)),
    }
    table = placed.read(ADVICE, layout, 1)
    assert table["noise_scale"].unique().to_list() == [97.0]
    assert table["floor"].unique().to_list() == [14.5]


def test_equal_audits_give_equal_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        layout, params = audited(tmp_path / name)
        advise.execute(layout, params, 1)
        written.append([layout.iteration(1, f"{name}.parquet").read_bytes() for name in ("advice", "rate_search")])
    assert written[0] == written[1]


def told(layout, params):
    stream = io.StringIO()
    advise.print_result(*advise.execute(layout, params, 1), stream)
    return stream.getvalue()


def test_the_text_says_what_was_measured_what_sizes_cost_and_why(tmp_path):
    text = told(*audited(tmp_path))
    assert "noise scale 97.0 ± 16.0 rollout groups" in text
    assert "14.5 of it lie between prompts" in text
    assert ["16", "1.16", "7.06"] in [line.split() for line in text.splitlines()]
    assert "rollout.prompts_per_iteration" in text
    assert "factor of two" not in text
    assert text.splitlines()[-1] == "in params.yaml: rollout.prompts_per_iteration: 96, train.iterations: 16, then `ospo graph`"


def test_settings_that_are_as_advised_are_said_to_need_no_change(tmp_path):
    params = Params()
    many = dataclasses.replace(params.rollout, prompts_per_iteration=96)
    assert told(*audited(tmp_path, params=dataclasses.replace(params, rollout=many))).splitlines()[-1] == "nothing to change"


def test_a_scale_that_is_hardly_known_is_said_to_be_so_and_a_floor_that_is_not_is_left_out(tmp_path):
    text = told(*audited(tmp_path, floor=None, error=60.0))
    assert "known to a factor of two at best" in text
    assert "between prompts" not in text


def test_gradients_without_signal_give_no_advice_but_how_to_measure_more(tmp_path):
    layout, params = audited(tmp_path, scale=None, floor=None)
    with pytest.raises(CreditError, match=r"have no signal.*found 0\.50 standard deviations in 128.*--prompts 512"):
        advise.execute(layout, params, 1)
    assert not layout.iteration(1, "advice.parquet").exists()


def test_an_audit_that_is_not_there_or_of_other_parameters_or_another_method_is_named_with_its_command(tmp_path):
    layout, params = audited(tmp_path)
    changed = dataclasses.replace(params, attribute=dataclasses.replace(params.attribute, rule="signed"))
    assert advise.is_measured(layout, params, 1)
    layout.iteration(2, "x").parent.mkdir(parents=True)
    layout.iteration(2, "token_advantages.parquet").touch()
    for parameters, iteration in ((params, 2), (changed, 1)):
        assert not advise.is_measured(layout, parameters, iteration)
        with pytest.raises(MissingInputError, match=rf"run `ospo audit --iter {iteration} --gradients`"):
            advise.execute(layout, parameters, iteration)


def test_an_audit_of_other_methods_alone_is_not_the_projects_own(tmp_path):
    layout, params = audited(tmp_path)
    path = layout.iteration(1, "gradient_audit.parquet")
    parquet.write(parquet.read(path, GRADIENT_AUDIT).filter(rule="uniform"), path, GRADIENT_AUDIT)
    metrics = {"tables": staleness.fingerprints(layout, to_mapping(params), [path], []), "inputs": {}}
    layout.iteration(1, "gradient_audit_metrics.json").write_text(json.dumps(metrics))
    assert not advise.is_measured(layout, params, 1)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_an_objective_without_token_advantages_is_refused(tmp_path, objective):
    layout, params = audited(tmp_path)
    other = dataclasses.replace(params, update=dataclasses.replace(params.update, objective=objective))
    with pytest.raises(ParameterError, match=rf"update\.objective: reads no token advantages.*found {objective}"):
        advise.execute(layout, other, 1)


def advised_rate(layout, params):
    return advise.execute(layout, params, 1)[0].filter(setting="update.learning_rate").row(0, named=True)


@pytest.mark.parametrize(("best", "factor", "words"), [(1.0, 0.5, "up to 0.00025"), (40.0, 4.0, "or more"), (0.2, 0.25, "or less")])
def test_the_learning_rate_is_half_of_the_best_one_of_the_halves_or_the_nearest_that_was_tried(tmp_path, halves, best, factor, words):
    layout, params = audited(tmp_path)
    halves["best"] = best
    row = advised_rate(layout, params)
    assert row["advised"] == pytest.approx(factor * params.update.learning_rate, rel=0.05)
    assert words in row["reason"]
    table = placed.read(RATE_SEARCH, layout, 1)
    assert table["judging_groups"].unique().to_list() == [8]
    assert (table["gain"] / table["learning_rate"]).is_sorted(descending=True)


def test_of_a_rate_that_is_known_to_a_factor_the_lower_end_is_taken(tmp_path, monkeypatch):
    layout, params = audited(tmp_path)
    best = np.geomspace(2.5, 16.0, 8)
    seen = []

    def gains(layout, params, iteration, wanted, rates):
        steps = np.array(rates)[:, None] / wanted.learning_rate
        seen.append(proportional_rate(rates, steps - steps**2 / (2 * best)))
        return steps - steps**2 / (2 * best)

    monkeypatch.setattr(advise, "held_out", gains)
    row = advised_rate(layout, params)
    assert seen[0].factor > 1.15
    assert row["advised"] == pytest.approx(seen[0].value / seen[0].factor, rel=0.05)


@pytest.mark.parametrize("prompts", [0, 2])
def test_halves_too_small_to_judge_leave_the_rate_to_the_square_root_and_say_so(tmp_path, halves, prompts):
    layout, params = audited(tmp_path, scale=388.0)
    halves["prompts"] = prompts
    row = advised_rate(layout, params)
    assert row["advised"] > params.update.learning_rate
    assert f"{prompts} judging rollout groups show no gain" in row["reason"]
    assert "no gain" in told(layout, params)
    assert placed.read(RATE_SEARCH, layout, 1)["kept"].null_count() == 5


def test_a_gain_within_its_noise_finds_no_rate(tmp_path, monkeypatch):
    layout, params = audited(tmp_path)
    monkeypatch.setattr(advise, "held_out", lambda *given: np.outer(given[-1], [1.0, -1.0, 2.0, -1.5]))
    assert "show no gain at any rate" in advised_rate(layout, params)["reason"]


def test_an_iteration_without_token_advantages_names_the_command_that_makes_them(tmp_path):
    layout, params = audited(tmp_path)
    layout.iteration(1, "token_advantages.parquet").unlink()
    with pytest.raises(MissingInputError, match=r"token_advantages\.parquet: no such file; run `ospo attribute --iter 1`"):
        advise.execute(layout, params, 1)
