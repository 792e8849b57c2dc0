"""What a pretrained model that nobody trained adds to a query: query2doc and HyDE over BM25, beside the raw query.

    ospo fetch-policy smollm2-135m
    python benchmarks/prompted_expansion.py PROJECT data/pretrained/smollm2-135m --split test [--prompts 300]

The project needs its prepared tables (`ospo prepare-data`). The model writes one passage per query, greedily, at most 64 tokens, after an
instruction and no examples (a user's domain has none at hand). Three ways of using it: the passage alone (HyDE, Gao et al. 2022, arXiv
2212.10496, over words instead of vectors), the query with the passage behind it, and the query five times with the passage behind it
(query2doc, Wang et al. 2023, arXiv 2303.07678, as it is for BM25), where repeated words count (`query_terms: counted`). Differences to the
raw query have 95 % intervals over prompts.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ospo_cli.layout import Layout
from ospo_cli.maths.seeding import generator
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params import whole
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judgments import read_prepared

INSTRUCTION = "Write a short passage that answers this search query: {query}"
TOKENS, ROWS, REPEATS = 64, 16, 5


def passages(folder: Path, queries: list[str]) -> list[str]:
    """Return the model's passage for each query; white space is folded."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    chats = [[{"role": "user", "content": INSTRUCTION.format(query=query)}] for query in queries]
    order = sorted(range(len(queries)), key=lambda index: len(queries[index]))
    found, began = [""] * len(queries), time.process_time()
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        texts = [tokenizer.apply_chat_template(chats[row], tokenize=False, add_generation_prompt=True) for row in rows]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        for row, text in zip(rows, tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True), strict=True):
            found[row] = " ".join(text.split())
        print(f"passages: {first + len(rows)} of {len(order)}, {time.process_time() - began:.0f} s of processor time", file=sys.stderr)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--prompts", type=int, default=300, help="most prompts, drawn by the project's seed; 0: all")
    options = parser.parse_args()
    layout, params = Layout(options.project), whole.load(options.project / "params.yaml")
    tables = read_prepared(layout)
    chosen = tables.prompts.filter(tables.prompts["split"] == options.split).sort("prompt_id")
    if options.prompts and chosen.height > options.prompts:
        chosen = chosen.sample(options.prompts, seed=params.train.seed).sort("prompt_id")
    ids, raw = chosen["prompt_id"].to_list(), chosen["query"].to_list()
    written = passages(options.model, raw)
    counted = replace(params, retrieval=replace(params.retrieval, query_terms="counted"))
    behind = [f"{query} {passage}" for query, passage in zip(raw, written, strict=True)]
    systems = {
        "passage alone (HyDE)": (params, written),
        "query and passage": (params, behind),
        f"query {REPEATS} times and passage (query2doc)": (
            counted,
            [" ".join([*[query] * (REPEATS - 1), text]) for query, text in zip(raw, behind, strict=True)],
        ),
    }
    draws = Resamples(len(ids), params.evaluate.bootstrap, generator(params.train.seed, "prompted expansion"))
    reward = JudgedReward(tables, params, retriever="bm25", cache=layout.cache)
    base = reward.values(ids, raw)
    print(f"{len(ids)} prompts of split {options.split}, {reward.metric.name}\n")
    print("| system | value | minus the raw query |\n| --- | --- | --- |")
    print(f"| raw query | {base.mean():.3f} | |")
    for system, (how, queries) in systems.items():
        values = JudgedReward(tables, how, retriever="bm25", cache=layout.cache).values(ids, queries)
        each = draws.difference(values, base)
        print(f"| {system} | {values.mean():.3f} | {each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}] |")
    print("\nfirst passages:")
    for query, passage in list(zip(raw, written, strict=True))[:3]:
        print(f"  {query!r}: {passage!r}")


if __name__ == "__main__":
    main()
