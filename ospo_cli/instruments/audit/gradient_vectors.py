"""The gradient of each rollout group under each method, by kind of token, as vectors whose inner products are the gradients'."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.credit.token_kinds import KINDS
from ospo_cli.errors import CreditError, PolicyError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.layout import Layout
from ospo_cli.maths.gradient_noise import FEWEST_PROMPTS
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.update import Update
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.declare import Column, Table

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.stages.update import Reads
    from ospo_cli.training.gradient_projection import Projection
    from ospo_cli.training.rows import Rows
    from ospo_cli.training.token_batches import Group

Floats = NDArray[np.float32]
Advantages = Mapping[str, Floats]  # rollout id -> [tokens]
_GRADIENTS = Table(
    "gradients",
    "the gradients of a rollout group, one per set of advantages",
    ("vector",),
    (
        Column("vector", pl.Int32, "place among the sets of advantages"),
        Column("values", pl.List(pl.Float32), "the gradient, or its projection"),
        Column("mismatch", pl.Float64, "largest difference between the sampler's log-probabilities and the policy's"),
    ),
)


@dataclass(frozen=True)
class Judged:
    """Token advantages to be compared.

    Attributes:
        wholes: per set of rollout groups, one of each prompt: by method, in order.
        halves: two such sets whose groups are independent; the same ones where a prompt has two groups; empty where none can be made.
        kinds: rollout id -> [tokens] index into KINDS.
    """

    wholes: Sequence[Sequence[Advantages]]
    halves: Sequence[Sequence[Advantages]]
    kinds: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Vectors:
    """The gradients of N prompts.

    Attributes:
        by_kind: [methods, sets, N, kinds, size].
        of_halves: [methods, 2, N, size]; None where none can be made, or where the sets are the halves.
        kinds: names of the kinds of token that occur.
        methods: in the order of the axis.
    """

    by_kind: Floats
    of_halves: Floats | None
    kinds: Sequence[str]

    def whole(self, method: int) -> Floats:
        """Return [sets, N, size] of all tokens."""
        return np.asarray(self.by_kind[method].sum(axis=2))

    def of_kind(self, method: int, kind: str) -> Floats:
        """Return [sets, N, size] of the tokens of one kind."""
        return np.asarray(self.by_kind[method][:, :, self.kinds.index(kind)])

    @property
    def has_halves(self) -> bool:
        """Whether two independent gradients of each prompt are there."""
        return self.of_halves is not None or self.by_kind.shape[1] == 2

    def halves(self, method: int) -> Floats:
        """Return [2, N, size]."""
        return self.whole(method) if self.of_halves is None else self.of_halves[method]


def vectors(layout: Layout, params: Reads, iteration: int, rollouts: pl.DataFrame, judged: Judged) -> tuple[Vectors, dict[str, Any]]:
    """Return the gradients under the policy that sampled, and what was counted.

    Args:
        layout, params: the project.
        iteration: of the rollouts.
        rollouts: table, all of them.
        judged: the advantages; under the first method of each set an advantage of 0 says that a group's rewards are equal.

    Raises:
        CreditError: too few rollout groups, or none with differences.
        PolicyError: the log-probabilities are not those of the policy.
    """
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.policies.starting_point import adapted
    from ospo_cli.training.gradient_projection import Projection

    rows = _rows(rollouts, params.rollout, iteration)
    order = rollouts.sort("prompt_id", "sample_index")["rollout_id"].to_list()
    wholes, halves = (_flat(sets, order, rows.lengths) for sets in (judged.wholes, judged.halves))
    has_own_halves = len(halves) > 0 and judged.halves is not judged.wholes
    kinds = np.concatenate([judged.kinds[name] for name in order])
    present = np.unique(kinds).tolist()
    groups = _in_steps(rows, wholes[:, 0], params.update.groups, iteration)
    policy = load_policy(layout.policy(iteration - 1), params.policy.threads, trainable=True, project=layout.root)
    policy = adapted(policy, layout.root, params.policy, params.train.seed)
    sizes = [weight.numel() for weight in policy.model.parameters() if weight.requires_grad]
    methods, sets = wholes.shape[1], wholes.shape[0]
    in_wholes, in_halves = methods * sets * len(present), 2 * methods * has_own_halves
    projection = Projection(sizes, (in_wholes + in_halves) * len(groups), params.train.seed)

    def asked(group: Group) -> Floats:
        """Return [vectors, tokens] advantages: method by method those of the sets by kind, then those of the halves."""
        places = rows.tokens_of([group])
        of_kinds = [
            np.where(kinds[places] == kind, wholes[number, method, places], 0)
            for method in range(methods) for number in range(sets) for kind in present
        ]  # fmt: skip
        of_halves = [halves[half, method, places] for method in range(methods) for half in range(2) if has_own_halves]
        return np.array(of_kinds + of_halves, dtype=np.float32)

    tables = _mapped(layout, params, iteration, _Work(policy, rows, projection, [(group, asked(group)) for group in groups]))
    by_kind = np.empty((methods, sets, len(groups), len(present), projection.size), dtype=np.float32)
    of_halves = np.empty((methods, 2, len(groups), projection.size), dtype=np.float32) if has_own_halves else None
    for at, made in enumerate(tables):
        values = made["gradients"]["values"].explode().to_numpy().reshape(-1, projection.size)
        by_kind[:, :, at] = values[:in_wholes].reshape(methods, sets, len(present), -1)
        if of_halves is not None:
            of_halves[:, :, at] = values[in_wholes:].reshape(methods, 2, -1)
    mismatch = max(float(made["gradients"]["mismatch"].to_numpy().max()) for made in tables)
    counts = {
        "prompts": len(groups),
        "silent_prompts": sum(not wholes[:, 0, rows.tokens_of([group])].any() for group in groups),
        "left_out_prompts": len(rows.groups) - len(groups),
        "logprob_mismatch": mismatch,
        "trained_weights": sum(sizes),
        "vector_size": projection.size,
        "projection_error": projection.error,
    }
    return Vectors(by_kind, of_halves, [KINDS[kind] for kind in present]), counts


class _Work(NamedTuple):
    """What the gradients are taken of: each group with its [vectors, tokens] advantages."""

    policy: LoadedPolicy
    rows: Rows
    projection: Projection
    groups: Sequence[tuple[Group, Floats]]


def _mapped(layout: Layout, params: Reads, iteration: int, work: _Work) -> list[dict[str, pl.DataFrame]]:
    """Return each group's gradients, a shard of the cache each."""
    policy, rows, projection = work.policy, work.rows, work.projection
    known = [policy.content_hash, dataclasses.asdict(params.policy), dataclasses.asdict(params.update), params.train.seed, projection.size]

    def shard(group: Group, advantages: Floats) -> Shard:
        behavior = rows.behavior_logprobs[rows.tokens_of([group])].tolist()
        given = [rows.temperature, rows.max_new_tokens, group.prompt, group.completions, behavior]
        key = content_key("gradients 1", *known, *given, hashlib.sha256(advantages.tobytes()).hexdigest())
        return Shard(key, 1, (group, advantages))

    def taken(payload: tuple[Group, Floats]) -> dict[str, pl.DataFrame]:
        group, advantages = payload
        gradient = _Known(policy, rows, group, params.update, projection)
        values = pl.Series("values", np.stack([gradient.of(own) for own in advantages])).arr.to_list()
        made = pl.DataFrame({"vector": range(len(values)), "values": values})
        mismatch = _checked(gradient.mismatch, params.update.max_logprob_mismatch, iteration)
        return {"gradients": made.with_columns(mismatch=mismatch).cast(pl.Schema(_GRADIENTS.schema))}

    return ShardFolder(layout.cache / "gradients").map_shards(
        taken, [shard(*each) for each in work.groups], {"gradients": _GRADIENTS}, f"gradients {iteration}", "rollout groups"
    )


