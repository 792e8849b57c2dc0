"""Prints how well the phrase rules agree with the hand labels: `python -m tests.text.measure_chunker`."""

from __future__ import annotations

from ospo_cli.text.segments import segment
from tests.text.labelled import agreement, labelled_queries

KINDS = {"shops": ("esci", "chorus", "retail"), "movies": ("msrd",)}


def main() -> None:
    """Print one Markdown row per part and kind of query."""
    queries = labelled_queries()
    print("| part | kind | queries | precision | recall | F1 | exact |\n|---|---|---|---|---|---|---|")
    for part in ("tuned", "held-out", "fresh"):
        for kind, sources in KINDS.items():
            chosen = [labelled for labelled in queries if labelled.part == part and labelled.source in sources]
            found = agreement(chosen, lambda query: [span.start for span in segment(query, "phrase")])
            numbers = " | ".join(f"{value:.2f}" for value in (found.precision, found.recall, found.f1, found.exact))
            print(f"| {part} | {kind} | {found.queries} | {numbers} |")


if __name__ == "__main__":
    main()
