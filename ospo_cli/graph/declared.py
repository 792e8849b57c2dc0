"""Every stage's declaration: what it reads and writes, which parameters it depends on, and what of the registries these choose.

A new stage is a module in `stages/` and a function here. Their order is the order in which they run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from ospo_cli.layout import Layout
from ospo_cli.own_code.loading import REWARD, RULE, SEGMENTER, Kind, source_file
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.policy import Policy
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.segment import Segment
from ospo_cli.params.train import Train
from ospo_cli.params.update import Update
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.params.whole import SECTIONS, Params


@dataclass(frozen=True)
class Node:
    """One run of one stage.

    Attributes:
        inputs: files or folders that are read, relative to the project's folder (absolute if they lie elsewhere).
        outputs: files or folders that are written, relative to the project's folder.
        metrics: flat JSON files of numbers that are written besides; they hold durations, so they differ from run to run.
        sections: sections of params.yaml, or `section.name`, that the result depends on.
        uses: registry's module -> names of its entries that the parameters choose; the other entries are never loaded.
        optional: files that are read where they are there; no stage makes them, and DVC does not know them.
        is_strict: refused under a dvc.yaml that does not declare all that is read here (`dvc exp run -S` may change what that is).
        stage: command name, such as `score-coalitions`; the decorator `_stage` gives it.
        iteration: from 1; None for stages that run once.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    uses: tuple[tuple[str, tuple[str, ...]], ...] = ()
    optional: tuple[str, ...] = ()
    is_strict: bool = False
    stage: str = ""
    iteration: int | None = None

    @property
    def command(self) -> str:
        """The command line that runs it."""
        return f"ospo {self.stage}" + (f" --iter {self.iteration}" if self.iteration is not None else "")

    @property
    def label(self) -> str:
        """DVC's name of it, such as `rollout@3`."""
        return self.stage if self.iteration is None else f"{self.stage}@{self.iteration}"

    @property
    def module(self) -> str:
        """Dotted name of the module that runs it."""
        return f"ospo_cli.stages.{self.stage.replace('-', '_')}"

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted names of what its work starts from: the module that runs it, and those of the sections that it is given."""
        sections = dict.fromkeys(section.partition(".")[0] for section in self.sections)
        return (self.module, *(f"ospo_cli.params.{section}" for section in sections))


@dataclass(frozen=True)
class Stage:
    """A stage of the graph: (parameters, iteration) -> node; the iteration is 0 where it runs once."""

    declare: Callable[[Params, int], Node]
    is_iterated: bool
    is_needed: Callable[[Params], bool]


STAGES: dict[str, Stage] = {}
PREPARED = ("documents", "prompts", "qrels", "pools")
LEARNED_FROM = ("token_advantages", "targets", "preference_pairs")
# Of score_coalitions, what attribute depends on besides the values.
ATTRIBUTE_READS = (
    "estimators", "format_weight", "contiguous_width", "contiguous_cap", "exact_coalitions", "orders", "budget", "further_coalitions",
    "grand_value", "recombine",
)  # fmt: skip
# Of score_coalitions, what no reward of a whole answer depends on.
CREDIT_READS = (
    "estimators", "families", "alignment", "recombine", "contiguous_width", "contiguous_cap", "exact_coalitions", "orders", "budget",
    "further_coalitions", "grand_value", "degenerate_groups", "calls", "empty_value",
)  # fmt: skip
# Of score_coalitions, what the retriever's value of a text depends on: raw queries, the titles of a teacher, looks at dev prompts.
RETRIEVAL_READS = tuple(f"score_coalitions.{name}" for name in ("retriever", "metric", "composition"))
_AT = Layout(Path())
T = TypeVar("T")


def _given(asks: Callable[..., T]) -> Callable[[Params, int], T]:
    """Return what calls a declaration with the sections that its parameters name, and with the iteration where one is named `k`."""
    names = tuple(inspect.signature(asks).parameters)
    return lambda params, k: asks(**{name: k if name == "k" else getattr(params, name) for name in names})


def _stage(
    name: str, *, is_iterated: bool = False, is_needed: Callable[..., bool] = lambda: True
) -> Callable[[Callable[..., Node]], Callable[..., Node]]:
    def keep(declare: Callable[..., Node]) -> Callable[..., Node]:
        made, needed = _given(declare), _given(is_needed)
        STAGES[name] = Stage(
            lambda params, k: replace(made(params, k), stage=name, iteration=k if is_iterated else None),
            is_iterated,
            lambda params: needed(params, 0),
        )
        return declare

    return keep


@_stage("prepare-data")
def _prepare_data(prepare_data: PrepareData) -> Node:
    return Node(
        inputs=(prepare_data.path,) if prepare_data.path else (),
        outputs=(*prepared(*PREPARED, "teacher_pairs"), str(_AT.prepared("card.json"))),
        sections=("train.seed", "prepare_data", "retrieval.folding"),
        uses=(("ospo_cli.sources", (prepare_data.source,)),),
    )


def uses_raw_query_values(rollout: Rollout) -> bool:
    """Tell whether the choice of prompts depends on the raw queries' rewards (then a change of reward samples again)."""
    return rollout.prompts == "headroom"


