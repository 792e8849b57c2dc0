"""Training in several processes is training in one, to rounding: every objective, aggregation and penalty, adapters, warm start, kills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ospo_cli.training.token_batches import Group, dealt
from tests.training import several

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    *("mean over tokens", "ratio of sequences", "k3 in the loss", "k2 in the reward", "mirror descent", "imitation"),
    *("preference to the warm start", "adapter", "warm start"),
)
# AdamW turns rounding of a gradient near 0 into more than the others' bound; what its gradients show is tested below.
ALONE, APART = several.ALONE, 5e-6
OTHERS = [case for case in several.CASES if case not in QUICK]
# 321 entries of the vocabulary, which two processes cannot halve.
QUICK_CUT = ("adapter", "mean over tokens")
OTHERS_CUT = (("warm start", 2), ("preference", 2), ("recomputed layers", 2), ("k2 in the reward", 2), (several.ALONE, 3))


class Trained:
    """The folders of the trainings, and how their processes ended."""

    def __init__(self, folder, asked):
        several.write(folder / "project")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OSPO_CHECKPOINT_SECONDS": "0"}
        spelled = ",".join(f"{case}:{count}" for case, count in asked)
        command = [sys.executable, "-m", "tests.training.several", str(folder), spelled]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        self.folder, self.stderr = folder, done.stderr
        self.statuses = {(case, count): found for case, count, found in map(json.loads, done.stdout.splitlines())}

    def policy(self, case, count):
        folder = (
            self.folder / f"{case} {count}" / "data/policies" / ("000" if case.removeprefix(several.CUT) == several.WARM_START else "001")
        )
        return load_file(next(path for path in folder.glob("*model.safetensors")))

    def curves(self, case, count):
        data = self.folder / f"{case} {count}" / "data"
        if case.removeprefix(several.CUT) == several.WARM_START:
            return json.loads((data / "policies/000/warm_start_metrics.json").read_text())["curves"]
        return json.loads((data / "iterations/001/update_steps.json").read_text())

    def gradients(self, case, count):
        return [load_file(path) for path in sorted((self.folder / f"{case} {count}" / "gradients").iterdir())]

    def check(self, case, count):
        assert self.statuses[case, count] == [0] * count, self.stderr
        plain = case.removeprefix(several.CUT)
        alone, together = self.policy(plain, 1), self.policy(case, count)
        apart = 1e-6 if plain != ALONE else APART
        assert set(together) == set(alone)
        assert max(float((alone[name] - together[name]).abs().max()) for name in alone) <= apart
        own, other = self.curves(plain, 1), self.curves(case, count)
        assert {name: other[name] for name in own} == {name: pytest.approx(values, rel=2e-5, abs=1e-5) for name, values in own.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    asked = [(case, count) for case in (*QUICK, ALONE) for count in (1, 2)]
    asked += [(several.CUT + case, 2) for case in QUICK_CUT]
    return Trained(tmp_path_factory.mktemp("several"), [*asked, ("mean over rows", 1), (several.INFINITE, 2), (several.KILLED, 2)])


@pytest.mark.parametrize("case", [*QUICK, ALONE])
def test_two_processes_train_as_one_does(trained, case):
    trained.check(case, 2)


def moved_by_adamw(gradients, rate=1e-4):
    """Return what AdamW adds to weights under these gradients, step by step in float64, by its formula."""
    moved, first, second = ({name: torch.zeros_like(own, dtype=torch.float64) for name, own in gradients[0].items()} for _ in range(3))
    for step, gradient in enumerate(gradients, 1):
        for name, own in gradient.items():
            own = own.double()
            first[name] = 0.9 * first[name] + 0.1 * own
            second[name] = 0.999 * second[name] + 0.001 * own**2
            moved[name] -= rate * first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
    return moved


def test_weights_that_two_processes_leave_apart_are_adamws_doing_on_gradients_that_agree(trained):
    one, two = (trained.gradients(ALONE, count) for count in (1, 2))
    assert len(one) == len(two) == 12
    for own, other in zip(one, two, strict=True):
        assert max(float((own[name] - other[name]).abs().max()) for name in own) <= 2e-6  # of entries up to .19
    weights, moved = [trained.policy(ALONE, count) for count in (1, 2)], [moved_by_adamw(own) for own in (one, two)]
    left = [((weights[0][name] - weights[1][name]).double() - (moved[0][name] - moved[1][name])).abs().max() for name in weights[0]]
    assert float(max(left)) <= 5e-7


@pytest.mark.parametrize("case", QUICK_CUT)
def test_two_processes_that_hold_half_of_every_weight_train_as_one_does(trained, case):
    trained.check(several.CUT + case, 2)


def test_a_loss_that_is_not_finite_in_one_process_is_the_same_error_in_all(trained):
    assert trained.statuses[several.INFINITE, 2] == [1, 1]
    lines = [line for line in trained.stderr.splitlines() if "the loss is not finite" in line]
    assert len(lines) == 2
    assert lines[0].partition("PolicyError")[2] == lines[1].partition("PolicyError")[2]


def test_the_others_end_where_one_is_killed_and_three_processes_go_on_from_its_checkpoint(trained):
    assert trained.statuses[several.KILLED, 2] == [1, -9]
    assert trained.statuses[several.KILLED, 3] == [0, 0, 0], trained.stderr
    assert "update 1: 4/4 steps (2 from cache)" in trained.stderr
    alone = load_file(trained.folder / "mean over rows 1/data/policies/001/model.safetensors")
    resumed = load_file(trained.folder / "killed 2/data/policies/001/model.safetensors")
    assert max(float((alone[name] - resumed[name]).abs().max()) for name in alone) <= 1e-6


@pytest.mark.slow
def test_other_losses_and_more_processes_than_a_step_has_rows_train_as_one_does(tmp_path):
    cases = [(case, count) for case in OTHERS for count in (1, 2)] + [(ALONE, 9), ("adapter", 1), ("adapter", 5)]
    trained = Trained(tmp_path, cases)
    for case, count in cases:
        trained.check(case, count)


@pytest.mark.slow
def test_one_process_that_cuts_its_groups_is_as_far_from_itself_as_two_processes_are_from_one(tmp_path):
    plain, cut = ALONE, f"{ALONE} in parts"
    trained = Trained(tmp_path, [(plain, 1), (plain, 2), (cut, 1)])
    alone, others = trained.policy(plain, 1), [trained.policy(plain, 2), trained.policy(cut, 1)]
    apart = [max(float((alone[name] - other[name]).abs().max()) for name in alone) for other in others]
    assert 0 < apart[0] <= 3 * apart[1]


@pytest.mark.slow
def test_cut_weights_train_as_whole_ones_and_a_checkpoint_of_them_is_of_whole_ones(tmp_path):
    killed = several.CUT + several.KILLED
    cut = [(several.CUT + case, count) for case, count in OTHERS_CUT]
    trained = Trained(tmp_path, [*((case, 1) for case, _ in OTHERS_CUT), *cut, ("mean over rows", 1), (killed, 2)])
    for case, count in cut:
        trained.check(case, count)
    assert trained.statuses[killed, 2] == [1, -9]
    assert trained.statuses[killed, 3] == [0, 0, 0], trained.stderr
    alone, resumed = trained.policy("mean over rows", 1), trained.policy(killed, 2)
    assert max(float((alone[name] - resumed[name]).abs().max()) for name in alone) <= 1e-6


@pytest.mark.slow
def test_layers_that_are_gathered_in_16_bits_have_the_gradient_of_autocast(tmp_path):
    cut = several.CUT + several.NARROW
    trained = Trained(tmp_path, [("mean over rows", 1), (several.NARROW, 1), (cut, 2)])
    exact, whole, parts = (trained.curves(case, count) for case, count in (("mean over rows", 1), (several.NARROW, 1), (cut, 2)))
    assert parts["gradient_norm"][0] == pytest.approx(whole["gradient_norm"][0], rel=2e-2)
    assert parts["entropy"][0] == pytest.approx(whole["entropy"][0], rel=5e-3)
    assert parts["entropy"][0] != pytest.approx(exact["entropy"][0], rel=1e-6)  # else nothing was narrow


def test_rows_are_dealt_by_their_width_each_to_one_process_and_none_twice():
    groups = [
        Group([1, 2], [[3] * length for length in lengths], 10 * index) for index, lengths in enumerate([(1, 2), (9, 3, 4), (1,), (5, 5)])
    ]
    for count in (1, 2, 3, 9):
        parts = dealt(groups, 1000, count)
        rows = sorted((part.first + at, ids) for own in parts for part in own for at, ids in enumerate(part.completions))
        assert rows == [(group.first + at, ids) for group in groups for at, ids in enumerate(group.completions)]
        assert dealt(groups[::-1], 1000, count) == parts or count == 1
    loads = [sum(part.width for part in own) for own in dealt(groups, 1000, 2)]
    assert max(loads) - min(loads) <= max(group.width for group in groups)
