"""One update from the exported file by TRL is our own update: against frozen numbers of TRL, and against TRL itself where it is installed."""

import importlib.util
import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from ospo_cli import presets
from ospo_cli.layout import Layout
from tests.oracle import one_update
from tests.oracle.one_update import FIXTURE, SETUPS, STRIDE

FROZEN = json.loads(FIXTURE.read_text(encoding="utf-8"))
TOLERANCE = 1e-5
needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="TRL is not installed (extra [oracle]; `make test-oracle` runs this)"
)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("oracle"))
    one_update.write_policies(layout)
    return layout


@pytest.fixture
def layout(policies):
    one_update.write_rows(policies, FROZEN["rows"])
    return policies


def apart(step, frozen):
    """Return the largest differences from a frozen step: loss, gradient, weights."""
    found = step.sample()
    lists = [max(abs(a - b) for a, b in zip(found[name], frozen[name], strict=True)) for name in ("gradient", "weights")]
    norms = [abs(found[f"{name}_norm"] - frozen[f"{name}_norm"]) for name in ("gradient", "weights")]
    return max(abs(found["loss"] - frozen["loss"]), *lists, *(norm / 10 for norm in norms))  # a norm adds up thousands of roundings


def test_the_frozen_numbers_are_of_the_trl_that_the_extra_names_and_of_this_policy(layout):
    weights = one_update.flat(load_file(layout.policy(1) / "model.safetensors"))[::STRIDE]
    assert FROZEN["made_with"]["trl"].startswith("1.16.")
    assert set(FROZEN["steps"]) == set(SETUPS)
    assert torch.allclose(weights, torch.tensor(FROZEN["weights_before"]), atol=1e-8)


@pytest.mark.parametrize("name", SETUPS)
def test_our_update_is_trls_update(layout, name):
    assert apart(one_update.our_step(layout, SETUPS[name]), FROZEN["steps"][name]) < TOLERANCE


def test_every_algorithm_that_trl_has_is_compared():
    compared = {name.removeprefix("preset ") for name in SETUPS if name.startswith("preset ")}
    assert compared == set(presets.ALGORITHMS) - {*one_update.NOT_IN_TRL, *one_update.OF_OTHER_TRAINERS, *one_update.AS_OURS}
    for name in one_update.AS_OURS:
        assert presets.algorithm_row(name)["update"] == presets.algorithm_row("ours")["update"]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("advantages", lambda values: [*values[1:], 0.0]),
        ("behavior_logprobs", lambda values: [*values[1:], -0.5]),
        ("advantages", lambda values: [-value for value in values]),
    ],
    ids=["advantages late by one token", "log-probabilities late by one token", "the sign turned"],
)
def test_a_step_from_other_numbers_is_told_apart(layout, what, change):
    one_update.write_rows(layout, [row | {what: change(row[what])} for row in FROZEN["rows"]])
    assert apart(one_update.our_step(layout, SETUPS["mean over rows"]), FROZEN["steps"]["mean over rows"]) > 100 * TOLERANCE


def test_every_setup_takes_a_step_of_its_own():
    different = {repr((setup.params.update, setup.temperature)): name for name, setup in SETUPS.items()}
    losses = sorted(FROZEN["steps"][name]["loss"] for name in different.values())
    assert len(losses) >= 16
    assert min(b - a for a, b in itertools.pairwise(losses)) > 50 * TOLERANCE


@needs_trl
@pytest.mark.parametrize("name", SETUPS)
def test_trl_itself_takes_our_step_from_the_exported_file(layout, name, tmp_path):
    from tests.oracle.trl_update import gaps, trl_step

    setup = SETUPS[name]
    theirs = trl_step(one_update.exported(layout, setup), layout.policy(1), layout.policy(0), setup, tmp_path)
    assert max(gaps(one_update.our_step(layout, setup), theirs)) < TOLERANCE


@needs_trl
@pytest.mark.parametrize("name", ["mean over rows", "mean over tokens", "constant", "uneven clip"])
def test_trls_own_training_loop_takes_our_step_from_the_exported_file(layout, name, tmp_path):
    from tests.oracle.trl_update import trl_training

    setup = SETUPS[name]
    weights = trl_training(one_update.exported(layout, setup), layout.policy(1), setup, tmp_path)
    assert float((weights - one_update.our_step(layout, setup).weights).abs().max()) < TOLERANCE
