"""nDCG, reciprocal rank, average precision, recall and precision: axioms, and agreement with ir_measures."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.maths import ranking
from ospo_cli.maths.ranking import Metric, parse_metric
from ospo_cli.params.whole import Params, from_mapping, to_mapping

GAINS = st.lists(st.sampled_from([0.0, 0.01, 0.1, 1.0, 2.0, 3.0]), min_size=1, max_size=30).filter(any)


def ndcg(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return float(ranking.ndcg_rows(np.asarray(gains)[None], ideal, k)[0])


def mrr(gains: np.ndarray) -> float:
    return float(ranking.mrr_rows(np.asarray(gains)[None])[0])


def recall(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return float(ranking.recall_rows(np.asarray(gains)[None], ideal, k)[0])


def average_precision(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return float(ranking.average_precision_rows(np.asarray(gains)[None], ideal, k)[0])


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
    found = [ndcg(gains, ideal, k), mrr(gains), recall(gains, ideal, k)]
    assert found == pytest.approx([expected[ir_measures.nDCG @ k], expected[ir_measures.RR], expected[ir_measures.R @ k]], abs=1e-9)


JUDGED = st.lists(st.integers(0, 4), min_size=1, max_size=25).filter(any)


@settings(max_examples=60)
@given(JUDGED, st.randoms(use_true_random=False), st.integers(1, 30), st.integers(0, 25))
def test_every_metric_equals_that_of_ir_measures_on_any_judgments_and_ranking(grades, random, k, length):
    order = random.sample(range(len(grades)), min(length, len(grades)))
    qrels = [ir_measures.Qrel("q", f"d{document}", grade) for document, grade in enumerate(grades)]
    run = [ir_measures.ScoredDoc("q", f"d{document}", 100.0 - place) for place, document in enumerate(order)]
    run = run or [ir_measures.ScoredDoc("q", "not judged", 1.0)]
    measures = {metric: ir_measures.parse_measure(metric) for metric in (f"nDCG@{k}", "RR", f"RR@{k}", "AP", f"AP@{k}", f"R@{k}", f"P@{k}")}
    found = {row.measure: row.value for row in ir_measures.iter_calc(list(measures.values()), qrels, run)}
    # ir_measures leaves exp-log2 to a program that rounds: the same gains as relevances go through trec_eval.
    exponential = [qrel._replace(relevance=2**qrel.relevance - 1) for qrel in qrels]
    measures[f"nDCG(dcg='exp-log2')@{k}"] = "exponential"
    found["exponential"] = ir_measures.calc_aggregate([ir_measures.nDCG @ k], exponential, run)[ir_measures.nDCG @ k]
    gains, ideal = np.array([[float(grades[document]) for document in order]]), np.array(grades, dtype=float)
    for name, measure in measures.items():
        assert ranking.metric_rows(parse_metric(name), gains, ideal)[0] == pytest.approx(found[measure], abs=1e-9), name


def slow_average_precision(gains, ideal, k):
    precisions = [sum(gain > 0 for gain in gains[:rank]) / rank for rank in range(1, k + 1) if rank <= len(gains) and gains[rank - 1] > 0]
    return sum(precisions) / sum(gain > 0 for gain in ideal)


@given(GAINS, st.integers(1, 40))
def test_average_precision_is_the_mean_over_relevant_documents_of_the_precision_where_each_stands(gains, k):
    found = average_precision(np.array(gains), np.array(gains), k)
    assert found == pytest.approx(slow_average_precision(gains, gains, k), abs=1e-12)
    assert 0.0 <= found <= 1.0


@given(GAINS, st.integers(1, 40), st.sampled_from(["ndcg", "ndcg-exp", "mrr", "ap", "recall", "precision"]))
def test_ranks_behind_the_cut_off_change_no_metric(gains, k, kind):
    metric, ideal = Metric("x", kind, k), np.array(gains)
    whole, cut = (ranking.metric_rows(metric, np.array([row]), ideal) for row in (gains, gains[:k]))
    assert whole.tolist() == cut.tolist()


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30).filter(any), st.integers(1, 40))
def test_exponential_and_linear_gains_agree_where_a_document_is_relevant_or_not(gains, k):
    row, ideal = np.array([gains]), np.array(gains)
    found = [ranking.metric_rows(Metric("x", kind, k), row, ideal).tolist() for kind in ("ndcg", "ndcg-exp")]
    assert found[0] == found[1]


def test_exponential_gains_prefer_one_perfect_document_to_two_good_ones():
    ideal = np.array([3.0, 2.0, 2.0])
    one, two = np.array([[3.0, 0.0, 0.0]]), np.array([[2.0, 2.0, 0.0]])
    linear, exponential = (
        [ranking.metric_rows(parse_metric(name), row, ideal)[0] for row in (one, two)] for name in ("ndcg@3", "ndcg-exp@3")
    )
    assert linear[0] < linear[1]
    assert exponential[0] > exponential[1]


def test_a_relevance_that_overflows_exponential_gains_is_an_error():
    with pytest.raises(RetrievalError, match=r"too large for 2\^relevance: found 2000.0, expected at most 512"):
        ranking.metric_rows(parse_metric("ndcg-exp@10"), np.array([[2000.0]]), np.array([2000.0]))


@given(GAINS, st.integers(1, 40))
def test_ndcg_is_one_exactly_for_the_ideal_order(gains, k):
    ideal = np.array(sorted(gains, reverse=True))
    assert ndcg(ideal, np.array(gains), k) == 1.0


@given(GAINS, st.integers(1, 40))
def test_ndcg_lies_between_zero_and_one(gains, k):
    assert 0.0 <= ndcg(np.array(gains), np.array(gains), k) <= 1.0


@given(GAINS, st.integers(0, 28))
def test_moving_a_better_document_up_never_lowers_ndcg(gains, place):
    place = place % max(len(gains) - 1, 1)
    better = gains.copy()
    better[place : place + 2] = sorted(gains[place : place + 2], reverse=True)
    assert ndcg(np.array(better), np.array(gains), 10) >= ndcg(np.array(gains), np.array(gains), 10)


@given(st.lists(GAINS, min_size=1, max_size=8), st.integers(1, 12))
def test_a_row_of_a_batch_has_the_bits_of_the_ranking_alone(rows, k):
    width = max(map(len, rows))
    table = np.array([row + [0.0] * (width - len(row)) for row in rows])
    together = ranking.ndcg_rows(table, np.array([3.0, 1.0]), k)
    assert together.tolist() == [ndcg(np.array(row), np.array([3.0, 1.0]), k) for row in rows]


def test_only_the_judged_gains_of_the_pool_make_the_ideal():
    # DCG 1/log2(3) + .5/log2(4) over the ideal 1 + .5/log2(3).
    expected = (1 / np.log2(3) + 0.5 / 2) / (1 + 0.5 / np.log2(3))
    assert ndcg(np.array([0.0, 1.0, 0.5]), np.array([0.5, 1.0]), 10) == pytest.approx(expected, abs=1e-15)


def test_a_ranking_of_nothing_is_worth_zero():
    nothing = np.zeros(0)
    assert [ndcg(nothing, np.ones(1), 10), mrr(nothing), recall(nothing, np.ones(1), 10)] == [0.0, 0.0, 0.0]


def test_a_prompt_without_a_judged_document_has_no_ndcg():
    with pytest.raises(ValueError, match="judged"):
        ndcg(np.zeros(3), np.zeros(3), 10)


def test_names_of_metrics_are_read_with_their_cut_off():
    found = [parse_metric(name) for name in ("ndcg@10", "ndcg@pool", "mrr", "recall@100")]
    assert found == [
        Metric("ndcg@10", "ndcg", 10),
        Metric("ndcg@pool", "ndcg", 0),
        Metric("mrr", "mrr", 0),
        Metric("recall@100", "recall", 100),
    ]


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("nDCG@10", "ndcg@10"), ("nDCG(dcg='exp-log2')@5", "ndcg-exp@5"), ("RR", "mrr"), ("RR@3", "mrr@3"), ("AP", "ap"), ("AP@7", "ap@7"),
     ("R@100", "recall@100"), ("P@5", "precision@5")],
)  # fmt: skip
def test_a_name_of_ir_measures_is_the_same_metric(given_name, name):
    assert parse_metric(given_name) == parse_metric(name)
    assert parse_metric(name).name == name


NAMES = [
    "ndcg@10",
    "ndcg@pool",
    "ndcg@retrieved",
    "ndcg-exp@10",
    "ndcg-exp@pool",
    "mrr",
    "mrr@10",
    "ap",
    "ap@5",
    "recall@10",
    "precision@1",
]
SPELLED = ["nDCG@10", "nDCG(dcg='exp-log2')@3", "RR", "RR@9", "AP", "AP@5", "R@10", "P@5"]
WRONG = ["ndcg", "ndcg@0", "ap@pool", "recall", "P", "R", "precision@", "RR@pool", "nDCG", "ndcg-exp@retrieved", "map", "ndcg@10.5", "@10"]


def is_read(name):
    try:
        return bool(parse_metric(name))
    except ParameterError:
        return False


def is_allowed(content):
    try:
        return bool(from_mapping(content))
    except ParameterError:
        return False


@pytest.mark.parametrize("name", [*NAMES, *SPELLED, *WRONG])
def test_params_allow_exactly_the_names_that_are_read(name):
    content = to_mapping(Params())
    content["score_coalitions"] |= {"metric": name, "further_metrics": {name: 0.5}}
    assert is_allowed(content) == is_read(name) == (name not in WRONG)


@pytest.mark.parametrize("name", ["ndcg", "ndcg@0", "ndcg@-1", "map", "recall@pool", "NDCG@10", "ndcg@10 ", ""])
def test_an_unknown_metric_is_refused_with_the_list_of_those_that_exist(name):
    with pytest.raises(ParameterError, match="ndcg@pool, ndcg@retrieved, mrr, recall@K"):
        parse_metric(name)
