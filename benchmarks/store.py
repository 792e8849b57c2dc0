"""The store of values: look-up beside computing, per value and retriever; and look-ups, writing and bytes as it grows.

    python benchmarks/store.py [--documents FILE --queries FILE] [--retrievers bm25,lsa] [--texts 4000]
        [--entries 1000000]

First: texts of phrases of related products' titles, in pools of 100 and over the whole catalogue (without files: ../shared/data/
chorus-icecat beside the repository, else the demo shop), each engine three times: computed, computed and written, found. CPU time, since
machines are shared; best of three. A retriever's values are kept (`store.values: auto`) where computing one takes at least twice as long
as finding and writing it. Then: batches of 20,000 entries of 64 prompts up to --entries in one book, with the time of looking up 10,000
keys, a tenth of them unknown.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.maths.seeding import generator
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.store import Store as StoreParams
from ospo_cli.params.whole import Params
from ospo_cli.retrievers import RETRIEVERS
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.remembered import is_kept
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.store.keys import Keys, joined, keys, scope
from ospo_cli.sources import opening
from ospo_cli.tables.prepared import POOLS, PROMPTS, QRELS
from ospo_cli.text.words import words

ICECAT = Path(__file__).resolve().parents[2] / "shared" / "data" / "chorus-icecat"
POOL_SIZE = 100
TEXTS_PER_PROMPT = 250
REPEATS = 3
# Engines that rank one query at a time get a part of the texts.
SLOW = {"rank-bm25": 20, "bm25s": 10, "lsa": 2}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="Parquet of doc_id (or product_id) and text columns")
    parser.add_argument("--queries", type=Path, help="Parquet of prompt_id (or query_id) and query")
    parser.add_argument("--retrievers", default=",".join(RETRIEVERS), help="names, separated by commas")
    parser.add_argument("--texts", type=int, default=4_000, help="how many texts the fastest engines score; 0 leaves this part out")
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the growing book; 0 leaves this part out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.texts:
            per_value(arguments, Path(folder))
        if arguments.entries:
            growth(arguments.entries, Path(folder))


def per_value(arguments: argparse.Namespace, folder: Path) -> None:
    """Print what computing, writing and finding a value takes."""
    documents, queries = read(arguments.documents, arguments.queries)
    print(f"{documents.height:,} documents; µs of CPU time per value, best of {REPEATS}")
    print(f"{'':27}{'computed':>10}{'written':>10}{'found':>10}  store.values: auto")
    for pool_size in (POOL_SIZE, 0):
        tables = made(documents, queries, pool_size, arguments.texts)
        for name in arguments.retrievers.split(","):
            count = max(TEXTS_PER_PROMPT, len(tables[4]) // SLOW.get(name, 1))
            prompt_ids, texts = tables[3][:count], tables[4][:count]
            computing, writing, finding = [], [], []
            for repeat in range(REPEATS):
                root = folder / f"{name}-{pool_size}-{repeat}"
                plain, kept, again = (reward(documents, tables, name, root, values) for values in ("never", "always", "always"))
                plain.values(prompt_ids[:3], texts[:3])
                computing.append(cpu(lambda: plain.values(prompt_ids, texts)))  # noqa: B023
                writing.append(cpu(lambda: kept.values(prompt_ids, texts)))  # noqa: B023
                finding.append(cpu(lambda: again.values(prompt_ids, texts)))  # noqa: B023
                assert again.tally.computed == 0
            each = [min(seconds) / count * 1e6 for seconds in (computing, writing, finding)]
            label = f"{name}, {'pools of 100' if pool_size else 'whole catalogue'}"
            kept_by_auto = "kept" if is_kept(plain.retriever, pool_size or documents.height, "auto") else "computed"
            print(f"{label:27}{each[0]:10.1f}{max(0.0, each[1] - each[0]):10.1f}{each[2]:10.1f}  {kept_by_auto}", flush=True)


def reward(documents: pl.DataFrame, tables: tuple, retriever: str, root: Path, values: str) -> JudgedReward:
    """Return a reward with that store.values."""
    parameters = dataclasses.replace(Params(), store=StoreParams(values=values))
    return JudgedReward((documents, *tables[:3]), parameters, retriever=retriever, cache=root / "cache", store=Store(root / "store"))


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read(documents_path: Path | None, queries_path: Path | None) -> tuple[pl.DataFrame, list[str]]:
    """Return table documents and the queries' texts."""
    if documents_path is None and ICECAT.is_dir():
        documents_path, queries_path = ICECAT / "products.parquet", ICECAT / "queries.parquet"
    if documents_path is None or queries_path is None:
        data = opening.read(PrepareData(), 0, Path())
        return data.documents, data.prompts["query"].to_list()
    documents = pl.read_parquet(documents_path)
    documents = documents.rename({"product_id": "doc_id"} if "doc_id" not in documents.columns else {})
    return documents.select(pl.col(pl.String).fill_null("")), pl.read_parquet(queries_path)["query"].to_list()


