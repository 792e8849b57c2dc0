"""Rules judged by their gradients on a small policy: what is measured, what a broken rule looks like, what cannot be measured."""

import dataclasses
import io
import itertools
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.credit.token_kinds import KINDS
from ospo_cli.errors import CreditError, MissingInputError, ParameterError, PolicyError
from ospo_cli.instruments.audit import gradient_vectors
from ospo_cli.instruments.audit import gradients as gradient_audit
from ospo_cli.instruments.audit.gradient_print import print_result
from ospo_cli.instruments.audit.gradient_vectors import Vectors
from ospo_cli.instruments.audit.gradients import Request
from ospo_cli.layout import Layout
from ospo_cli.maths import gradient_noise
from ospo_cli.policies.opening import load_policy
from ospo_cli.report.audit_section import GRADIENT_COLUMNS
from ospo_cli.stages import attribute, prepare_data, rollout, score_coalitions, segment, warm_start
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.audit import GRADIENT_AUDIT
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training.group_gradient import GroupGradient
from ospo_cli.training.row_building import to_rows
from ospo_cli.training.token_batches import Group
from tests.pipeline import miniature

OWN_RULE = """
from ospo_cli.maths import redistribution

def flipped(tokens, credit, settings):
    advantages, special = redistribution.RULES["uniform"].formula(tokens, credit, settings)
    return -2 * advantages, special

RULE = redistribution.Rule("flipped", False, flipped)
"""
OWN = Request(rules=["group-additive", "potential", "flipped"], estimators=["myerson", "leave-one-out"])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients") / "shop"
    values = miniature.make(
        folder,
        warm_start={"steps": 60},
        rollout={"max_new_tokens": 32, "prompts_per_iteration": 24},
        score_coalitions={"format_weight": 2.0},  # what most groups are about: a clear signal in few of them
        attribute={"rule_file": "rules.py", "normalize": "std"},
    )
    (folder / "rules.py").write_text(OWN_RULE, encoding="utf-8")
    layout = Layout(folder)
    prepare_data.execute(layout, values)
    warm_start.execute(layout, values)
    rollout.execute(layout, values, 1)
    return layout, values


@pytest.fixture(scope="module")
def measured(project):
    return gradient_audit.execute(*project, 1, OWN)


@pytest.fixture(scope="module")
def exact(project):
    """The gradients of every rollout group of the iteration under `uniform` without normalisation, and with it: whole, not projected."""
    layout, values = project
    segment.execute(layout, values, 1)
    score_coalitions.execute(layout, values, 1)
    rollouts, found = placed.read(ROLLOUTS, layout, 1), {}
    policy = load_policy(layout.policy(0), threads=1, trainable=True)
    for normalize in ("none", "std"):
        settings = dataclasses.replace(values.attribute, estimator="uniform", rule="uniform", normalize=normalize)
        attribute.execute(layout, dataclasses.replace(values, attribute=settings), 1)
        rows = to_rows(rollouts, placed.read(TOKEN_ADVANTAGES, layout, 1), values.rollout, 1)
        graphs = [GroupGradient(policy, rows, group, values.update) for group in rows.groups]
        found[normalize] = [graph.of(rows.advantages[rows.tokens_of([group])]) for graph, group in zip(graphs, rows.groups, strict=True)]
    return found


def reading(table, rule, measure, estimator="any", normalize="std", tokens="all", groups=0):
    row = table.filter(
        estimator=estimator, rule=rule, measure=measure, normalize=normalize, tokens=tokens, groups=groups
    )  # fmt: skip
    assert row.height == 1
    return row.row(0, named=True)


def test_every_asked_combination_is_there_once_and_grpo_and_the_true_gradient_always(measured):
    table, metrics = measured
    assert set(table.select("estimator", "rule", "normalize").unique().iter_rows()) == {
        ("any", "uniform", "none"),
        ("any", "uniform", "std"),
        ("any", "potential", "std"),
        *((estimator, rule, "std") for estimator in ("myerson", "leave-one-out") for rule in ("group-additive", "flipped")),
    }
    assert metrics["prompts"] == 24
    assert metrics["rollouts"] == 96


def inner_product(first, second):
    return sum(float(a.flatten() @ b.flatten()) for a, b in zip(first, second, strict=True) if a is not None and b is not None)


