"""Every stage's declaration: what it reads and writes, which parameters it depends on, and what of the registries these choose.

A new stage is a module in `stages/` and a function here. Their order is the order in which they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ospo_cli.layout import Layout
from ospo_cli.own_code.loading import REWARD, RULE, SEGMENTER, Kind, source_file
from ospo_cli.params.whole import Params


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
_AT = Layout(Path())
_Declare = Callable[[Params, int], Node]


def _stage(name: str, *, is_iterated: bool = False, is_needed: Callable[[Params], bool] = lambda _: True) -> Callable[[_Declare], _Declare]:
    def keep(declare: _Declare) -> _Declare:
        def named(params: Params, k: int) -> Node:
            return replace(declare(params, k), stage=name, iteration=k if is_iterated else None)

        STAGES[name] = Stage(named, is_iterated, is_needed)
        return declare

    return keep


@_stage("prepare-data")
def _prepare_data(params: Params, _: int) -> Node:
    settings = params.prepare_data
    return Node(
        inputs=(settings.path,) if settings.path else (),
        outputs=(*prepared(*PREPARED, "teacher_pairs"), str(_AT.prepared("card.json"))),
        sections=("train.seed", "prepare_data", "retrieval.folding"),
        uses=(("ospo_cli.sources", (settings.source,)),),
    )


def uses_raw_query_values(params: Params) -> bool:
    """Tell whether the choice of prompts depends on the raw queries' rewards (then a change of reward samples again)."""
    return params.rollout.prompts == "headroom"


@_stage("score-queries", is_needed=uses_raw_query_values)
def _score_queries(params: Params, _: int) -> Node:
    return Node(
        inputs=prepared(*PREPARED) + retriever_files(params, [params.score_coalitions.retriever]),
        outputs=(str(_AT.once("raw_query_values.parquet")),),
        sections=("retrieval", "score_coalitions"),
        uses=_retrievers(params, [params.score_coalitions.retriever]),
    )


@_stage("warm-start")
def _warm_start(params: Params, _: int) -> Node:
    inputs = prepared("documents", "prompts", "teacher_pairs")
    sections: tuple[str, ...] = ("train.seed", "policy", "warm_start")
    teacher, training = params.warm_start.teacher, [params.score_coalitions.retriever]
    looks = ("looks",) if params.warm_start.look_every else ()
    if teacher == "judgments" or looks:
        inputs += prepared("qrels", "pools") + retriever_files(params, training)
        sections += ("retrieval", "score_coalitions", *(("rollout",) if looks else ()))
    if teacher == "file":
        inputs += (params.warm_start.pairs_file,)
    if params.policy.base != "config":
        inputs += (params.policy.base,)
    uses = (("ospo_cli.stages.warm_start", (teacher, *looks)), *_retrievers(params, training))
    return Node(inputs, outputs=(str(_AT.policy(0)),), sections=sections, uses=uses)


@_stage("rollout", is_iterated=True)
def _rollout(params: Params, k: int) -> Node:
    inputs = (*prepared("prompts"), str(_AT.policy(k - 1)))
    if uses_raw_query_values(params):
        inputs += (str(_AT.once("raw_query_values.parquet")),)
    sections: tuple[str, ...] = ("train.seed", "policy", "rollout")
    needs_rewards = params.rollout.further_rounds > 0
    if needs_rewards:
        inputs += (*prepared(*(name for name in PREPARED if name != "prompts")), *_reward_files(params))
        reads = (field.name for field in fields(params.score_coalitions) if field.name not in CREDIT_READS)
        sections += ("retrieval", *(f"score_coalitions.{name}" for name in reads))
    return Node(
        inputs,
        outputs=of(k, "rollouts.parquet", "sampling_logprobs.parquet"),
        metrics=of(k, "rollout_metrics.json"),
        sections=sections,
        uses=(
            ("ospo_cli.stages.rollout", ("further_rounds",) if needs_rewards else ()),
            ("ospo_cli.sampling", (params.rollout.sampler,)),
            *_retrievers(params, [params.score_coalitions.retriever]),
        ),
        is_strict=needs_rewards,
    )


@_stage("segment", is_iterated=True)
def _segment(params: Params, k: int) -> Node:
    return Node(
        inputs=(*of(k, "rollouts.parquet"), *_own_code(SEGMENTER, params.segment.own_segmenter)),
        outputs=of(k, "segments.parquet"),
        metrics=of(k, "segment_metrics.json"),
        sections=("segment",),
    )


@_stage("score-coalitions", is_iterated=True)
def _score_coalitions(params: Params, k: int) -> Node:
    return Node(
        inputs=prepared(*PREPARED) + of(k, "rollouts.parquet", "segments.parquet") + _reward_files(params),
        outputs=of(k, "rewards.parquet", "coalition_values.parquet", "spliced_values.parquet", "recombined.parquet"),
        metrics=of(k, "score_metrics.json"),
        sections=("train.seed", "retrieval", "score_coalitions"),
        uses=_retrievers(params, [params.score_coalitions.retriever]),
    )