class _Known:
    """Vectors of one rollout group; advantages that come again are not taken through the policy again."""

    def __init__(self, policy: LoadedPolicy, rows: Rows, group: Group, settings: Update, projection: Projection) -> None:
        from ospo_cli.training.group_gradient import GroupGradient

        self.graph, self.projection = GroupGradient(policy, rows, group, settings), projection
        self.mismatch = self.graph.mismatch
        self.found: dict[bytes, Floats] = {}

    def of(self, advantages: Floats) -> Floats:
        """Return [size] under [tokens] advantages."""
        own = np.ascontiguousarray(advantages, dtype=np.float32)
        key = own.tobytes()
        if key not in self.found:
            self.found[key] = self.projection.of(self.graph.of(own))
        return self.found[key]


def _checked(mismatch: float, most: float, iteration: int) -> float:
    if mismatch > most:
        raise PolicyError(
            f"gradient audit of iteration {iteration}",
            "the sampler's log-probabilities are not those of the policy whose gradient is taken",
            found=f"largest difference {mismatch:.3g}",
            expected=f"at most update.max_logprob_mismatch = {most:g}",
        )
    return mismatch


def _rows(rollouts: pl.DataFrame, settings: Rollout, iteration: int) -> Rows:
    """Return the rollouts as rows; their advantages are not read."""
    from ospo_cli.training.row_building import to_rows

    nothing = [[0.0] * count for count in rollouts["token_ids"].list.len().to_list()]
    return to_rows(
        rollouts, pl.DataFrame({"rollout_id": rollouts["rollout_id"], "advantages": nothing}, schema=TOKEN_ADVANTAGES.schema),
        settings, iteration,
    )  # fmt: skip


def _flat(sets: Sequence[Sequence[Advantages]], order: Sequence[str], lengths: NDArray[np.int64]) -> Floats:
    """Return [sets, methods, tokens] advantages in the order of the rows, 0 for rollouts that a set does not hold."""
    empty = [np.zeros(length, dtype=np.float32) for length in lengths]

    def of_rows(own: Advantages) -> Floats:
        return np.concatenate([own.get(name, nothing) for name, nothing in zip(order, empty, strict=True)])

    return np.array([[of_rows(own) for own in methods] for methods in sets], dtype=np.float32)


def _in_steps(rows: Rows, true: Floats, wanted: str, iteration: int) -> list[Group]:
    """Return the groups that steps are made of: all, or with `groups: alive` those whose rewards differ.

    Args:
        rows: the rollouts.
        true: [sets, tokens] advantages that are 0 where rewards are equal.
        wanted: update.groups.
        iteration: named in errors.
    """
    alive = [group for group in rows.groups if true[:, rows.tokens_of([group])].any(axis=1).all()]
    where = f"gradient audit of iteration {iteration}"
    if not alive:
        is_single = all(len(group.completions) == 1 for group in rows.groups)
        raise CreditError(
            where,
            "no rollout group has a gradient",
            found=f"{len(rows.groups)} groups of {'one rollout' if is_single else 'equal rewards'}",
            expected="rewards that differ",
            remedy="set rollout.group_size to 2 or more and roll out again" if is_single else None,
        )
    chosen = alive if wanted == "alive" else rows.groups
    if len(chosen) < FEWEST_PROMPTS:
        raise CreditError(
            where,
            "too few rollout groups for a noise scale",
            found=f"{len(chosen)} of {len(rows.groups)}",
            expected=f"at least {FEWEST_PROMPTS}",
            remedy="take more prompts (rollout.prompts_per_iteration, or --fresh --prompts)",
        )
    return list(chosen)
