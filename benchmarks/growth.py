"""How the lexical engine grows with the catalogue: building, bytes, memory and seconds per million coalitions.

    python benchmarks/growth.py [--sizes 10000 100000 1000000 3000000] [--out FOLDER]

Catalogues are generated: titles of 4 to 20 words from a Zipf vocabulary (exponent 1) of 300,000 words, so that the most frequent word is in
more than half of the documents. Answers are eight phrases of one to three words from titles, all 37 windows of each; half of the answers
draw from titles of any documents, half are made of the 100 most frequent words alone, the hardest case, told apart. Whole catalogue, nDCG's
k = 10. Each size runs in a process of its own, whose largest resident set is reported: the texts, what Python needs, and the index.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.maths import coalitions
from ospo_cli.maths.seeding import generator
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.report.charts import Frame, Line, line_chart
from ospo_cli.report.pages import svg
from ospo_cli.retrievers.base import Catalogue, Coalitions
from ospo_cli.retrievers.lexical.bm25 import BM25

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
VOCABULARY = 300_000
SEGMENTS = 8
K = 10
ANSWERS = {"any words": 512, "frequent words": 128}
COLUMNS = ("documents", "postings", "build s", "index MB", "opened in s", "peak GiB", *(f"{name}: s per 10^6" for name in ANSWERS))
STYLE = (
    "text { font: 11px sans-serif; fill: #333; } .end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: #ddd; } "
    ".line { fill: none; stroke-width: 2; } .line.c0 { stroke: #0b62a4; } .line.c1 { stroke: #c2571a; } "
    ".dot.c0, .name.c0 { fill: #0b62a4; } .dot.c1, .name.c1 { fill: #c2571a; }"
)


def titles(count: int, numbers: np.random.Generator) -> list[str]:
    """Return `count` titles of Zipf words."""
    shares = 1.0 / np.arange(1, VOCABULARY + 1)
    cumulated = np.cumsum(shares / shares.sum())
    names = [f"w{index:x}" for index in range(VOCABULARY)]
    found: list[str] = []
    while len(found) < count:
        sizes = numbers.integers(4, 21, size=min(100_000, count - len(found)))
        flat = [names[index] for index in np.minimum(np.searchsorted(cumulated, numbers.random(int(sizes.sum()))), VOCABULARY - 1)]
        ends = np.cumsum(sizes).tolist()
        found += [" ".join(flat[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return found


def answers(kind: str, texts: list[str], numbers: np.random.Generator) -> list[Coalitions]:
    """Return answers of eight phrases with all their windows."""
    present = coalitions.contiguous(SEGMENTS, SEGMENTS, 0, numbers)
    found = []
    for _ in range(ANSWERS[kind]):
        parts = []
        for _ in range(SEGMENTS):
            size = int(numbers.integers(1, 4))
            if kind == "frequent words":
                parts.append(" ".join(f"w{index:x}" for index in numbers.integers(0, 100, size=size)))
            else:
                title = texts[int(numbers.integers(len(texts)))].split()
                start = int(numbers.integers(len(title)))
                parts.append(" ".join(title[start : start + size]))
        found.append(Coalitions(parts, present, None))
    return found


def measure(size: int, folder: Path) -> dict[str, float]:
    """Return one row of the table."""
    numbers = generator(0, f"growth-{size}")
    texts = titles(size, numbers)
    catalogue = Catalogue.from_documents(pl.DataFrame({"doc_id": [f"d{index:07d}" for index in range(size)], "title": texts}))
    BM25(Catalogue.from_documents(pl.DataFrame({"doc_id": ["d"], "title": ["coat"]})), Retrieval(), None).rank(["coat"], [None], K)
    start_seconds = time.perf_counter()
    BM25(catalogue, Retrieval(), folder)
    build_seconds, start_seconds = time.perf_counter() - start_seconds, time.perf_counter()
    engine = BM25(catalogue, Retrieval(), folder)
    row = {
        "documents": size,
        "postings": len(engine.index.arrays["documents"]),
        "build s": build_seconds,
        "index MB": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        "opened in s": time.perf_counter() - start_seconds,
        "peak GiB": 0.0,
    }
    for kind in ANSWERS:
        asked = answers(kind, texts, numbers)
        engine.rank_coalitions(asked[:8], K)
        best_seconds = float("inf")
        for _ in range(3):
            start_seconds = time.perf_counter()
            documents, _ = engine.rank_coalitions(asked, K)
            best_seconds = min(best_seconds, time.perf_counter() - start_seconds)
        row[f"{kind}: s per 10^6"] = best_seconds / len(documents) * 1e6
    row["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def chart(rows: list[dict[str, float]]) -> str:
    """Return an SVG: seconds per million coalitions by documents, both in powers of ten."""
    lines = [
        Line((kind,), f"c{index}", tuple((row["documents"], math.log10(row[f"{kind}: s per 10^6"])) for row in rows))
        for index, kind in enumerate(ANSWERS)
    ]
    inside = svg(line_chart(lines, Frame("powers of ten", "documents", width=640, height=360, is_log=True)))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 390" width="640" height="390">'
        f'<style>{STYLE}</style><rect width="640" height="390" fill="#fff"/><text x="8" y="18">'
        "seconds per 10^6 coalitions, whole catalogue, in powers of ten"
        f'</text><g transform="translate(0 26)">{inside}</g></svg>\n'
    )


def main() -> None:
    """Print the table; draw it where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="folder for growth.svg")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.one:
            print(json.dumps(measure(arguments.one, Path(folder))))
            return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    rows = []
    for size in arguments.sizes:
        done = subprocess.run([sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("| " + " | ".join(f"{rows[-1][name]:,.{0 if name in COLUMNS[:2] else 1}f}" for name in COLUMNS) + " |", flush=True)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "growth.svg").write_text(chart(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
