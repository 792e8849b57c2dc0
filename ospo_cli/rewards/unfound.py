"""Raw queries that retrieve nothing: said, since a value of 0 may as well be a bad ranking; no fault by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import shorten
from ospo_cli.rewards.judged_reward import JudgedReward

# Share of the queries from which something is said.
TOO_MANY = 0.1


def say_unfound(
    command: str, reward: JudgedReward, prompt_ids: Sequence[str], queries: Sequence[str], values: NDArray[np.float64] | None = None
) -> None:
    """Warn on stderr where more than a tenth of the raw queries retrieve none of their candidates.

    Args:
        command: that is running.
        reward: with the retriever; it ranks them to depth 1.
        prompt_ids, queries: the raw queries.
        values: of the reward, where they are known: only queries of value 0 are ranked then.
    """
    rows = list(range(len(queries))) if values is None else np.flatnonzero(values == 0).tolist()
    if len(rows) > TOO_MANY * len(queries):
        found = reward.rankings([prompt_ids[row] for row in rows], [queries[row] for row in rows], 1)
        rows = [row for row, ranking in zip(rows, found, strict=True) if not len(ranking.documents)]
    say(command, reward.retriever.name, [queries[row] for row in rows], len(queries))


def say(command: str, retriever: str, unfound: Sequence[str], of: int) -> None:
    """Warn where these raw queries, for which a retriever finds nothing, are more than a tenth of all."""
    if len(unfound) > TOO_MANY * of:
        sys.stderr.write(
            f"{command}: {retriever} retrieves nothing for {len(unfound):,} of {of:,} raw queries ({len(unfound) / of:.0%}), such as "
            f"{shorten(unfound[0], 80)!r}: worth 0 as typed, so that a rewrite can only gain there. If their words do stand in the "
            "catalogue, another retriever may find them, or other fields (docs/languages.md says what a word is)\n"
        )
