"""Every stage with what it reads, writes and depends on, for the given parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ospo_cli.errors import MissingInputError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.own_code import rewards as own_rewards
from ospo_cli.own_code.rules import source_file as own_rules_file
from ospo_cli.params.whole import Params


@dataclass(frozen=True)
class Node:
    """One run of one stage.

    Attributes:
        stage: command name, such as `score-coalitions`.
        iteration: from 1; None for stages that run once.
        inputs: files or folders that are read, relative to the project's folder (absolute if they lie elsewhere).
        outputs: files or folders that are written, relative to the project's folder.
        metrics: flat JSON files of numbers that are written besides; they hold durations, so they differ from run to run.
        sections: sections of params.yaml, or `section.name`, that the result depends on.
        optional: files that are read where they are there; no stage makes them, and DVC does not know them.
        runs: name of the module that runs it where that is not the stage's own.
    """

    stage: str
    iteration: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    sections: tuple[str, ...]
    optional: tuple[str, ...] = ()
    runs: str = ""

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
        return f"ospo_cli.{self.runs}" if self.runs else f"ospo_cli.stages.{self.stage.replace('-', '_')}"


ITERATED = ("rollout", "segment", "score-coalitions", "attribute", "update")
# Of score_coalitions, what attribute depends on besides the values.
ATTRIBUTE_READS = (
    "format_weight", "contiguous_width", "contiguous_cap", "exact_coalitions", "orders", "budget", "further_coalitions", "grand_value",
)  # fmt: skip
# Of score_coalitions, what no reward of a whole answer depends on.
CREDIT_READS = (
    "estimators", "families", "contiguous_width", "contiguous_cap", "exact_coalitions", "orders", "budget", "further_coalitions",
    "grand_value", "degenerate_groups", "calls", "empty_value",
)  # fmt: skip
LEARNED_FROM = ("token_advantages", "targets", "preference_pairs")
PREPARED = ("documents", "prompts", "qrels", "pools")


def plan(params: Params) -> list[Node]:
    """Return every node of the loop in an order in which each finds its inputs."""
    nodes = [_prepare_data(params)]
    if uses_raw_query_values(params):
        nodes.append(node("score-queries", None, params))
    nodes.append(node("warm-start", None, params))
    for iteration in range(1, params.train.iterations + 1):
        nodes.extend(node(stage, iteration, params) for stage in ITERATED)
    nodes.append(node("evaluate", None, params))
    nodes.append(node("report", None, params))
    return nodes


def uses_raw_query_values(params: Params) -> bool:
    """Tell whether the choice of prompts depends on the raw queries' rewards (then a change of reward samples again)."""
    return params.rollout.prompts == "headroom"


