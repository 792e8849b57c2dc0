"""Evaluation of tiny policies on a made-up shop: agreement with ir_measures, what is cached, what is refused."""

import csv
import dataclasses
import json
import shutil

import ir_measures
import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import MissingInputError, PolicyError, SourceError
from ospo_cli.layout import Layout
from ospo_cli.report import trec_files
from ospo_cli.report.evaluation_summary import best_of_group, curves, summarise
from ospo_cli.rewriting.chosen import by_default
from ospo_cli.stages import evaluate
from ospo_cli.tables import parquet
from ospo_cli.tables.evaluate import CHOICE_VALUES, COMPLETIONS, QUERY_METRICS, RUN
from ospo_cli.tables.prepared import PROMPTS, QRELS
from ospo_cli.tables.score_coalitions import REWARDS
from tests.report import small_project


def make(root, values):
    """Prepared tables, tiny random policies 000 to K and the last iteration's rewards."""
    from ospo_cli.policies.small_llama import write_small_llama

    layout = Layout(root)
    small_project.write_prepared(layout)
    for iteration in range(values.train.iterations + 1):
        layout.policy(iteration).mkdir(parents=True)
        write_small_llama(["navy wool coat", "<answer>olive linen tote bag</answer>"], values.policy, iteration, layout.policy(iteration))
    for iteration in range(1, values.train.iterations + 1):
        small_project.write_iteration(layout, iteration, values.train.iterations)
    return layout


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """An evaluated project of one iteration; tests do not change it."""
    values = small_project.make_params(iterations=1)
    layout = make(tmp_path_factory.mktemp("evaluated"), values)
    return layout, values, evaluate.execute(layout, values)


@pytest.fixture
def project(evaluated, tmp_path):
    """A copy that may be changed."""
    layout, values, summary = evaluated
    shutil.copytree(layout.root, tmp_path / "project")
    return Layout(tmp_path / "project"), values, summary


def metric_values(layout, **wanted):
    frame = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    return dict(frame.filter(*(pl.col(name) == value for name, value in wanted.items())).select("prompt_id", "metric_value").iter_rows())


def files(layout):
    folder = layout.evaluation("")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "score_metrics.json"
    }


@pytest.mark.parametrize("system", ["raw-query", "oracle", "policy-001"])
@pytest.mark.parametrize("retriever", ["bm25", "tfidf-char"])
def test_ir_measures_finds_our_metrics_in_the_trec_files(evaluated, tmp_path, system, retriever):
    layout, _, _ = evaluated
    trec = layout.evaluation("trec")
    # ir_measures wants whole gains: all are doubled, which leaves every metric as it is.
    doubled = "".join(f"{q} {zero} {d} {int(2 * float(gain))}\n" for q, zero, d, gain in map(str.split, (trec / "qrels.txt").open()))
    (tmp_path / "qrels").write_text(doubled)
    run = list(ir_measures.read_trec_run(str(trec / f"{system}.{retriever}.run")))
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
    names = {"ndcg@10": ir_measures.nDCG @ 10, "mrr": ir_measures.RR, "recall@10": ir_measures.R @ 10}
    for name, measure in names.items():
        expected = {found.query_id: found.value for found in ir_measures.iter_calc([measure], qrels, run)}
        ours = metric_values(
            layout, system=system, retriever=retriever, metric=name, decoding="greedy" if system == "policy-001" else "none"
        )
        assert ours.keys() == expected.keys()
        assert ours == pytest.approx(expected, abs=1e-9)


def test_the_oracle_is_never_worse_than_the_raw_query_it_starts_from(evaluated):
    layout, _, _ = evaluated
    raw = metric_values(layout, system="raw-query", retriever="bm25", metric="ndcg@10")
    oracle = metric_values(layout, system="oracle", retriever="bm25", metric="ndcg@10")
    assert all(oracle[prompt_id] >= raw[prompt_id] for prompt_id in raw)
    assert sum(oracle.values()) > sum(raw.values())


