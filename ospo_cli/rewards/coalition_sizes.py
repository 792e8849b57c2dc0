"""How many coalitions an answer's segments need, before any is made; and where they are more than is held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ospo_cli.errors import CreditError
from ospo_cli.maths.coalitions import Budget, Players, most_coalitions
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.group_game import GROUP_GAMES, STOPPING

if TYPE_CHECKING:
    from ospo_cli.params.score_coalitions import ScoreCoalitions

# Cells of the coalitions of one rollout group, and the most memory that one takes in either stage (benchmarks/long_answers.py).
MOST_CELLS = 1 << 26
BYTES_PER_CELL = 40
# Cells of the groups that are scored together.
CELLS_PER_SHARD = 1 << 24
SEGMENTS_TRIED = 1 << 17


def cells(players: Players, settings: ScoreCoalitions, budget: Budget) -> int:
    """Return at most how many cells (segments × coalitions) an answer's coalitions have: what memory and time grow with."""
    names = {name for each in settings.estimators if each in ESTIMATORS for name in ESTIMATORS[each].families_for(players, budget)}
    coalitions = sum(most_coalitions(name, players, budget) for name in names | set(settings.families))
    return players.n * (coalitions + budget.further + 2)


def spliced_cells(lengths: Sequence[int], settings: ScoreCoalitions) -> int:
    """Return as how many cells the spliced texts of a rollout group count, given the segments of its answers.

    A text of an answer's n segments takes at most 100 bytes for each of them and one for each of the group's, all measured.
    """
    games, size, total = set(settings.estimators) & set(GROUP_GAMES), len(lengths), sum(lengths)
    texts = [sum(1 if game == STOPPING else n + 1 for game in games) for n in lengths]  # for each other answer
    return (size - 1) * sum(each * (3 * n + total // min(8, size)) for each, n in zip(texts, lengths, strict=True))


def check_group(answers: Iterable[tuple[str, Players, int]], group_size: int, settings: ScoreCoalitions, budget: Budget) -> int:
    """Return the cells of a rollout group, given segments and cells of each rollout that has segments, and how many rollouts it has.

    Raises:
        CreditError: they are more than MOST_CELLS.
    """
    found = [(size, players.n, rollout_id) for rollout_id, players, size in answers]
    lengths = [segments for _, segments, _ in found] + [0] * (group_size - len(found))
    total = sum(size for size, _, _ in found) + spliced_cells(lengths, settings)
    if total > MOST_CELLS:
        size, segments, rollout_id = max(found)
        most = largest_answer(group_size, settings, budget)
        raise CreditError(
            f"rollout {rollout_id}",
            "more segments than the coalitions of a rollout group are held for",
            found=f"{segments:,} segments, {size:,} cells of coalitions; {total:,} in its group",
            expected=f"at most {MOST_CELLS:,} in a group, which {group_size} answers of {most:,} segments have",
            remedy=f"set segment.max_segments: {most} (the rest is merged into the last one), a coarser segment.level, or fewer estimators",
        )
    return total


def largest_answer(group_size: int, settings: ScoreCoalitions, budget: Budget) -> int:
    """Return the most segments that every answer of a rollout group may have."""
    low, high = 1, SEGMENTS_TRIED
    while low < high:
        middle = (low + high + 1) // 2
        held = group_size * cells(Players(middle), settings, budget) + spliced_cells([middle] * group_size, settings)
        low, high = (middle, high) if held <= MOST_CELLS else (low, middle - 1)
    return low
