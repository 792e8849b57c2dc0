"""A plan on a cluster: against a simulation of devices that take one shard after another, and bad files."""

import dataclasses
import heapq
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli import presets
from ospo_cli.errors import ParameterError
from ospo_cli.instruments import cluster_plan
from ospo_cli.instruments.cluster_plan import Cluster, Rate, expected, print_cluster, total_hours
from ospo_cli.instruments.plan import command as plans
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.tables import parquet
from ospo_cli.tables.plan import PLAN
from ospo_cli.tables.prepared import PROMPTS

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "scale"
RATES = {"rollout": Rate(1000.0, "tokens", "gpu"), "update": Rate(500.0, "tokens", "gpu")}


def planned(completions: int, runs: int = 3) -> pl.DataFrame:
    rows = [
        (stage, k, completions, "completions", 32 * completions, 1.0, 2.0, 1000, 10**9, "run", False)
        for stage in ("rollout", "segment", "score-coalitions", "update")
        for k in range(1, runs + 1)
    ]
    return pl.DataFrame(rows, schema=PLAN.schema, orient="row")


def simulated(shards: int, seconds_each: float, devices: int) -> float:
    """Give each shard to whoever is free first; return when the last one ends."""
    free = [0.0] * devices
    for _ in range(shards):
        heapq.heappush(free, heapq.heappop(free) + seconds_each)
    return max(free)


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 12))
def test_rollouts_take_what_devices_take_that_fetch_one_shard_after_another(shards, gpus):
    params = Params()
    completions = shards * (params.rollout.batch_size // params.rollout.group_size) * params.rollout.group_size
    found = {each.stage: each for each in expected(planned(completions), Cluster(gpus, 1, 0, 0, RATES, {}), params)}
    each = 32 * completions / 1000.0 / shards
    assert found["rollout"].seconds == pytest.approx(3 * simulated(shards, each, gpus))
    assert found["rollout"].devices == min(gpus, shards)


@settings(max_examples=20)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 40))
def test_one_more_device_never_takes_longer_and_steps_share_evenly(completions, gpus, cores):
    plan, params = planned(completions), Params()
    now = expected(plan, Cluster(gpus, cores, 1, 1, RATES, {}), params)
    assert total_hours(expected(plan, Cluster(gpus + 1, cores, 1, 1, RATES, {}), params)) <= total_hours(now) * (1 + 1e-12)
    assert total_hours(expected(plan, Cluster(gpus, cores + 1, 1, 1, RATES, {}), params)) <= total_hours(now) * (1 + 1e-12)
    assert {each.stage: each for each in now}["update"].seconds == pytest.approx(3 * 32 * completions / 500.0 / gpus)


def test_workers_share_shards_and_leave_the_update_to_one_process():
    # Three runs of four stages, 2 s each; four shards of rollouts, two of scores.
    params = dataclasses.replace(
        Params(), rollout=dataclasses.replace(Params().rollout, prompts_per_iteration=128, group_size=8, batch_size=256)
    )
    output, plan = io.StringIO(), planned(4 * 256)
    cluster_plan.print_workers(plan, 3, params, output)
    seconds = 3 * simulated(4, 0.5, 3) + 3 * simulated(2, 1.0, 3) + 2 * 6.0
    assert output.getvalue() == f"On 3 workers of a core each: {seconds} s in place of 24.0, without their start.\n"
    output = io.StringIO()
    cluster_plan.print_workers(plan.with_columns(is_current=pl.col("stage") != "update"), 3, params, output)
    assert "6.00 s in place of 6.00," in output.getvalue()


def test_a_rate_that_is_not_given_is_the_plans_and_given_work_takes_its_place():
    plan, params = planned(96), Params()
    found = {each.stage: each for each in expected(plan, Cluster(0, 1, 0, 0, {}, {"segment": 960.0}), params)}
    assert found["score-coalitions"].seconds == pytest.approx(6.0)
    assert found["segment"].seconds == pytest.approx(6.0 * 960 / (3 * 96))
    assert found["segment"].bytes == pytest.approx(3000 * 960 / (3 * 96))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 100))
