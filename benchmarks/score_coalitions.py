"""Time per coalition: the product's BM25 beside rank-bm25 and bm25s, on the same coalitions of the same catalogue, results compared.

    python benchmarks/score_coalitions.py [--documents FILE --queries FILE] [--coalitions 40000] [--peer-coalitions 200]

Without files: ../shared/data/chorus-icecat beside the repository, else the demo shop. Answers are eight phrases from titles of products
that a query finds, eight answers a query; coalitions are all their windows. Every engine starts from the same texts and ends with nDCG@10
of the same judgments. The product is given the segments and which are present (`JudgedReward.coalition_values`, what score-coalitions
calls), rank-bm25 one query at a time (`get_scores`, then the best ten), bm25s all queries in one call of its own (`retrieve`); a line more
gives bm25s its scores alone (`get_scores`). Peers score a random part of the coalitions. Where definitions differ, idf is set to what both
have: robertson beside rank-bm25 (which gives words of more than half of the documents a weight of its own), lucene beside bm25s.

Ratios are of wall time, of the best of three repeats; CPU time of all threads stands beside it. Lines of peers end in the ratio.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli.maths import coalitions
from ospo_cli.maths.seeding import generator
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.whole import Params
from ospo_cli.retrievers.base import best_first
from ospo_cli.retrievers.lexical import inverted_index
from ospo_cli.retrievers.opening import build
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.sources import opening
from ospo_cli.tables.prepared import POOLS, PROMPTS, QRELS
from ospo_cli.text.words import words

ICECAT = Path(__file__).resolve().parents[2] / "shared" / "data" / "chorus-icecat"
POOL_SIZES = (0, 100, 1000)
SEGMENTS = 8
REPEATS = 3
K = 10


@dataclasses.dataclass(frozen=True)
class Work:
    """Answers, their segments' texts, which are present, and the tables that a reward needs."""

    tables: tuple[pl.DataFrame, ...]
    prompt_ids: list[str]
    parts: list[list[str]]
    present: np.ndarray

    def texts(self) -> tuple[list[str], list[str]]:
        """Return prompt and text of every coalition, answer by answer."""
        members = [np.flatnonzero(row).tolist() for row in self.present]
        texts = [" ".join([parts[index] for index in chosen]) for parts in self.parts for chosen in members]
        return [prompt_id for prompt_id in self.prompt_ids for _ in members], texts


