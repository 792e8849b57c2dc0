"""A catalogue of forty products, and rollouts whose segments are given."""

import numpy as np
import polars as pl

from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.segment import SEGMENTS
from tests.tables.sampled import sampled_frame, sampled_row

WORDS = ["red", "blue", "wool", "cotton", "coat", "shirt", "boots", "belt", "warm", "rain", "linen", "green"]
GROUPS, SIZE = 6, 4


def rollout(prompt_id, sample, phrases, tags=True, finish="stop"):
    """Return a row of rollouts and its rows of segments, one segment per phrase."""
    before, after = ("<answer>", "</answer>") if tags else ("", "")
    completion = before + ", ".join(phrases) + after
    rollout_id = f"001:{prompt_id}:{sample:02d}"
    spans, position = [], len(before)
    for index, phrase in enumerate(phrases):
        spans.append((rollout_id, index, 0, position, position + len(phrase)))
        position += len(phrase) + 2
    return sampled_row(rollout_id, prompt_id, completion, finish_reason=finish), spans


def frames(*rows):
    """Return tables rollouts and segments."""
    return sampled_frame(*(row for row, _ in rows)), pl.DataFrame(
        [span for _, spans in rows for span in spans], schema=SEGMENTS.schema, orient="row"
    )


def prepared(pooled=False):
    rng = np.random.default_rng(41)
    titles = [" ".join(rng.choice(WORDS, size=rng.integers(2, 6), replace=False)) for _ in range(40)]
    ids = [f"d{index:02d}" for index in range(40)]
    documents = pl.DataFrame({"doc_id": ids, "title": titles, "category": [""] * 40}, schema=DOCUMENTS.schema)
    names = [f"p{index}" for index in range(GROUPS)]
    prompts = pl.DataFrame(
        [(name, "train", f"{WORDS[index]} thing", [], "x") for index, name in enumerate(names)], schema=PROMPTS.schema, orient="row"
    )
    qrels = pl.DataFrame(
        [(name, ids[place], 1.0) for name in names for place in np.sort(rng.permutation(40)[:3])], schema=QRELS.schema, orient="row"
    )
    pools = pl.DataFrame([(name, doc_id) for name in names for doc_id in ids[:30]] * pooled, schema=POOLS.schema, orient="row")
    return documents, prompts, qrels, pools


def sampled_rows(seed=42):
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(GROUPS):
        for sample in range(SIZE):
            phrases = [" ".join(rng.choice(WORDS, size=rng.integers(1, 3), replace=False)) for _ in range(rng.integers(1, 7))]
            rows.append(rollout(f"p{group}", sample, phrases, tags=bool(rng.integers(4)), finish=str(rng.choice(["stop", "length"]))))
    return rows
