"""Agreement of the policy gradients of two halves of large rollout groups, per credit rule and estimator. Outside the graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import polars as pl

from ospo_cli.errors import CreditError, ParameterError, PolicyError
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout
from ospo_cli.maths import gradient_agreement, seeding
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.gradient_agreement import HalfProducts
from ospo_cli.maths.redistribution import RULES
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params.whole import Params
from ospo_cli.report import staleness
from ospo_cli.report.number_text import interval, plain, signed
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import files, parquet, placed, unfinished
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.audit import GRADIENT_AUDIT
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.text.close_names import unknown_name

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.training.rows import Rows

Method = tuple[str, str]  # estimator, rule

FEWEST_PROMPTS = 2
# Of params.yaml, what the result depends on besides the prepared tables and the policy.
SECTIONS = ("train.seed", "rollout", "segment", "retrieval", "score_coalitions", "attribute", "update", "policy", "evaluate.bootstrap")
PREPARED = ("documents", "prompts", "qrels", "pools")
POOLED = {
    "scaled error": gradient_agreement.scaled_error,
    "error to exact": gradient_agreement.error_to_exact,
    "direction": gradient_agreement.direction,
}
COLUMNS = (
    ("agree", "cosine of the gradients of both halves"),
    ("GRPO", "cosine with GRPO's gradient of the other half"),
    ("over", "the column before, minus that of uniform; 95 % bootstrap interval over prompts, p of the paired sign-flip test"),
    ("error", "squared error against GRPO's gradient of the other half under the best scale; 1: nothing shared"),
    ("exact", "the same without the noise of the reference"),
    ("direction", "cosine of the rule's expected gradient with GRPO's: below 1 is bias"),
    ("silent", "part of the halves whose gradient is 0"),
)


@dataclass(frozen=True)
class _HalfLayout(Layout):
    """The project's paths, but for one iteration that lies in a folder of its own."""

    folder: Path

    def iteration(self, iteration: int, name: str) -> Path:
        """A file of the folder, whatever the iteration."""
        return self.folder / name