def test_only_prompts_of_the_split_are_evaluated_and_each_system_answers_all_of_them(evaluated):
    layout, _, summary = evaluated
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS).filter(pl.col("split") == "test")["prompt_id"].to_list()
    counts = completions.group_by("system", "decoding").agg(pl.col("prompt_id").n_unique(), pl.len().alias("rows"))
    assert summary["systems"] == ["raw-query", "policy-000", "policy-001", "oracle"]
    assert summary["has_guessed_judgments"] is False
    assert set(completions["prompt_id"]) == set(prompts)
    assert set(counts["prompt_id"]) == {len(prompts)}
    assert dict(counts.filter(pl.col("decoding") == "sampled").select("system", "rows").iter_rows()) == {
        f"policy-00{k}": 2 * len(prompts) for k in (0, 1)
    }


def test_the_raw_query_counts_for_a_malformed_completion_and_it_is_counted(project, monkeypatch):
    layout, values, _ = project
    monkeypatch.setattr(
        "ospo_cli.policies.token_pieces.TokenPieces.text", lambda self, ids: ("coat<answer>wo", "<answer>a</answer>")[sum(ids) % 2]
    )
    shutil.rmtree(layout.cache)
    summary = evaluate.execute(layout, values)
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS).filter(pl.col("decoding") != "none")
    queries = dict(parquet.read(layout.prepared("prompts.parquet"), PROMPTS).select("prompt_id", "query").iter_rows())
    bad = completions.filter(pl.col("completion") == "coat<answer>wo")
    assert 0 < bad.height < completions.height
    assert set(bad["problem"]) == {"unclosed"}
    assert bad["query"].to_list() == [queries[prompt_id] for prompt_id in bad["prompt_id"]]
    good = completions.filter(pl.col("problem") == "")
    assert set(good["query"]) == {"a"}
    shares = completions.filter(pl.col("decoding") == "sampled", pl.col("system") == "policy-001")["problem"] != ""
    assert summary["malformed"]["policy-001"]["sampled"] == pytest.approx(shares.mean())


def test_a_second_run_writes_the_same_bytes_with_and_without_the_cache(project):
    layout, values, _ = project
    before = files(layout)
    evaluate.execute(layout, values)
    with_cache = files(layout)
    shutil.rmtree(layout.cache)
    evaluate.execute(layout, values)
    assert before == with_cache == files(layout)


