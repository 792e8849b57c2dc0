"""A rule of your own: Â, moved towards the segments that earned more than their equals in the rollout group, by place."""

from __future__ import annotations

import numpy as np

from ospo_cli.maths.redistribution import Credit, Rule, Settings, TokenMap


def formula(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return [tokens] advantages and [rows] named special cases ("" for none)."""
    group = credit.group[tokens.segment_row]
    cell = group * (int(tokens.segments.max(initial=0)) + 1) + tokens.position
    count = np.maximum(np.bincount(cell), 1)
    difference = credit.share - (np.bincount(cell, weights=credit.share) / count)[cell]
    inside = 0.5 * credit.advantage[tokens.segment_row] + 0.5 * difference / credit.scale[tokens.segment_row]
    outside = (1.0 - tokens.inside) * credit.advantage[tokens.token_row]
    return tokens.to_tokens(inside) + outside, np.full(tokens.n_rows, "", dtype="<U32")


RULE = Rule("half-share", keeps_sum=False, formula=formula)
