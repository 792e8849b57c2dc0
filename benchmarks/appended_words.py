"""What fixed words are worth: the raw query with the words appended, and the final policy's greedy answers without them.

Run: python benchmarks/appended_words.py PROJECT WORD [WORD …]

A control for `composition: append`: a policy may have learned a suffix that does not depend on the query. PROJECT is evaluated already; its
reward's retriever and metric are used on the evaluated prompts, differences to the raw query are paired.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params import whole
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables import parquet
from ospo_cli.tables.evaluate import COMPLETIONS
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.text.answers import find_answer


def main() -> None:
    """Print one line per control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    layout = Layout(options.project)
    params = whole.load(layout.params)
    documents, prompts, qrels, pools = (
        parquet.read(layout.prepared(f"{table.name}.parquet"), table) for table in (DOCUMENTS, PROMPTS, QRELS, POOLS)
    )
    reward = JudgedReward((documents, prompts, qrels, pools), params)
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    final = completions.filter(pl.col("system").str.starts_with("policy-") & (pl.col("decoding") == "greedy"))
    final = final.filter(pl.col("system") == final["system"].max()).sort("prompt_id")
    ids = final["prompt_id"].to_list()
    answers = [text[answer.start : answer.end] for text in final["completion"] for answer in [find_answer(text)]]
    without = [re.sub(rf"\b({'|'.join(map(re.escape, options.words))})\b", " ", answer) for answer in answers]
    draws = Resamples(len(ids), 2000, seeding.generator(params.train.seed, "appended words"))
    suffix = " ".join(options.words)
    raw = reward.values(ids, [reward.raw_query(prompt_id) for prompt_id in ids])
    share = sum(changed != answer for changed, answer in zip(without, answers, strict=True)) / len(ids)
    print(f"{len(ids)} prompts, {params.score_coalitions.metric}; {share:.1%} of the final answers hold one of: {suffix}")
    print(f"raw query {raw.mean():.3f}")
    for name, texts in (
        (f"raw query + {suffix}", [suffix] * len(ids)),
        ("final answers", answers),
        ("final answers without them", without),
    ):
        values = reward.values(ids, [reward.compose(prompt_id, text) for prompt_id, text in zip(ids, texts, strict=True)])
        mean, low, high, p_value, _ = draws.difference(values, raw)
        print(f"{name} {values.mean():.3f}, minus raw query {mean:+.3f} [{low:+.3f}, {high:+.3f}], p {p_value:.4f}")


if __name__ == "__main__":
    main()
