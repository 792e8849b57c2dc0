"""What each sampled token decides: a part of a segment, what stands between segments, to stop, a tag, or thinking."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.credit.rollout_rows import rollout_rows
from ospo_cli.credit.token_places import Pieces, token_map
from ospo_cli.text.token_classes import CLASSES, token_classes
from ospo_cli.text.tokens_to_spans import token_spans

KINDS = ("segments", "separators", "stop", "tags", "thinking")


def token_kinds(rollouts: pl.DataFrame, segments: pl.DataFrame, pieces: Pieces, iteration: int) -> dict[str, NDArray[np.int64]]:
    """Return rollout id -> [tokens] index into KINDS.

    segments: the token holds a part of one. stop: all behind the last segment (without segments: from the answer's first token on),
    that is the closing tag and the end. separators: of the answer, before its last segment. tags: before the answer, and what spells
    nothing there. thinking: all else.

    Args:
        rollouts, segments: tables.
        pieces: token ids -> bytes of each.
        iteration: named in remedies.

    Raises:
        CreditError: tables that do not belong together, or ids that do not spell their completion.
    """
    rows = rollout_rows(rollouts, segments, iteration)
    tokens = token_map(rows, pieces)
    ends = rollouts.sort("rollout_id")["answer_end"].to_list()
    found = {}
    for row, (rollout_id, completion) in enumerate(zip(rows.rollout_ids, rows.completions, strict=True)):
        first, count = int(tokens.first_token[row]), len(rows.token_ids[row])
        is_inside = tokens.inside[first : first + count] > 0
        spans = token_spans(pieces(rows.token_ids[row]), completion)
        classes = token_classes(spans, completion, rows.answer_start[row], ends[row])
        places = np.flatnonzero(is_inside)
        answer = int(tokens.before_answer[row]) if tokens.before_answer is not None else 0
        is_after = np.arange(count) > places[-1] if len(places) else np.arange(count) >= answer
        kinds = np.where(classes == CLASSES.index("tags"), KINDS.index("tags"), KINDS.index("thinking"))
        kinds[classes == CLASSES.index("answer")] = KINDS.index("separators")
        kinds[is_after] = KINDS.index("stop")
        kinds[is_inside] = KINDS.index("segments")
        found[rollout_id] = kinds.astype(np.int64)
    return found
