import shutil
from pathlib import Path

import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.training.training_state import Checkpoint, Training


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def steps(training, start, end):
    for step in range(start, end):
        x = torch.full((2, 3), float(step)) / 10
        training.model(x).sum().backward()
        training.step(1e-2)


def weights(training):
    return [weight.detach().clone() for weight in training.weights.values()]


def test_training_resumed_from_a_checkpoint_gives_the_weights_of_one_that_ran_through(tmp_path):
    through = Training(model(), 0.1, 1.0)
    steps(through, 0, 6)
    cut_off = Training(model(), 0.1, 1.0)
    steps(cut_off, 0, 4)
    Checkpoint(tmp_path / "state").save(cut_off, 4, {"loss": [0.1 + 0.2]})
    resumed = Training(model(), 0.1, 1.0)
    finished, notes = Checkpoint(tmp_path / "state").restore(resumed)
    steps(resumed, finished, 6)
    assert (finished, notes["loss"]) == (4, [0.1 + 0.2])
    assert all(torch.equal(a, b) for a, b in zip(weights(through), weights(resumed), strict=True))
    assert all(torch.equal(through.moments()[name], resumed.moments()[name]) for name in through.moments())


def test_only_the_last_checkpoint_is_kept_and_none_after_removal(tmp_path):
    training, checkpoint = Training(model(), 0.0, 1.0), Checkpoint(tmp_path / "state")
    for step in (1, 2):
        steps(training, step - 1, step)
        checkpoint.save(training, step, {})
    kept = [path.name for path in (tmp_path / "state").iterdir()]
    checkpoint.remove()
    assert (kept, (tmp_path / "state").exists()) == (["00000002"], False)


def copy_of(folder, to):
    return Path(shutil.copytree(folder, to))


def test_a_damaged_checkpoint_is_not_used_and_said(tmp_path, capsys):
    training, checkpoint = Training(model(), 0.0, 1.0), Checkpoint(tmp_path / "state")
    steps(training, 0, 1)
    checkpoint.save(training, 1, {})
    saved = tmp_path / "state" / "00000001"
    for path in (saved / "state.safetensors", saved / "notes.json", saved / "hashes.json"):
        content = path.read_bytes()
        for harmed in (b"cut off", content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]):
            path.write_bytes(harmed)
            assert checkpoint.restore(Training(model(), 0.0, 1.0)) == (0, {})
            assert "00000001: is not what was written (damaged?): computed again" in capsys.readouterr().err
        path.write_bytes(content)
    assert checkpoint.restore(Training(model(), 0.0, 1.0))[0] == 1


def test_where_the_newer_of_two_checkpoints_is_damaged_the_older_one_is_used(tmp_path):
    training, checkpoint = Training(model(), 0.0, 1.0), Checkpoint(tmp_path / "state")
    steps(training, 0, 1)
    checkpoint.save(training, 1, {})
    older = copy_of(tmp_path / "state" / "00000001", tmp_path / "older")
    steps(training, 1, 2)
    checkpoint.save(training, 2, {})
    copy_of(older, tmp_path / "state" / "00000001")  # a kill before the older one was deleted
    (tmp_path / "state" / "00000002" / "state.safetensors").write_bytes(b"cut off")
    assert checkpoint.restore(Training(model(), 0.0, 1.0))[0] == 1


def test_moments_carried_over_a_file_continue_as_if_never_saved(tmp_path):
    through = Training(model(), 0.0, 1.0)
    steps(through, 0, 5)
    first = Training(model(), 0.0, 1.0)
    steps(first, 0, 3)
    first.save_moments(tmp_path / "optimizer.safetensors")
    second = Training(first.model, 0.0, 1.0)
    carried = second.load_moments(tmp_path / "optimizer.safetensors")
    steps(second, 3, 5)
    assert carried
    assert all(torch.equal(a, b) for a, b in zip(weights(through), weights(second), strict=True))


def test_moments_of_another_model_are_refused(tmp_path):
    training = Training(model(), 0.0, 1.0)
    steps(training, 0, 1)
    training.save_moments(tmp_path / "optimizer.safetensors")
    with pytest.raises(PolicyError, match="optimiser state of other weights"):
        Training(torch.nn.Linear(3, 1), 0.0, 1.0).load_moments(tmp_path / "optimizer.safetensors")


def test_the_gradient_is_clipped_to_its_bound_and_zero_never_clips():
    norms = []
    for bound in (0.5, 0.0):
        training = Training(torch.nn.Linear(2, 1, bias=False), 0.0, bound)
        training.model(torch.full((1, 2), 3.0)).sum().backward()
        norm = training.step(1.0)
        # The first moments are a tenth of the gradient that the step took.
        norms.append((norm, 10 * training.moments()["exp_avg/weight"].norm().item()))
    assert norms == [(pytest.approx(18**0.5), pytest.approx(0.5, rel=1e-4)), (pytest.approx(18**0.5), pytest.approx(18**0.5))]


def test_a_gradient_that_is_not_finite_is_an_error():
    training = Training(torch.nn.Linear(2, 1), 0.0, 1.0)
    training.model(torch.full((1, 2), float("inf"))).sum().backward()
    with pytest.raises(PolicyError, match="not finite"):
        training.step(1.0)


def test_weights_decay_by_the_rate_times_the_decay():
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    training = Training(model, 0.5, 1.0)
    model.weight.grad = torch.zeros_like(model.weight)
    training.step(0.1)
    assert torch.allclose(model.weight, before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_adamw_to_the_bit(weight_decay):
    training, other = Training(model(), weight_decay, 0.5), model()
    optimizer = torch.optim.AdamW(other.parameters(), lr=1.0, weight_decay=weight_decay, betas=(0.9, 0.999), foreach=False)
    for step in range(6):
        x, rate = torch.full((2, 3), float(step)) / 10, 1e-2 / (step + 1)
        training.model(x).sum().backward()
        training.step(rate)
        other(x).sum().backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5, foreach=False)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert all(torch.equal(a, b) for a, b in zip(training.weights.values(), other.parameters(), strict=True))
    for name, weight in other.named_parameters():
        assert all(torch.equal(training.moments()[f"{key}/{name}"], value) for key, value in optimizer.state[weight].items())
