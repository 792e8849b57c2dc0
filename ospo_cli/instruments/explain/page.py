"""An explained query as one self-contained page: no script, no address, one style by its hash."""

from __future__ import annotations

from pathlib import Path

from ospo_cli.report import pages
from ospo_cli.report.charts import share_bar
from ospo_cli.report.credit_painting import level
from ospo_cli.report.explanation import Explanation, dividend_in_words
from ospo_cli.report.explanation_text import efficiency, gain_text, has_errors, how_estimated, rank_in_words, verdict
from ospo_cli.report.number_text import plain, signed

_FOLDER = Path(__file__).resolve().parent
SHOWN_INTERACTIONS = 20


def render(found: Explanation) -> str:
    """Return the page; equal explanations give equal bytes."""
    reach = max(abs(part.share) + (part.standard_error or 0.0) for part in found.parts)
    bars = [share_bar(part.share, part.standard_error, reach, f"share {signed(part.share)}") for part in found.parts]
    content = {
        "found": found,
        "levels": [level(piece[1], found.scale()) if len(piece) > 1 else 0 for piece in found.pieces()],
        "estimated": how_estimated(found),
        "check": efficiency(found),
        "errors": has_errors(found),
        "parts": [(part, bar, verdict(part, found.value_kind == "score")) for part, bar in zip(found.parts, bars, strict=True)],
        "interactions": [
            (each, dividend_in_words(each.dividend, each.last - each.first + 1, plain(abs(each.dividend))))
            for each in found.interactions[:SHOWN_INTERACTIONS]
        ],
        "gain_text": gain_text,
        "rank_in_words": rank_in_words,
    }
    return pages.render(_FOLDER / "page.html", content, styles=[_FOLDER / "page.css"])