def test_the_numbers_are_those_of_the_groups_own_gradients(measured, exact):
    table, _ = measured
    count = len(exact["std"])
    pairs = list(itertools.permutations(range(count), 2))
    signal = sum(inner_product(exact["std"][i], exact["std"][j]) for i, j in pairs) / len(pairs)
    size = sum(inner_product(g, g) for g in exact["std"]) / count
    assert reading(table, "uniform", "squared length")["value"] == pytest.approx(signal, rel=1e-3, abs=1e-4 * size)
    scale = reading(table, "uniform", "noise scale")["value"]
    assert scale == pytest.approx((size - signal) / signal, rel=1e-3)
    shared = sum(inner_product(exact["std"][i], exact["none"][j]) for i, j in pairs) / len(pairs)
    true = sum(inner_product(exact["none"][i], exact["none"][j]) for i, j in pairs) / len(pairs)
    assert reading(table, "uniform", "direction")["value"] == pytest.approx(shared / np.sqrt(signal * true), rel=1e-3)
    for groups in (1, 3, 64):
        expected = shared**2 / (signal * true) / (1 + scale / groups)
        assert reading(table, "uniform", "progress", groups=groups)["value"] == pytest.approx(expected, rel=2e-3)


def test_grpo_saves_nothing_over_itself_and_the_true_gradient_is_its_own_direction(measured):
    table, _ = measured
    assert reading(table, "uniform", "saving", groups=3)["value"] == 0
    assert reading(table, "uniform", "direction", normalize="none")["value"] == pytest.approx(1)
    assert reading(table, "uniform", "direction, own normalisation")["value"] == pytest.approx(1)


def made_up(factors, kinds=("segments", "stop"), prompts=40, noise=2.0):
    """Return vectors of methods that are factors of the first, by kind of token."""
    rng = np.random.default_rng(5)
    mean = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])[: len(kinds)]
    first = mean + noise * rng.standard_normal((2, prompts, len(kinds), 4)) / 2
    by_kind = np.stack([factor * first for factor in factors]).astype(np.float32)
    return Vectors(by_kind, None, kinds)


def test_a_flipped_rule_points_backwards_with_grpos_noise_and_makes_no_progress(project):
    methods = [gradient_audit.TRUE, gradient_audit.Method("any", "uniform", "std"), gradient_audit.Method("myerson", "flipped", "std")]
    table = gradient_audit._table(methods, made_up([1, 3, -2]), project[1].update.groups_per_step)
    for measure in ("noise scale", "floor"):
        flipped, grpo = (reading(table, rule, measure, e) for rule, e in (("flipped", "myerson"), ("uniform", "any")))
        assert flipped["value"] == pytest.approx(grpo["value"], rel=1e-5)
        assert flipped["standard_error"] == pytest.approx(grpo["standard_error"], rel=1e-5)
    for measure in ("direction", "direction, own normalisation"):
        assert reading(table, "flipped", measure, "myerson")["value"] == pytest.approx(-1)
    assert reading(table, "flipped", "progress", "myerson", groups=64)["value"] == 0
    assert reading(table, "flipped", "saving", "myerson", groups=64)["value"] is None


def test_a_rule_that_silences_the_noisy_tokens_saves_rollouts_and_each_kind_has_its_own_numbers(project):
    rng = np.random.default_rng(6)
    quiet, loud = rng.standard_normal((2, 1, 400, 1, 4)) * np.array([0.5, 5.0])[:, None, None, None, None]
    first = np.concatenate([np.array([1.0, 0, 0, 0]) + quiet, np.array([1.0, 0, 0, 0]) + loud], axis=2)
    second = first * np.array([1.0, 0.1])[:, None]
    methods = [gradient_audit.TRUE, gradient_audit.Method("any", "uniform", "std"), gradient_audit.Method("myerson", "signed", "std")]
    vectors = Vectors(np.stack([first, first, second]).astype(np.float32), None, ("segments", "stop"))
    table = gradient_audit._table(methods, vectors, project[1].update.groups_per_step)
    saving = reading(table, "signed", "saving", "myerson", groups=16)
    assert saving["value"] - 3 * saving["standard_error"] > 0.3
    segments, stop = (reading(table, "uniform", "noise scale", tokens=kind) for kind in ("segments", "stop"))
    assert segments["value"] == pytest.approx(4 * 0.25, abs=3 * segments["standard_error"])
    assert stop["value"] == pytest.approx(4 * 25, abs=3 * stop["standard_error"])
    assert reading(table, "uniform", "floor")["value"] is None


