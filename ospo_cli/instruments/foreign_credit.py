"""Credit for rollouts that another trainer saved: the stages from segment to attribute, over one file, into one folder."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import OspoError, shorten
from ospo_cli.layout import IterationElsewhere, Layout
from ospo_cli.params.whole import Params
from ospo_cli.tables import files, parquet, placed

# Its presence tells that a folder was written here, and may be replaced.
CARD = "foreign_rollouts.json"


@dataclass(frozen=True)
class ForeignLayout(IterationElsewhere):
    """An iteration elsewhere, under a policy that has only a tokenizer."""

    tokenizer: Path

    def policy(self, iteration: int) -> Path:
        """The tokenizer's folder, whatever the iteration."""
        return self.tokenizer


def attribute_file(layout: Layout, params: Params, source: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """Write the tables of one iteration, rollouts to token advantages, for a file of rollouts; return what was counted.

    The folder is written whole or not at all; one that this function wrote earlier is replaced, any other that holds files is left alone.

    Args:
        layout, params: the project whose prepared data, reward and credit rule are used.
        source: Parquet or JSON lines (table foreign_rollouts).
        tokenizer: folder with the sampling policy's tokenizer.json.
        out: folder to write.

    Raises:
        OspoError: bad input; nothing is written then.
    """
    from ospo_cli.exchange import foreign_rollouts
    from ospo_cli.policies.declarations import recorded_end_ids
    from ospo_cli.policies.token_pieces import TokenPieces
    from ospo_cli.stages import attribute, score_coalitions, segment
    from ospo_cli.tables.prepared import PROMPTS
    from ospo_cli.tables.rollout import ROLLOUTS
    from ospo_cli.tables.score_coalitions import REWARDS

    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir()) and not (out / CARD).is_file()):
        raise OspoError(out, "is not empty and was not written by this command", remedy="name another folder with --out")
    prompts = placed.read(PROMPTS, layout)
    pieces = TokenPieces.from_file(tokenizer / "tokenizer.json")
    frame = foreign_rollouts.read(source)
    ends = recorded_end_ids(tokenizer, pieces)
    rollouts = foreign_rollouts.to_rollouts(frame, prompts["prompt_id"].to_list(), pieces.pieces, source, ends)
    logprobs = pl.col("behavior_logprobs")
    odd = rollouts.filter((logprobs.list.len() > 3) & (logprobs.list.n_unique() == 1)).height
    if odd:
        sys.stderr.write(
            f"ospo attribute: warning: {shorten(source)}: old_logprobs are one number for all tokens in {odd:,} of {rollouts.height:,} "
            "rollouts (0 is probability 1): an engine that did not return them? ratios of an update would be those of no policy\n"
        )
    sizes = rollouts.group_by("prompt_id").len()["len"]
    with files.replacing_folder(out.resolve()) as temporary:
        inside = ForeignLayout(layout.root, temporary, tokenizer)
        parquet.write(rollouts, temporary / "rollouts.parquet", ROLLOUTS)
        try:
            for stage in (segment, score_coalitions, attribute):
                metrics = stage.execute(inside, params, 1)
        except OspoError as error:
            raise _for_this_command(error, temporary, source) from None
        rewards = parquet.read(temporary / "rewards.parquet", REWARDS)
        card = {
            "source_sha256": files.sha256_of(source),
            "rollouts": rollouts.height,
            "tokens": int(rollouts["token_ids"].list.len().sum()),
            "rollout_groups": len(sizes),
            "single_rollout_groups": int((sizes == 1).sum()),
            "degenerate_groups": metrics["degenerate_groups"],
            "mean_reward": float(rewards["reward"].mean() or 0.0),  # type: ignore[arg-type]
            "efficiency_gap_max": metrics["efficiency_gap_max"],
            "estimator": metrics["estimator"],
            "rule": metrics["rule"],
        }
        files.write_json(temporary / CARD, card)
    return card


def summary(card: dict[str, Any], out: Path) -> str:
    """Return what was done, on one line."""
    text = (
        f"wrote {out}: {card['rollouts']} rollouts in {card['rollout_groups']} groups, mean reward {card['mean_reward']:.3f}, "
        f"{card['estimator']} + {card['rule']}; {card['degenerate_groups']} degenerate groups"
    )
    if card["single_rollout_groups"]:
        text += f" ({card['single_rollout_groups']} of one rollout alone, which has nothing to be compared with: advantage 0)"
    return text


def _for_this_command(error: OspoError, temporary: Path, source: Path) -> OspoError:
    """Return a stage's error in terms of this command: the stages know of iterations, a user of a file has none."""
    remedy = error.remedy
    if remedy:
        remedy = re.sub(r"run `ospo [a-z-]+( --iter \d+)?`( first| again)?", "run the same command again", remedy)
    where = error.where.replace(f"{temporary}/", f"{source}: ")
    return type(error)(where, error.problem, found=error.found, expected=error.expected, remedy=remedy)
