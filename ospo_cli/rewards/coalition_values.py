"""Values of coalitions of an answer's segments: which are asked for, and table coalition_values as it is filled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS, evaluated_coalitions
from ospo_cli.rewards.answers import Parts, TextScorer
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables.score_coalitions import COALITION_VALUES
from ospo_cli.text.coalition_text import Runs, coalition_texts, runs_of, segment_words
from ospo_cli.text.composition import compose

if TYPE_CHECKING:
    from ospo_cli.params.score_coalitions import ScoreCoalitions


@dataclass(frozen=True)
class Game:
    """An answer of segments: the rollout, its completion, the spans of its segments in it, and who plays."""

    rollout_id: str
    prompt_id: str
    completion: str
    spans: list[tuple[int, int]]
    players: Players


def deletion_estimators(settings: ScoreCoalitions) -> list[str]:
    """Return the names among `score_coalitions.estimators` whose coalitions are subsets of an answer's own segments."""
    return [name for name in settings.estimators if name in ESTIMATORS]


def takes_parts(reward: JudgedReward, settings: ScoreCoalitions) -> bool:
    """Tell whether the metric of coalitions can be had without a text for each."""
    return settings.calls == "batched" and reward.takes_parts


# Prompt, texts of the parts, bool[coalitions, parts], and where the coalitions' values stand: the first place and the one behind the last.
Chosen = tuple[str, Sequence[str], NDArray[np.bool_], int, int]


def values_by_parts(reward: JudgedReward, chosen: Sequence[Chosen], count: int, is_raw_if_empty: bool = False) -> NDArray[np.float64]:
    """Return float64[count] the metric of what was chosen, NaN elsewhere."""
    found = np.full(count, np.nan)
    if chosen:
        prompt_ids, parts, present, _, _ = zip(*chosen, strict=True)
        values = reward.coalition_values(prompt_ids, parts, present, is_raw_if_empty=is_raw_if_empty)
        places = [np.arange(first, last) for _, _, _, first, last in chosen]
        found[np.concatenate(places)] = values
    return found


class Draws:
    """The coalitions that are evaluated of each answer; what uses no random number is the same for equal players, and kept."""

    def __init__(self, settings: ScoreCoalitions, budget: Budget, seed: int) -> None:
        self.settings, self.budget, self.seed = settings, budget, seed
        self.estimators = deletion_estimators(settings)
        self._drawn_by_nobody: dict[Players, tuple[list[Runs], list[str]]] = {}

    def of(self, game: Game) -> tuple[list[Runs], list[str]]:
        """Return the coalitions by size, the empty one first and the grand one last: as runs of segments, and as strings of 0 and 1."""
        if game.players in self._drawn_by_nobody:
            return self._drawn_by_nobody[game.players]
        settings, players = self.settings, game.players
        draw = seeding.streams(self.seed, game.rollout_id)
        masks = coalitions.to_mask_strings(evaluated_coalitions(self.estimators, settings.families, players, self.budget, draw))
        found = [runs_of(mask) for mask in masks], masks
        names = [name for each in self.estimators for name in ESTIMATORS[each].families_for(players, self.budget)] + settings.families
        if not any(coalitions.is_drawn(name, players, self.budget) for name in names):
            self._drawn_by_nobody[players] = found
        return found