def test_each_measure_is_against_the_gradient_that_its_name_says(project):
    """Without noise: the true gradient is e1 (segments) + e2 (stop), GRPO's e1 + e3, the rule's the true one under both normalisations."""
    e1, e2, e3 = np.eye(4)[:3]
    rule = [gradient_audit.Method("myerson", "signed", normalize) for normalize in ("none", "std")]
    exact = np.stack([[e1, e2], [e1, e3], [e1, e2], [e1, e2]]).astype(np.float32)
    vectors = Vectors(np.repeat(exact[:, None, None], 10, axis=2), None, ("segments", "stop"))
    table = gradient_audit._table([gradient_audit.TRUE, gradient_audit.GRPO, *rule], vectors, project[1].update.groups_per_step)
    for normalize, own in (("none", 1.0), ("std", 0.5)):
        assert reading(table, "signed", "direction", "myerson", normalize)["value"] == pytest.approx(1)
        assert reading(table, "signed", "direction, own normalisation", "myerson", normalize)["value"] == pytest.approx(own)
        assert reading(table, "signed", "progress", "myerson", normalize, groups=4)["value"] == pytest.approx(1)
        assert reading(table, "signed", "saving", "myerson", normalize, groups=4)["value"] == pytest.approx(0.75)
        for tokens in ("segments", "stop"):
            part = reading(table, "signed", "direction", "myerson", normalize, tokens)
            assert part["value"] == pytest.approx(np.sqrt(0.5))
            assert reading(table, "signed", "direction, same tokens", "myerson", normalize, tokens)["value"] == pytest.approx(1)
    assert reading(table, "uniform", "direction, same tokens", tokens="segments")["value"] == pytest.approx(1)
    assert reading(table, "uniform", "direction, same tokens", tokens="stop")["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("wanted", "chosen"), [("alive", [0, 4, 6, 8]), ("all", [0, 2, 4, 6, 8, 10])])
def test_a_group_is_alive_where_each_of_its_sets_has_an_advantage(wanted, chosen):
    groups = [Group([1], [[2], [3]], first) for first in range(0, 12, 2)]
    true = np.ones((2, 12))
    true[0, 2:4] = 0  # of the second group the rewards of one set are equal, of the last those of both
    true[:, 10:] = 0
    rows = SimpleNamespace(groups=groups, tokens_of=lambda some: np.concatenate([np.arange(own.first, own.first + 2) for own in some]))
    assert [group.first for group in gradient_vectors._in_steps(rows, true, wanted, 1)] == chosen


def test_groups_of_equal_rewards_are_counted_and_left_out_where_only_live_ones_train(project):
    layout, values = project
    rollouts = placed.read(ROLLOUTS, layout, 1)
    name = rollouts["prompt_id"][0]
    said = pl.exclude("rollout_id", "prompt_id", "sample_index").first().over("prompt_id")
    alike = pl.concat([rollouts.filter(prompt_id=name).with_columns(said), rollouts.filter(pl.col("prompt_id") != name)])
    try:
        placed.write(alike, ROLLOUTS, layout, 1)
        segment.execute(layout, values, 1)
        silent = score_coalitions.execute(layout, values, 1)["degenerate_groups"]
        for groups, left_out in (("all", 0), ("alive", silent)):
            own = dataclasses.replace(values, update=dataclasses.replace(values.update, groups=groups))
            _, metrics = gradient_audit.execute(layout, own, 1, Request(rules=["uniform"]))
            assert (metrics["silent_prompts"], metrics["left_out_prompts"]) == (silent - left_out, left_out)
            assert metrics["prompts"] == 24 - left_out
    finally:
        placed.write(rollouts, ROLLOUTS, layout, 1)
    assert silent > 0


def test_log_probabilities_that_are_not_the_policys_are_measured_over_all_groups_and_refused(project):
    layout, values = project
    rollouts = placed.read(ROLLOUTS, layout, 1)
    judged = gradient_audit._chosen(rollouts, 4, values.train.seed)
    first = judged["prompt_id"][0]  # keeps its own; of the others each token is said to have been half as unlikely, in the logarithm
    halved = pl.col("behavior_logprobs").list.eval(0.5 * pl.element())
    said = rollouts.with_columns(behavior_logprobs=pl.when(pl.col("prompt_id") == first).then("behavior_logprobs").otherwise(halved))
    largest = -0.5 * judged.filter(pl.col("prompt_id") != first)["behavior_logprobs"].explode().min()

    def measured_with(most):
        own = dataclasses.replace(values, update=dataclasses.replace(values.update, max_logprob_mismatch=most))
        return gradient_audit.execute(layout, own, 1, Request(prompts=4, rules=["uniform"]))[1]["logprob_mismatch"]

    try:
        placed.write(said, ROLLOUTS, layout, 1)
        assert measured_with(2 * largest) == pytest.approx(largest, rel=1e-3)
        with pytest.raises(PolicyError, match=r"log-probabilities are not those of the policy.*found largest difference .*at most"):
            measured_with(0.1)
    finally:
        placed.write(rollouts, ROLLOUTS, layout, 1)


def test_progress_grows_with_the_groups_of_a_step(measured):
    table, _ = measured
    found = table.filter(rule="uniform", normalize="std", tokens="all", measure="progress").sort("groups")
    assert found["groups"].to_list() == [1, 3, 4, 16, 64]
    assert found["value"].is_sorted()
    assert found["value"][0] < found["value"][-1] < 1.5


def test_the_kinds_of_tokens_that_occur_have_a_gradient_of_their_own(measured):
    table, _ = measured
    kinds = set(table["tokens"]) - {"all"}
    assert {"segments", "stop", "tags"} <= kinds <= set(KINDS)
    whole = reading(table, "uniform", "squared length")["value"]
    assert reading(table, "uniform", "squared length", tokens="segments")["value"] != pytest.approx(whole, rel=0.01)


def test_what_has_no_signal_is_null_and_says_so(project, measured):
    methods = [gradient_audit.TRUE, gradient_audit.Method("any", "uniform", "std")]
    table = gradient_audit._table(methods, made_up([1, 1], noise=60.0), project[1].update.groups_per_step)
    assert (table.filter(measure="signal")["value"] <= gradient_noise.SIGNAL_AT).all()
    assert table.filter(pl.col("value").is_not_null())["measure"].unique().sort().to_list() == ["signal", "squared length"]
    stream = io.StringIO()
    print_result(table, measured[1], stream)
    assert stream.getvalue().count("no signal") == 2 * 3


def test_two_runs_write_equal_bytes_and_leave_the_iterations_other_tables_alone(project, measured):
    layout, _ = project
    gradient_audit.execute(*project, 1, OWN)  # other tests ask for other things in the same place
    before = layout.iteration(1, "gradient_audit.parquet").read_bytes()
    others = {path: path.read_bytes() for path in layout.iteration(1, "x").parent.glob("*.parquet") if "gradient" not in path.name}
    gradient_audit.execute(*project, 1, OWN)
    assert layout.iteration(1, "gradient_audit.parquet").read_bytes() == before
    assert {path: path.read_bytes() for path in others} == others
    assert not list(layout.cache.glob("gradient-audit-*"))


def test_gradients_that_are_kept_are_those_of_their_own_advantages(project):
    lengths = []
    for rule in ("signed", "group-additive", "signed"):
        table, _ = gradient_audit.execute(*project, 1, Request(prompts=4, rules=[rule]))
        lengths.append(reading(table, rule, "squared length", "myerson")["value"])
    assert lengths[0] == lengths[2] != lengths[1]


def test_gradients_that_are_kept_are_those_of_their_own_policy(project):
    layout, values = project
    weights = layout.policy(0) / "model.safetensors"
    kept = weights.read_bytes()
    free = dataclasses.replace(values, update=dataclasses.replace(values.update, max_logprob_mismatch=100.0))
    request, lengths = Request(prompts=4, rules=["uniform"]), []
    try:
        for scale in (1.0, 1.1):
            save_file({name: scale * value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
            lengths.append(reading(gradient_audit.execute(layout, free, 1, request)[0], "uniform", "squared length")["value"])
    finally:
        weights.write_bytes(kept)
    assert lengths[0] != lengths[1]


def test_where_an_adapter_trains_the_gradient_is_of_its_weights_alone(project):
    layout, values = project
    lora = dataclasses.replace(values, policy=dataclasses.replace(values.policy, lora_rank=1))
    weights = [
        gradient_audit.execute(layout, own, 1, Request(prompts=4, rules=["uniform"]))[1]["trained_weights"] for own in (lora, values)
    ]
    assert 0 < weights[0] < weights[1] / 10


def test_a_rule_of_prefixes_is_judged_where_the_project_evaluates_none(project):
    layout, values = project
    bare = dataclasses.replace(values, score_coalitions=dataclasses.replace(values.score_coalitions, families=[]))
    table, _ = gradient_audit.execute(layout, bare, 1, Request(prompts=4, rules=["potential"]))
    assert reading(table, "potential", "squared length")["value"] is not None


def test_fresh_rollouts_are_two_groups_of_a_prompt_and_the_iterations_own_are_not_read(project, measured):
    layout, values = project
    few = dataclasses.replace(values, rollout=dataclasses.replace(values.rollout, prompts_per_iteration=6))
    table, metrics = gradient_audit.execute(layout, few, 1, Request(prompts=12, fresh=True, rules=["uniform"]))
    assert metrics["rollouts"] == 12 * 2 * 4
    assert metrics["group_size"] == 4
    assert "data/iterations/001/rollouts.parquet" not in metrics["inputs"]
    assert set(table["rule"]) == {"uniform"}
    own = measured[0]
    assert reading(table, "uniform", "squared length")["value"] != reading(own, "uniform", "squared length")["value"]
    assert reading(table, "uniform", "squared length")["n"] == 12


def test_groups_of_four_are_large_enough_for_a_floor(measured):
    assert reading(measured[0], "uniform", "floor")["value"] is not None


@pytest.mark.parametrize("large", [0, 1])
def test_groups_too_small_to_halve_have_no_floor(project, large):
    layout, values = project
    small = dataclasses.replace(values, rollout=dataclasses.replace(values.rollout, group_size=3))
    rollouts = placed.read(ROLLOUTS, layout, 1)
    is_large = pl.col("prompt_id").is_in(rollouts["prompt_id"].unique().sort()[:large].to_list())
    with_three = Layout(layout.root)
    try:
        placed.write(rollouts.filter((pl.col("sample_index") < 3) | is_large), ROLLOUTS, with_three, 1)
        table, _ = gradient_audit.execute(with_three, small, 1, Request(rules=["uniform"]))
    finally:
        placed.write(rollouts, ROLLOUTS, layout, 1)
    assert table.filter(measure="floor")["value"].null_count() == 2
    assert reading(table, "uniform", "signal")["value"] is not None


def test_the_halves_of_a_group_are_alike_in_size_and_an_odd_rollout_is_in_neither():
    rollouts = pl.DataFrame({"prompt_id": ["p"] * 5 + ["q"] * 4, "sample_index": [*range(5), *range(4)]})
    halves = gradient_audit._halves(rollouts)
    assert [half.rows() for half in halves] == [[("p", 0), ("p", 1), ("q", 0), ("q", 1)], [("p", 2), ("p", 3), ("q", 2), ("q", 3)]]


def test_a_prompt_asked_for_by_seed_is_the_same_each_time_and_fewer_are_a_part(project):
    layout, values = project
    few = gradient_audit._chosen(placed.read(ROLLOUTS, layout, 1), 5, values.train.seed)
    assert few["prompt_id"].n_unique() == 5
    assert few.height == 20
    assert few.equals(gradient_audit._chosen(placed.read(ROLLOUTS, layout, 1), 5, values.train.seed))
    drawn = [gradient_audit._chosen(placed.read(ROLLOUTS, layout, 1), 5, seed)["prompt_id"].unique().to_list() for seed in range(8)]
    assert len(set().union(*drawn)) > 15


def test_without_names_the_projects_own_rule_and_the_shipped_ones_are_judged(project):
    layout, values = project
    changed = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, estimator="leave-one-out", rule="rank"))
    found = gradient_audit._methods(changed.attribute, Request(), layout)
    assert found == [
        ("any", "uniform", "none"),
        ("any", "uniform", "std"),
        ("leave-one-out", "rank", "std"),
        ("myerson", "signed", "std"),
        ("myerson", "group-additive", "std"),
        ("splice", "none", "std"),
    ]
    plain = dataclasses.replace(values.attribute, normalize="none")
    assert gradient_audit._methods(plain, Request(rules=["signed"]), layout)[2:] == [("myerson", "signed", "none")]
    both = gradient_audit._methods(values.attribute, Request(rules=["signed"], normalisations=["std", "none"]), layout)
    assert both[2:] == [("myerson", "signed", "std"), ("myerson", "signed", "none")]


def test_a_group_game_takes_no_rule_and_its_discount_stands_in_brackets(project):
    layout, values = project
    own = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, estimator="splice", rule="none"))
    asked = Request(rules=["signed"], estimators=["splice(0.25)", "swap", "myerson"])
    assert gradient_audit._methods(own.attribute, asked, layout)[2:] == [
        ("splice(0.25)", "none", "std"),
        ("swap", "none", "std"),
        ("myerson", "signed", "std"),
    ]
    assert gradient_audit._methods(own.attribute, Request(), layout)[2] == ("splice", "none", "std")
    assert gradient_audit._methods(own.attribute, Request(rules=["signed"]), layout)[2:] == [("myerson", "signed", "std")]
    assert gradient_audit._methods(own.attribute, Request(estimators=["myerson"]), layout)[2:] == [("myerson", "group-additive", "std")]


