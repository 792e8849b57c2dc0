"""Values of spliced texts, the group game: table spliced_values as it is filled, each distinct text of a prompt scored once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ospo_cli.maths.group_game import GROUP_GAMES, SPLICE, SWAP, Flags, Precedence, continuations
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.tables.score_coalitions import SPLICED_VALUES
from ospo_cli.text.coalition_text import coalition_texts
from ospo_cli.text.words import Reader

if TYPE_CHECKING:
    from ospo_cli.params.score_coalitions import ScoreCoalitions


@dataclass(frozen=True)
class Answer:
    """A rollout: its completion, the spans of its segments in it (there may be none), and the numbers of their texts in the batch."""

    rollout_id: str
    prompt_id: str
    completion: str
    spans: list[tuple[int, int]]
    said: list[int]


def group_games(settings: ScoreCoalitions) -> list[str]:
    """Return the group games among `score_coalitions.estimators`, each once."""
    return [name for name in GROUP_GAMES if name in settings.estimators]


def numbered_segments(rollouts: pl.DataFrame, segments: pl.DataFrame, split: Reader) -> pl.DataFrame:
    """Return rollout_id, start, end and said of all segments: those of equal words have equal numbers, by the order of their words."""
    ordered = segments.sort("rollout_id", "segment_index").join(rollouts.select("rollout_id", "completion"), on="rollout_id", how="left")
    texts = [completion[start:end] for completion, start, end in ordered.select("completion", "start", "end").iter_rows()]
    worded = {text: " ".join(split(text)) or text for text in set(texts)}
    number = {name: index for index, name in enumerate(sorted(set(worded.values())))}
    said = pl.Series("said", [number[worded[text]] for text in texts], dtype=pl.Int64)
    return ordered.select("rollout_id", "start", "end").with_columns(said)


def precedence_of(numbered: pl.DataFrame) -> Precedence:
    """Return the order in which all these answers say their segments."""
    return Precedence(numbered.group_by("rollout_id", maintain_order=True).agg("said")["said"].to_list())


def answer_groups(rollouts: pl.DataFrame, numbered: pl.DataFrame) -> Iterator[list[Answer]]:
    """Yield the rollout groups, each by rollout id, answers without segments among them."""
    found = numbered.group_by("rollout_id", maintain_order=True).agg("start", "end", "said")
    rows = rollouts.select("rollout_id", "prompt_id", "completion").join(found, on="rollout_id", how="left").sort("prompt_id", "rollout_id")
    for _, group in rows.group_by("prompt_id", maintain_order=True):
        yield [
            Answer(rollout_id, prompt_id, completion, list(zip(starts or (), ends or (), strict=True)), said or [])
            for rollout_id, prompt_id, completion, starts, ends, said in group.iter_rows()
        ]


class SplicedTable:
    """The rows of table spliced_values as rollout groups are asked for; `frame` scores their texts."""

    def __init__(self, scorer: TextScorer) -> None:
        self.scorer = scorer
        self._prompt_ids: list[str] = []  # of each distinct text of a prompt
        self._texts: list[str] = []
        self._rows: list[tuple[str, str, int, str, int]] = []  # rollout, game, place, other, text

    def ask(self, answers: Sequence[Answer], games: Sequence[str], precedence: Precedence | None) -> None:
        """Add the texts of a rollout group; by index where there is no precedence."""
        text_of: dict[str, int] = {}
        slices = [_Slices(answer) for answer in answers]
        after = continuations([answer.said for answer in answers], precedence)

        def keep(game: str, answer: Answer, place: int, other: Answer, parts: tuple[str, ...]) -> None:
            text = " ".join(part for part in parts if part)
            if text not in text_of:
                text_of[text] = len(self._texts)
                self._texts.append(text)
                self._prompt_ids.append(answer.prompt_id)
            self._rows.append((answer.rollout_id, game, place, other.rollout_id, text_of[text]))

        for index, (answer, own) in enumerate(zip(answers, slices, strict=True)):
            n = len(answer.spans)
            for number, (other, theirs) in enumerate(zip(answers, slices, strict=True)):
                if number == index:
                    continue
                suffixes = [points[number] for points in after[index]]
                if SPLICE in games:
                    for place, kept in enumerate(suffixes):
                        keep(SPLICE, answer, place, other, (own.run(0, place), theirs.chosen(kept)))
                if SWAP in games:
                    for place in range(n):
                        behind = answer.said[place + 1 :] if precedence is not None else []
                        instead = theirs.chosen(_first(suffixes[place], other.said, behind))
                        keep(SWAP, answer, place, other, (own.run(0, place), instead, own.run(place + 1, n)))
                    keep(SWAP, answer, n, other, (own.run(0, n), theirs.chosen(suffixes[n])))

    def frame(self) -> pl.DataFrame:
        """Score the texts; return the table."""
        queries = [self.scorer.reward.compose(prompt_id, text) for prompt_id, text in zip(self._prompt_ids, self._texts, strict=True)]
        parts = self.scorer.parts(self._prompt_ids, queries, self._texts)
        values = {name: getattr(parts, name) for name in ("retrieval", "length", "repetition")} | parts.further
        distinct = pl.DataFrame({"query": pl.Series(queries, dtype=pl.String), "spliced_value": parts.value} | values)
        key = {name: SPLICED_VALUES.schema[name] for name in SPLICED_VALUES.key}
        named = pl.DataFrame(self._rows, schema={**key, "text": pl.UInt32}, orient="row")
        return pl.concat([named.drop("text"), distinct[named["text"]]], how="horizontal")


def _first(kept: Flags, said: Sequence[int], behind: Sequence[int]) -> Flags:
    # The first of another answer's segments that is kept and not said behind the place; none may be.
    found = np.zeros(len(kept), dtype=bool)
    found[[index for index in np.flatnonzero(kept).tolist() if said[index] not in behind][:1]] = True
    return found


class _Slices:
    """Texts of parts of an answer, as coalitions' texts are made, each made once."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._known: dict[tuple[tuple[int, int], ...], str] = {}

    def run(self, first: int, last: int) -> str:
        """Return the text of segments first to last - 1."""
        return self._text(((first, last),) if last > first else ())

    def chosen(self, kept: Flags) -> str:
        """Return the text of the segments that are kept."""
        edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).tolist()
        return self._text(tuple(zip(edges[::2], edges[1::2], strict=True)))

    def _text(self, runs: tuple[tuple[int, int], ...]) -> str:
        if runs not in self._known:
            self._known[runs] = coalition_texts(self.answer.completion, self.answer.spans, [runs])[0] if runs else ""
        return self._known[runs]
