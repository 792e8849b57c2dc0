"""Where segments and answers lie among the sampled tokens of each row, from the token ids themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ospo_cli.credit.rollout_rows import Rows, Values
from ospo_cli.errors import CreditError, PolicyError
from ospo_cli.maths import seeding
from ospo_cli.maths.token_map import TokenMap
from ospo_cli.text.tokens_to_spans import overlaps, token_spans

Pieces = Callable[[Sequence[int]], list[bytes]]


def token_map(rows: Rows, pieces: Pieces) -> TokenMap:
    """Return how much of each sampled token lies in each segment; raise CreditError where ids do not spell their completion."""
    spans = []
    for rollout_id, token_ids, completion in zip(rows.rollout_ids, rows.token_ids, rows.completions, strict=True):
        try:
            spans.append(token_spans(pieces(token_ids), completion))
        except (CreditError, PolicyError) as error:
            raise CreditError(
                f"rollout {rollout_id}, {error.where}", error.problem, found=error.found, expected=error.expected, remedy=error.remedy
            ) from None
    try:
        overlap = overlaps(rows.completions, spans, rows.segment_row, rows.segment_start, rows.segment_end)
    except CreditError as error:
        row = int(error.where.split()[-1])
        raise CreditError(f"segments, rollout {rows.rollout_ids[row]}", error.problem, found=error.found, remedy="segment again") from None
    count = [len(token_ids) for token_ids in rows.token_ids]
    token_row = np.repeat(np.arange(len(count)), count)
    before = [np.count_nonzero(of_row[:, 1] <= start) for of_row, start in zip(spans, rows.answer_start, strict=True)]
    before_answer = np.array(before, dtype=np.int64)
    return TokenMap(token_row, rows.segment_row, overlap.token, overlap.segment, overlap.weight, len(count), before_answer)


def segment_noise(rows: Rows, tokens: TokenMap, seed: int) -> Values:
    """Return [segments] uniform numbers that depend on the seed, the rollout and the segment's place alone."""
    keys = [f"random rule|{rollout_id}" for rollout_id in rows.rollout_ids]
    return np.asarray(seeding.uniforms(seed, keys, int(rows.segments.max(initial=0)))[rows.segment_row, tokens.position])
