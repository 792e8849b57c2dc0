"""What a stage takes by a rule of thumb: a plan in seconds of time, where nothing has run here yet (docs/planning.md: how far off)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.layout import Layout
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.policy import Policy
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.train import Train
from ospo_cli.params.update import Update
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.tables import files, placed
from ospo_cli.tables.prepared import DOCUMENTS, PROMPTS, TEACHER_PAIRS

FACTOR = 2.0  # of what was measured, nothing lay further off
ORACLE = "evaluate: oracle"
LOCAL = {"bm25", "rank-bm25", "bm25s", "tfidf-char", "lsa", "checker"}  # retrievers that run no model and ask nobody
# Processor seconds of one thread on two shared cores (AMD EPYC). Not scaled by a loop timed now: there it varies by four in minutes.
DECODED, DECODED_WEIGHT = 1.5e-4, 3.5e-11  # a token that is sampled: a fixed part, and one that grows with the weights
TRAINED, TRAINED_WEIGHT = 2e-5, 4.5e-11  # a token forwards and backwards
STEP, RANKING, DOCUMENT, LISTED = 0.05, 1.5e-4, 1e-8, 3e-4  # an optimiser step; a text's value, per document; a ranking of the evaluation
LOADING = 7.0  # PyTorch and transformers, once: in the first stage that trains
TEXTS = 8  # distinct texts an answer of four phrases has
CHARACTERS = 4.0  # of a token
TAGS, CHAT = 17, 12  # characters of an answer's tags; tokens of a chat format
BYTES = {"score-queries": 60, "rollout": 230, "segment": 35, "score-coalitions": 480, "attribute": 160, "evaluate": 1500, "report": 25_000}
BYTES_OF_WEIGHT = {"warm-start": 4, "update": 12}


class Reads(Protocol):
    """What the rules read of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def prepare_data(self) -> PrepareData: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def warm_start(self) -> WarmStart: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def score_coalitions(self) -> ScoreCoalitions: ...
    @property
    def update(self) -> Update: ...
    @property
    def evaluate(self) -> Evaluate: ...


def refusal(stages: Collection[str], params: Reads, root: Path) -> str:
    """Return why no rule tells how long these stages take; empty where one does."""
    if unknown := sorted({*stages} - {*BYTES, *BYTES_OF_WEIGHT}):
        return f"no rule is known for {unknown[0]}"
    if Path("/dev/nvidia0").exists():
        return "this machine has a GPU"
    if params.rollout.sampler != "transformers":
        return f"rollout.sampler is {params.rollout.sampler}"
    scoring = params.score_coalitions
    if scoring.own_reward:
        return "score_coalitions.own_reward is your own code"
    if slow := sorted({scoring.retriever, *params.evaluate.retrievers} - LOCAL):
        return f"retriever {slow[0]} runs a model or asks a server"
    if params.policy.base != "config" and not (root / params.policy.base / "config.json").is_file():
        return f"{params.policy.base} is not there"
    return ""


def expected(layout: Layout, params: Reads, exact: Mapping[str, tuple[int, int, int]]) -> dict[str, dict[str, Any]]:
    """Return stage -> units, seconds, processor seconds, bytes and peak memory of one run."""
    weights, trained = _weights(params.policy, layout.root / params.policy.base)
    prompt, answer = _tokens(layout, params.prepare_data, params.warm_start, params.rollout)
    value = RANKING + (DOCUMENT * placed.read(DOCUMENTS, layout).height if params.prepare_data.pool == "catalogue" else 0.0)
    decode, learn = answer * (DECODED + DECODED_WEIGHT * weights), (prompt + answer) * (TRAINED + TRAINED_WEIGHT * weights)
    completions, steps = exact["update"][:2]
    settings = params.evaluate
    seconds = {
        "score-queries": 0.3 + exact["score-queries"][0] * value,
        "warm-start": LOADING + exact["warm-start"][0] * (STEP + params.warm_start.batch_size * learn),
        "rollout": completions * decode,
        "segment": 0.05 + completions * 2.5e-4,
        "score-coalitions": 0.3 + completions * TEXTS * value,
        "attribute": 0.05 + completions * 3e-4,
        "update": params.update.epochs * completions * learn + steps * STEP,
        "evaluate": 3.0
        + exact["evaluate"][0] * (decode + len(settings.retrievers) * LISTED)
        + exact[ORACLE][0] * min(settings.oracle_edits, 2) * settings.oracle_words * value,
        "report": 0.5 + params.train.iterations * 0.05,
    }
    sizes = {stage: exact[stage][0] * size for stage, size in BYTES.items()}
    sizes |= {stage: size * trained for stage, size in BYTES_OF_WEIGHT.items()}
    units = {stage: exact[stage][1] for stage in seconds} | {"score-coalitions": completions * TEXTS}
    return {
        stage: {
            "units": units[stage], "seconds": took, "cpu_seconds": took, "bytes": sizes[stage],
            "peak_bytes": 800_000_000 + 20 * weights,
        }
        for stage, took in seconds.items()
    }  # fmt: skip


def _weights(own: Policy, base: Path) -> tuple[int, int]:
    """Return how many weights the policy has, and how many of them are trained."""
    width, inner, layers, words = own.hidden_size, own.intermediate_size, own.layers, own.vocabulary_size
    if own.base != "config":
        found, names = files.read_json(base / "config.json"), ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
        if missing := [name for name in names if type(found.get(name)) is not int]:
            remedy = "use `ospo plan --sample`"
            raise OspoError(base / "config.json", "no rule for this model", found=f"no {missing[0]}", expected="a number", remedy=remedy)
        width, inner, layers, words = (found[name] for name in names)
    whole = layers * (4 * width * width + 3 * width * inner) + words * width
    return whole, layers * own.lora_rank * (11 * width + 3 * inner) if own.lora_rank else whole


def _tokens(layout: Layout, prepare_data: PrepareData, warm_start: WarmStart, rollout: Rollout) -> tuple[float, float]:
    """Return the tokens of a prompt and of an answer in the mean: those of the teacher where the data set has one."""
    prompts = placed.read(PROMPTS, layout)
    lengths = prompts.select(
        pl.col("query").str.len_chars().mean(), history=pl.col("history").list.eval(pl.element().str.len_chars() + 2).list.sum().mean()
    )
    pairs = placed.read(TEACHER_PAIRS, layout)["completion"].str.len_chars().mean()
    typed = pairs if warm_start.teacher == "source" and isinstance(pairs, float) else warm_start.title_characters + TAGS
    prompt = len(prepare_data.prompt_template) + sum(each or 0.0 for each in lengths.row(0))
    return CHAT + prompt / CHARACTERS, min(rollout.max_new_tokens, typed / CHARACTERS)
