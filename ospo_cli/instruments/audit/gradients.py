"""Which credit gives this policy the least noisy gradient, and does that point the right way? From rollouts of an iteration."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.credit.token_kinds import token_kinds
from ospo_cli.errors import ParameterError
from ospo_cli.instruments.audit.gradient_vectors import Judged, Vectors, vectors
from ospo_cli.layout import IterationElsewhere, Layout
from ospo_cli.maths import gradient_noise, seeding
from ospo_cli.maths.gradient_noise import FEWEST_PROMPTS, Gradients
from ospo_cli.maths.group_game import ESTIMATOR_NAMES, GROUP_GAMES
from ospo_cli.maths.redistribution import NO_RULE, RULES
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report import staleness
from ospo_cli.tables import files, parquet, placed, unfinished
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.audit import GRADIENT_AUDIT
from ospo_cli.tables.rollout import ROLLOUTS, read_rollouts
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.close_names import check_names

# Of params.yaml, what the result depends on besides the prepared tables, the rollouts and the policy.
_OF_UPDATE = ("update.groups", "update.groups_per_step", "update.aggregation", "update.trace")
SECTIONS = ("train.seed", "rollout", "segment", "retrieval", "score_coalitions", "attribute", "policy", *_OF_UPDATE)
PREPARED = ("documents", "prompts", "qrels", "pools")
PROMPTS = 128
STEPS = (1, 4, 16, 64)
NORMALISATIONS = ("std", "none")
SMALLEST_HALVED = 4  # rollouts of a group whose halves still have differences
ANY = "any"  # estimator of a rule that reads no shares


class Method(NamedTuple):
    """A way to token advantages, as in section attribute; `splice(0.9)` is estimator splice under that λ."""

    estimator: str
    rule: str
    normalize: str

    @property
    def name(self) -> str:
        """The estimator without its λ."""
        return self.estimator.partition("(")[0]


TRUE = Method(ANY, "uniform", "none")
GRPO = Method(ANY, "uniform", "std")


@dataclass(frozen=True)
class Request:
    """What is judged.

    Attributes:
        prompts: most rollout groups, drawn by seed.
        rules, estimators, normalisations: every combination of these; None: what `_methods` names.
        fresh: sample new rollouts, two rollout groups for each prompt, in place of the iteration's own.
        group_size: of the fresh ones; None: rollout.group_size.
    """

    prompts: int = PROMPTS
    rules: Sequence[str] | None = None
    estimators: Sequence[str] | None = None
    normalisations: Sequence[str] | None = None
    fresh: bool = False
    group_size: int | None = None


def own_request(own: Attribute, prompts: int) -> Request:
    """Return the request that judges the project's own method alone."""
    return Request(prompts, rules=None if own.rule == NO_RULE else [own.rule], estimators=[own.estimator])