@_stage("score-queries", is_needed=uses_raw_query_values)
def _score_queries(retrieval: Retrieval, score_coalitions: ScoreCoalitions) -> Node:
    return Node(
        inputs=prepared(*PREPARED) + retriever_files(retrieval, [score_coalitions.retriever]),
        outputs=(str(_AT.once("raw_query_values.parquet")),),
        sections=("retrieval", *RETRIEVAL_READS),
        uses=_retrievers(retrieval, [score_coalitions.retriever]),
    )


_ASKED = ("prepare_data.prompt_template", "prepare_data.source")  # how a policy is asked for a query


@_stage("warm-start")
def _warm_start(warm_start: WarmStart, policy: Policy, retrieval: Retrieval, score_coalitions: ScoreCoalitions) -> Node:
    inputs = prepared("documents", "prompts", "teacher_pairs")
    sections: tuple[str, ...] = ("train.seed", "policy", "warm_start")
    teacher, training = warm_start.teacher, [score_coalitions.retriever]
    looks = ("looks",) if warm_start.look_every else ()
    if teacher in ("judgments", "catalogue") or looks:
        inputs += prepared("qrels", "pools") + retriever_files(retrieval, training)
        sections += ("retrieval", *RETRIEVAL_READS, *(("rollout",) if looks else ()))
    if teacher == "catalogue":
        sections += _ASKED
    if teacher == "file":
        inputs += (warm_start.pairs_file,)
    if policy.base != "config":
        inputs += (policy.base,)
    uses = (("ospo_cli.stages.warm_start", (teacher, *looks)), *_retrievers(retrieval, training))
    return Node(inputs, outputs=(str(_AT.policy(0)),), sections=sections, uses=uses)


@_stage("rollout", is_iterated=True)
def _rollout(rollout: Rollout, retrieval: Retrieval, score_coalitions: ScoreCoalitions, k: int) -> Node:
    inputs = (*prepared("prompts"), str(_AT.policy(k - 1)))
    if uses_raw_query_values(rollout):
        inputs += (str(_AT.once("raw_query_values.parquet")),)
    sections: tuple[str, ...] = ("train.seed", "policy", "rollout")
    needs_rewards = rollout.further_rounds > 0
    if needs_rewards:
        inputs += (*prepared(*(name for name in PREPARED if name != "prompts")), *_reward_files(retrieval, score_coalitions))
        reads = (field.name for field in fields(score_coalitions) if field.name not in CREDIT_READS)
        sections += ("retrieval", *(f"score_coalitions.{name}" for name in reads))
    return Node(
        inputs,
        outputs=of(k, "rollouts.parquet", "sampling_logprobs.parquet"),
        metrics=of(k, "rollout_metrics.json"),
        sections=sections,
        uses=(
            ("ospo_cli.stages.rollout", ("further_rounds",) if needs_rewards else ()),
            ("ospo_cli.sampling", (rollout.sampler,)),
            *_retrievers(retrieval, [score_coalitions.retriever]),
        ),
        is_strict=needs_rewards,
    )


@_stage("segment", is_iterated=True)
def _segment(segment: Segment, k: int) -> Node:
    return Node(
        inputs=(*of(k, "rollouts.parquet"), *_own_code(SEGMENTER, segment.own_segmenter)),
        outputs=of(k, "segments.parquet"),
        metrics=of(k, "segment_metrics.json"),
        sections=("segment",),
    )


@_stage("score-coalitions", is_iterated=True)
def _score_coalitions(retrieval: Retrieval, score_coalitions: ScoreCoalitions, k: int) -> Node:
    return Node(
        inputs=prepared(*PREPARED) + of(k, "rollouts.parquet", "segments.parquet") + _reward_files(retrieval, score_coalitions),
        outputs=of(k, "rewards.parquet", "coalition_values.parquet", "spliced_values.parquet", "recombined.parquet"),
        metrics=of(k, "score_metrics.json"),
        sections=("train.seed", "retrieval", "score_coalitions"),
        uses=_retrievers(retrieval, [score_coalitions.retriever]),
    )


@_stage("attribute", is_iterated=True)
def _attribute(attribute: Attribute, k: int) -> Node:
    names = ("rollouts", "segments", "rewards", "coalition_values", "spliced_values", "recombined")
    tables = of(k, *(f"{name}.parquet" for name in names))
    return Node(
        inputs=(*tables, str(_AT.policy(k - 1)), *_own_code(RULE, attribute.rule_file)),
        outputs=of(k, *(f"{name}.parquet" for name in ("attributions", "interactions", *LEARNED_FROM))),
        metrics=of(k, "attribute_metrics.json"),
        sections=("train.seed", "attribute", *(f"score_coalitions.{name}" for name in ATTRIBUTE_READS)),
    )


