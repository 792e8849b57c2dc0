"""The words that some of many texts have in common, and the others do not: what a query stands for, in the catalogue's own words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.text.words import words

SHARE = 0.6  # of the weight whose texts have a word: from there on it is shared
LIFT = 4.0  # and so much more frequent there than among all texts, or it says nothing of these
CHANCE = 1e-3  # of so many texts with a word, drawn from all (at most): above, it may be of three products that happen to be jackets

Rows = NDArray[np.int64]


class Texts:
    """Which texts have which word.

    >>> shop = Texts(["swim shorts red", "swim shorts", "swim shorts blue", *["wool coat"] * 200])
    >>> shop.shared([0, 1, 2], [1.0, 1.0, 1.0])
    ['swim', 'shorts']
    >>> shop.having(["swim", "red"]).tolist()
    [0]
    """

    def __init__(self, texts: Iterable[str]) -> None:
        in_order = [list(dict.fromkeys(words(text))) for text in texts]
        self.words = [frozenset(own) for own in in_order]
        rows: dict[str, list[int]] = {}
        places: dict[str, float] = {}
        for row, own in enumerate(in_order):
            for place, word in enumerate(own):
                rows.setdefault(word, []).append(row)
                places[word] = places.get(word, 0.0) + place
        self._rows: dict[str, Rows] = {word: np.array(found, dtype=np.int64) for word, found in rows.items()}
        self._place = {word: total / len(rows[word]) for word, total in places.items()}

    def shared(self, rows: Sequence[int], weights: Sequence[float]) -> list[str]:
        """Return the words that texts of SHARE of the weight have, LIFT times as often as all and hardly by chance, in the order in which
        they mostly stand.

        Args:
            rows: of N texts.
            weights: of each, from 0; those of weight 0 count in the whole alone.
        """
        found: dict[str, float] = {}
        for row, weight in zip(rows, weights, strict=True):
            for word in self.words[row] if weight > 0 else ():
                found[word] = found.get(word, 0.0) + weight
        total, count = sum(weights), sum(weight > 0 for weight in weights)
        kept = [word for word, weight in found.items() if self._is_shared(word, weight / total, count)]
        return sorted(kept, key=lambda word: (self._place[word], word))

    def _is_shared(self, word: str, share: float, count: int) -> bool:
        usual = len(self._rows[word]) / len(self.words)
        return share >= max(SHARE, LIFT * usual) and _chance(min(share, 1.0), usual, count) <= CHANCE

    def having(self, wanted: Sequence[str]) -> Rows:
        """Return the texts that have every one of these words (one at least), ascending."""
        found, *others = sorted((self._rows[word] for word in wanted), key=len)
        for rows in others:
            found = np.intersect1d(found, rows, assume_unique=True)
        return found


def _chance(share: float, usual: float, count: int) -> float:
    """Return Chernoff's bound of the probability that a share or more of `count` draws has what `usual` < share of all have.

    >>> round(_chance(1.0, 0.1, 3), 6)
    0.001
    """
    rest = 0.0 if share == 1 else (1 - share) * math.log((1 - share) / (1 - usual))
    return math.exp(-count * (share * math.log(share / usual) + rest))
