"""A project that has been attributed without any model: prepared tables, a tokenizer of single bytes, written answers."""

import json
from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ospo_cli.layout import Layout
from ospo_cli.stages import attribute, score_coalitions, segment
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import tiny_params, write_prepared
from tests.tables.sampled import sampled_frame, sampled_row

END = "<end>"
PARAMS = tiny_params()
# p00's and p01's answers differ in reward, p02's are all the same: a degenerate group.
ANSWERS = {
    "p00": (
        "<answer>navy coat, wool</answer>",
        "<answer>boots</answer>",
        "<think>é 👩‍👧</think><answer>coat for the office</answer>",
        "red",
    ),
    "p01": ("<answer>linen dress olive</answer>", "<answer>black scarf</answer>", "<answer>leather boots, red</answer>", ""),
    "p02": ("<answer>xyz</answer>",) * 4,
}


def byte_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer with one special end token (id 0) and one id per byte."""
    vocabulary = {END: 0} | {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


def rollouts() -> pl.DataFrame:
    """Return table rollouts of the answers; those without tags are cut off."""
    tokenizer, rng = byte_tokenizer(), np.random.default_rng(3)
    rows = []
    for prompt_id, answers in ANSWERS.items():
        for index, text in enumerate(answers):
            is_cut_off = "<answer>" not in text
            ids = tokenizer.encode(text).ids + ([] if is_cut_off else [0])
            others = {
                "prompt_token_ids": tokenizer.encode(prompt_id * (1 + int(prompt_id[-1]))).ids,
                "behavior_logprobs": (-rng.exponential(size=len(ids))).tolist(),
                "finish_reason": "length" if is_cut_off else "stop",
            }
            rows.append(sampled_row(f"001:{prompt_id}:{index:02d}", prompt_id, text, ids, **others))
    return sampled_frame(*rows)


def write_project(root: Path) -> Layout:
    """Write the project up to the token advantages of iteration 1."""
    layout = write_prepared(root)
    layout.policy(0).mkdir(parents=True)
    byte_tokenizer().save(str(layout.policy(0) / "tokenizer.json"))
    parquet.write(rollouts(), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    for stage in (segment, score_coalitions, attribute):
        stage.execute(layout, PARAMS, 1)
    return layout


def foreign_rows() -> list[dict]:
    """Return the same rollouts as another trainer would save them: the columns that are required, no more."""
    names = {"prompt_id": "prompt_id", "completion": "completion", "token_ids": "completion_token_ids", "behavior_logprobs": "old_logprobs"}
    return rollouts().select(list(names)).rename(names).to_dicts()


def write_json_lines(path: Path, rows: list) -> Path:
    """Write rows (dicts as JSON, text as it is)."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path
