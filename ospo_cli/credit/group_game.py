"""Credit of the group game out of table spliced_values: baselines of all places, then shares and advantages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.credit.rollout_rows import REWARD_TOLERANCE, Compared, Indices, Rows, Values, check_own
from ospo_cli.credit.segment_shares import Estimate
from ospo_cli.errors import CreditError
from ospo_cli.maths.group_credit import GroupCredit, group_credit
from ospo_cli.maths.group_game import SPLICE, STOPPING, GroupGame


@dataclass(frozen=True)
class GameMethod:
    """How a group game is read.

    Attributes:
        game: which.
        trace: λ of splice.
        is_asked: whether the parameters ask score-coalitions for its texts.
        is_checked: whether V_0 must be the mean reward of the others.
        iteration: named in remedies.
    """

    game: GroupGame
    trace: float
    is_asked: bool
    is_checked: bool
    iteration: int


def estimate_group_game(
    rows: Rows, compared: Compared, values: tuple[pl.DataFrame, pl.DataFrame], method: GameMethod, estimate: Estimate
) -> tuple[Estimate, GroupCredit]:
    """Return the estimate with the group game's special cases and gap, shares as they were, and the credit; 0 in degenerate groups.

    The format part (answer tags, end token) is no text's: a text that goes on as another answer does also ends as that one did. So V_0 is
    the mean reward of the others, and Σδ + δ_end = R - V_0.

    Args:
        rows: all rollouts.
        compared: their rewards.
        values: tables spliced_values and coalition_values.
        method: the group game.
        estimate: of the shares for people.

    Raises:
        CreditError: values of other rollouts or of another reward, or texts that were not evaluated.
    """
    spliced_values, coalition_values = values
    check_own(spliced_values, rows.rollout_ids, "spliced_values", method.iteration)
    others = np.bincount(rows.group)[rows.group] - 1
    active = ~compared.is_degenerate  # a group of one answer is
    game = method.game.name
    spliced = spliced_values.filter(pl.col("game") == game)
    mean_value = _means(rows, spliced, method, active, others)
    row_of_place = np.repeat(np.arange(len(rows.rollout_ids)), rows.segments + 1)
    # A splice ends as the other answer did; an answer with one segment swapped ends as it did itself, but at its last place.
    is_last = _last_places(rows)
    ends_as_other = is_last | (game == SPLICE)
    format_of_others = _mean_of_others(compared.format_part, rows, others)
    baseline = mean_value + np.where(ends_as_other, format_of_others[row_of_place], compared.format_part[row_of_place])
    if game == STOPPING:
        baseline = np.where(is_last, baseline, _mean_of_others(compared.reward, rows, others)[row_of_place])
    credit = group_credit(game, baseline, rows.segments, compared.reward, method.trace)
    gap = _known_texts(rows, compared, spliced, coalition_values, method)
    if game == SPLICE:
        earned = np.bincount(rows.segment_row, weights=credit.share, minlength=len(gap)) + credit.end
        expected = compared.reward - _mean_of_others(compared.reward, rows, others)
        gap = np.where(active, np.abs(earned - expected), 0.0)
        if method.is_checked:
            _check_sums(rows, earned, expected, gap, method.iteration)
    is_active = active[rows.segment_row]
    share, advantage = (np.where(is_active, values, 0.0) for values in (credit.share, credit.advantage))
    special = np.where(rows.segments == 0, "empty-answer", estimate.special_case)
    special = np.where(compared.is_degenerate, "degenerate-group", special)
    special = np.where(others == 0, "single-rollout", special)
    return replace(estimate, special_case=special, efficiency_gap=gap), GroupCredit(share, advantage, np.where(active, credit.end, 0.0))


def _last_places(rows: Rows) -> NDArray[np.bool_]:
    found = np.zeros(int((rows.segments + 1).sum()), dtype=bool)
    found[np.cumsum(rows.segments + 1) - 1] = True
    return found


def _mean_of_others(values: Values, rows: Rows, others: Indices) -> Values:
    return np.asarray((np.bincount(rows.group, weights=values)[rows.group] - values) / np.maximum(others, 1))


def _check_sums(rows: Rows, earned: Values, expected: Values, gap: Values, iteration: int) -> None:
    if gap.max(initial=0.0) <= REWARD_TOLERANCE:
        return
    row = int(gap.argmax())
    raise CreditError(
        f"rollout {rows.rollout_ids[row]}",
        "differences of its spliced values do not sum to its reward over the mean of the others: values of another reward",
        found=f"{earned[row]:.9g}",
        expected=f"{expected[row]:.9g}",
        remedy=f"run `ospo score-coalitions --iter {iteration}` with the present parameters",
    )


def _known_texts(rows: Rows, compared: Compared, spliced: pl.DataFrame, coalition_values: pl.DataFrame, method: GameMethod) -> Values:
    """Return [rows] how far spliced texts that are an answer of the rollout group are at most from what that answer is worth.

    This alone is known of the texts of `swap` and `stopping`: their advantages have no sum that every reward keeps.

    Raises:
        CreditError: a value is another, where the reward is checked.
    """
    own = pl.DataFrame({"rollout_id": rows.rollout_ids, "group": rows.group, "row": range(len(rows.group))}).with_columns(
        worth=compared.reward - compared.format_part
    )
    whole = coalition_values.filter(~pl.col("coalition").str.contains("0")).select("rollout_id", "query")
    answers = whole.join(own, on="rollout_id").unique(["group", "query"]).select("group", "query", "worth")
    known = spliced.join(own.drop("worth"), on="rollout_id").join(answers, on=["group", "query"])
    known = known.with_columns(gap=(pl.col("spliced_value") - pl.col("worth")).abs()).sort("gap", "rollout_id", descending=[True, False])
    if method.is_checked and known.height and known["gap"][0] > REWARD_TOLERANCE:
        odd = known.row(0, named=True)
        raise CreditError(
            f"rollout {odd['rollout_id']}, place {odd['place']} with {odd['other_rollout_id']}",
            f"a text of estimator {method.game.name} that is an answer of the group is worth something else: values of another reward",
            found=f"{odd['spliced_value']:.9g}",
            expected=f"{odd['worth']:.9g}",
            remedy=f"run `ospo score-coalitions --iter {method.iteration}` with the present parameters",
        )
    gap = np.zeros(len(rows.rollout_ids))
    np.maximum.at(gap, known["row"].to_numpy(), known["gap"].to_numpy())
    return gap


def _means(rows: Rows, found: pl.DataFrame, method: GameMethod, active: NDArray[np.bool_], others: Indices) -> Values:
    """Return [Σ (n + 1)] means over the other answers of each place, 0 in rows that are not active; refuse gaps and strangers."""
    number = pl.DataFrame({"id": rows.rollout_ids, "row": np.arange(len(rows.rollout_ids))}, schema={"id": pl.String, "row": pl.Int64})
    named = (
        found.select("rollout_id", "place", "other_rollout_id", "spliced_value")
        .sort("rollout_id", "place", "other_rollout_id")
        .join(number, left_on="rollout_id", right_on="id", how="left", maintain_order="left")
        .join(number.rename({"row": "other"}), left_on="other_rollout_id", right_on="id", how="left", maintain_order="left")
    )
    row, place = named["row"].to_numpy(), named["place"].to_numpy().astype(np.int64)
    other = named["other"].fill_null(-1).to_numpy()
    is_odd = (other < 0) | (other == row) | (rows.group[other] != rows.group[row]) | (place < 0) | (place > rows.segments[row])
    at = (np.cumsum(rows.segments + 1) - (rows.segments + 1))[row] + place
    if is_odd.any():
        odd = named.row(int(np.flatnonzero(is_odd)[0]), named=True)
        raise CreditError(
            f"table spliced_values, rollout {odd['rollout_id']}",
            "holds a place or another answer that the rollout group does not have",
            found=f"place {odd['place']} with {odd['other_rollout_id']}",
            remedy=f"run `ospo score-coalitions --iter {method.iteration}` again",
        )
    size = int((rows.segments + 1).sum())
    count = np.bincount(at, minlength=size)
    row_of_place = np.repeat(np.arange(len(rows.rollout_ids)), rows.segments + 1)
    is_read = _last_places(rows) | (method.game.name != STOPPING)
    is_short = is_read & active[row_of_place] & (count != others[row_of_place])
    if is_short.any():
        short = int(np.flatnonzero(is_short)[0])
        row_of, command = int(row_of_place[short]), f"run `ospo score-coalitions --iter {method.iteration}`"
        raise CreditError(
            f"rollout {rows.rollout_ids[row_of]}",
            f"texts that estimator {method.game.name} needs were not evaluated",
            found=f"{count[short]} values at place {short - int(np.flatnonzero(row_of_place == row_of)[0])}",
            expected=f"{others[row_of]}, one for each other answer of its rollout group",
            remedy=f"{command} again"
            if method.is_asked
            else f"add {method.game.name} to score_coalitions.estimators in params.yaml, and {command}",
        )
    total = np.bincount(at, weights=named["spliced_value"].to_numpy(), minlength=size)
    return np.where(active[row_of_place], total / np.maximum(count, 1), 0.0)