class CoalitionTable:
    """The rows of table coalition_values as they are asked for, each (rollout, coalition) once, and evaluated in batches."""

    def __init__(self, scorer: TextScorer) -> None:
        self.scorer, self.settings = scorer, scorer.settings
        self.values: list[float] = []
        self._rollout_ids: list[str] = []
        self._prompt_ids: list[str] = []
        self._masks: list[str] = []
        self._texts: list[str] = []
        self._queries: list[str] = []
        self._parts: list[Parts] = []
        self._asked: list[tuple[Game, int, int]] = []  # rollout, first row and the one behind the last, since the last evaluation
        self._row_of: dict[str, dict[str, int]] = {}

    @property
    def height(self) -> int:
        """Number of rows that were asked for."""
        return len(self._masks)

    def ask(self, game: Game, runs: Sequence[Runs], masks: Sequence[str]) -> None:
        """Add the coalitions that are not there yet."""
        rows = self._row_of.setdefault(game.rollout_id, {})
        first = len(self._masks)
        new = {mask: own for own, mask in zip(runs, masks, strict=True) if mask not in rows}
        rows.update(zip(new, range(first, first + len(new)), strict=True))
        texts = coalition_texts(game.completion, game.spans, list(new.values()))
        raw, composition = self.scorer.reward.raw_query(game.prompt_id), self.scorer.reward.composition
        queries = [compose(raw, text, composition) for text in texts] if composition != "replace" else texts
        if self.settings.empty_value == "query":
            queries = [query if own else raw for query, own in zip(queries, new.values(), strict=True)]
        self._masks += new
        self._texts += texts
        self._queries += queries
        self._rollout_ids += [game.rollout_id] * len(new)
        self._prompt_ids += [game.prompt_id] * len(new)
        self._asked.append((game, first, len(self._masks)))

    def evaluate(self) -> None:
        """Find the values of the rows that have none yet."""
        start = len(self.values)
        retrieval, is_plain = self._by_parts(start) if takes_parts(self.scorer.reward, self.settings) else (None, None)
        parts = self.scorer.parts(self._prompt_ids[start:], self._queries[start:], self._texts[start:], retrieval, is_plain)
        self._parts.append(parts)
        self._asked = []
        self.values += parts.value.tolist()

    def _by_parts(self, start: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        # The metric where a coalition's words are those of its segments, NaN where it has to be found by its text; and where the answer
        # has no word too many and none twice, so that no coalition of its segments has.
        is_plain = np.zeros(len(self._masks) - start, dtype=bool)
        chosen: list[Chosen] = []
        present_of: dict[tuple[int, str], NDArray[np.bool_]] = {}  # answers of as many segments mostly ask for the same coalitions
        for game, first, last in self._asked:
            own = segment_words(game.completion, game.spans) if last > first else None
            if own is not None:
                segments = [game.completion[begin:end] for begin, end in game.spans]
                key = len(game.spans), "".join(self._masks[first:last])
                if key not in present_of:
                    marks = np.frombuffer(key[1].encode(), dtype=np.uint8).reshape(last - first, -1)
                    present_of[key] = marks == ord("1")
                chosen.append((game.prompt_id, segments, present_of[key], first - start, last - start))
                is_plain[first - start : last - start] = len(own) <= self.settings.length_limit and len(set(own)) == len(own)
        return values_by_parts(self.scorer.reward, chosen, len(is_plain), self.settings.empty_value == "query"), is_plain

    def values_of(self, game: Game, masks: list[str]) -> NDArray[np.float64]:
        """Return v of evaluated coalitions."""
        rows = self._row_of[game.rollout_id]
        return np.array([self.values[rows[mask]] for mask in masks])

    def frame(self) -> pl.DataFrame:
        """Return table coalition_values."""
        columns = {"rollout_id": self._rollout_ids, "coalition": self._masks, "query": self._queries, "coalition_value": self.values}
        parts = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in ("retrieval", "length", "repetition")}
        further = {name: np.concatenate([part.further[name] for part in self._parts]) for name in self.scorer.further.names}
        return pl.DataFrame(columns | parts | further, schema=COALITION_VALUES.schema | dict.fromkeys(further, pl.Float64))


def evaluate_further(groups: Iterable[list[Game]], table: CoalitionTable, budget: Budget, seed: int) -> None:
    """Give rollout groups their further coalitions, a round of all groups at a time, so that the retriever has full batches."""
    samplers = []
    for name in deletion_estimators(table.settings):
        for group in groups:
            members = [game for game in group if ESTIMATORS[name].can_adapt(game.players, budget)]
            draws = [seeding.streams(seed, game.rollout_id) for game in members]
            if members:
                samplers.append((AdaptiveGroup(ESTIMATORS[name], [game.players for game in members], budget, draws), members))
    while samplers:
        asked = [(sampler, members, sampler.request()) for sampler, members in samplers]
        asked = [(sampler, members, wanted) for sampler, members, wanted in asked if wanted]
        texts = [[(members[index], coalitions.to_mask_strings(masks)) for index, masks in wanted] for _, members, wanted in asked]
        for named in texts:
            for game, mask_strings in named:
                table.ask(game, [runs_of(mask) for mask in mask_strings], mask_strings)
        table.evaluate()
        for (sampler, _, _), named in zip(asked, texts, strict=True):
            sampler.receive([table.values_of(game, mask_strings) for game, mask_strings in named])
        samplers = [(sampler, members) for sampler, members, _ in asked]
