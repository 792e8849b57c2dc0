"""Memory and time of stages score-coalitions and attribute for answers of many segments, estimator by estimator.

    python benchmarks/long_answers.py [--segments 50 200 400] [--estimators myerson,shapley]

One rollout group of two answers, forty products, bm25. Each figure is a process of its own, which is ended after a minute. A cell is one
segment of one coalition.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import time
import traceback
from pathlib import Path

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.executors.usage import Usage
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.group_game import ESTIMATOR_NAMES, GROUP_GAMES
from ospo_cli.maths.redistribution import NO_RULE
from ospo_cli.params.whole import Params
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.rewards.coalition_sizes import cells, spliced_cells
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages.attribute import Scored, attribute
from ospo_cli.stages.score_coalitions import score_coalitions, score_spliced
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame
from ospo_cli.tables.segment import SEGMENTS

LONGEST_SECONDS = 60
WORDS = ("red", "blue", "wool", "cotton", "coat", "shirt", "boots", "belt")


def group(n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rollouts and segments of two answers of n words; a token is a letter."""
    rows, spans = [], []
    for sample in range(2):
        text = " ".join(WORDS[(place * (3 + 2 * sample)) % len(WORDS)] for place in range(n))
        name, position = f"001:p:{sample:02d}", 0
        for index, word in enumerate(text.split(" ")):
            spans.append((name, index, index // 4, position, position + len(word)))
            position += len(word) + 1
        ids = [ord(letter) for letter in text]
        rows.append(RolloutRow(name, "p", sample, [1], text, ids, [-1.0] * len(ids), "stop"))
    segments = pl.DataFrame(spans, schema=SEGMENTS.schema, orient="row")
    return rollouts_frame(rows), segments


def measured(name: str, n: int, queue: int) -> None:
    """Write what one estimator takes for answers of n segments, or why it was refused."""
    rule = NO_RULE if name in GROUP_GAMES else "group-additive"
    params = dataclasses.replace(Params(), attribute=dataclasses.replace(Params().attribute, estimator=name, rule=rule))
    scoring = dataclasses.replace(params.score_coalitions, estimators=[name], degenerate_groups="evaluate", length_limit=10**6)
    params = dataclasses.replace(params, score_coalitions=scoring)
    documents = pl.DataFrame([(f"d{k}", f"{WORDS[k % 8]} {WORDS[k // 8]}", "") for k in range(40)], schema=DOCUMENTS.schema, orient="row")
    prompts = pl.DataFrame([("p", "train", "coat", [], "coat")], schema=PROMPTS.schema, orient="row")
    qrels = pl.DataFrame([("p", "d3", 1.0)], schema=QRELS.schema, orient="row")
    reward = JudgedReward((documents, prompts, qrels, POOLS.empty()), params)
    rollouts, segments = group(n)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        with Usage() as scoring_usage:
            scorer = TextScorer(reward, scoring)
            rewards, values, _ = score_coalitions(rollouts, segments, reward, params, scorer)
            spliced = score_spliced(rollouts, segments, rewards, scorer)
        held = values.height + spliced.height
        with Usage() as attribute_usage:
            attribute(Scored(rollouts, segments, rewards, values, spliced), lambda ids: [bytes([letter]) for letter in ids], params)
    except OspoError as error:
        os.write(queue, f"refused: {error.line()[:160]}".encode())
        return
    size = cells(Players(n, tuple(index // 4 for index in range(n))), scoring, Budget(**scoring.coalition_budget))
    size += spliced_cells([n, n], scoring) // 2
    peaks = [usage.peak_bytes - before for usage in (scoring_usage, attribute_usage)]
    each = max(peaks) / max(2 * size, 1)
    text = f"{held // 2:,} texts, {size:,} cells each | {peaks[0] / 1e6:,.0f} MB, {scoring_usage.seconds:.1f} s | "
    text += f"{peaks[1] / 1e6:,.0f} MB, {attribute_usage.seconds:.1f} s | {each:.0f} bytes a cell"
    os.write(queue, text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, nargs="+", default=[50, 200, 400])
    parser.add_argument("--estimators", default=",".join(ESTIMATOR_NAMES))
    arguments = parser.parse_args()
    print("estimator, segments: of one answer | score-coalitions, two answers | attribute, two answers | memory")
    for name in arguments.estimators.split(","):
        for n in arguments.segments:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    measured(name, n, writing)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            os.close(writing)
            give_up = time.monotonic() + LONGEST_SECONDS
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > give_up:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    break
                time.sleep(0.05)
            said = os.read(reading, 4096).decode()
            os.close(reading)
            print(f"{name}, {n}: {said or f'ended after {LONGEST_SECONDS} s'}", flush=True)


if __name__ == "__main__":
    main()
