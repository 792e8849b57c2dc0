"""nDCG, reciprocal rank and recall: axioms, and agreement with ir_measures."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.errors import ParameterError
from ospo_cli.maths import ranking
from ospo_cli.maths.ranking import Metric, parse_metric

GAINS = st.lists(st.sampled_from([0.0, 0.01, 0.1, 1.0, 2.0, 3.0]), min_size=1, max_size=30).filter(any)


def judged_run(seed, k):
    rng = np.random.default_rng(seed)
    grades = rng.choice([0, 0, 0, 1, 2, 3], size=60)
    grades[rng.integers(60)] = 2
    order = rng.permutation(60)[: rng.integers(1, 60)]
    qrels = [ir_measures.Qrel("q", f"d{document}", int(grade)) for document, grade in enumerate(grades)]
    run = [ir_measures.ScoredDoc("q", f"d{document}", 100.0 - place) for place, document in enumerate(order)]
    return grades[order].astype(float), grades.astype(float), qrels, run


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_ndcg_reciprocal_rank_and_recall_equal_those_of_ir_measures(seed, k):
    gains, ideal, qrels, run = judged_run(seed, k)
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ k, ir_measures.RR, ir_measures.R @ k], qrels, run)
    found = [ranking.ndcg(gains, ideal, k), ranking.mrr(gains), ranking.recall(gains, ideal, k)]
    assert found == pytest.approx([expected[ir_measures.nDCG @ k], expected[ir_measures.RR], expected[ir_measures.R @ k]], abs=1e-9)


@given(GAINS, st.integers(1, 40))
def test_ndcg_is_one_exactly_for_the_ideal_order(gains, k):
    ideal = np.array(sorted(gains, reverse=True))
    assert ranking.ndcg(ideal, np.array(gains), k) == 1.0


@given(GAINS, st.integers(1, 40))
def test_ndcg_lies_between_zero_and_one(gains, k):
    assert 0.0 <= ranking.ndcg(np.array(gains), np.array(gains), k) <= 1.0


@given(GAINS, st.integers(0, 28))
def test_moving_a_better_document_up_never_lowers_ndcg(gains, place):
    place = place % max(len(gains) - 1, 1)
    better = gains.copy()
    better[place : place + 2] = sorted(gains[place : place + 2], reverse=True)
    assert ranking.ndcg(np.array(better), np.array(gains), 10) >= ranking.ndcg(np.array(gains), np.array(gains), 10)


@given(st.lists(GAINS, min_size=1, max_size=8), st.integers(1, 12))
def test_a_row_of_a_batch_has_the_bits_of_the_ranking_alone(rows, k):
    width = max(map(len, rows))
    table = np.array([row + [0.0] * (width - len(row)) for row in rows])
    together = ranking.ndcg_rows(table, np.array([3.0, 1.0]), k)
    assert together.tolist() == [ranking.ndcg(np.array(row), np.array([3.0, 1.0]), k) for row in rows]


def test_only_the_judged_gains_of_the_pool_make_the_ideal():
    # DCG 1/log2(3) + .5/log2(4) over the ideal 1 + .5/log2(3).
    expected = (1 / np.log2(3) + 0.5 / 2) / (1 + 0.5 / np.log2(3))
    assert ranking.ndcg(np.array([0.0, 1.0, 0.5]), np.array([0.5, 1.0]), 10) == pytest.approx(expected, abs=1e-15)


def test_a_ranking_of_nothing_is_worth_zero():
    nothing = np.zeros(0)
    assert [ranking.ndcg(nothing, np.ones(1), 10), ranking.mrr(nothing), ranking.recall(nothing, np.ones(1), 10)] == [0.0, 0.0, 0.0]


def test_a_prompt_without_a_judged_document_has_no_ndcg():
    with pytest.raises(ValueError, match="judged"):
        ranking.ndcg(np.zeros(3), np.zeros(3), 10)


def test_names_of_metrics_are_read_with_their_cut_off():
    found = [parse_metric(name) for name in ("ndcg@10", "ndcg@pool", "mrr", "recall@100")]
    assert found == [
        Metric("ndcg@10", "ndcg", 10),
        Metric("ndcg@pool", "ndcg", 0),
        Metric("mrr", "mrr", 0),
        Metric("recall@100", "recall", 100),
    ]


@pytest.mark.parametrize("name", ["ndcg", "ndcg@0", "ndcg@-1", "map", "recall@pool", "NDCG@10", "ndcg@10 ", ""])
def test_an_unknown_metric_is_refused_with_the_list_of_those_that_exist(name):
    with pytest.raises(ParameterError, match="ndcg@pool, ndcg@retrieved, mrr, recall@K"):
        parse_metric(name)
