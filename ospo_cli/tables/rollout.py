"""Tables of stage rollout."""

from __future__ import annotations

import polars as pl

from ospo_cli.errors import TableError
from ospo_cli.layout import Layout
from ospo_cli.tables import placed
from ospo_cli.tables.declare import Column, Place, Table

NO_LOGPROB = -9999.0  # what vLLM's server writes in place of minus infinity: this and less is none
SAMPLED = Place("ospo rollout --iter {iteration}", "iteration")
ROLLOUTS = Table(
    "rollouts",
    "sampled completions; no reward, so that a change of reward never samples again",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "iteration:prompt_id:sample_index, unique over all iterations"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0 within a rollout group"),
        Column("prompt_token_ids", pl.List(pl.Int32), "token ids that the policy was given"),
        Column("completion", pl.String, "text of token_ids without the end token"),
        Column("token_ids", pl.List(pl.Int32), "sampled token ids, end token included where it was sampled"),
        Column(
            "behavior_logprobs",
            pl.List(pl.Float32),
            "natural log-probability of each sampled token under the sampling policy at rollout.temperature, no token cut off",
        ),
        Column("answer_start", pl.Int32, "first character of the answer within completion, from 0"),
        Column("answer_end", pl.Int32, "character after the answer; answer_start where it is malformed (docs/rewards.md)"),
        Column("has_answer_tags", pl.Boolean, "whether the answer stands in a closed <answer> pair outside the think block, no tag inside"),
        Column("finish_reason", pl.String, "stop (end token sampled) or length (cut off)"),
    ),
    place=SAMPLED,
)
SAMPLING_LOGPROBS = Table(
    "sampling_logprobs",
    "two more natural log-probabilities of each sampled token; all three are equal at temperature 1 without top-k and top-p",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("sampled_logprobs", pl.List(pl.Float32), "of the distribution that was drawn from: temperature, then top_k, then top_p"),
        Column("policy_logprobs", pl.List(pl.Float32), "of the raw policy: temperature 1, no token cut off"),
    ),
    place=SAMPLED,
)


def read_rollouts(layout: Layout, iteration: int) -> pl.DataFrame:
    """Return table rollouts of an iteration.

    Raises:
        MissingInputError, TableError: as `placed.read`; or its ids say that another iteration sampled them.
    """
    frame = placed.read(ROLLOUTS, layout, iteration)
    # Ids of ours begin with the iteration; those of others may be anything.
    numbers = frame["rollout_id"].str.extract(r"^(\d{3,}):", 1).cast(pl.Int64, strict=False)
    others = frame["rollout_id"].filter((numbers != iteration).fill_null(False))
    if len(others):
        raise TableError(
            f"{ROLLOUTS.path(layout, iteration)}: table rollouts", "holds rollouts of another iteration", found=others[0],
            expected=f"{iteration:03d}:…", remedy=f"run `{ROLLOUTS.command(iteration)}` again",
        )  # fmt: skip
    return checked(frame, ROLLOUTS.path(layout, iteration), f"run `{ROLLOUTS.command(iteration)}` again")


def checked(frame: pl.DataFrame, where: object, remedy: str) -> pl.DataFrame:
    """Return table rollouts; raise TableError, naming the row, for what no sampler writes: the schema cannot say it.

    Whether ids are of the vocabulary, and spell the completion, is known where a tokenizer is: in attribute and update.
    """
    element, length = pl.element(), pl.col("completion").str.len_chars()
    is_id, is_logprob = element.is_not_null() & (element >= 0), element.is_finite().fill_null(False) & (element <= 1e-3)
    start, end, count = pl.col("answer_start"), pl.col("answer_end"), pl.col("token_ids").list.len()
    rules = {
        "token_ids hold a null or negative id": ("token_ids", pl.col("token_ids").list.eval(is_id).list.all()),
        "prompt_token_ids hold a null or negative id": ("prompt_token_ids", pl.col("prompt_token_ids").list.eval(is_id).list.all()),
        "behavior_logprobs hold what is no log-probability": (
            "behavior_logprobs",
            pl.col("behavior_logprobs").list.eval(is_logprob).list.all(),
        ),
        "token_ids and behavior_logprobs differ in number": ("behavior_logprobs", count == pl.col("behavior_logprobs").list.len()),
        "answer_start is no place in the completion": ("answer_start", (start >= 0) & (start <= end)),
        "answer_end is no place in the completion": ("answer_end", (end >= 0) & (end <= length.cast(pl.Int64))),
        "finish_reason is unknown": ("finish_reason", pl.col("finish_reason").is_in(["stop", "length"])),
    }
    holds = frame.select(rule.alias(problem) for problem, (_, rule) in rules.items())
    for problem, (column, _) in rules.items():
        wrong = ~holds[problem]
        if wrong.any():
            row = int(wrong.arg_true()[0])
            rollout_id, found = frame["rollout_id"][row], frame[column][row]
            shown = found.to_list() if isinstance(found, pl.Series) else found
            raise TableError(f"{where}: row {row + 1}, rollout {rollout_id}", problem, found=shown, remedy=remedy)
    return frame