@_stage("attribute", is_iterated=True)
def _attribute(params: Params, k: int) -> Node:
    names = ("rollouts", "segments", "rewards", "coalition_values", "spliced_values", "recombined")
    tables = of(k, *(f"{name}.parquet" for name in names))
    return Node(
        inputs=(*tables, str(_AT.policy(k - 1)), *_own_code(RULE, params.attribute.rule_file)),
        outputs=of(k, *(f"{name}.parquet" for name in ("attributions", "interactions", *LEARNED_FROM))),
        metrics=of(k, "attribute_metrics.json"),
        sections=("train.seed", "attribute", *(f"score_coalitions.{name}" for name in ATTRIBUTE_READS)),
    )


@_stage("update", is_iterated=True)
def _update(params: Params, k: int) -> Node:
    settings = params.update
    needs_reference = settings.kl_weight > 0 or settings.reference_groups > 0 or settings.dpo_reference == "warm-start"
    # An experiment of DVC's may change the objective, not what a stage reads: all three tables are always read.
    inputs = (*of(k, *(f"{name}.parquet" for name in ("rollouts", "recombined", *LEARNED_FROM))), str(_AT.policy(k - 1)))
    if needs_reference and k > 1:
        inputs += (str(_AT.policy(0)),)
    if settings.examples_file:
        inputs += (settings.examples_file, *prepared("prompts"))
    length = ("train.iterations",) if settings.schedule != "constant" else ()
    return Node(
        inputs,
        outputs=(str(_AT.policy(k)), *of(k, "update_steps.json")),
        metrics=of(k, "update_metrics.json"),
        sections=("train.seed", *length, "policy", "rollout.temperature", "rollout.max_new_tokens", "update"),
        uses=(("ospo_cli.training.objectives", (settings.objective,)),),
    )


_ASKED = ("prepare_data.prompt_template", "prepare_data.source")  # how a policy is asked for a query


@_stage("evaluate")
def _evaluate(params: Params, _: int) -> Node:
    policies = tuple(str(_AT.policy(k)) for k in params.evaluated_iterations)
    rewards = of(params.train.iterations, "rewards.parquet") if params.train.iterations else ()
    names = (
        *(f"{name}.parquet" for name in ("completions", "run", "query_metrics", "choice_values")),
        *("trec", "summary.json", "curves.json", "wins_and_losses.csv"),
    )
    return Node(
        inputs=prepared(*PREPARED) + retriever_files(params, params.evaluate.retrievers) + policies + rewards,
        outputs=tuple(str(_AT.evaluation(name)) for name in names),
        metrics=tuple(str(_AT.evaluation(name)) for name in ("metrics.json", "score_metrics.json")),
        sections=("train", "policy", "retrieval", "rollout", "score_coalitions", "evaluate", *_ASKED),
        uses=(("ospo_cli.sampling", ()), *_retrievers(params, params.evaluate.retrievers)),  # its sampler is imported
        optional=tuple(str(_AT.gates(f"{k:03d}.json")) for k in params.evaluated_iterations),
    )


@_stage("report")
def _report(params: Params, _: int) -> Node:
    iterations = range(1, params.train.iterations + 1)
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
        sections=tuple(field.name for field in fields(params) if field.name != "execution"),
        optional=(*(path for k in iterations for path in of(k, *audits)), str(_AT.kept(""))),
    )


def prepared(*names: str) -> tuple[str, ...]:
    """Return the paths of prepared tables."""
    return tuple(str(_AT.prepared(f"{name}.parquet")) for name in names)


def of(k: int, *names: str) -> tuple[str, ...]:
    """Return the paths of an iteration's files."""
    return tuple(str(_AT.iteration(k, name)) for name in names)


def retriever_files(params: Params, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files and folders of a user's own that these retrievers read: an encoder's folder, a template."""
    dense, http, used = params.retrieval.dense.encoder, params.retrieval.http.template, _with_members(params, names)
    # Encoders of packages, and templates of this one, have plain names.
    found = [dense] if "dense" in used and "/" in dense else []
    return (*found, *([http] if "http" in used and http.endswith(".json") else ()))


def _reward_files(params: Params) -> tuple[str, ...]:
    settings = params.score_coalitions
    return (*retriever_files(params, [settings.retriever]), *_own_code(REWARD, settings.own_reward))


def _own_code(kind: Kind, name: str) -> tuple[str, ...]:
    return (str(source_file(kind, name, _AT.root)),) if name else ()


def _with_members(params: Params, names: Iterable[str]) -> set[str]:
    used = set(names)
    return used | set(params.retrieval.hybrid.retrievers) if "hybrid" in used else used


def _retrievers(params: Params, names: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (("ospo_cli.retrievers", tuple(sorted(_with_members(params, names)))),)
