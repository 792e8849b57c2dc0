"""Time per coalition: the product's BM25 beside rank-bm25 and bm25s, on the same coalitions of the same catalogue, results compared.

    python benchmarks/score_coalitions.py [--documents FILE --queries FILE] [--coalitions 20000] [--peer-coalitions 200]

Without files: ../shared/data/chorus-icecat beside the repository, else the demo shop. Every engine gets the same texts through the same
reward (`JudgedReward.values`: tokenise, rank, nDCG@10); CPU time, since machines are shared. A peer scores an evenly spaced part of the
coalitions. Where the engines' definitions differ, idf is set to what both have: robertson beside rank-bm25 (which gives words of more
than half of the documents a weight of its own), lucene beside bm25s.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli import params, sources
from ospo_cli.maths import coalitions
from ospo_cli.maths.seeding import generator
from ospo_cli.retrievers.judged_reward import JudgedReward
from ospo_cli.schemas import POOLS, PROMPTS, QRELS
from ospo_cli.text.coalition_text import coalition_text
from ospo_cli.text.words import words

ICECAT = Path(__file__).resolve().parents[2] / "shared" / "data" / "chorus-icecat"
PEERS = {"rank-bm25": "robertson", "bm25s": "lucene"}
POOL_SIZE = 100
SEGMENTS = 8


def main() -> None:
    """Print one line per engine, candidates and catalogue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="Parquet of doc_id (or product_id) and text columns")
    parser.add_argument("--queries", type=Path, help="Parquet of prompt_id (or query_id) and query")
    parser.add_argument("--coalitions", type=int, default=20_000, help="how many the product scores")
    parser.add_argument("--peer-coalitions", type=int, default=200, help="how many of them each peer scores")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    documents, queries = read(arguments.documents, arguments.queries)
    for pool_size in (POOL_SIZE, 0):
        compare(documents, queries, pool_size, arguments)


def read(documents_path: Path | None, queries_path: Path | None) -> tuple[pl.DataFrame, list[str]]:
    """Return table documents and the queries' texts."""
    if documents_path is None and ICECAT.is_dir():
        documents_path, queries_path = ICECAT / "products.parquet", ICECAT / "queries.parquet"
    if documents_path is None or queries_path is None:
        data = sources.read(params.PrepareData(), 0, Path())
        return data.documents, data.prompts["query"].to_list()
    documents = pl.read_parquet(documents_path)
    documents = documents.rename({"product_id": "doc_id"} if "doc_id" not in documents.columns else {})
    return documents.select(pl.col(pl.String).fill_null("")), pl.read_parquet(queries_path)["query"].to_list()


def compare(documents: pl.DataFrame, queries: list[str], pool_size: int, arguments: argparse.Namespace) -> None:
    """Print the product's time per coalition, then one line per peer that ends in the ratio."""
    prompts, qrels, pools, prompt_ids, texts = make_coalitions(documents, queries, pool_size, arguments.coalitions, arguments.seed)
    tables = (documents, prompts, qrels, pools)
    where = f"pools of {pool_size}" if pool_size else "the whole catalogue"
    print(
        f"{where}, {documents.height:,} documents, {len(texts):,} coalitions of {sum(len(words(t)) for t in texts) / len(texts):.1f} words"
    )
    part = np.linspace(0, len(texts) - 1, min(arguments.peer_coalitions, len(texts))).astype(int)
    for peer, idf in PEERS.items():
        ours, our_seconds = timed(tables, prompt_ids, texts, "bm25", idf)
        theirs, their_seconds = timed(tables, [prompt_ids[row] for row in part], [texts[row] for row in part], peer, idf)
        differences = np.abs(ours[part] - theirs)
        mine, other = our_seconds / len(texts) * 1e6, their_seconds / len(part) * 1e6
        print(
            f"  {peer} {other:,.1f} µs, ospo bm25 {mine:,.1f} µs per coalition ({idf} idf; nDCG@10 differs by more than 1e-9 in "
            f"{int((differences > 1e-9).sum())} of {len(part)}, mean {theirs.mean():.3f}): ratio {other / mine:,.0f}",
            flush=True,
        )


def timed(tables: tuple[pl.DataFrame, ...], prompt_ids: list[str], texts: list[str], retriever: str, idf: str) -> tuple[np.ndarray, float]:
    """Return values and the CPU seconds that they took; building the index and a first call are not counted."""
    values = dataclasses.replace(params.Params(), retrieval=params.Retrieval(idf=idf))
    reward = JudgedReward(*tables, values, retriever=retriever, metric="ndcg@10")
    reward.values(prompt_ids[:5], texts[:5])
    start_cpu_seconds = time.process_time()
    found = reward.values(prompt_ids, texts)
    return found, time.process_time() - start_cpu_seconds


def make_coalitions(
    documents: pl.DataFrame, queries: list[str], pool_size: int, count: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, list[str], list[str]]:
    """Return prompts, judgments, pools and `count` coalitions of answers made of phrases of related documents' titles."""
    ids = documents["doc_id"].sort().to_list()
    titles = [words(title) for title in documents.sort("doc_id")["title"].to_list()]
    placeholder = pl.DataFrame(schema=POOLS.schema)
    search = JudgedReward(documents, pl.DataFrame(schema=PROMPTS.schema), pl.DataFrame(schema=QRELS.schema), placeholder, params.Params())
    present = coalitions.union_of(
        *(
            coalitions.family(name, coalitions.Players(SEGMENTS), coalitions.Budget(width=32), coalitions.undrawn)
            for name in ("contiguous", "prefix", "leave-one-out")
        )
    )
    rows: dict[str, list[tuple]] = {"prompts": [], "qrels": [], "pools": []}
    prompt_ids: list[str] = []
    texts: list[str] = []
    numbers = generator(seed, "benchmark")
    for index in range(1_000_000):
        if len(texts) >= count:
            break
        query = queries[index % len(queries)]
        found = search.retriever.rank([query], [None], 50)[0].documents
        sources_of_words = [titles[document] for document in found if titles[document]]
        if not sources_of_words:
            continue
        prompt_id = f"p{index}"
        rows["prompts"].append((prompt_id, "train", query, [], query))
        rows["qrels"] += [(prompt_id, ids[document], 1.0) for document in found[:3]]
        if pool_size:
            others = numbers.choice(len(ids), size=min(pool_size, len(ids)), replace=False)
            pool = list(dict.fromkeys([*found[: pool_size // 2].tolist(), *others.tolist()]))[:pool_size]
            rows["pools"] += [(prompt_id, ids[document]) for document in pool]
        for _ in range(8):  # a rollout group
            phrases = []
            for _ in range(SEGMENTS):
                title = sources_of_words[numbers.integers(len(sources_of_words))]
                start = int(numbers.integers(len(title)))
                phrases.append(" ".join(title[start : start + int(numbers.integers(1, 4))]))
            answer = ", ".join(phrases)
            ends = np.cumsum([len(phrase) + 2 for phrase in phrases]) - 2
            spans = [(int(end) - len(phrase), int(end)) for phrase, end in zip(phrases, ends, strict=True)]
            texts += [coalition_text(answer, spans, members) for members in present.tolist()]
            prompt_ids += [prompt_id] * len(present)
    frames = [
        pl.DataFrame(rows[name], schema=table.schema, orient="row")
        for name, table in (("prompts", PROMPTS), ("qrels", QRELS), ("pools", POOLS))
    ]
    return *frames, prompt_ids[:count], texts[:count]


if __name__ == "__main__":
    main()
