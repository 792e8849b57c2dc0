"""A shop whose customers use words that its titles lack, and a click log of it with a position bias."""

from pathlib import Path

import numpy as np
import polars as pl

KINDS = {
    "coat": "parka", "boots": "wellies", "backpack": "rucksack", "lamp": "light", "mug": "cup", "sofa": "couch", "trousers": "slacks",
    "sweater": "jumper", "scarf": "wrap", "blanket": "throw",
}  # fmt: skip
COLOURS = ("navy", "olive", "rust", "ivory", "black", "teal")
MATERIALS = ("wool", "linen", "cotton", "suede", "canvas")
SHOWN = 10


def write(folder: Path, rows: int = 20_000, seed: int = 0) -> None:
    """Write products.csv (300) and clicks.csv: queries of a kind with one or two attributes, ten products a page, clicks by place and fit."""
    products = [(kind, colour, material) for kind in KINDS for colour in COLOURS for material in MATERIALS]
    titles = [f"{colour} {material} {kind}" for kind, colour, material in products]
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"product_id": [f"P{n:03d}" for n in range(len(titles))], "title": titles}).write_csv(folder / "products.csv")
    draw = np.random.default_rng(seed)
    wanted = [(k, c, m) for k in KINDS for c in (*COLOURS, "") for m in (*MATERIALS, "") if c or m]
    wanted = [wanted[place] for place in draw.permutation(len(wanted))[: rows // (SHOWN * SHOWN)]]
    found = []
    for kind, colour, material in wanted:
        query = " ".join(word for word in (KINDS[kind], colour, material) if word)
        fits = np.array([k == kind and colour in ("", c) and material in ("", m) for k, c, m in products])
        others = np.flatnonzero(np.array([k == kind for k, _, _ in products]) & ~fits)
        shown = [*np.flatnonzero(fits)[:4], *draw.permutation(others)][:SHOWN]
        for session in range(SHOWN):
            for position, product in enumerate(draw.permutation(shown), 1):
                clicked = draw.random() < (0.8 if fits[product] else 0.03) / position  # a place is looked at by 1/position
                found.append((query, f"P{product:03d}", position, int(clicked), f"2026-03-{1 + session:02d}"))
    names = ["query", "product_id", "position", "clicked", "day"]
    pl.DataFrame(found, schema=names, orient="row").write_csv(folder / "clicks.csv")