def test_advice_on_a_new_project_audits_the_own_method_alone_and_then_reads_it(project):
    layout, values = project
    for estimator, rule in (("leave-one-out", "signed"), ("splice", "none")):
        own = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, estimator=estimator, rule=rule))
        assert gradient_audit._methods(own.attribute, gradient_audit.own_request(own.attribute, 8), layout)[2:] == [
            (estimator, rule, "std")
        ]
    layout.params.write_text(presets.render(values), encoding="utf-8")
    layout.iteration(1, "gradient_audit_metrics.json").unlink(missing_ok=True)
    arguments = ["advise", "-k", "1", "--prompts", "24", "-p", str(layout.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "update.groups_per_step" in done.stdout
    assert "advice.parquet" in done.output
    before = layout.iteration(1, "gradient_audit_metrics.json").read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.stdout == done.stdout
    assert layout.iteration(1, "gradient_audit_metrics.json").read_bytes() == before


def test_splice_is_judged_under_the_asked_discount(project):
    layout, values = project
    half = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, splice_trace=0.25))
    table, _ = gradient_audit.execute(layout, half, 1, Request(prompts=8, estimators=["splice", "splice(0.25)", "splice(1)", "swap"]))
    lengths = {name: reading(table, "none", "squared length", name)["value"] for name in ("splice", "splice(0.25)", "splice(1)", "swap")}
    assert lengths["splice"] == lengths["splice(0.25)"]
    assert len({*lengths.values()}) == 3


