"""Lexical engines on the same tokens: coalitions of answers and unrelated queries, k = 10, time per query of each, rankings compared.

    pip install impact-index==1.7.1 tantivy==0.27.0 pyterrier-pisa==0.4.9     # into an environment of its own; none needs Java here
    python benchmarks/engines.py [--documents FILE --queries FILE | --generated 1000000] [--queries-count 2000] [--repeats 5] [--all-cores]

Without options: ../shared/data/chorus-icecat beside the repository, else the demo shop. Generated catalogues are those of growth.py.
Coalitions are all windows of answers of eight phrases. Unrelated queries: the catalogue's own, generated: two to six words of a title.

Every word is replaced by a name of letters and digits, so that all engines index and are asked for the same tokens. The other engines are
given their queries ready made (ids or query objects: only the search is timed), with their own batch call where they have one (PISA's loop
in C++, bm25s `retrieve` with numba); from impact-index and tantivy one call per query, from as many threads as there are cores with
`--all-cores` (else the process is bound to one core once the index is built). ospo is timed from the texts, its splitting into words
among it: all coalitions in one call (`rank_coalitions`, what score-coalitions calls), all texts in one call, and one call per text.

Each repeat is timed on its own, ours and theirs in turns; printed are the median and the range of processor and wall time. Slow engines get
fewer queries (about `--budget` seconds a repeat). Rankings are compared with ospo's under the engine's own idf: the largest difference of
scores at equal ranks, as a part of the best score, and in how many queries a document above the last rank's score is missing. tantivy
rounds the lengths of documents.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import growth
import numpy as np
import polars as pl
import score_coalitions

from ospo_cli.maths.seeding import generator
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Coalitions
from ospo_cli.retrievers.lexical.bm25 import BM25
from ospo_cli.text.words import words

K, K1, B = 10, 1.2, 0.75
CLOSE = 1e-4


class Found(NamedTuple):
    """Rankings: documents int64[queries, K] (−1 where there is none) and scores float64[queries, K] (0 there)."""

    documents: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Work:
    """What is asked of all engines: answers with their coalitions (none for unrelated queries), and the distinct words of every text."""

    name: str
    answers: list[Coalitions]
    queries: list[list[str]]


class Engine(Protocol):
    """Another engine: built from documents of words, it makes its queries ready, searches (timed) and hands back rankings."""

    name: str
    idf: str

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None: ...
    def ready(self, queries: list[list[str]]) -> Any: ...
    def search(self, ready: Any) -> Any: ...
    def read(self, result: Any) -> Found: ...


class ImpactIndex:
    """impact-index: block-max MaxScore over a compressed index of reordered documents."""

    name, idf = "impact-index, MaxScore", "lucene"

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None:
        import impact_index

        builder = impact_index.BOWIndexBuilder(str(folder / "impact-index"), dtype="int32")
        for number, text in enumerate(documents):
            terms, counts = np.unique(np.array([int(word[1:], 16) for word in text], dtype=np.uintp), return_counts=True)
            builder.add(number, terms, counts.astype(np.int32))
        index = builder.build(True).reorder(str(folder / "impact-index-reordered"), in_memory=True)
        self.index = index.with_scoring(impact_index.BM25Scoring(k1=K1, b=B, variant="lucene"))
        self.threads = threads

    def ready(self, queries: list[list[str]]) -> Any:
        return [{int(word[1:], 16): 1.0 for word in query} for query in queries]

    def search(self, ready: Any) -> Any:
        return each(lambda query: self.index.search_maxscore(query, K), ready, self.threads)

    def read(self, result: Any) -> Found:
        return padded([[(hit.docid, hit.score) for hit in hits] for hits in result], 1.0)


class Tantivy:
    """tantivy: a Boolean query of terms, one segment, without counting all matches (so that it may skip)."""

    name, idf = "tantivy", "lucene"

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None:
        import tantivy

        self.api = tantivy
        self.schema = tantivy.SchemaBuilder().add_text_field("text", tokenizer_name="whitespace", index_option="freq").build()
        (folder / "tantivy").mkdir()
        index = tantivy.Index(self.schema, path=str(folder / "tantivy"))
        writer = index.writer(heap_size=1_000_000_000, num_threads=1)
        for text in documents:
            document = tantivy.Document()
            document.add_text("text", " ".join(text))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self.searcher = index.searcher()
        if self.searcher.num_segments != 1:
            raise SystemExit(f"tantivy made {self.searcher.num_segments} segments; its documents' numbers need one")
        self.threads = threads

    def ready(self, queries: list[list[str]]) -> Any:
        should, query = self.api.Occur.Should, self.api.Query
        return [
            query.boolean_query([(should, query.term_query(self.schema, "text", word, index_option="freq")) for word in words_of])
            for words_of in queries
        ]

    def search(self, ready: Any) -> Any:
        return each(lambda query: self.searcher.search(query, K, count=False).hits, ready, self.threads)

    def read(self, result: Any) -> Found:
        return padded([[(address.doc, score) for score, address in hits] for hits in result], K1 + 1)


class Pisa:
    """PISA: its own loop over queries, given ids; no data frames of PyTerrier, no Java."""

    name, idf = "PISA, block-max MaxScore", "robertson"
    algorithm = "block_max_maxscore"

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None:
        import pyterrier_pisa

        if not (folder / "pisa").exists():
            maker = pyterrier_pisa.PisaIndex(str(folder / "pisa"), text_field="text", stemmer="none", stops="none", threads=1)
            maker.index({"docno": str(number), "text": " ".join(text)} for number, text in enumerate(documents))
        index = pyterrier_pisa.PisaIndex(str(folder / "pisa"), stemmer="none", stops="none")
        self.engine = index.bm25(k1=K1, b=B, num_results=K, query_algorithm=self.algorithm)
        self.retrieve, self.threads = pyterrier_pisa._pisathon.retrieve, threads

    def ready(self, queries: list[list[str]]) -> Any:
        return [(row, dict.fromkeys(query, 1.0)) for row, query in enumerate(queries)]

    def search(self, ready: Any) -> Any:
        rows, documents, ranks, scores = (np.empty(len(ready) * K, dtype=dtype) for dtype in (np.int32, object, np.int32, np.float32))
        outputs = {"result_qidxs": rows, "result_docnos": documents, "result_ranks": ranks, "result_scores": scores}
        options = {"k": K, "threads": self.threads, "query_weighted": 0, "pretokenised": 1}
        count = self.retrieve(self.engine._ctxt, self.algorithm, ready, **options, **outputs)
        return len(ready), rows[:count], documents[:count], ranks[:count], scores[:count]

    def read(self, result: Any) -> Found:
        count, rows, documents, ranks, scores = result
        found = Found(np.full((count, K), -1, dtype=np.int64), np.zeros((count, K)))
        # A word of more than half of the documents counts 1e-6 there, and nothing here.
        is_some = scores > 1e-4
        found.documents[rows[is_some], ranks[is_some]] = documents[is_some].astype(np.int64)
        found.scores[rows[is_some], ranks[is_some]] = scores[is_some].astype(np.float64) / (K1 + 1)
        return found


class PisaWand(Pisa):
    """The same under block-max WAND."""

    name = "PISA, block-max WAND"
    algorithm = "block_max_wand"


class Bm25s:
    """bm25s with numba: all queries in one call."""

    name, idf = "bm25s, numba", "lucene"

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None:
        import bm25s

        self.engine = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
        self.engine.index(documents, show_progress=False)
        self.threads = threads

    def ready(self, queries: list[list[str]]) -> Any:
        # It fails on a query without a known word: another stands in, whose ranking is dropped.
        return [[word for word in query if word in self.engine.vocab_dict] for query in queries]

    def search(self, ready: Any) -> Any:
        some = next(iter(self.engine.vocab_dict))
        asked_for = [query or [some] for query in ready]
        return ready, self.engine.retrieve(asked_for, k=K, show_progress=False, n_threads=self.threads if self.threads > 1 else 0)

    def read(self, result: Any) -> Found:
        documents, scores = (np.asarray(part) for part in result[1])
        scores = np.where(np.array([bool(query) for query in result[0]])[:, None], scores, 0)
        return Found(np.where(scores > 0, documents, -1).astype(np.int64), scores.astype(np.float64))


class RankBm25:
    """rank-bm25: scores of all documents, one query after the other."""

    name, idf = "rank-bm25", "robertson"

    def __init__(self, documents: list[list[str]], folder: Path, threads: int) -> None:
        from rank_bm25 import BM25Okapi

        self.engine = BM25Okapi(documents, k1=K1, b=B, epsilon=0.0)

    def ready(self, queries: list[list[str]]) -> Any:
        return queries

    def search(self, ready: Any) -> Any:
        found = []
        for query in ready:
            scores = self.engine.get_scores(query)
            best = np.argpartition(-scores, K)[:K]
            best = best[np.argsort(-scores[best])]
            found.append([(int(document), float(scores[document])) for document in best if scores[document] > 0])
        return found

    def read(self, result: Any) -> Found:
        return padded(result, K1 + 1)


ENGINES: tuple[type[Engine], ...] = (ImpactIndex, Pisa, PisaWand, Tantivy, Bm25s, RankBm25)


def each(search: Callable[[Any], Any], queries: Sequence[Any], threads: int) -> list[Any]:
    """Return what `search` finds for each query, asked one by one from each of the threads."""
    if threads == 1:
        return [search(query) for query in queries]
    with ThreadPoolExecutor(threads) as pool:
        shares = [queries[start::threads] for start in range(threads)]
        parts = list(pool.map(lambda share: [search(query) for query in share], shares))
    found: list[Any] = [None] * len(queries)
    for start, part in enumerate(parts):
        found[start::threads] = part
    return found


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what libraries write to both streams by themselves while they index."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, own in zip((1, 2), kept, strict=True):
            os.dup2(own, stream)
            os.close(own)
        os.close(nowhere)


def padded(rankings: list[list[tuple[int, float]]], factor: float) -> Found:
    """Return rankings as arrays, scores divided by the factor that an engine leaves in."""
    found = Found(np.full((len(rankings), K), -1, dtype=np.int64), np.zeros((len(rankings), K)))
    for row, hits in enumerate(rankings):
        for rank, (document, score) in enumerate(hits):
            found.documents[row, rank], found.scores[row, rank] = document, score / factor
    return found


def timed(search: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, and processor and wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = search()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def spread(seconds: list[float]) -> str:
    """Return median [least to most] in µs."""
    own = np.array(seconds) * 1e6
    return f"{np.median(own):,.1f} [{own.min():,.1f} to {own.max():,.1f}]"


def plain(documents: pl.DataFrame) -> tuple[list[list[str]], dict[str, str]]:
    """Return each document's words, ordered by doc_id and renamed (w0, w1, … in base 16), and the new name of each word."""
    catalogue = Catalogue.from_documents(documents)
    names: dict[str, str] = {}
    return [[names.setdefault(word, f"w{len(names):x}") for word in words(text)] for text in catalogue.texts], names