def retriever_files(params: Params, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files and folders of a user's own that these retrievers read: an encoder's folder, a template."""
    dense, http = params.retrieval.dense.encoder, params.retrieval.http.template
    used = set(names)
    used |= set(params.retrieval.hybrid.retrievers) if "hybrid" in used else set()
    # Encoders of packages, and templates of this one, have plain names.
    found = [dense] if "dense" in used and "/" in dense else []
    return (*found, *([http] if "http" in used and http.endswith(".json") else ()))


def node(stage: str, iteration: int | None, params: Params) -> Node:
    """Return the node of a stage and iteration; paths come from `Layout`, so that nobody writes them twice."""
    layout = Layout(Path())

    def prepared(*names: str) -> tuple[str, ...]:
        return tuple(str(layout.prepared(f"{name}.parquet")) for name in names)

    def of(k: int, *names: str) -> tuple[str, ...]:
        return tuple(str(layout.iteration(k, name)) for name in names)

    raw = (str(layout.raw_query_values()),) if uses_raw_query_values(params) else ()
    searching = retriever_files(params, [params.score_coalitions.retriever])
    if stage == "prepare-data":
        return _prepare_data(params)
    if stage == "score-queries":
        return Node(
            stage, None, prepared(*PREPARED) + searching, (str(layout.raw_query_values()),), (), ("retrieval", "score_coalitions"),
        )  # fmt: skip
    if stage == "warm-start":
        policy = str(layout.policy(0))
        inputs: tuple[str, ...] = prepared("documents", "prompts", "teacher_pairs")
        sections: tuple[str, ...] = ("train.seed", "policy", "warm_start")
        if params.warm_start.teacher == "judgments":
            inputs, sections = inputs + prepared("qrels", "pools") + searching, (*sections, "retrieval", "score_coalitions")
        if params.warm_start.teacher == "file":
            inputs += (params.warm_start.pairs_file,)
        if params.policy.base != "config":
            inputs += (params.policy.base,)
        return Node(stage, None, inputs, (policy,), (), sections)
    if stage == "evaluate":
        policies = tuple(str(layout.policy(k)) for k in params.evaluated_iterations)
        rewards = of(params.train.iterations, "rewards.parquet") if params.train.iterations else ()
        names = ("completions.parquet", "run.parquet", "query_metrics.parquet", "trec", "summary.json", "curves.json")
        outputs = tuple(str(layout.evaluation(name)) for name in names)
        metrics = tuple(str(layout.evaluation(name)) for name in ("metrics.json", "score_metrics.json"))
        sections = ("train", "policy", "retrieval", "rollout", "score_coalitions", "evaluate")
        inputs = prepared(*PREPARED) + retriever_files(params, params.evaluate.retrievers) + policies + rewards
        return Node(stage, None, inputs, outputs, metrics, sections)
    if stage == "report":
        inputs = (*prepared(*PREPARED), str(layout.prepared("card.json")))
        for k in range(1, params.train.iterations + 1):
            inputs += of(k, "rollouts.parquet", "segments.parquet", "rewards.parquet", "attributions.parquet", "interactions.parquet")
            inputs += of(
                k, "rollout_metrics.json", "segment_metrics.json", "score_metrics.json", "attribute_metrics.json", "update_metrics.json"
            )
        inputs += tuple(str(layout.evaluation(name)) for name in ("completions.parquet", "query_metrics.parquet", "summary.json"))
        outputs = (str(layout.report()), str(layout.warnings()))
        audits = ("audit.parquet", "audit_curves.parquet", "audit_metrics.json", "gradient_audit.parquet", "gradient_audit_metrics.json")
        optional = tuple(path for k in range(1, params.train.iterations + 1) for path in of(k, *audits))
        optional += (str(layout.kept("")),)
        return Node(stage, None, inputs, outputs, (), tuple(params.__dataclass_fields__), optional)
    if iteration is None or iteration < 1:
        raise ParameterError(f"ospo {stage}", "no such iteration", found=iteration, expected="1 or more (policy 000 is the warm start)")
    behavior = str(layout.policy(iteration - 1))
    own_reward: tuple[str, ...] = ()
    if params.score_coalitions.own_reward:
        own_reward = (str(own_rewards.source_file(params.score_coalitions.own_reward, layout.root)),)
    if stage == "rollout":
        made = Node(
            stage, iteration, (*prepared("prompts"), behavior, *raw),
            of(iteration, "rollouts.parquet", "sampling_logprobs.parquet"),
            of(iteration, "rollout_metrics.json"), ("train.seed", "policy", "rollout"),
        )  # fmt: skip
        if not params.rollout.further_rounds:
            return made
        reads = tuple(f"score_coalitions.{field.name}" for field in fields(params.score_coalitions) if field.name not in CREDIT_READS)
        return replace(
            made, inputs=(*made.inputs, *prepared(*(name for name in PREPARED if name != "prompts")), *searching, *own_reward),
            sections=(*made.sections, "retrieval", *reads), runs="stages.dynamic_sampling",
        )  # fmt: skip
    if stage == "segment":
        named = params.segment.own_segmenter
        own_segmenter = (str(own_rewards.source_file(named, layout.root)),) if named else ()
        return Node(
            stage, iteration, (*of(iteration, "rollouts.parquet"), *own_segmenter), of(iteration, "segments.parquet"),
            of(iteration, "segment_metrics.json"), ("segment",),
        )  # fmt: skip
    if stage == "score-coalitions":
        return Node(
            stage, iteration, prepared(*PREPARED) + searching + of(iteration, "rollouts.parquet", "segments.parquet") + own_reward,
            of(iteration, "rewards.parquet", "coalition_values.parquet"), of(iteration, "score_metrics.json"),
            ("train.seed", "retrieval", "score_coalitions"),
        )  # fmt: skip
    if stage == "attribute":
        own_rules = (str(own_rules_file(params.attribute.rule_file)),) if params.attribute.rule_file else ()
        return Node(
            stage, iteration,
            (*of(iteration, "rollouts.parquet", "segments.parquet", "rewards.parquet", "coalition_values.parquet"), behavior, *own_rules),
            of(iteration, *(f"{name}.parquet" for name in ("attributions", "interactions", *LEARNED_FROM))),
            of(iteration, "attribute_metrics.json"),
            ("train.seed", "attribute", *(f"score_coalitions.{name}" for name in ATTRIBUTE_READS)),
        )  # fmt: skip
    if stage == "update":
        settings = params.update
        needs_reference = settings.kl_weight > 0 or settings.reference_groups > 0 or settings.dpo_reference == "warm-start"
        own_examples = (settings.examples_file,) if settings.examples_file else ()
        # An experiment of DVC's may change the objective, not what a stage reads: all three tables are always read.
        prompts = prepared("prompts") if own_examples else ()
        reference = (str(layout.policy(0)),) if needs_reference and iteration > 1 else ()
        length = ("train.iterations",) if settings.schedule != "constant" else ()
        return Node(
            stage, iteration,
            (*of(iteration, *(f"{name}.parquet" for name in ("rollouts", *LEARNED_FROM))), behavior, *reference, *own_examples, *prompts),
            (str(layout.policy(iteration)), *of(iteration, "update_steps.json")), of(iteration, "update_metrics.json"),
            ("train.seed", *length, "policy", "rollout.temperature", "rollout.max_new_tokens", "update"),
        )  # fmt: skip
    raise ParameterError(
        stage, "no such stage", expected="prepare-data, warm-start, evaluate, report, score-queries, " + ", ".join(ITERATED)
    )


def makers(params: Params, iteration: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield (output path, command that makes it), for the planned iterations and those up to `iteration`."""
    last = max(params.train.iterations, iteration or 0)
    for made in [*plan(params), node("score-queries", None, params)]:
        yield from ((path, made.command) for path in (*made.outputs, *made.metrics))
    for number in range(params.train.iterations + 1, last + 1):
        for stage in ITERATED:
            made = node(stage, number, params)
            yield from ((path, made.command) for path in (*made.outputs, *made.metrics))


def require_inputs(wanted: Node, layout: Layout, params: Params) -> None:
    """Raise MissingInputError naming the first input that is not there and the command that makes it."""
    for path in wanted.inputs:
        if (layout.root / path).exists():
            continue
        commands = dict(makers(params, wanted.iteration))
        remedy = f"run `{commands[path]}` first" if path in commands else "put it there, or correct params.yaml"
        if wanted.iteration is None and path.startswith(("data/policies", "data/iterations")):
            remedy += "; under dvc repro: run `ospo graph`, which unrolls train.iterations, then dvc repro"
        if path not in commands and path == params.policy.base:
            remedy = "run `ospo fetch-policy NAME`, or give policy.base a folder in the Hugging Face layout"
        raise MissingInputError(path, "no such file or folder", expected=f"input of `{wanted.command}`", remedy=remedy)


def _prepare_data(params: Params) -> Node:
    layout = Layout(Path())
    outputs = (*(str(layout.prepared(f"{name}.parquet")) for name in (*PREPARED, "teacher_pairs")), str(layout.prepared("card.json")))
    inputs = (params.prepare_data.path,) if params.prepare_data.path else ()
    return Node("prepare-data", None, inputs, outputs, (), ("train.seed", "prepare_data"))
