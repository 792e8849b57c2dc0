"""Values of spliced texts, the group game: table spliced_values as it is filled, each distinct text of a prompt scored once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.group_game import GROUP_GAMES, SPLICE, STOPPING, SWAP, Flags, Precedence, continuations
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.rewards.coalition_values import Chosen, takes_parts, values_by_parts
from ospo_cli.tables.score_coalitions import SPLICED_VALUES
from ospo_cli.text.coalition_text import Runs, coalition_texts, runs_of, segment_words
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
        self._members: list[list[int]] = []  # segments of each text, as places among all segments of its rollout group
        self._groups: list[tuple[Sequence[Answer], int, int]] = []  # answers, first text and the one behind the last
        self._rows: list[tuple[str, str, int, str, int]] = []  # rollout, game, place, other, text

    def ask(self, answers: Sequence[Answer], games: Sequence[str], precedence: Precedence | None, nearer: Precedence | None = None) -> None:
        """Add the texts of a rollout group; by index where there is no precedence (`maths.group_game.continuations`)."""
        text_of: dict[str, int] = {}
        first = len(self._texts)
        begins = np.cumsum([0, *(len(answer.spans) for answer in answers)]).tolist()
        slices = [_Slices(answer, begin) for answer, begin in zip(answers, begins, strict=False)]
        after = continuations([answer.said for answer in answers], precedence, nearer)

        def keep(game: str, place: int, own: _Slices, other: _Slices, *parts: _Part) -> None:
            text = " ".join(part.text for part in parts if part.text)
            if text not in text_of:
                text_of[text] = len(self._texts)
                self._texts.append(text)
                self._prompt_ids.append(own.answer.prompt_id)
                self._members.append([member for part in parts for member in part.members])
            self._rows.append((own.answer.rollout_id, game, place, other.answer.rollout_id, text_of[text]))

        for (index, own), (number, other) in permutations(enumerate(slices), 2):
            n, suffixes = len(own.answer.spans), [points[number] for points in after[index]]
            if SPLICE in games:
                for place, kept in enumerate(suffixes):
                    keep(SPLICE, place, own, other, own.run(0, place), other.chosen(kept))
            if SWAP in games:
                for place in range(n):
                    behind = own.answer.said[place + 1 :] if precedence is not None else []
                    instead = other.chosen(_first(suffixes[place], other.answer.said, behind))
                    keep(SWAP, place, own, other, own.run(0, place), instead, own.run(place + 1, n))
            for game in (SWAP, STOPPING):
                if game in games:
                    keep(game, n, own, other, own.run(0, n), other.chosen(suffixes[n]))
        self._groups.append((answers, first, len(self._texts)))

    def frame(self) -> pl.DataFrame:
        """Score the texts; return the table."""
        queries = [self.scorer.reward.compose(prompt_id, text) for prompt_id, text in zip(self._prompt_ids, self._texts, strict=True)]
        known = self._by_parts() if takes_parts(self.scorer.reward, self.scorer.settings) else None
        parts = self.scorer.parts(self._prompt_ids, queries, self._texts, known)
        values = {name: getattr(parts, name) for name in ("retrieval", "length", "repetition")} | parts.further
        distinct = pl.DataFrame({"query": pl.Series(queries, dtype=pl.String), "spliced_value": parts.value} | values)
        key = {name: SPLICED_VALUES.schema[name] for name in SPLICED_VALUES.key}
        named = pl.DataFrame(self._rows, schema={**key, "text": pl.UInt32}, orient="row")
        return pl.concat([named.drop("text"), distinct[named["text"]]], how="horizontal")

    def _by_parts(self) -> NDArray[np.float64]:
        # The metric of groups whose texts have the words of their segments, NaN where it has to be found by the text.
        chosen: list[Chosen] = []
        for answers, first, last in self._groups:
            if last > first and all(segment_words(answer.completion, answer.spans) is not None for answer in answers):
                segments = [answer.completion[begin:end] for answer in answers for begin, end in answer.spans]
                present = np.zeros((last - first, len(segments)), dtype=bool)
                sizes = [len(members) for members in self._members[first:last]]
                present[np.repeat(np.arange(last - first), sizes), np.concatenate(self._members[first:last]).astype(np.int64)] = True
                chosen.append((answers[0].prompt_id, segments, present, first, last))
        return values_by_parts(self.scorer.reward, chosen, len(self._texts))


def _first(kept: Flags, said: Sequence[int], behind: Sequence[int]) -> Flags:
    # The first of another answer's segments that is kept and not said behind the place; none may be.
    found = np.zeros(len(kept), dtype=bool)
    found[[index for index in np.flatnonzero(kept).tolist() if said[index] not in behind][:1]] = True
    return found


@dataclass(frozen=True)
class _Part:
    # A part of an answer: its text, and its segments as places among those of the rollout group.
    text: str
    members: Sequence[int]


class _Slices:
    """Parts of an answer; their texts are made as coalitions' texts are, each once."""

    def __init__(self, answer: Answer, begin: int) -> None:
        self.answer, self._begin = answer, begin
        self._known: dict[bytes | tuple[int, int], _Part] = {}

    def run(self, first: int, last: int) -> _Part:
        """Return segments first to last - 1."""
        found = self._known.get((first, last))
        if found is None:
            found = self._known[first, last] = self._part([(first, last)] if last > first else [])
        return found

    def chosen(self, kept: Flags) -> _Part:
        """Return the segments that are kept."""
        key = kept.tobytes()
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._part(runs_of("".join("01"[flag] for flag in key)))
        return found

    def _part(self, runs: Runs) -> _Part:
        text = coalition_texts(self.answer.completion, self.answer.spans, [runs])[0]
        return _Part(text, [self._begin + place for first, last in runs for place in range(first, last)])