def made(documents: pl.DataFrame, queries: list[str], pool_size: int, count: int) -> tuple:
    """Return prompts, judgments, pools, and `count` different texts with their prompts: windows of related titles, put together."""
    ordered = documents.sort("doc_id")
    ids, titles = ordered["doc_id"].to_list(), [words(title) for title in ordered["title"].to_list()]
    nothing = (pl.DataFrame(schema=PROMPTS.schema), pl.DataFrame(schema=QRELS.schema), pl.DataFrame(schema=POOLS.schema))
    search = JudgedReward((documents, *nothing), Params()).retriever
    numbers = generator(0, "benchmark")
    rows: dict[str, list[tuple]] = {"prompts": [], "qrels": [], "pools": []}
    pairs: dict[tuple[str, str], None] = {}
    for index in range(100 * len(queries)):
        if len(pairs) >= count:
            break
        query = queries[index % len(queries)]
        found = [document for document in search.rank([query], [None], 50)[0].documents.tolist() if titles[document]]
        if len(found) < 5:
            continue
        prompt_id = f"p{index}"
        rows["prompts"].append((prompt_id, "train", query, [], query))
        rows["qrels"] += [(prompt_id, ids[document], 1.0) for document in found[:3]]
        if pool_size:
            others = numbers.choice(len(ids), size=min(pool_size, len(ids)), replace=False).tolist()
            rows["pools"] += [(prompt_id, ids[document]) for document in list(dict.fromkeys([*found, *others]))[:pool_size]]
        target = len(pairs) + TEXTS_PER_PROMPT
        for _ in range(20 * TEXTS_PER_PROMPT):
            if len(pairs) >= target:
                break
            phrases = []
            for _ in range(int(numbers.integers(1, 6))):
                title = titles[found[numbers.integers(len(found))]]
                start = int(numbers.integers(len(title)))
                phrases.append(" ".join(title[start : start + int(numbers.integers(1, 4))]))
            pairs[prompt_id, ", ".join(phrases)] = None
    frames = [pl.DataFrame(rows[table.name], schema=table.schema, orient="row") for table in (PROMPTS, QRELS, POOLS)]
    chosen = list(pairs)[:count]
    return *frames, [prompt_id for prompt_id, _ in chosen], [text for _, text in chosen]


def growth(entries: int, folder: Path, batch: int = 20_000, prompts_per_batch: int = 64) -> None:
    """Print how a book grows and what look-ups of 10,000 keys take in it."""
    book = Store(folder / "growth").book({"retriever": "benchmark", "parts": ["ndcg@10"]})
    numbers, seconds = np.random.default_rng(0), 0.0

    def batch_keys(index: int) -> Keys:
        prompts = np.random.default_rng(index).integers(0, 20_000, size=prompts_per_batch).tolist()
        texts = range(batch // prompts_per_batch)
        named = [(scope(str(prompt).encode()), f"{index} {place}") for place, prompt in enumerate(prompts)]
        return joined([keys(own, [f"{name} {text}" for text in texts]) for own, name in named])

    def look_ups(label: str) -> None:
        for name, spread in (("one shard's", 1), ("from everywhere", 40)):
            wall, busy = [], []
            for _ in range(7):
                chosen = [batch_keys(int(index)) for index in numbers.integers(0, -(-done // batch), size=spread)]
                own = joined([part[np.sort(numbers.permutation(len(part))[: 9_000 // spread])] for part in chosen])
                wanted = joined([own, keys(scope(b"unknown"), map(str, range(10_000 - len(own))))])
                start, start_cpu = time.perf_counter(), time.process_time()
                found = book.look_up(wanted)
                wall.append(time.perf_counter() - start)
                busy.append(time.process_time() - start_cpu)
                assert found.is_found[: len(own)].all()
                assert not found.is_found[len(own) :].any()
            shown = f"best {min(wall) * 1e3:.0f}, first {wall[0] * 1e3:.0f}, CPU {min(busy) * 1e3:.0f}"
            print(f"  {label}: 10,000 keys, {name}: {shown} ms", flush=True)

    done = 0
    for index in range(entries // batch):
        own = batch_keys(index)
        values = numbers.random((len(own), 1))
        start_cpu = time.process_time()
        book.write(own, values)
        seconds += time.process_time() - start_cpu
        done += len(own)
        if (index + 1) % max(1, entries // batch // 5) == 0:
            print(f"{done:,} entries: {seconds / done * 1e6:.1f} µs of CPU time per entry written, {book.size() / done:.1f} bytes each")
            look_ups("in use")
    book.close()
    look_ups("opened again")
    book.close()
    with open(book.path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    look_ups("file cache emptied")
    start = time.perf_counter()
    print(f"all {book.verify():,} entries verified in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
