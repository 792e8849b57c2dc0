"""The gradient of one optimiser step over rollout groups, in micro-batches of a token budget, and what is watched meanwhile."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.executors import peers
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import forward, token_batches
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.policy_loss import TokenLoss, Tokens, k3
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group

MEASURES = (
    *("clipped_fraction", "clipped_fraction_positive", "clipped_fraction_negative", "behavior_kl", "reference_kl", "entropy"),
    *("logprob_mismatch", "logprob_mismatch_mean"),
)


def accumulate(
    policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update, is_first: bool = False, scale: float = 1.0
) -> dict[str, float]:
    """Add the gradient of one optimiser step over some groups, times `scale`; return its measures.

    With several processes each adds its part of the gradient, and all return the measures of the whole step. Cutting into parts and
    micro-batches changes rounding alone. Groups without any advantage take part in the denominators and are not run through
    the model, unless a penalty pulls on them.

    Raises:
        PolicyError: the loss is not finite.
    """
    objective = objective_of(settings)
    weights, measured = objective.weights(rows, groups, lambda some: forward.logprobs_without_dropout(policy, rows, some, settings))
    is_wanted = objective.is_wanted(rows)
    taken = rows.trimmed(groups, is_wanted)
    watched = _Watched(rows)
    for part in forward.own_passes(policy, taken, settings.tokens_per_micro_batch):
        places = rows.tokens_of(part)
        lengths = [int(is_wanted[rows.tokens_of([single])].sum()) for group in part for single in group.apart()]
        batch = token_batches.build(part, policy.pad_token_id, policy.device).only(is_wanted[places])
        places = places[is_wanted[places]]
        with forward.arithmetic(policy, settings.precision):
            logprobs, entropies = forward.token_logprobs(
                policy.model,
                batch,
                rows.temperature,
                want_entropy=True,
                entropy_has_gradient=settings.entropy_bonus > 0,
                unspelled=policy.unspelled,
            )
        tokens = _tokens(rows, places, weights, lengths, logprobs, entropies)
        result = objective.loss(tokens)
        (result.loss if scale == 1.0 else result.loss * scale).backward()  # type: ignore[no-untyped-call]
        watched.add(tokens, result, places, part)
        watched.places["tokens_with_prompts"] += batch.tokens_in_all
        watched.places["filling"] += batch.tokens_in_all - sum(group.width for group in part)
    watched.join()
    counts = {"groups": len(groups), "groups_used": len(taken)}
    return watched.losses() | counts | watched.places | measured | watched.measures(is_first)


def _tokens(
    rows: Rows,
    places: NDArray[np.int64],
    weights: NDArray[np.float64],
    lengths: list[int],
    logprobs: torch.Tensor,
    entropies: torch.Tensor | None,
) -> Tokens:
    """Return a forward pass's tokens, which lie at `places` of the rows."""

    def at(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[places], dtype=np.float32)).to(logprobs.device)

    return Tokens(
        logprobs,
        at(rows.behavior_logprobs if rows.old_logprobs is None else rows.old_logprobs),
        at(rows.advantages),
        at(weights),
        lengths,
        None if rows.reference_logprobs is None else at(rows.reference_logprobs),
        entropies,
        None if rows.corrections is None else at(rows.corrections),
        None if rows.is_given is None else at(rows.is_given[rows.owner]) > 0,
    )


