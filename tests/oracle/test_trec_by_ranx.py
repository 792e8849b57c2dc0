"""ranx reads the TREC files and finds our metrics in them."""

import numpy as np
import polars as pl
import pytest

from ospo_cli.maths import ranking
from ospo_cli.report import trec_files

ranx = pytest.importorskip("ranx", reason="extra [oracle]")


def test_ranx_finds_our_metrics_in_the_trec_files(tmp_path):
    draw = np.random.default_rng(0)
    judged, ranked, expected = [], [], {"ndcg@10": {}, "mrr": {}, "recall@10": {}}
    for prompt in (f"q {number}" for number in range(20)):
        grades = draw.choice([0, 0, 0, 1, 2, 3], size=60)
        grades[0] = 2
        order = draw.permutation(60)[: draw.integers(1, 60)]
        judged += [(prompt, f"d {document}", float(grade)) for document, grade in enumerate(grades)]
        scores = np.sort(draw.integers(1, 20, size=len(order)))[::-1] / 4  # with ties, whose order is the ranks'
        ranked += [("policy-001", prompt, "bm25", rank + 1, f"d {order[rank]}", scores[rank]) for rank in range(len(order))]
        gains, ideal = grades[order][None].astype(float), grades.astype(float)
        expected["ndcg@10"][prompt] = ranking.ndcg_rows(gains, ideal, 10)[0]
        expected["mrr"][prompt] = ranking.mrr_rows(gains)[0]
        expected["recall@10"][prompt] = ranking.recall_rows(gains, ideal, 10)[0]
    run = pl.DataFrame(ranked, schema=["system", "prompt_id", "retriever", "rank", "doc_id", "score"], orient="row")
    qrels = pl.DataFrame(judged, schema=["prompt_id", "doc_id", "relevance"], orient="row")
    trec_files.write(run, qrels, ["policy-001"], ["bm25"], tmp_path)
    read = (
        ranx.Qrels.from_file(str(tmp_path / "qrels.txt"), kind="trec"),
        ranx.Run.from_file(str(tmp_path / "policy-001.bm25.run"), kind="trec"),
    )
    ranx.evaluate(*read, list(expected))
    found = {name: dict(by) for name, by in read[1].scores.items()}
    for name, values in expected.items():
        assert found[name] == pytest.approx({prompt.replace(" ", "%20"): value for prompt, value in values.items()}, abs=1e-9), name