def test_the_command_prints_a_line_for_each_method_and_names_the_file(project):
    layout, values = project
    layout.params.write_text(presets.render(values), encoding="utf-8")
    arguments = ["audit", "-k", "1", "--gradients", "--rules", "signed, uniform", "--prompts", "8", "-p", str(layout.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {line.split()[1] for line in done.stdout.splitlines()[2:5]} == {"signed", "uniform"}
    assert "gradient_audit.parquet" in done.output
    assert set(parquet.read(layout.iteration(1, "gradient_audit.parquet"), GRADIENT_AUDIT)["rule"]) == {"signed", "uniform"}


def test_the_inputs_are_named_by_their_content(measured):
    stored = measured[1]
    named = {"data/policies/000", "data/prepared/qrels.parquet", "data/iterations/001/rollouts.parquet"}
    sections = ("train.seed", "rollout", "segment", "retrieval", "score_coalitions", "attribute", "policy", "update.aggregation")
    assert named | {f"params.yaml: {name}" for name in sections} <= set(stored["inputs"])
    assert all(len(content) == 64 for content in stored["inputs"].values())


def test_the_grid_says_what_each_column_is(measured):
    stream = io.StringIO()
    print_result(*measured, stream)
    lines = stream.getvalue().splitlines()
    columns = [name for name, _, _ in GRADIENT_COLUMNS]
    assert lines[1].split()[:6] == ["estimator", "rule", "normalize", "B", "direction", "floor"]
    assert [line.partition(":")[0] for line in lines if line.partition(":")[0] in columns] == columns


def test_methods_stand_by_their_progress_in_the_steps_in_use_and_errors_that_are_not_finite_are_left_out(measured):
    rng = np.random.default_rng(3)
    noisy = np.array([1.0, 0, 0]) + 2.0 * rng.standard_normal((1, 400, 1, 3))
    biased = np.array([1.0, 1.0, 0]) + 0.1 * rng.standard_normal((1, 400, 1, 3))  # the better one in steps of one group, not of many
    methods = [gradient_audit.TRUE, gradient_audit.GRPO, gradient_audit.Method("myerson", "signed", "std")]
    table = gradient_audit._table(methods, Vectors(np.stack([noisy, noisy, biased]).astype(np.float32), None, ("segments",)), 64)
    for in_use, first in ((1, "signed"), (64, "uniform")):
        stream = io.StringIO()
        print_result(table, measured[1] | {"groups_per_step": in_use}, stream)
        assert stream.getvalue().splitlines()[2].split()[1] == first
    odd = gradient_audit._rows(methods[0], "all", [("saving", 1, np.array([1.0, 0.5, np.inf]))], 2)
    assert odd[0][-3:] == (1.0, None, 2)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(prompts=2), "--prompts: too few for a noise scale"),
        (Request(group_size=8), "--group-size: is of fresh rollouts"),
        (Request(group_size=1, fresh=True), "--group-size: too few to compare"),
        (Request(rules=["signd"]), "signd.*did you mean signed"),
        (Request(estimators=["shaply"]), "shaply.*did you mean shapley"),
        (Request(estimators=["splice(1.5)"]), r"no discount of splice in splice\(1\.5\): found 1\.5, expected a number from 0 to 1"),
        (Request(estimators=["swap(1)"]), r"--estimators.*swap\(1\)"),
        (Request(normalisations=["st"]), "st.*did you mean std"),
    ],
)
def test_what_cannot_be_asked_for_is_named(project, request_, message):
    with pytest.raises(ParameterError, match=message):
        gradient_audit.execute(*project, 1, request_)


