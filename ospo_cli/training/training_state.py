"""AdamW over the weights that train, its moments as safetensors, and checkpoints of long training."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.adamw import adamw

from ospo_cli.errors import OspoError, PolicyError, first_line
from ospo_cli.executors import peers
from ospo_cli.tables import files, sealed

ELEMENTS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Run:
    """Where in a training some steps are.

    Attributes:
        seed: root seed.
        iteration: from 1; 0 is the warm start.
        iterations: of the whole training, for the update's schedule.
        dropout: whether the adapter's dropout is on.
    """

    seed: int
    iteration: int
    iterations: int = 1
    dropout: bool = False


class Training:
    """A model with its optimiser; everything that a step reads or writes can be saved and restored to the bit."""

    def __init__(self, model: Any, weight_decay: float, max_gradient_norm: float) -> None:
        self.model = model
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.max_gradient_norm = max_gradient_norm
        # One decay for all: the norms' weights are too few to matter, and a policy folder then needs no list of groups.
        self.weight_decay = weight_decay
        # AdamW's `step`, `exp_avg` and `exp_avg_sq` of each weight that has had a gradient.
        self.state: dict[str, dict[str, torch.Tensor]] = {}

    def add_up_gradients(self) -> None:
        """Replace the gradient by its sum over the processes; a weight that none of them has a gradient for keeps none."""
        if peers.count() == 1 or peers.cuts_weights():  # cut gradients are summed in the backward pass
            return
        has_any = torch.tensor([weight.grad is not None for weight in self.weights.values()], dtype=torch.int32)
        peers.add_up(has_any)
        moved = [weight for weight, holders in zip(self.weights.values(), has_any.tolist(), strict=True) if holders]
        for weight in moved:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        # Many small tensors travel as one; what is longer than this travels alone, so that no second copy of all gradients is made.
        while moved:
            joined = [moved.pop()]
            while moved and sum(weight.numel() for weight in (*joined, moved[-1])) <= ELEMENTS_AT_ONCE:
                joined.append(moved.pop())
            flat = torch.cat([weight.grad.flatten() for weight in joined])
            peers.add_up(flat)
            for weight, part in zip(joined, flat.split([weight.numel() for weight in joined]), strict=True):  # type: ignore[no-untyped-call]
                weight.grad.copy_(part.view_as(weight))

    def unscale(self, scale: float) -> bool:
        """Divide the gradient by a factor of its loss; False, and the gradient is gone, where it is not finite."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        infinite = torch.tensor(sum(not bool(torch.isfinite(peers.own_part(gradient)).all()) for gradient in gradients))
        peers.add_up(infinite)
        if not infinite:
            for gradient in gradients:
                gradient.mul_(1.0 / scale)
            return True
        self.clear_gradients()
        return False

    def step(self, learning_rate: float) -> float:
        """Clip the gradient, step, clear it; return its norm before clipping.

        Raises:
            PolicyError: the gradient is not finite.
        """
        found = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.max_gradient_norm or float("inf"), foreach=False)
        norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
        if not norm < float("inf"):
            raise PolicyError("gradient", "is not finite", found=norm, remedy="lower the learning rate")
        self._adamw(learning_rate)
        self.clear_gradients()
        return norm

    def clear_gradients(self) -> None:
        """Forget the gradient."""
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def _adamw(self, learning_rate: float) -> None:
        """Take torch.optim.AdamW's step by its function: making the class imports torch's compiler, longer than a small update takes."""
        moved = {name: weight for name, weight in self.weights.items() if weight.grad is not None}
        for name, weight in moved.items():
            if name not in self.state:
                zeros = {key: torch.zeros_like(weight, memory_format=torch.preserve_format) for key in ("exp_avg", "exp_avg_sq")}
                self.state[name] = {"step": torch.tensor(0.0, dtype=torch.float32)} | zeros
        states = [self.state[name] for name in moved]
        part = peers.own_part
        adamw(
            [part(weight) for weight in moved.values()],
            [part(weight.grad) for weight in moved.values()],
            [part(state["exp_avg"]) for state in states],
            [part(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    @property
    def finished_steps(self) -> int:
        """Optimiser steps since the moments began, those of earlier iterations included."""
        return max((int(state["step"]) for state in self.state.values()), default=0)

    def moments(self) -> dict[str, torch.Tensor]:
        """Return AdamW's state by name; empty before the first step."""
        tensors = {}
        for name in self.weights:
            for key, value in self.state.get(name, {}).items():
                tensors[f"{key}/{name}"] = peers.whole(value).clone()
        return tensors

    def set_moments(self, tensors: dict[str, torch.Tensor], where: object) -> None:
        """Restore AdamW's state; raise PolicyError where it belongs to other weights."""
        if not tensors:  # saved before the first step
            return
        expected = {f"{key}/{name}" for name in self.weights for key in ("step", "exp_avg", "exp_avg_sq")}
        if set(tensors) != expected:
            odd = sorted(set(tensors) ^ expected)[0]
            raise PolicyError(where, "optimiser state of other weights", found=odd, remedy="delete the file to start with fresh moments")
        for name, weight in self.weights.items():
            state = {key: tensors[f"{key}/{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
            if state["exp_avg"].shape != weight.shape:
                raise PolicyError(
                    where, f"optimiser state of another shape for {name}", found=list(state["exp_avg"].shape), expected=list(weight.shape)
                )
            self.state[name] = {key: value if key == "step" else peers.cut_like(value, weight) for key, value in state.items()}

    def save_moments(self, path: Path) -> None:
        """Write the moments (nothing before the first step); of several processes the first does."""
        tensors = self.moments()
        if tensors and peers.is_first():
            save_file(tensors, path)

    def load_moments(self, path: Path) -> bool:
        """Read moments that an earlier iteration wrote; False where there are none."""
        if not path.is_file():
            return False
        self.set_moments(_load(path), path)
        return True


class Checkpoint:
    """State of a training loop under a folder named by the content it depends on; removed when the loop is done."""

    def __init__(self, folder: Path, every_seconds: float | None = None) -> None:
        self.folder = folder
        self.every_seconds = float(os.environ.get("OSPO_CHECKPOINT_SECONDS", "60")) if every_seconds is None else every_seconds
        self.last_seconds = time.monotonic()

    def restore(self, training: Training) -> tuple[int, dict[str, Any]]:
        """Load weights and moments; return (finished steps, the notes saved with them), or (0, {}) where nothing whole is there."""
        latest = next((path for path in self._saved() if sealed.is_sealed(path)), None)
        if latest is None:
            return 0, {}
        try:
            tensors = _load(latest / "state.safetensors")
            notes = files.read_json(latest / "notes.json")
        except OspoError:  # of another version
            return 0, {}
        with torch.no_grad():
            for name, weight in training.weights.items():
                weight.copy_(peers.cut_like(tensors.pop(f"weight/{name}"), weight))
        training.set_moments(tensors, latest)
        return int(notes["finished_steps"]), notes

    def offer(self, training: Training, finished_steps: int, notes: dict[str, Any]) -> None:
        """Save if the last save is long ago."""
        if peers.is_agreed(time.monotonic() - self.last_seconds >= self.every_seconds):
            self.save(training, finished_steps, notes)
            self.last_seconds = time.monotonic()

    def save(self, training: Training, finished_steps: int, notes: dict[str, Any]) -> None:
        """Write the state beside the last one, then let it take over; of several processes the first does."""
        if not peers.is_first() and not peers.cuts_weights():
            return
        target = self.folder / f"{finished_steps:08d}"
        tensors = {f"weight/{name}": peers.whole(weight) for name, weight in training.weights.items()} | training.moments()
        if not peers.is_first():
            return
        with files.replacing(target / "state.safetensors") as temporary:
            save_file(tensors, temporary)
        files.write_json(target / "notes.json", notes | {"finished_steps": finished_steps})
        sealed.seal(target)
        for other in self.folder.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)

    def remove(self) -> None:
        """Forget the state."""
        if peers.is_first():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("*") if path.is_dir()), reverse=True)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PolicyError(
            path, "cannot be read as safetensors", found=first_line(error), remedy="delete it and run the command again"
        ) from None