def test_longer_answers_are_no_further_shards_and_more_answers_are(shards, gpus, times):
    params, runs = Params(), 3
    completions = shards * (params.rollout.batch_size // params.rollout.group_size) * params.rollout.group_size
    plan = planned(completions, runs)
    tokens = Cluster(gpus, 1, 0, 0, RATES, {"rollout": times * runs * 32 * completions})
    longer = {each.stage: each for each in expected(plan, tokens, params)}["rollout"]
    assert longer.devices == min(gpus, shards)
    assert longer.seconds == pytest.approx(runs * simulated(shards, times * 32 * completions / 1000.0 / shards, gpus))
    rates = {"rollout": Rate(10.0, "units", "gpu")}
    more = {each.stage: each for each in expected(plan, Cluster(gpus, 1, 0, 0, rates, {"rollout": 4.0 * runs * completions}), params)}
    assert more["rollout"].devices == min(gpus, 4 * shards)


def test_counts_on_paper_are_those_of_a_data_set_of_so_many_prompts(tmp_path):
    layout, params = Layout(tmp_path), presets.load("tables")
    sizes = {"train": 70, "dev": 30, "test": 20}
    names = [(f"{split}-{number}", split) for split, size in sizes.items() for number in range(size)]
    rows = [{"prompt_id": name, "split": split, "query": name, "history": [], "prompt": name} for name, split in names]
    parquet.write(pl.DataFrame(rows, schema=PROMPTS.schema), PROMPTS.path(layout), PROMPTS)
    params = dataclasses.replace(params, warm_start=dataclasses.replace(params.warm_start, teacher="judgments"))
    known, found = plans.counts(layout, params), plans.on_paper(params, sizes)
    assert {"warm-start", "rollout", "update", "evaluate", "report"} <= set(found["stage"])
    for stage, units, tokens in found.select("stage", "units", "tokens").iter_rows():
        assert (units, tokens) == (known[stage][1:] if stage != "score-coalitions" else (0, 0))


def test_a_plan_on_paper_needs_texts_and_leaves_out_what_has_no_rate():
    params = presets.load("esci-qwen7b")
    cluster = cluster_plan.read(EXAMPLES / "esci.yaml")
    plan = plans.on_paper(params, cluster.prompts)
    found = {each.stage: each for each in expected(plan, cluster, params)}
    # 1,000 iterations of 128 answers of at most 356 tokens, in two batches of 64; 11 policies answer 1,038 prompts six times.
    assert (found["rollout"].work, found["rollout"].devices) == (1000 * 128 * 356, 2)
    assert found["rollout"].seconds == pytest.approx(1000 * 64 * 356 / 2500)
    assert found["update"].seconds == pytest.approx(1000 * 128 * 356 / 2500 / 8)
    assert found["evaluate"].work == 11 * 1038 * 6 * 356
    output = io.StringIO()
    print_cluster(list(found.values()), plan, cluster, params, output)
    assert "Without a rate, left out: prepare-data, warm-start, segment, report." in output.getvalue()
    with pytest.raises(ParameterError, match="score-coalitions: is not given: expected distinct texts"):
        expected(plan, dataclasses.replace(cluster, work={}), params)


def test_the_page_names_the_bottleneck_and_what_one_more_gpu_buys():
    plan, params, cluster = planned(9600), Params(), Cluster(1, 4, 2.0, 0.5, RATES, {})
    output = io.StringIO()
    print_cluster(expected(plan, cluster, params), plan, cluster, params, output)
    text = output.getvalue()
    assert "Bottleneck: update, 66 % of the time." in text
    assert "One more GPU: 0.38" in text
    assert "One more core:" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no cluster: found list"),
        ("gpu: 8", "is no cluster: found gpu"),
        ("gpus: many", "gpus: is no such number: found many"),
        ("gpus: 1.5", "gpus: is no such number: found 1.5"),
        ("cores: 0", "cores: is no such number: found 0, expected at least 1"),
        ("rates: {sample: 3}", "rates: names no stage: found sample"),
        ("rates: 3", "rates: names no stage: found 3"),
        ("rates: {rollout: 3}", "rates.rollout: is no rate: found 3"),
        ("rates: {rollout: {per_second: 1, of: words, device: gpu}}", "rates.rollout: is no rate: found of words, device gpu"),
        ("rates: {segment: {per_second: 1, of: tokens, device: core}}", "rates.segment: has no tokens"),
        ("rates: {rollout: {per_second: .nan, of: units, device: core}}", "per_second: is no such number: found nan"),
        ("rates: {rollout: {per_second: 1, of: units, device: gpu}}", "a rate of rollout is that of a GPU: found gpus: 0"),
        ("prompts: {all: 3}", "prompts: names no split: found all, expected train, dev, test"),
        ("prompts: {train: 0}", "prompts.train: is no such number: found 0"),
        ("work: {rollout: 0}", "work.rollout: is no such number: found 0"),
    ],
)
def test_a_file_that_is_no_cluster_is_named(text, message, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError) as caught:
        cluster_plan.read(path)
    assert message in caught.value.line()


def test_a_file_gives_devices_costs_and_rates(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("gpus: 8\ncores: 64\ngpu_hour: 2.5\nrates:\n  rollout: {per_second: 1000, of: tokens, device: gpu}\n", encoding="utf-8")
    assert cluster_plan.read(path) == Cluster(8, 64, 2.5, 0.0, {"rollout": RATES["rollout"]}, {})