def asked(documents: list[list[str]], originals: tuple[pl.DataFrame, list[str], dict[str, str]] | None, count: int) -> list[Work]:
    """Return coalitions and unrelated queries, about `count` of each, in renamed words; without originals of a generated catalogue."""
    numbers = generator(0, "engines")
    if originals is None:
        texts = [" ".join(text) for text in documents]
        answers = {kind: growth.answers(kind, texts, numbers) for kind in growth.ANSWERS}
        chosen = [documents[int(row)] for row in numbers.integers(len(documents), size=count)]
        unrelated = [[text[int(place)] for place in numbers.integers(len(text), size=int(numbers.integers(2, 7)))] for text in chosen]
    else:
        frame, queries, names = originals
        made = score_coalitions.make_work(frame, queries, 0, count, 0)
        renamed = [[" ".join(names[word] for word in words(part) if word in names) for part in parts] for parts in made.parts]
        answers = {"coalitions": [Coalitions(parts, made.present, None) for parts in renamed]}
        own = [[names[word] for word in words(query) if word in names] for query in queries]
        unrelated = [query for query in own if query][:count]
    found = []
    for name, own_answers in answers.items():
        own_answers = own_answers[: -(-count // len(own_answers[0].present))]
        texts = [
            " ".join(part for part, is_in in zip(answer.parts, row, strict=True) if is_in)
            for answer in own_answers
            for row in answer.present
        ]
        found.append(Work(name if originals else f"coalitions, {name}", own_answers, [list(dict.fromkeys(text.split())) for text in texts]))
    return [*found, Work("unrelated queries", [], [list(dict.fromkeys(query)) for query in unrelated])]


def ours(engine: BM25, work: Work) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return the ways to ask ospo for this work, and how many texts each ranks; the first gives all."""
    texts = [" ".join(query) for query in work.queries]
    few = texts[:200]
    ways: dict[str, tuple[Callable[[], Any], int]] = {}
    if work.answers:
        ways["ospo, coalitions in one call"] = (lambda: Found(*engine.rank_coalitions(work.answers, K)), len(texts))
    ways["ospo, texts in one call"] = (lambda: Found(*engine.rank_queries(texts, None, K)), len(texts))
    ways["ospo, one call per text"] = (lambda: [engine.rank([text], [None], K) for text in few], len(few))
    return ways


def difference(found: Found, reference: Found) -> str:
    """Return the largest difference of scores at equal ranks (part of the best score, or of 1), and how many rankings differ otherwise."""
    width = min(found.scores.shape[1], reference.scores.shape[1])
    mine, theirs = reference.scores[:, :width], found.scores[:, :width]
    top = np.maximum(mine[:, :1], 1.0)  # weights are integers: a query of words that say next to nothing has few digits
    last = mine[:, -1:]
    missing = sum(
        bool(set(own[scores > edge + CLOSE * largest].tolist()) - set(other.tolist()))
        for own, scores, edge, largest, other in zip(
            reference.documents[:, :width], mine, last[:, 0], top[:, 0], found.documents[:, :width], strict=True
        )
    )
    return f"scores within {float((np.abs(mine - theirs) / top).max()):.1e}, documents differ in {missing} of {len(mine)}"


def compare(engine: Engine, mine: BM25, works: list[Work], arguments: argparse.Namespace) -> None:
    """Print per work our times and the engine's, taken in turns, and the ratios of the medians to our first way."""
    for work in works:
        ways = ours(mine, work)
        first, _ = next(iter(ways.values()))
        ready = engine.ready(work.queries)
        few = max(1, len(ready) // 100)
        engine.search(ready[:few])
        _, _, wall = timed(lambda ready=ready, few=few: engine.search(ready[:few]))
        count = min(len(ready), max(8, int(arguments.budget / max(wall / few, 1e-9))))
        reference, results = first(), None
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in (engine.name, *ways)}
        for _ in range(arguments.repeats):
            results, *took = timed(lambda ready=ready, count=count: engine.search(ready[:count]))
            seconds[engine.name].append((took[0] / count, took[1] / count))
            for name, (way, texts) in ways.items():
                _, *took = timed(way)
                seconds[name].append((took[0] / texts, took[1] / texts))
        mean_words = np.mean([len(query) for query in work.queries])
        print(f"  {work.name}: {len(ready):,} texts of {mean_words:.1f} words; {engine.name} {count:,} of them")
        for name, took in seconds.items():
            cpu, wall = ([each_one[column] for each_one in took] for column in (0, 1))
            theirs = np.median(seconds[engine.name], axis=0)
            over = theirs / (np.median(cpu), np.median(wall))
            ratio = "" if name == engine.name else f"; ratio {over[0]:.2f} (CPU), {over[1]:.2f} (wall)"
            print(f"    {name}: CPU {spread(cpu)} µs, wall {spread(wall)} µs{ratio}")
        found = engine.read(results)
        print(f"    {difference(found, Found(*(part[:count] for part in reference)))}", flush=True)


def main() -> None:
    """Print the times of all engines that are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="Parquet of doc_id (or product_id) and text columns")
    parser.add_argument("--queries", type=Path, help="Parquet of prompt_id (or query_id) and query")
    parser.add_argument("--generated", type=int, help="a generated catalogue of so many documents instead")
    parser.add_argument("--queries-count", type=int, default=2000, help="coalitions and queries, about")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds that a repeat of an engine may take, about")
    parser.add_argument("--engines", nargs="+", default=[engine.__name__ for engine in ENGINES], help="class names in this file")
    parser.add_argument("--all-cores", action="store_true", help="one thread per core; without it the process is bound to one core")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    threads = len(cores) if arguments.all_cores else 1
    originals = None
    if arguments.generated:
        documents = [text.split() for text in growth.titles(arguments.generated, generator(0, f"growth-{arguments.generated}"))]
    else:
        frame, queries = score_coalitions.read(arguments.documents, arguments.queries)
        documents, names = plain(frame)
        originals = (frame.sort("doc_id"), queries, names)
    size = f"{len(documents):,} documents, {sum(map(len, documents)):,} words"
    print(f"{size}, k = {K}, {threads} thread(s); median [least to most] per query")
    works = asked(documents, originals, arguments.queries_count)
    catalogue = Catalogue([f"{number:08d}" for number in range(len(documents))], [" ".join(text) for text in documents])
    own = {idf: BM25(catalogue, Retrieval(k1=K1, b=B, idf=idf), None) for idf in ("lucene", "robertson")}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ENGINES:
            if kind.__name__ not in arguments.engines:
                continue
            os.sched_setaffinity(0, cores)  # PISA's building waits for ever on one core
            try:
                with silent():
                    engine, cpu, _ = timed(lambda kind=kind: kind(documents, Path(folder), threads))
            except ModuleNotFoundError as error:
                print(f"{kind.__name__}: package {error.name} is not installed")
                continue
            print(f"{engine.name} (index: {cpu:.1f} s of processor time)", flush=True)
            if not arguments.all_cores:
                os.sched_setaffinity(0, cores[-1:])
            compare(engine, own[engine.idf], works, arguments)
            del engine


if __name__ == "__main__":
    main()