@_stage("update", is_iterated=True)
def _update(update: Update, k: int) -> Node:
    needs_reference = update.kl_weight > 0 or update.reference_groups > 0 or update.dpo_reference == "warm-start"
    # An experiment of DVC's may change the objective, not what a stage reads: all three tables are always read.
    inputs = (*of(k, *(f"{name}.parquet" for name in ("rollouts", "recombined", *LEARNED_FROM))), str(_AT.policy(k - 1)))
    if needs_reference and k > 1:
        inputs += (str(_AT.policy(0)),)
    if update.examples_file:
        inputs += (update.examples_file, *prepared("prompts"))
    length = ("train.iterations",) if update.schedule != "constant" else ()
    return Node(
        inputs,
        outputs=(str(_AT.policy(k)), *of(k, "update_steps.json")),
        metrics=of(k, "update_metrics.json"),
        sections=("train.seed", *length, "policy", "rollout.temperature", "rollout.max_new_tokens", "update"),
        uses=(("ospo_cli.training.objectives", (update.objective,)),),
    )


@_stage("evaluate")
def _evaluate(train: Train, evaluate: Evaluate, prepare_data: PrepareData, retrieval: Retrieval, evaluated_iterations: list[int]) -> Node:
    policies = tuple(str(_AT.policy(k)) for k in evaluated_iterations)
    rewards = of(train.iterations, "rewards.parquet") if train.iterations else ()
    clicks = ("prepare_data.clicks",) if prepare_data.source == "clicks" else ()  # whether judgments are guesses
    names = (
        *(f"{name}.parquet" for name in ("completions", "run", "query_metrics", "choice_values")),
        *("trec", "summary.json", "curves.json", "wins_and_losses.csv"),
    )
    return Node(
        inputs=prepared(*PREPARED) + retriever_files(retrieval, evaluate.retrievers) + policies + rewards,
        outputs=tuple(str(_AT.evaluation(name)) for name in names),
        metrics=tuple(str(_AT.evaluation(name)) for name in ("metrics.json", "score_metrics.json")),
        sections=("train", "policy", "retrieval", "rollout", "score_coalitions", "evaluate", *_ASKED, *clicks),
        uses=(("ospo_cli.sampling", ()), *_retrievers(retrieval, evaluate.retrievers)),  # its sampler is imported
        optional=tuple(str(_AT.gates(f"{k:03d}.json")) for k in evaluated_iterations),
    )


@_stage("report")
def _report(train: Train) -> Node:
    iterations = range(1, train.iterations + 1)
    tables = ("rollouts", "segments", "rewards", "attributions", "interactions")
    metrics = ("rollout", "segment", "score", "attribute", "update")
    each = (*(f"{name}.parquet" for name in tables), *(f"{name}_metrics.json" for name in metrics))
    audits = ("audit.parquet", "audit_curves.parquet", "audit_metrics.json", "gradient_audit.parquet", "gradient_audit_metrics.json")
    evaluated = ("completions.parquet", "query_metrics.parquet", "summary.json")
    return Node(
        inputs=(
            *prepared(*PREPARED),
            str(_AT.prepared("card.json")),
            *(path for k in iterations for path in of(k, *each)),
            *(str(_AT.evaluation(name)) for name in evaluated),
        ),
        outputs=(str(_AT.report()), str(_AT.warnings())),
        sections=tuple(name for name in SECTIONS if name != "execution"),
        optional=(*(path for k in iterations for path in of(k, *audits)), str(_AT.kept(""))),
    )


def prepared(*names: str) -> tuple[str, ...]:
    """Return the paths of prepared tables."""
    return tuple(str(_AT.prepared(f"{name}.parquet")) for name in names)


def of(k: int, *names: str) -> tuple[str, ...]:
    """Return the paths of an iteration's files."""
    folder = _AT.iteration(k, "")
    return tuple(f"{folder}/{name}" for name in names)


def retriever_files(retrieval: Retrieval, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files and folders of a user's own that these retrievers read: an encoder's folder, a template."""
    dense, http, used = retrieval.dense.encoder, retrieval.http.template, _with_members(retrieval, names)
    # Encoders of packages, and templates of this one, have plain names.
    found = [dense] if "dense" in used and "/" in dense else []
    return (*found, *([http] if "http" in used and http.endswith(".json") else ()))


def _reward_files(retrieval: Retrieval, score_coalitions: ScoreCoalitions) -> tuple[str, ...]:
    return (*retriever_files(retrieval, [score_coalitions.retriever]), *_own_code(REWARD, score_coalitions.own_reward))


def _own_code(kind: Kind, name: str) -> tuple[str, ...]:
    return (str(source_file(kind, name, _AT.root)),) if name else ()


def _with_members(retrieval: Retrieval, names: Iterable[str]) -> set[str]:
    used = set(names)
    return used | set(retrieval.hybrid.retrievers) if "hybrid" in used else used


def _retrievers(retrieval: Retrieval, names: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (("ospo_cli.retrievers", tuple(sorted(_with_members(retrieval, names)))),)
