"""Write shapiq_values.json: what shapiq computes for the random games of tests/games.py.

pip install 'shapiq==1.4.*' && python -m tests.maths.make_shapiq_values
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.games import Game, random_game
from tests.oracles import restricted_to_path

GAMES = [(1, 0), (2, 1), (3, 2), (5, 3), (6, 4), (8, 5)]


def as_matrix(game: Game) -> Callable[[np.ndarray], np.ndarray]:
    return lambda masks: np.array([game(frozenset(np.flatnonzero(mask).tolist())) for mask in np.asarray(masks, dtype=bool)])


def main() -> None:
    from shapiq import ExactComputer

    found = []
    for n, seed in GAMES:
        game = random_game(n, seed)
        plain, path = (ExactComputer(as_matrix(each), n_players=n) for each in (game, restricted_to_path(game)))
        shapley, banzhaf, on_path, moebius = plain("SV", order=1), plain("BV", order=1), path("SV", order=1), path("Moebius")
        found.append(
            {
                "n": n,
                "seed": seed,
                "shapley": [float(shapley[(player,)]) for player in range(n)],
                "banzhaf": [float(banzhaf[(player,)]) for player in range(n)],
                "path_shapley": [float(on_path[(player,)]) for player in range(n)],
                "path_dividends": [float(moebius[tuple(range(a, b + 1))]) for a in range(n) for b in range(a, n)],
            }
        )
    text = json.dumps({"made_with": f"shapiq {version('shapiq')}", "games": found}, indent=1)
    Path(__file__).with_name("shapiq_values.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