def main() -> None:
    """Print one line per peer and set of candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="Parquet of doc_id (or product_id) and text columns")
    parser.add_argument("--queries", type=Path, help="Parquet of prompt_id (or query_id) and query")
    parser.add_argument("--coalitions", type=int, default=40_000, help="how many the product scores")
    parser.add_argument("--peer-coalitions", type=int, default=200, help="how many of them each peer scores")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    documents, queries = read(arguments.documents, arguments.queries)
    start_seconds = time.perf_counter()
    build("bm25", pl.DataFrame({"doc_id": ["d"], "title": ["coat"]}), Retrieval(), None).rank(["coat"], [None], K)
    print(f"compiled, or read from the compiler's cache, in {time.perf_counter() - start_seconds:.1f} s; copy {bandwidth():.1f} GB/s")
    for pool_size in POOL_SIZES:
        if pool_size < documents.height:
            compare(make_work(documents, queries, pool_size, arguments.coalitions, arguments.seed), pool_size, arguments)


def bandwidth() -> float:
    """Return the gigabytes per second that one core reads and writes while it copies 256 MiB."""
    values = np.zeros(1 << 25)
    _, seconds, _ = timed(values.copy)
    return 2 * values.nbytes / seconds / 1e9


def read(documents_path: Path | None, queries_path: Path | None) -> tuple[pl.DataFrame, list[str]]:
    """Return table documents and the queries' texts."""
    if documents_path is None and ICECAT.is_dir():
        documents_path, queries_path = ICECAT / "products.parquet", ICECAT / "queries.parquet"
    if documents_path is None:
        print("no --documents, and no chorus-icecat beside the repository: the demo shop")
        data = opening.read(PrepareData(), 0, Path())
        return data.documents, data.prompts["query"].to_list()
    documents = pl.read_parquet(documents_path)
    documents = documents.rename({"product_id": "doc_id"} if "doc_id" not in documents.columns else {})
    documents = documents.select(pl.col(pl.String).fill_null(""))
    if queries_path is None:
        titles = documents["title"].to_list()
        return documents, [" ".join(words(title)[:3]) for title in titles[:: max(1, len(titles) // 500)] if words(title)]
    return documents, pl.read_parquet(queries_path)["query"].to_list()


def compare(work: Work, pool_size: int, arguments: argparse.Namespace) -> None:
    """Print the product's time per coalition, then one line per peer that ends in the ratio."""
    prompt_ids, texts = work.texts()
    where = f"pools of {pool_size}" if pool_size else "the whole catalogue"
    mean_words = sum(len(words(text)) for text in texts) / len(texts)
    count = work.tables[0].height
    print(f"{where}: {count:,} documents, {len(texts):,} coalitions of {len(work.parts):,} answers, {mean_words:.1f} words each")
    part = np.sort(generator(arguments.seed, "peers").choice(len(texts), size=min(arguments.peer_coalitions, len(texts)), replace=False))
    chosen_ids, chosen = [prompt_ids[row] for row in part], [texts[row] for row in part]
    for peer, idf in (("rank-bm25", "robertson"), ("bm25s", "lucene")):
        reward = JudgedReward(work.tables, _params(idf))
        reward.coalition_values(work.prompt_ids[:8], work.parts[:8], [work.present] * 8)
        index = reward.retriever.index
        before = index.touched_postings
        ours, wall, cpu = timed(
            lambda reward=reward: reward.coalition_values(work.prompt_ids, work.parts, [work.present] * len(work.parts))
        )
        postings = (index.touched_postings - before) / REPEATS / len(texts)
        mine, gigabytes = wall / len(texts) * 1e6, postings * len(texts) * 8 / wall / 1e9
        print(
            f"  ospo bm25, {idf} idf: {mine:.2f} µs, CPU {cpu / len(texts) * 1e6:.2f} µs per coalition, {len(texts) / wall:,.0f} a second; "
            f"{postings:.0f} postings of 8 bytes per coalition, {gigabytes:.2f} GB/s",
            flush=True,
        )
        for name, score in _peer(peer, work, idf, chosen_ids, chosen, bool(pool_size)).items():
            theirs, wall, cpu = timed(score, repeats=1 if peer == "rank-bm25" else REPEATS)
            differing = int((np.abs(ours[part] - theirs) > 1e-9).sum())
            other = wall / len(chosen) * 1e6
            print(
                f"  {name} {other:,.1f} µs, CPU {cpu / len(chosen) * 1e6:,.1f} µs; nDCG@{K} differs in {differing} of {len(part)}, mean "
                f"{theirs.mean():.3f}: {other / mine:,.0f}x",
                flush=True,
            )


def _peer(name: str, work: Work, idf: str, prompt_ids: list[str], texts: list[str], is_pooled: bool) -> dict[str, Callable[[], np.ndarray]]:
    # The ways to score the texts with a peer; building its index is not counted.
    reward = JudgedReward(work.tables, _params(idf), retriever=name)
    reward.values(prompt_ids[:2], texts[:2])
    if name == "rank-bm25" or is_pooled:
        return {f"{name}, one by one": lambda: reward.values(prompt_ids, texts)}
    engine: Any = reward.retriever

    def retrieved() -> np.ndarray:
        tokens = [[word for word in dict.fromkeys(words(text)) if word in engine.known] for text in texts]
        rows = [row for row, found in enumerate(tokens) if found]
        documents, scores = engine.engine.retrieve([tokens[row] for row in rows], k=K, show_progress=False, n_threads=0)
        values = np.zeros(len(texts))
        for row, found, own in zip(rows, documents, scores, strict=True):
            ranking = best_first(found.astype(np.int64), own.astype(np.float64), K)
            padded = np.full((1, K), -1, dtype=np.int64)
            padded[0, : len(ranking.documents)] = ranking.documents
            values[row] = reward._measure([(prompt_ids[row], 1)], padded, [reward.metric])[0, 0]
        return values

    return {"bm25s get_scores, one by one": lambda: reward.values(prompt_ids, texts), "bm25s, one batch": retrieved}


def _params(idf: str) -> Params:
    return dataclasses.replace(Params(), retrieval=Retrieval(idf=idf))


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[Any, float, float]:
    """Return the result, and wall and CPU seconds of the best repeat."""
    best_seconds = cpu_seconds = float("inf")
    for _ in range(repeats):
        start_seconds, start_cpu_seconds = time.perf_counter(), time.process_time()
        found = work()
        cpu_seconds = min(cpu_seconds, time.process_time() - start_cpu_seconds)
        best_seconds = min(best_seconds, time.perf_counter() - start_seconds)
    return found, best_seconds, cpu_seconds


def make_work(documents: pl.DataFrame, queries: list[str], pool_size: int, count: int, seed: int, likeness: float = 0.0) -> Work:
    """Return `count` coalitions or some more: whole rollout groups of answers made of phrases of related documents' titles.

    likeness: probability that a segment is that of the rollout group's first answer; 0 draws the answers independently.
    """
    ids = documents["doc_id"].sort().to_list()
    titles = [words(title) for title in documents.sort("doc_id")["title"].to_list()]
    placeholder = pl.DataFrame(schema=POOLS.schema)
    search = JudgedReward((documents, pl.DataFrame(schema=PROMPTS.schema), pl.DataFrame(schema=QRELS.schema), placeholder), Params())
    present = coalitions.contiguous(SEGMENTS, SEGMENTS, 0, generator(seed, "none"))
    rows: dict[str, list[tuple[Any, ...]]] = {"prompts": [], "qrels": [], "pools": []}
    prompt_ids: list[str] = []
    parts: list[list[str]] = []
    numbers = generator(seed, "benchmark")
    for index in range(1_000_000):
        if len(parts) * len(present) >= count:
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
        first: list[str] = []
        for _ in range(8):  # a rollout group
            phrases: list[str] = []
            for place in range(SEGMENTS):
                if first and likeness and numbers.random() < likeness:
                    phrases.append(first[place])
                    continue
                title = sources_of_words[numbers.integers(len(sources_of_words))]
                start = int(numbers.integers(len(title)))
                phrases.append(" ".join(title[start : start + int(numbers.integers(1, 4))]))
            first = first or phrases
            prompt_ids.append(prompt_id)
            parts.append(phrases)
    frames = [
        pl.DataFrame(rows[name], schema=table.schema, orient="row")
        for name, table in (("prompts", PROMPTS), ("qrels", QRELS), ("pools", POOLS))
    ]
    return Work((documents, *frames), prompt_ids, parts, present)


if __name__ == "__main__":
    assert inverted_index.LARGEST_K >= K
    main()