def execute(
    layout: Layout,
    params: Params,
    iteration: int,
    group_size: int = 32,
    prompts: int = 32,
    rules: Sequence[str] | None = None,
    estimators: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Write gradient_audit.parquet and gradient_audit_metrics.json of an iteration; return the table and the metrics.

    Rollout groups are sampled from policy `iteration - 1` at its prompts of this iteration, and cut in two by sample index. Each half goes
    through segment, score-coalitions and attribute as a rollout group of its own, and each prompt gives one pair of gradients per rule.

    Args:
        layout, params: the project.
        iteration: whose behaviour policy and prompts are taken.
        group_size: completions per prompt, even; half of them are a rollout group.
        prompts: most prompts.
        rules: names as in `attribute.rule`; None takes all that these parameters allow.
        estimators: names as in `attribute.estimator`; None takes that one.

    Raises:
        ParameterError: an unknown name, or a size that cannot be cut in two.
        CreditError: fewer than two prompts have a gradient in both halves.
    """
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.policies.starting_point import adapted

    began = time.monotonic()
    if group_size < 4 or group_size % 2:
        raise ParameterError("--group-size", "cannot be cut in two rollout groups", found=group_size, expected="an even number, at least 4")
    if prompts < FEWEST_PROMPTS:
        raise ParameterError("--prompts", "too few for a spread", found=prompts, expected=f"at least {FEWEST_PROMPTS}")
    chosen = _methods(params, rules, estimators, layout)
    names = list(dict.fromkeys(estimators or [params.attribute.estimator]))
    families = list(dict.fromkeys([*params.score_coalitions.families, "prefix"]))
    given, params = params, replace(
        params,
        rollout=replace(params.rollout, group_size=group_size, prompts_per_iteration=prompts),
        score_coalitions=replace(params.score_coalitions, estimators=names, families=families),
    )  # fmt: skip
    rows = _credited_halves(layout, params, iteration, [("any", "uniform"), *chosen])
    policy = load_policy(layout.policy(iteration - 1), params.policy.threads, trainable=True, project=layout.root)
    policy = adapted(policy, layout.root, params.policy, params.train.seed)
    products, counts = _products(policy, rows, chosen, params, iteration)
    table = _table(products, params)
    placed.write(table, GRADIENT_AUDIT, layout, iteration)
    paths = [*(layout.prepared(f"{name}.parquet") for name in PREPARED), layout.policy(iteration - 1)]
    metrics = counts | {
        "group_size": group_size,
        "rollouts": sum(len(half["any", "uniform"].lengths) for half in rows),
        "trained_weights": sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad),
        "tables": staleness.fingerprints(layout, params, [layout.iteration(iteration, "gradient_audit.parquet")], []),
        "inputs": staleness.fingerprints(layout, given, paths, SECTIONS),
        "seconds": time.monotonic() - began,
    }
    files.write_json(layout.iteration(iteration, "gradient_audit_metrics.json"), metrics)
    return table, metrics


def _credited_halves(layout: Layout, params: Params, iteration: int, methods: Sequence[Method]) -> list[dict[Method, Rows]]:
    """Sample rollout groups and give each half its credit by itself; return, per half, (estimator, rule) -> rollouts with advantages."""
    from ospo_cli.stages import attribute, rollout, score_coalitions, segment
    from ospo_cli.training.row_building import to_rows

    found: list[dict[Method, Rows]] = [{}, {}]
    with unfinished.folder(layout.cache, "gradient-audit") as temporary:
        whole = _HalfLayout(layout.root, temporary)
        rollout.execute(whole, params, iteration)
        rollouts = parquet.read(whole.iteration(iteration, "rollouts.parquet"), ROLLOUTS)
        for number, rows in enumerate(found):
            half = _HalfLayout(layout.root, temporary / "ab"[number])
            own = rollouts.filter((pl.col("sample_index") >= params.rollout.group_size // 2) == bool(number))
            placed.write(own, ROLLOUTS, half, iteration)
            segment.execute(half, params, iteration)
            score_coalitions.execute(half, params, iteration)
            for estimator, rule in methods:
                used = params.score_coalitions.estimators[0] if estimator == "any" else estimator
                attribute.execute(half, replace(params, attribute=replace(params.attribute, estimator=used, rule=rule)), iteration)
                advantages = parquet.read(half.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
                rows[estimator, rule] = to_rows(own, advantages, params.rollout, iteration)
    return found


def print_result(table: pl.DataFrame, metrics: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print one grid, rules as rows, best cosine with GRPO's other half first, and what each column means."""
    output = Terminal(stream if stream is not None else sys.stdout)
    output.line(
        f"{metrics['prompts']} prompts x 2 halves of {metrics['group_size'] // 2} rollouts, {metrics['trained_weights']} weights; "
        f"{metrics['silent_prompts']} prompts left out: a half without differences in reward",
        style="bold",
    )
    header = ["estimator", "rule", *(name for name, _ in COLUMNS)]
    output.grid(header, result_rows(table), numbers=[name for name, _ in COLUMNS])
    output.line()
    for name, meaning in COLUMNS:
        output.line(f"{name}: {meaning}", style="dim")


def result_rows(table: pl.DataFrame) -> list[list[str]]:
    """Return the grid's cells, best cosine with GRPO's other half first."""
    by_method: dict[Method, dict[str, dict[str, Any]]] = {}
    for row in table.iter_rows(named=True):
        by_method.setdefault((row["estimator"], row["rule"]), {})[row["measure"]] = row
    rows = []
    for (estimator, rule), found in sorted(by_method.items(), key=lambda item: -item[1]["agreement with GRPO"]["value"]):
        agreed, shared = found["agreement"], found["agreement with GRPO"]
        over = "" if rule == "uniform" else (
            f"{signed(shared['over_uniform'])} [{signed(shared['over_low'])}, {signed(shared['over_high'])}] p {shared['p_value']:.4f}"
        )  # fmt: skip
        rows.append(
            [
                estimator,
                rule,
                f"{plain(agreed['value'])} {interval(agreed)}",
                f"{plain(shared['value'])} {interval(shared)}",
                over,
                *(plain(found[name]["value"]) for name in (*POOLED, "silent")),
            ]
        )
    return rows


def _methods(params: Params, rules: Sequence[str] | None, estimators: Sequence[str] | None, layout: Layout) -> list[Method]:
    """Return (estimator, rule), GRPO left out; a rule that reads no share is there once, under `any`."""
    from ospo_cli.own_code import rules as rule_file

    own = rule_file.load(params.attribute.rule_file, layout.root)
    known = RULES | own
    for option, given, names in (("--rules", rules, known), ("--estimators", estimators, ESTIMATORS)):
        unknown = [name for name in given or () if name not in names]
        if unknown:
            raise unknown_name(option, "name", unknown[0], names)
    has_prefixes = params.score_coalitions.grand_value == "reward"
    if rules is None:
        rules = [name for name, rule in known.items() if has_prefixes or not rule.needs_prefix]
    chosen: dict[Method, None] = {}
    for estimator in dict.fromkeys(estimators or [params.attribute.estimator]):
        for rule in rules:
            if rule != "uniform":
                chosen[estimator if known[rule].needs_share else "any", rule] = None
    if not any(estimator != "any" for estimator, _ in chosen):
        raise ParameterError("--rules", "none that reads shares", found=", ".join(rules), expected="at least one to compare with GRPO")
    return sorted(chosen, key=lambda method: method[0] == "any")


def _products(
    policy: LoadedPolicy, rows: list[dict[Method, Rows]], chosen: Sequence[Method], params: Params, iteration: int
) -> tuple[dict[Method, HalfProducts], dict[str, Any]]:
    """Return the inner products of the gradients of all prompts whose two halves have a GRPO gradient, and what was counted."""
    from ospo_cli.training.group_gradient import GroupGradient, inner_product

    settings = params.update
    uniform = [half["any", "uniform"] for half in rows]
    prompts = len(uniform[0].groups)
    is_alive = [all(half.is_alive(half.groups[index]) for half in uniform) for index in range(prompts)]
    if sum(is_alive) < FEWEST_PROMPTS:
        raise CreditError(
            f"gradient audit of iteration {iteration}",
            "too few prompts have a gradient in both halves",
            found=f"{sum(is_alive)} of {prompts}",
            expected=f"at least {FEWEST_PROMPTS}",
            remedy="take more prompts (--prompts) or larger groups (--group-size)",
        )
    found: dict[Method, list[list[float]]] = {method: [] for method in [("any", "uniform"), *chosen]}
    progress = Progress(f"gradients {iteration}", sum(is_alive), "prompts")
    mismatch = 0.0
    for index in np.flatnonzero(is_alive).tolist():
        graphs = [GroupGradient(policy, half, half.groups[index], settings) for half in uniform]
        mismatch = max(mismatch, *(graph.mismatch for graph in graphs))
        if mismatch > settings.max_logprob_mismatch:
            raise PolicyError(
                f"gradient audit of iteration {iteration}",
                "the sampler's log-probabilities are not those of the policy whose gradient is taken",
                found=f"largest difference {mismatch:.3g}",
                expected=f"at most update.max_logprob_mismatch = {settings.max_logprob_mismatch:g}",
            )
        u_a, u_b = (graph.of(half.advantages[half.tokens_of([half.groups[index]])]) for graph, half in zip(graphs, uniform, strict=True))
        known: dict[bytes, list[float]] = {}
        for method in found:
            advantages = [half[method].advantages[half[method].tokens_of([half[method].groups[index]])] for half in rows]
            key = b"|".join(own.tobytes() for own in advantages)
            if key not in known:
                is_uniform = method == ("any", "uniform")
                g_a, g_b = (u_a, u_b) if is_uniform else (graph.of(own) for graph, own in zip(graphs, advantages, strict=True))
                pairs = [(g_a, g_a), (g_b, g_b), (g_a, g_b), (g_a, u_b), (g_b, u_a), (u_a, u_a), (u_b, u_b), (u_a, u_b)]
                known[key] = [inner_product(first, second) for first, second in pairs]
            found[method].append(known[key])
        progress.advance()
    progress.close()
    products = {method: HalfProducts(*np.array(values).T) for method, values in found.items()}
    counts = {"prompts": sum(is_alive), "silent_prompts": prompts - sum(is_alive), "logprob_mismatch": mismatch}
    return products, counts


def _table(products: dict[Method, HalfProducts], params: Params) -> pl.DataFrame:
    reference = products["any", "uniform"]
    size = len(reference.u_a_u_b)
    generator = seeding.generator(params.train.seed, "gradient audit bootstrap")
    resamples = Resamples(size, params.evaluate.bootstrap, generator)
    weights = gradient_agreement.resampled(size, params.evaluate.bootstrap, generator)
    rows: list[tuple[Any, ...]] = []
    for (estimator, rule), own in products.items():
        for name, measure in (
            ("agreement", gradient_agreement.agreement),
            ("agreement with GRPO", gradient_agreement.agreement_with_uniform),
        ):
            values, others = measure(own), measure(reference)
            mean, over = resamples.mean(values), resamples.difference(values, others)[:4]
            rows.append((estimator, rule, name, *mean, float(values.std(ddof=1)), *over, size))
        for name, pooled in POOLED.items():
            value, samples = float(pooled(own)), pooled(own, weights)
            difference = samples - pooled(reference, weights)
            over_uniform = (value - float(pooled(reference)), *gradient_agreement.interval(difference), None)
            rows.append((estimator, rule, name, value, *gradient_agreement.interval(samples), None, *over_uniform, size))
        silent = float(((own.g_a_g_a <= 0).mean() + (own.g_b_g_b <= 0).mean()) / 2)
        rows.append((estimator, rule, "silent", silent, *[None] * 7, size))
    cleaned = [tuple(None if isinstance(cell, float) and np.isnan(cell) else cell for cell in row) for row in rows]
    return pl.DataFrame(cleaned, schema=GRADIENT_AUDIT.schema, orient="row")
