"""Recombined answers: the best that can be made of what a rollout group says, by strictly improving moves; table recombined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.group_game import Flags
from ospo_cli.maths.recombination import group_order, moves
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.rewards.spliced_values import Answer
from ospo_cli.tables.score_coalitions import RECOMBINED

# A move that gains less is taken for rounding.
IMPROVEMENT = 1e-9
# Texts of a call, from which no further group's are added: a group of long answers has thousands a round.
TEXTS = 1 << 16


def recombined_answers(groups: Iterable[Sequence[Answer]], rewards: pl.DataFrame, scorer: TextScorer) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return table recombined, of each rollout group the end of its search, where that is worth more than the best answer; and the
    distinct texts that all searches scored (prompt_id, query).

    The search starts at the segments of the best well-formed answer, and takes the move that gains most (of equal ones the first: drop,
    swap, add) until none gains, or `score_coalitions.recombine` are taken. Texts are scored as answers are; groups go on side by side, so
    that a round is few calls.

    Args:
        groups: whole rollout groups.
        rewards: table rewards of them.
        scorer: of the texts.

    Raises:
        RetrievalError: the retriever fails.
    """
    known = {name: (reward, form) for name, reward, form in rewards.select("rollout_id", "reward", "format").iter_rows()}
    weight = scorer.settings.format_weight
    searches = []
    for group in groups:
        formed = [answer for answer in group if answer.spans and known[answer.rollout_id][1] == 0]
        if formed:
            start = max(formed, key=lambda answer: known[answer.rollout_id][0])
            best = max(reward - weight * form for reward, form in map(known.__getitem__, (answer.rollout_id for answer in group)))
            searches.append(_Search(group, start, best))
    for search, _, (value,) in _values(searches, lambda search: search.said[None, :], scorer):
        search.value = float(value)
    going = searches
    for _ in range(scorer.settings.recombine):
        gained = []
        for search, sets, values in _values(going, lambda search: moves(search.said), scorer):
            if len(values) and values.max() > search.value + IMPROVEMENT:
                search.said, search.value, search.moves = sets[values.argmax()], float(values.max()), search.moves + 1
                gained.append(search)
        if not (going := gained):
            break
    rows = [search.row() for search in searches if search.value > search.best + IMPROVEMENT]
    asked = [(search.start.prompt_id, query) for search in searches for query in search.queries]
    schema = {"prompt_id": pl.String, "query": pl.String}
    return pl.DataFrame(rows, schema=RECOMBINED.schema, orient="row"), pl.DataFrame(asked, schema=schema, orient="row")


class _Search:
    """Where the search of a rollout group is.

    Attributes:
        said: [distinct segments of the group, in its order] those of the answer.
        value: v of it.
        best: v of the group's best answer.
        queries: the distinct texts that were scored.
    """

    def __init__(self, group: Sequence[Answer], start: Answer, best: float) -> None:
        self.start, self.best, self.value, self.moves, self.queries = start, best, -np.inf, 0, set[str]()
        text: dict[int, str] = {}
        joints: Counter[str] = Counter()
        for answer in group:
            for (begin, end), number in zip(answer.spans, answer.said, strict=True):
                text.setdefault(number, answer.completion[begin:end])
            joints.update(answer.completion[end:begin] for (_, end), (begin, _) in zip(answer.spans, answer.spans[1:], strict=False))
        order = group_order([answer.said for answer in group])
        self.texts = [text[number] for number in order]
        self.joint = min(joints, key=lambda joint: (-joints[joint], joint), default=" ")
        self.said: Flags = np.isin(order, start.said)

    def answer(self, said: Flags) -> str:
        """Return the text of a set of segments, joined as the group mostly joins them."""
        return self.joint.join(self.texts[place] for place in np.flatnonzero(said))

    def row(self) -> tuple[str, str, str, str, float, float, int]:
        """Return the row of the table; around the answer stands what stands around that of the start."""
        start = self.start
        completion = start.completion[: start.spans[0][0]] + self.answer(self.said) + start.completion[start.spans[-1][1] :]
        name = f"{start.rollout_id}/recombined"
        return name, start.prompt_id, start.rollout_id, completion, self.value, self.best, self.moves


def _values(
    searches: Sequence[_Search], sets_of: Callable[[_Search], Flags], scorer: TextScorer
) -> Iterator[tuple[_Search, Flags, NDArray[np.float64]]]:
    # Each search with the sets that it asks for and their values, a call for so many searches as have TEXTS of them.
    held: list[tuple[_Search, Flags]] = []
    for number, search in enumerate(searches, 1):
        held.append((search, sets_of(search)))
        if number < len(searches) and sum(len(sets) for _, sets in held) < TEXTS:
            continue
        prompt_ids = [search.start.prompt_id for search, sets in held for _ in sets]
        texts = [search.answer(said) for search, sets in held for said in sets]
        queries = [scorer.reward.compose(prompt_id, text) for prompt_id, text in zip(prompt_ids, texts, strict=True)]
        ends = np.cumsum([len(sets) for _, sets in held])
        values = np.split(scorer.parts(prompt_ids, queries, texts).value, ends[:-1])
        for (asking, sets), own, end in zip(held, values, ends.tolist(), strict=True):
            asking.queries.update(queries[end - len(sets) : end])
            yield asking, sets, own
        held = []