def execute(layout: Layout, params: Params, iteration: int, request: Request | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Write gradient_audit.parquet and gradient_audit_metrics.json of an iteration; return the table and the metrics.

    Each rollout group goes through segment, score-coalitions and attribute, and gives one gradient per method and kind of token: that of
    the first optimiser step on it. So do its two halves, each as a rollout group of its own, whose products tell the noise between prompts.

    Args:
        layout, params: the project.
        iteration: whose rollouts are judged, under the policy that sampled them.
        request: what is judged.

    Raises:
        MissingInputError: the iteration has no rollouts, or their policy is gone.
        ParameterError: an unknown name, or too few prompts asked for.
        CreditError: too few rollout groups, or all have equal rewards.
    """
    began, request = time.monotonic(), request or Request()
    _check(params.attribute, request)
    methods = _methods(params.attribute, request, layout)
    with _sampled(layout, params, iteration, request) as (here, used, rollouts):
        judged = _judged(here, used, iteration, methods, rollouts, request.fresh)
    found, counts = vectors(layout, params, iteration, rollouts, judged)
    table = _table(methods, found, params.update.groups_per_step)
    placed.write(table, GRADIENT_AUDIT, layout, iteration)
    paths = [*(layout.prepared(f"{name}.parquet") for name in PREPARED), layout.policy(iteration - 1)]
    paths += [] if request.fresh else [layout.iteration(iteration, "rollouts.parquet")]
    values = to_mapping(params)
    metrics = counts | {
        "group_size": used.rollout.group_size // (2 if request.fresh else 1),
        "groups_per_step": params.update.groups_per_step,
        "fresh": request.fresh,
        "rollouts": rollouts.height,
        "tables": staleness.fingerprints(layout, values, [layout.iteration(iteration, "gradient_audit.parquet")], []),
        "inputs": staleness.fingerprints(layout, values, paths, SECTIONS),
        "seconds": time.monotonic() - began,
    }
    files.write_json(layout.iteration(iteration, "gradient_audit_metrics.json"), metrics)
    return table, metrics


def _check(settings: Attribute, request: Request) -> None:
    if request.prompts < FEWEST_PROMPTS:
        raise ParameterError("--prompts", "too few for a noise scale", found=request.prompts, expected=f"at least {FEWEST_PROMPTS}")
    if request.group_size is not None and not request.fresh:
        raise ParameterError("--group-size", "is of fresh rollouts", found=request.group_size, expected="--fresh beside it")
    if request.group_size is not None and request.group_size < 2:
        raise ParameterError("--group-size", "too few to compare", found=request.group_size, expected="at least 2")
    if settings.baseline == "batch":
        raise ParameterError(
            "attribute.baseline", "batch ties all rollout groups together, and the noise of one is not defined", expected="group"
        )  # fmt: skip


@contextmanager
def _sampled(layout: Layout, params: Params, iteration: int, request: Request) -> Iterator[tuple[IterationElsewhere, Params, pl.DataFrame]]:
    """Yield a folder for the tables of the work, the parameters of the rollouts, and these."""
    from ospo_cli.stages import rollout

    given = None if request.fresh else read_rollouts(layout, iteration)
    with unfinished.folder(layout.cache, "gradient-audit") as temporary:
        here = IterationElsewhere(layout.root, temporary)
        if given is None:
            size = 2 * (request.group_size or params.rollout.group_size)
            params = replace(params, rollout=replace(params.rollout, group_size=size, prompts_per_iteration=request.prompts))
            rollout.execute(here, params, iteration)
            given = read_rollouts(here, iteration)
        yield here, params, _chosen(given, request.prompts, params.train.seed)


def _chosen(rollouts: pl.DataFrame, prompts: int, seed: int) -> pl.DataFrame:
    """Return the rollouts of at most so many prompts, drawn by seed."""
    names = rollouts["prompt_id"].unique().sort()
    if len(names) > prompts:
        names = names.gather(np.sort(seeding.generator(seed, "gradient audit prompts").permutation(len(names))[:prompts]))
    return rollouts.filter(pl.col("prompt_id").is_in(names.implode())).sort("prompt_id", "sample_index")


def _halves(rollouts: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the two halves of each rollout group, alike in size: an odd one's last rollout is in neither."""
    rank, size = pl.int_range(pl.len()).over("prompt_id"), pl.len().over("prompt_id") // 2
    return [rollouts.filter(rank < size), rollouts.filter((rank >= size) & (rank < 2 * size))]


def _judged(
    here: IterationElsewhere, params: Params, iteration: int, methods: Sequence[Method], rollouts: pl.DataFrame, is_fresh: bool
) -> Judged:
    """Return the token advantages of every method: of the rollout groups, and of both halves of them."""
    from ospo_cli.policies.token_pieces import TokenPieces

    halves = _halves(rollouts)
    wholes = halves if is_fresh else [rollouts]
    smallest = int(rollouts.group_by("prompt_id").len()["len"].to_numpy().min())
    apart = halves if not is_fresh and smallest >= SMALLEST_HALVED else []
    pieces = TokenPieces.from_file(here.policy(iteration - 1) / "tokenizer.json").pieces
    kinds: dict[str, NDArray[np.int64]] = {}
    of_wholes = []
    for part in wholes:
        of_wholes.append(_credited(here, params, iteration, methods, part))
        kinds |= token_kinds(part, placed.read(SEGMENTS, here, iteration), pieces, iteration)
    return Judged(of_wholes, of_wholes if is_fresh else [_credited(here, params, iteration, methods, part) for part in apart], kinds)


def _credited(
    here: IterationElsewhere, params: Params, iteration: int, methods: Sequence[Method], rollouts: pl.DataFrame
) -> list[dict[str, NDArray[np.float32]]]:
    """Return, per method, rollout id -> [tokens] advantages of rollouts that are taken as whole rollout groups."""
    from ospo_cli.stages import attribute, score_coalitions, segment

    placed.write(rollouts, ROLLOUTS, here, iteration)
    segment.execute(here, params, iteration)
    names = list(dict.fromkeys(method.name for method in methods if method.estimator != ANY))
    cheapest = next((name for name in names if name not in GROUP_GAMES), "uniform")  # of rules that read no shares
    families = list(dict.fromkeys([*params.score_coalitions.families, "prefix"]))
    scoring = replace(params.score_coalitions, estimators=list(dict.fromkeys([*names, cheapest])), families=families, recombine=0)
    score_coalitions.execute(here, replace(params, score_coalitions=scoring), iteration)
    found = []
    for method in methods:
        estimator = cheapest if method.estimator == ANY else method.name
        trace = float(method.estimator[len(estimator) + 1 : -1]) if "(" in method.estimator else params.attribute.splice_trace
        how = replace(
            params.attribute, estimator=estimator, rule=method.rule, normalize=cast(Any, method.normalize), splice_trace=trace,
            targets="best", pairs="best-worst",
        )  # fmt: skip
        attribute.execute(here, replace(params, attribute=how, score_coalitions=scoring), iteration)
        advantages = parquet.read(here.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
        lists = advantages["advantages"].to_list()
        found.append({name: np.array(own, dtype=np.float32) for name, own in zip(advantages["rollout_id"], lists, strict=True)})
    return found


def _methods(own: Attribute, request: Request, layout: Layout) -> list[Method]:
    """Return the methods, the expected reward's own gradient and the project's GRPO first.

    Without names: the project's own, Myerson shares under `signed` and `group-additive`, and `splice`. A group game takes no rule.
    """
    from ospo_cli.own_code import rules as rule_file

    known = RULES | rule_file.load(own.rule_file, layout.root)
    plain = [_without_trace(name) for name in request.estimators or ()]
    asked = (("--rules", request.rules, known), ("--estimators", plain, ESTIMATOR_NAMES))
    for option, given, names in (*asked, ("--normalize", request.normalisations, dict.fromkeys(NORMALISATIONS))):
        check_names(option, "name", given or (), names)
    if request.rules or request.estimators:
        of_shares = request.rules or ([own.rule] if own.rule != NO_RULE else ["group-additive"])
        estimators = request.estimators or [own.estimator if own.estimator not in GROUP_GAMES else "myerson"]
        pairs = [
            (name, rule) for name in estimators for rule in ([NO_RULE] if _without_trace(name) in GROUP_GAMES else of_shares)
        ]  # fmt: skip
    else:
        pairs = [(own.estimator, own.rule), ("myerson", "signed"), ("myerson", "group-additive"), ("splice", NO_RULE)]
    chosen = dict.fromkeys([TRUE, GRPO])
    for estimator, rule in pairs:
        needs_share = rule == NO_RULE or known[rule].needs_share
        for normalize in request.normalisations or [own.normalize]:
            chosen[Method(estimator if needs_share else ANY, rule, normalize)] = None
    return list(chosen)


def _without_trace(estimator: str) -> str:
    """Return `splice` of `splice(λ)`; refuse a λ outside 0 to 1."""
    found = re.fullmatch(r"splice\((.*)\)", estimator)
    if found is None:
        return estimator
    if not re.fullmatch(r"0?\.\d+|[01](\.0*)?", found[1]):
        raise ParameterError("--estimators", f"no discount of splice in {estimator}", found=found[1], expected="a number from 0 to 1")
    return "splice"


def _table(methods: Sequence[Method], found: Vectors, groups_per_step: int) -> pl.DataFrame:
    """Return what the vectors say, as table gradient_audit."""
    wholes = {method: gradient_noise.of_groups(found.whole(number)) for number, method in enumerate(methods)}
    true, usual = wholes[TRUE], wholes[GRPO]
    true_of = {kind: gradient_noise.of_groups(found.of_kind(methods.index(TRUE), kind)) for kind in found.kinds}
    rows: list[tuple[Any, ...]] = []
    for number, (method, own) in enumerate(wholes.items()):
        alike = wholes.get(Method(ANY, "uniform", method.normalize))
        measured = [
            *_noise(own, true),
            ("direction, own normalisation", None, _told(gradient_noise.direction, own, alike)),
            ("floor", None, gradient_noise.floor(found.halves(number)) if found.has_halves and own.has_signal else None),
        ]
        for groups in sorted({*STEPS, groups_per_step}):
            measured.append(("progress", groups, _told(gradient_noise.progress, own, true, groups)))
            measured.append(("saving", groups, _told(gradient_noise.saving, own, usual, true, groups)))
        rows += _rows(method, "all", measured, len(own.mean))
        for kind in found.kinds:
            part = gradient_noise.of_groups(found.of_kind(number, kind))
            same = ("direction, same tokens", None, _told(gradient_noise.direction, part, true_of[kind]))
            rows += _rows(method, kind, [*_noise(part, true), same], len(own.mean))
    return pl.DataFrame(rows, schema=GRADIENT_AUDIT.schema, orient="row")


Measured = tuple[str, int | None, NDArray[np.float64] | float | None]


def _noise(own: Gradients, true: Gradients) -> list[Measured]:
    """Return what is measured of all tokens and of each kind."""
    return [
        ("signal", None, own.significance),
        ("squared length", None, own.signal),
        ("noise scale", None, gradient_noise.noise_scale(own) if own.has_signal else None),
        ("direction", None, _told(gradient_noise.direction, own, true)),
    ]


def _told(measure: Any, *given: Any) -> NDArray[np.float64] | None:
    """Return the measure, or None where one of the gradients has no signal or is not there."""
    gradients = [each for each in given if not isinstance(each, int)]
    return measure(*given) if all(each is not None and each.has_signal for each in gradients) else None


def _rows(method: Method, tokens: str, measured: Sequence[Measured], prompts: int) -> list[tuple[Any, ...]]:
    rows = []
    for name, groups, quantity in measured:
        value, error = (None, None)
        if isinstance(quantity, np.ndarray):
            value, error = (number if np.isfinite(number) else None for number in gradient_noise.estimate(quantity))
        elif quantity is not None:
            value = quantity
        rows.append((*method, tokens, name, groups or 0, value, error, prompts))
    return rows