def test_with_one_more_iteration_only_its_own_completions_are_sampled(project, monkeypatch):
    from ospo_cli.sampling import causal_lm

    layout, _, _ = project
    values = small_project.make_params(iterations=2)
    from ospo_cli.policies.small_llama import write_small_llama

    layout.policy(2).mkdir()
    write_small_llama(["rust suede weekender"], values.policy, 2, layout.policy(2))
    small_project.write_iteration(layout, 2, 2)
    sampled, original = [], causal_lm.Sampler.sample

    def counted(self, *arguments, **options):
        sampled.append(self.policy.folder.name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(causal_lm.Sampler, "sample", counted)
    summary = evaluate.execute(layout, values)
    # Greedy with the samples, the further temperature, and one sample for the entropy; none for the choice, which has no prompts here.
    assert sampled == ["002"] * 3
    assert summary["systems"] == ["raw-query", "policy-000", "policy-001", "policy-002", "oracle"]


def test_a_prompt_too_long_stops_the_evaluation_with_its_name(project):
    layout, _, _ = project
    values = small_project.make_params(iterations=1, rollout={"max_new_tokens": 5000})
    with pytest.raises(
        PolicyError, match=r"evaluate, prompt \S+: does not fit the context of the policy: found \d+ prompt tokens \+ 5000 new"
    ):
        evaluate.execute(layout, values)


def test_a_change_of_the_weights_is_sampled_again(project):
    layout, values, _ = project
    shutil.copytree(layout.policy(1), layout.policy(0), dirs_exist_ok=True)
    evaluate.execute(layout, values)
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    texts = {
        system: rows.sort("decoding", "prompt_id", "sample_index")["completion"].to_list()
        for (system,), rows in completions.group_by("system")
    }
    assert texts["policy-000"] == texts["policy-001"]


def test_runs_of_systems_that_are_gone_are_removed(project):
    layout, values, _ = project
    stale = layout.evaluation("trec") / "policy-007.bm25.run"
    stale.write_text("")
    evaluate.execute(layout, values)
    assert not stale.exists()


def test_under_append_every_query_begins_with_the_raw_query(project):
    layout, _, _ = project
    values = small_project.make_params(iterations=1, score_coalitions={"composition": "append"})
    evaluate.execute(layout, values)
    raw = dict(parquet.read(layout.prepared("prompts.parquet"), PROMPTS).select("prompt_id", "query").iter_rows())
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    assert all(query.startswith(raw[prompt_id]) for prompt_id, query in completions.select("prompt_id", "query").iter_rows())
    assert (
        completions.filter(pl.col("system") == "oracle")["query"].to_list()
        != completions.filter(pl.col("system") == "raw-query")["query"].to_list()
    )


def test_systems_are_compared_and_chosen_by_the_metric_that_evaluate_names(project):
    layout, values, _ = project
    values = dataclasses.replace(values, evaluate=dataclasses.replace(values.evaluate, metric="RR@3", choose_on="train"))
    summary = evaluate.execute(layout, values)
    chosen_by = parquet.read(layout.evaluation("choice_values.parquet"), CHOICE_VALUES).filter(pl.col("system") == "raw-query")
    assert summary["metric"] == "mrr@3"
    assert set(chosen_by["value"].round(6)) <= {0.0, 0.333333, 0.5, 1.0}
    assert chosen_by.height
    best = summary["values"]["oracle"]["none"]["bm25"]["mrr@3"]["mean"]
    raw = summary["values"]["raw-query"]["none"]["bm25"]
    assert raw["mrr@3"]["mean"] != raw["ndcg@10"]["mean"]
    assert summary["against_raw_query"]["raw"] == pytest.approx(raw["mrr@3"]["mean"])
    found = next(gap for gap in summary["gaps"] if gap["better"] == "oracle" and gap["decoding"] == "greedy")
    assert found["mean"] == pytest.approx(best - summary["values"][found["worse"]]["greedy"]["bm25"]["mrr@3"]["mean"])


def test_without_pools_the_whole_catalogue_is_ranked_and_there_is_no_pool_metric(project):
    layout, values, _ = project
    small_project.write_prepared(layout, with_pools=False)
    evaluate.execute(layout, values)
    metrics = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    assert set(metrics["metric"]) == {"ndcg@10", "mrr", "recall@10"}


def test_queries_for_which_a_retriever_finds_nothing_are_said_by_retriever(project, capsys):
    layout, values, _ = project
    evaluate.execute(layout, values)
    assert "retrieves nothing" not in capsys.readouterr().err
    path = layout.prepared("prompts.parquet")
    pl.read_parquet(path).with_columns(query=pl.lit("パーカ")).write_parquet(path)
    evaluate.execute(layout, values)
    said = [line for line in capsys.readouterr().err.splitlines() if "retrieves nothing" in line]
    assert said[0].startswith("evaluate: bm25 retrieves nothing for ")
    assert "(100%), such as 'パーカ'" in said[0]


def test_the_rewards_own_metric_is_evaluated_too(project):
    layout, values, _ = project
    values = dataclasses.replace(values, score_coalitions=dataclasses.replace(values.score_coalitions, metric="recall@3"))
    evaluate.execute(layout, values)
    found = metric_values(layout, metric="recall@3", system="raw-query", retriever="bm25")
    relevant = parquet.read(layout.prepared("qrels.parquet"), QRELS).filter(pl.col("relevance") > 0)
    run = parquet.read(layout.evaluation("run.parquet"), RUN).filter(system="raw-query", retriever="bm25").filter(pl.col("rank") <= 3)
    hits = run.join(relevant, on=["prompt_id", "doc_id"]).group_by("prompt_id").len()
    counts = dict(hits.iter_rows())
    totals = dict(relevant.group_by("prompt_id").len().iter_rows())
    assert set(found) == set(metric_values(layout, metric="ndcg@10", system="raw-query", retriever="bm25"))
    assert found == pytest.approx({prompt_id: counts.get(prompt_id, 0) / totals[prompt_id] for prompt_id in found})


def test_a_missing_policy_names_the_command_that_makes_it(project):
    layout, values, _ = project
    shutil.rmtree(layout.policy(1))
    with pytest.raises(MissingInputError, match="run `ospo update --iter 1`"):
        evaluate.execute(layout, values)


def test_a_missing_warm_start_names_its_command_and_nothing_is_written(tmp_path):
    layout = Layout(tmp_path)
    small_project.write_prepared(layout)
    with pytest.raises(MissingInputError, match="run `ospo warm-start`"):
        evaluate.execute(layout, small_project.make_params(iterations=0))
    assert not layout.evaluation("").exists()


def test_the_last_iterations_rewards_are_asked_for_by_their_command(project):
    layout, values, _ = project
    layout.iteration(1, "rewards.parquet").unlink()
    with pytest.raises(MissingInputError, match="ospo score-coalitions --iter 1"):
        evaluate.execute(layout, values)


def test_an_empty_split_is_refused(project):
    layout, _, _ = project
    with pytest.raises(SourceError, match=r"no prompt in split dev: found test, train"):
        evaluate.execute(layout, small_project.make_params(iterations=1, evaluate={"split": "dev"}))


def test_fewer_prompts_are_a_subset_that_the_seed_decides():
    prompts = pl.DataFrame({"prompt_id": [f"q{n:03d}" for n in range(40)], "split": "test"})
    chosen = [
        evaluate.choose_prompts(prompts, small_project.make_params(train={"seed": seed}, evaluate={"max_prompts": 10}))[
            "prompt_id"
        ].to_list()
        for seed in (0, 0, 1)
    ]
    smaller = evaluate.choose_prompts(prompts, small_project.make_params(evaluate={"max_prompts": 5}))["prompt_id"].to_list()
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 10
    assert set(smaller) < set(chosen[0])


def test_white_space_in_ids_does_not_break_the_trec_lines(tmp_path):
    run = pl.DataFrame(
        {"system": ["oracle"], "prompt_id": ["q 1"], "retriever": ["bm25"], "rank": [1], "doc_id": ["a%b\u00a0c\n"], "score": [1.5]}
    )
    qrels = pl.DataFrame({"prompt_id": ["q 1"], "doc_id": ["a%b\u00a0c\n"], "relevance": [1.0]})
    trec_files.write(run, qrels, ["oracle"], ["bm25"], tmp_path)
    assert (tmp_path / "oracle.bm25.run").read_text() == "q%201 Q0 a%25b%A0c%0A 1 1.5 oracle\n"
    assert (tmp_path / "qrels.txt").read_text() == "q%201 0 a%25b%A0c%0A 1\n"


def test_gaps_and_differences_are_paired_by_prompt():
    values = small_project.make_params(iterations=1, evaluate={"retrievers": ["bm25"]})
    rows = []
    for system, decoding, shift in [
        ("raw-query", "none", 0.0),
        ("policy-000", "greedy", 0.1),
        ("policy-001", "greedy", 0.3),
        ("oracle", "none", 0.4),
    ]:
        rows += [("test", system, decoding, f"q{n}", "bm25", "ndcg@10", 0.05 * n + shift) for n in range(10)]
    summary = summarise(pl.DataFrame(rows, schema=QUERY_METRICS.schema, orient="row"), values)
    found = {(gap["better"], gap["worse"]): round(gap["mean"], 9) for gap in summary["gaps"]}
    assert found == {
        ("policy-000", "raw-query"): 0.1, ("policy-001", "policy-000"): 0.2, ("policy-001", "raw-query"): 0.3, ("oracle", "policy-001"): 0.1,
    }  # fmt: skip
    # The differences are equal for every prompt, so paired intervals have no width, however much the prompts differ.
    assert all(gap["high"] - gap["low"] < 1e-9 for gap in summary["gaps"])
    cell = summary["values"]["policy-001"]["greedy"]["bm25"]["ndcg@10"]
    assert cell["to_warm_start"]["mean"] == pytest.approx(0.2)
    assert cell["high"] - cell["low"] > 0.05
    assert curves(summary)[1]["greedy"] == pytest.approx(0.525)


def test_the_headline_is_flat_and_agrees_with_the_summary(evaluated):
    layout, _, summary = evaluated
    found = json.loads(layout.evaluation("metrics.json").read_text())
    assert set(found) == {"raw_query", "warm_start_greedy", "warm_start_sampled", "final_greedy", "final_sampled", "oracle"}
    assert found["final_sampled"] == summary["values"]["policy-001"]["sampled"]["bm25"]["ndcg@10"]["mean"]


def test_best_of_group_lies_above_the_mean_and_counts_groups():
    values = pl.DataFrame({"prompt_id": ["a", "a", "b", "b"], "value": [0.0, 1.0, 0.5, 0.5]})
    found = best_of_group(values, small_project.make_params())
    assert (found["best"]["mean"], found["mean"]["mean"], found["prompts"], found["group_size"]) == (0.75, 0.5, 2, 2)


def test_the_summary_is_plain_json_with_headroom(evaluated):
    layout, values, _ = evaluated
    summary = json.loads(layout.evaluation("summary.json").read_text())
    rewards = parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS)
    best = rewards.group_by("prompt_id").agg(pl.col("retrieval").max())["retrieval"].to_numpy()
    assert summary["headroom"]["last_rollouts"]["best"]["mean"] == pytest.approx(np.mean(best))
    assert summary["headroom"]["final_samples"]["group_size"] == values.evaluate.samples