def test_a_baseline_of_the_whole_batch_has_no_noise_of_one_group(project):
    layout, values = project
    batch = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, baseline="batch", rule="uniform"))
    with pytest.raises(ParameterError, match=r"attribute\.baseline: batch ties all rollout groups together.*expected group"):
        gradient_audit.execute(layout, batch, 1)


def test_rewards_that_never_differ_are_an_error_that_says_so(project):
    layout, values = project
    weights = {"retrieval_weight": 0.0, "format_weight": 0.0, "repetition_weight": 0.0}
    flat = dataclasses.replace(values, score_coalitions=dataclasses.replace(values.score_coalitions, **weights))
    with pytest.raises(CreditError, match=r"no rollout group has a gradient: found 24 groups of equal rewards"):
        gradient_audit.execute(layout, flat, 1)


def test_a_rollout_alone_in_its_group_has_nothing_to_be_compared_with(project):
    layout, values = project
    rollouts = placed.read(ROLLOUTS, layout, 1)
    try:
        placed.write(rollouts.filter(pl.col("sample_index") == 0), ROLLOUTS, layout, 1)
        with pytest.raises(CreditError, match=r"found 24 groups of one rollout.*; set rollout\.group_size to 2 or more"):
            gradient_audit.execute(layout, values, 1, Request(rules=["uniform"]))
    finally:
        placed.write(rollouts, ROLLOUTS, layout, 1)