class _Watched:
    """What the tokens of a step were like, one array per forward pass."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.sums: dict[str, list[float]] = {name: [] for name in ("loss", "policy", "kl", "entropy", "imitation")}
        self.arrays: dict[str, list[NDArray[Any]]] = defaultdict(list)
        self.places = {"tokens_with_prompts": 0, "filling": 0}
        self.infinite: list[tuple[float, int, int]] = []

    def add(self, tokens: Tokens, result: TokenLoss, places: NDArray[np.int64], part: Sequence[Group]) -> None:
        """Count a forward pass."""
        for name, value in {"loss": result.loss, **result.parts}.items():
            self.sums[name].append(float(value.detach()))
        if not math.isfinite(self.sums["loss"][-1]):
            self.infinite.append((self.sums["loss"][-1], part[0].first, part[-1].first))
        logprobs, behavior = tokens.logprobs.detach(), self.rows.behavior_logprobs[places]
        sampled = torch.from_numpy(behavior).to(logprobs.device)
        found = {"ratio": result.ratios, "clipped": result.is_clipped, "penalty": result.penalties, "behavior_kl": k3(sampled, logprobs)}
        if tokens.entropies is not None:
            found["entropy"] = tokens.entropies.detach()
        for name, tensor in found.items():
            self.arrays[name].append(tensor.cpu().numpy())
        self.arrays["advantage"].append(self.rows.advantages[places])
        self.arrays["mismatch"].append(np.abs(logprobs.cpu().numpy() - behavior))

    def join(self) -> None:
        """Count what the other processes saw too.

        Raises:
            PolicyError: the loss of a forward pass, here or there, was not finite.
        """
        own = {f"array/{name}": np.concatenate(parts) for name, parts in self.arrays.items()}
        own |= {f"sum/{name}": np.array(values) for name, values in self.sums.items()}
        own |= {f"place/{name}": np.array([value]) for name, value in self.places.items()} | {"infinite": np.array(self.infinite)}
        found = peers.gathered(own)
        infinite = [row for each in found for row in each["infinite"].tolist()]
        if infinite:
            loss, first, last = infinite[0]
            raise PolicyError(
                f"rollouts {first:.0f} to {last:.0f}", "the loss is not finite", found=loss, remedy="lower update.learning_rate"
            )
        for name in sorted({name for each in found for name in each}):
            kind, _, short = name.partition("/")
            values = [each[name] for each in found if name in each]
            if kind == "array":
                self.arrays[short] = values
            elif kind == "sum":
                self.sums[short] = np.concatenate(values).tolist()
            elif kind == "place":
                self.places[short] = int(np.sum(values))

    def losses(self) -> dict[str, float]:
        """Return the loss and its parts."""
        return {name if name == "loss" else f"{name}_loss": float(sum(values)) for name, values in self.sums.items()}

    def measures(self, is_first: bool) -> dict[str, float]:
        """Return what the tokens were like; differences to the sampler in the first step alone."""
        if not self.arrays["ratio"]:
            return dict.fromkeys(MEASURES, 0.0) | {"tokens": 0, "effective_share": 1.0}
        arrays = {name: np.concatenate(parts) for name, parts in self.arrays.items()}
        ratio, clipped, advantage = arrays["ratio"], arrays["clipped"], arrays["advantage"]
        measures = {
            "tokens": len(ratio),
            "clipped_fraction": float(clipped.mean()),
            "clipped_fraction_positive": _mean(clipped[advantage > 0]),
            "clipped_fraction_negative": _mean(clipped[advantage < 0]),
            "behavior_kl": _mean(arrays["behavior_kl"]),
            "reference_kl": _mean(arrays["penalty"]),
            "entropy": _mean(arrays["entropy"]),
            # Dropout, or steps already done, make later differences a matter of training.
            "logprob_mismatch": float(arrays["mismatch"].max()) if is_first else 0.0,
            "logprob_mismatch_mean": _mean(arrays["mismatch"]) if is_first else 0.0,
            "effective_share": effective_share(ratio),
            "ratio_max": float(ratio.max()),
        }
        for name, quantile in (("ratio_01", 0.01), ("ratio_50", 0.5), ("ratio_99", 0.99)):
            measures[name] = float(np.quantile(ratio, quantile))
        return measures


def mismatches(policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update) -> dict[str, float]:
    """Return how far the sampler's log-probabilities are from the policy's without dropout, on a step's groups."""
    places = rows.tokens_of(groups)
    found = np.abs(forward.logprobs_without_dropout(policy, rows, groups, settings) - rows.behavior_logprobs)[places]
    return {"logprob_mismatch": float(found.max(initial=0.0)), "logprob_mismatch_mean": _mean(found)}


def effective_share(weights: NDArray[Any]) -> float:
    """Return (Σ w)² / (n Σ w²), the effective sample size of importance weights as a share of their number: 1 where all are equal.

    >>> round(effective_share(np.array([1.0, 1.0, 4.0])), 3)
    0.667
    """
    exact = np.asarray(weights, dtype=np.float64)
    square = float((exact**2).sum())
    return float(exact.sum()) ** 2 / (len(exact) * square) if square > 0 else 0.0


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