def choosing(project, **settings):
    """Evaluate again with other settings of the choice; return layout, parameters and summary."""
    layout, values, _ = project
    changed = dataclasses.replace(values, evaluate=dataclasses.replace(values.evaluate, **settings))
    return layout, changed, evaluate.execute(layout, changed)


def test_policy_and_decoding_are_chosen_on_other_prompts_and_only_the_split_is_shown(project):
    layout, values, summary = choosing(project, choose_on="train")
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS)
    train, test = (set(prompts.filter(pl.col("split") == split)["prompt_id"]) for split in ("train", "test"))
    chosen_by = parquet.read(layout.evaluation("choice_values.parquet"), CHOICE_VALUES)
    assert set(chosen_by["prompt_id"]) == train
    pairs = set(chosen_by.select("system", "decoding").unique().iter_rows())
    decodings = ("greedy", "sampled", "sampled-0.5")
    assert pairs == {("raw-query", "none")} | {(f"policy-00{k}", decoding) for k in (0, 1) for decoding in decodings}
    assert summary["choice"]["split"] == "train"
    assert summary["choice"]["prompts"] == len(train)
    for name, table in (("completions", COMPLETIONS), ("query_metrics", QUERY_METRICS)):
        assert set(parquet.read(layout.evaluation(f"{name}.parquet"), table)["prompt_id"]) == test
    assert {line.split()[0] for line in (layout.evaluation("trec") / "qrels.txt").open()} <= test
    # The raw query's value on a choosing prompt is that of a project in which these prompts are the ones evaluated.
    shown = dataclasses.replace(values, evaluate=dataclasses.replace(values.evaluate, split="train", choose_on="test"))
    evaluate.execute(layout, shown)
    raw = dict(chosen_by.filter(pl.col("system") == "raw-query").select("prompt_id", "value").iter_rows())
    assert metric_values(layout, system="raw-query", retriever="bm25", metric="ndcg@10") == pytest.approx(raw)
    greedy = chosen_by.filter(pl.col("system") == "policy-001", pl.col("decoding") == "greedy").select("prompt_id", "value")
    assert metric_values(layout, system="policy-001", decoding="greedy", retriever="bm25", metric="ndcg@10") == pytest.approx(
        dict(greedy.iter_rows())
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "there are no dev prompts"),
        ({"choose_on": "none"}, "evaluate.choose_on: none"),
        ({"choose_on": "test"}, "test is the split that is evaluated"),
    ],
)
def test_where_nothing_can_be_chosen_the_last_policys_greedy_answers_are_judged(project, settings, reason):
    layout, _, summary = choosing(project, **settings)
    assert summary["choice"]["reason"] == reason
    assert (summary["against_raw_query"]["system"], summary["against_raw_query"]["decoding"]) == ("policy-001", "greedy")
    assert parquet.read(layout.evaluation("choice_values.parquet"), CHOICE_VALUES).height == 0
    assert "own best" not in {gap["decoding"] for gap in summary["gaps"]}


