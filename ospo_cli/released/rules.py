"""Rules that place credit as the released code does (`attribute.rule_file: ospo_cli.released.rules`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.redistribution import NEGLIGIBLE, Cases, Credit, Rule, Settings, ascending_ranks
from ospo_cli.maths.token_map import TokenMap, Values


def proportional(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Â times shares scaled to 0..1 within the row, placed from the completion's first token on; rows of no reward get nothing.

    The answer's tokens are numbered by themselves and the numbers used in the completion, so that credit lands on what stands before
    the answer. `outside` and `credit_unit` do not apply.
    """
    if credit.reward is None:
        raise ValueError("the released rule needs rewards")
    weights, has_spread = _min_max(credit.share, tokens)
    has_reward = np.abs(credit.reward) > NEGLIGIBLE
    weights = np.where(has_reward[tokens.segment_row], weights, 0.0)
    special = np.where(has_reward, np.where(has_spread, "", "no-spread"), "zero-reward")
    return _from_first_token(tokens, credit, weights), special


def rank(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """As `proportional`, by rank and the wrong way round: the worst segment weighs 1, the best 0; rows of no reward are kept."""
    weights, has_spread = _min_max(-ascending_ranks(credit.share, tokens.segment_row), tokens)
    return _from_first_token(tokens, credit, weights), np.where(has_spread, "", "no-spread")


RULES = (
    Rule("released", False, proportional, pays_empty_answers=False),
    Rule("released-rank", False, rank, pays_empty_answers=False),
)


def _min_max(share: Values, tokens: TokenMap) -> tuple[Values, NDArray[np.bool_]]:
    """Return [segments] shares scaled to 0..1 within each row (0 where all are equal), and [rows] whether they differ."""
    low, high = np.full(tokens.n_rows, np.inf), np.full(tokens.n_rows, -np.inf)
    np.minimum.at(low, tokens.segment_row, share)
    np.maximum.at(high, tokens.segment_row, share)
    spread = np.where(tokens.segments > 0, high - low, 0.0)
    has_spread = spread > NEGLIGIBLE
    scaled = (share - low[tokens.segment_row]) / np.where(has_spread, spread, 1.0)[tokens.segment_row]
    return np.where(has_spread[tokens.segment_row], scaled, 0.0), has_spread


def _from_first_token(tokens: TokenMap, credit: Credit, weights: Values) -> Values:
    """Return [tokens] Â times the weights of the answer's tokens, the first of these at the completion's first token."""
    of_token = tokens.to_tokens(weights)
    touched = np.flatnonzero(tokens.inside > 0)
    before = np.full(tokens.n_rows, len(tokens.token_row))
    np.minimum.at(before, tokens.token_row[touched], touched - tokens.first_token[tokens.token_row[touched]])
    if tokens.before_answer is not None:
        before = tokens.before_answer
    moved = np.zeros(len(tokens.token_row))
    moved[touched - before[tokens.token_row[touched]]] = of_token[touched]
    return moved * credit.advantage[tokens.token_row]
