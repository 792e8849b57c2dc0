"""Runs of several seeds: which are one way of training, which seeds are paired, and what is said of them."""

import dataclasses
import io

import numpy as np
import polars as pl
import pytest

from ospo_cli.instruments import keep
from ospo_cli.maths.over_trainings import over_trainings
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.report.kept_files import comparison
from ospo_cli.report.kept_runs import Run
from ospo_cli.report.kept_sections import print_comparison, section
from ospo_cli.report.kept_seeds import over_seeds
from ospo_cli.stages import report
from ospo_cli.tables.keep import KEPT_VALUES
from tests.report import small_project


def run_of(name, seed, values, rule="group-additive", prompts="same", decoding="greedy"):
    """Return a run of one evaluated policy with a value per prompt."""
    params = Params()
    params = dataclasses.replace(
        params, train=dataclasses.replace(params.train, seed=seed), attribute=dataclasses.replace(params.attribute, rule=rule)
    )
    rows = [(0, decoding, f"p{place:03d}", float(value)) for place, value in enumerate(values)]
    table = pl.DataFrame(rows, schema=KEPT_VALUES.schema, orient="row")
    facts = {"metric": "ndcg@10", "retriever": "bm25", "split": "test", "how": rule, "prompts": prompts}
    return Run(name, facts, [], table, whole.to_mapping(params))


def values(seed, mean, size=40):
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, size), 0, 1)


def better(seed):
    """Return values above those of the same seed, on some prompts under every seed."""
    of_prompts = np.random.default_rng(99).normal(0.1, 0.2, 40)
    return np.clip(values(seed, 0.5) + of_prompts + np.random.default_rng(10 + seed).normal(0, 0.05, 40), 0, 1)


OWN = [run_of("" if seed == 0 else f"own-{seed}", seed, values(seed, 0.5)) for seed in range(3)]
GRPO = [run_of(f"grpo-{seed}", seed, better(seed), "uniform") for seed in range(3)]


def test_runs_that_differ_in_the_seed_alone_are_one_way_and_are_compared_seed_by_seed():
    rows = over_seeds(OWN[0], [GRPO[2], OWN[1], GRPO[0], OWN[2], GRPO[1]])["rows"]
    assert [(row["names"], row["seeds"]) for row in rows] == [
        (["", "own-1", "own-2"], [0, 1, 2]),
        (["grpo-0", "grpo-1", "grpo-2"], [0, 1, 2]),
    ]
    expected = over_trainings([better(seed) - values(seed, 0.5) for seed in range(3)], same_prompts=True)
    found = rows[1]["greedy"]["to_own"]
    assert found.pop("p_holm") == found["p_value"]
    assert found == expected._asdict()
    assert rows[0]["greedy"]["mean"] == pytest.approx(np.mean([values(seed, 0.5).mean() for seed in range(3)]))
    assert rows[0]["greedy"]["deviation"] == pytest.approx(np.std([values(seed, 0.5).mean() for seed in range(3)], ddof=1))


def test_prompts_of_their_own_are_told_by_their_hash_though_their_ids_are_the_same():
    own = [dataclasses.replace(run, facts=run.facts | {"prompts": f"shop {seed}"}) for seed, run in enumerate(OWN)]
    grpo = [dataclasses.replace(run, facts=run.facts | {"prompts": f"shop {seed}"}) for seed, run in enumerate(GRPO)]
    found = over_seeds(own[0], [*own[1:], *grpo])["rows"][1]["greedy"]["to_own"]
    apart = [better(seed) - values(seed, 0.5) for seed in range(3)]
    assert found["low"] == over_trainings(apart, same_prompts=False).low != over_trainings(apart, same_prompts=True).low


def test_a_seed_whose_two_runs_have_other_prompts_is_not_paired():
    odd = dataclasses.replace(GRPO[2], facts=GRPO[2].facts | {"prompts": "others"})
    assert len(over_seeds(OWN[0], [*OWN[1:], *GRPO[:2], odd])["rows"][1]["greedy"]["to_own"]["by_seed"]) == 2


@pytest.mark.parametrize(
    "kept",
    [
        [],
        [GRPO[0]],
        [GRPO[0], GRPO[1]],  # seed 1 of our own way is missing
        [dataclasses.replace(OWN[1], params={})],  # kept without its parameters: nobody knows its seed
    ],
)
def test_nothing_is_said_about_trainings_where_no_two_seeds_are_paired(kept):
    assert over_seeds(OWN[0], kept) is None


def test_a_run_that_was_kept_twice_counts_once():
    again = dataclasses.replace(OWN[0], name="again")
    assert over_seeds(OWN[0], [again]) is None
    assert over_seeds(OWN[0], [again, OWN[1]])["rows"][0]["seeds"] == [0, 1]


def test_all_comparisons_of_the_table_are_adjusted_together():
    other = [run_of(f"signed-{seed}", seed, values(20 + seed, 0.52), "signed") for seed in range(3)]
    rows = over_seeds(OWN[0], [*OWN[1:], *GRPO, *other])["rows"]
    cells = [row["greedy"]["to_own"] for row in rows[1:]]
    first, second = sorted(cells, key=lambda cell: cell["p_value"])
    assert first["p_holm"] == pytest.approx(min(1, 2 * first["p_value"]))
    assert second["p_holm"] == pytest.approx(max(first["p_holm"], second["p_value"]))


def project(root, seed, epochs=3):
    layout, params = small_project.write_project(root, iterations=1)
    update = dataclasses.replace(params.update, epochs=epochs)
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, seed=seed), update=update)
    for name, facts in (("rollout", '{"tokens": 10}'), ("score", '{"distinct_values": 5, "mean_reward": 0.5}')):
        layout.iteration(1, f"{name}_metrics.json").write_text(facts, encoding="utf-8")
    return layout, params


def test_kept_runs_of_two_seeds_stand_on_the_page_and_the_terminal(tmp_path):
    layout, params = project(tmp_path / "here", 0)
    for seed, epochs in ((1, 3), (0, 5), (1, 5)):
        keep.execute(layout, *project(tmp_path / f"{seed}-{epochs}", seed, epochs), f"seed{seed}-epochs{epochs}")
    found = comparison(layout, params)
    assert [row["names"] for row in found["over_seeds"]["rows"]] == [["", "seed1-epochs3"], ["seed0-epochs5", "seed1-epochs5"]]
    report.execute(layout, params)
    page = layout.report().read_text(encoding="utf-8")
    for text in ("Over seeds and prompts", "seed0-epochs5, seed1-epochs5", "1 degrees of freedom; by seed", "for these trained policies"):
        assert text in page
    stream = io.StringIO()
    print_comparison(found, stream)
    assert "this run, seed1-epochs3" in stream.getvalue()
    assert "At the end, over prompts, for these trained policies" in stream.getvalue()


def test_a_run_on_the_shop_of_another_seed_is_not_paired_by_the_ids_of_its_prompts(tmp_path):
    here, params = project(tmp_path / "here", 0)
    there, other = project(tmp_path / "there", 1)
    small_project.write_prepared(there, prompts=18, hostile="another shop")
    keep.execute(here, there, other, "there")
    assert comparison(here, params)["left_out"] == [{"name": "there", "reason": "other prompts"}]
    assert section(comparison(here, params))["over_seeds"][0]["seeds"] == "0, 1"