def test_an_iteration_of_two_prompts_is_an_error_that_says_what_to_do(project):
    layout, values = project
    rollouts = placed.read(ROLLOUTS, layout, 1)
    kept = rollouts["prompt_id"].unique().sort()[:2].to_list()
    try:
        placed.write(rollouts.filter(pl.col("prompt_id").is_in(kept)), ROLLOUTS, layout, 1)
        with pytest.raises(CreditError, match=r"(too few rollout groups.*found 2 of 2|no rollout group has a gradient)"):
            gradient_audit.execute(layout, values, 1)
    finally:
        placed.write(rollouts, ROLLOUTS, layout, 1)


def test_an_iteration_without_rollouts_names_its_command(project):
    with pytest.raises(MissingInputError, match="ospo rollout --iter 2"):
        gradient_audit.execute(*project, 2)


def test_fresh_rollouts_of_a_policy_that_is_not_there_name_its_command(project):
    with pytest.raises((MissingInputError, PolicyError), match="ospo update --iter 3"):
        gradient_audit.execute(*project, 4, Request(fresh=True))


def test_options_of_gradients_alone_are_refused_without_it(project):
    layout, values = project
    layout.params.write_text(presets.render(values), encoding="utf-8")
    for option in (["--prompts", "8"], ["--fresh"], ["--normalize", "none"]):
        done = CliRunner().invoke(app, ["audit", "-k", "1", *option, "-p", str(layout.root)])
        assert done.exit_code == 2