def test_no_more_prompts_are_chosen_on_than_asked_and_the_verdict_stands_first_in_the_file(project):
    layout, _, summary = choosing(project, choose_on="train", choose_prompts=2)
    assert summary["choice"]["prompts"] == 2
    assert next(iter(json.loads(layout.evaluation("summary.json").read_text()))) == "against_raw_query"
    assert [gap["decoding"] for gap in summary["gaps"]][:1] == ["own best"]


def test_what_is_chosen_is_what_serves_while_its_weights_are_those_that_were_evaluated(project):
    layout, _, summary = choosing(project, choose_on="train")
    number, why = by_default(layout)
    assert f"policy-{number:03d}" == summary["choice"]["best_policy"]
    assert why.startswith(f"the best on {summary['choice']['prompts']} train queries")


def test_wins_and_losses_name_every_evaluated_prompt_once_the_worst_first(evaluated):
    layout, _, summary = evaluated
    with layout.evaluation("wins_and_losses.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["prompt_id"] for row in rows}) == len(rows) == summary["prompts"]
    differences = [float(row["difference"]) for row in rows]
    assert differences == sorted(differences)
    assert sum(row["outcome"] == "worse" for row in rows) == summary["against_raw_query"]["worse"]["count"]


def test_further_temperatures_are_measured_and_stay_out_of_runs_and_headline(evaluated):
    layout, _, summary = evaluated
    assert set(summary["values"]["policy-001"]) == {"greedy", "sampled", "sampled-0.5"}
    assert summary["sharpness"].keys() == {"policy-000", "policy-001"}
    assert summary["sharpness"]["policy-000"]["divergence"] == 0 < summary["sharpness"]["policy-001"]["divergence"]
    runs = parquet.read(layout.evaluation("run.parquet"), RUN)
    ranks = runs.filter(pl.col("system") == "policy-001", pl.col("retriever") == "bm25").group_by("prompt_id", "rank").len()
    assert set(ranks["len"]) == {1}


def test_each_part_is_named_when_it_begins_and_its_cost_is_told_at_the_end(project, capsys):
    layout, values, _ = project
    evaluate.execute(layout, values)
    lines = capsys.readouterr().err.splitlines()
    begun = [
        line.removeprefix("evaluate: ") for line in lines if line.removeprefix("evaluate: ").startswith(("policies", "index", "ranking"))
    ]
    assert begun == ["policies and tables", "index of bm25", "index of tfidf-char", "ranking by bm25", "ranking by tfidf-char"]
    (told,) = [line for line in lines if " s of the processor: " in line]
    whole, costs = told.removeprefix("evaluate: ").split(" s of the processor: ")
    found = {name: float(cost) for name, cost in (each.rsplit(" ", 1) for each in costs.split(", "))}
    assert {"oracle", "answers", "choice", "gated answers", *begun} <= found.keys()
    assert sum(found.values()) == pytest.approx(float(whole), abs=0.06 * len(found))
