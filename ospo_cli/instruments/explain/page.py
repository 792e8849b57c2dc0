"""An explained query as one self-contained page: no script, no address, one style by its hash."""

from __future__ import annotations

from pathlib import Path

import ospo_cli
from ospo_cli.report.charts import share_bar
from ospo_cli.report.credit_painting import level
from ospo_cli.report.explanation import Explanation, Interaction, Part, Product, dividend_in_words
from ospo_cli.report.explanation_text import efficiency, gain_text, has_errors, how_estimated, rank_in_words, rank_text, verdict
from ospo_cli.report.markup import escape, isolated, source_hash, tag
from ospo_cli.report.number_text import count, plain, signed

_FOLDER = Path(__file__).resolve().parents[2] / "report"
QUERY_LIMIT = 20_000
SHOWN_INTERACTIONS = 20
LONG_QUERY = 24  # segments; more of them are set smaller


def render(found: Explanation) -> str:
    """Return the page; equal explanations give equal bytes."""
    style = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "explanation.css"))
    policy = f"default-src 'none'; style-src {source_hash(style)}; base-uri 'none'; form-action 'none'"
    sections = [
        ("words", f"What each {found.level} earned", _parts(found)),
        ("together", "What they earn together", _together(found)),
        ("products", "Products", _products(found)),
    ]
    body = "".join(tag("section", f"<h2>{escape(name)}</h2>{content}", id=identity) for identity, name, content in sections)
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(found.query, 80)}: explained</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header class="top"><div class="page">{_header(found)}</div></header>\n'
        f'<main class="page">\n{body}\n</main>\n'
        f'<footer class="page"><p>ospo {escape(ospo_cli.__version__)}, <code>ospo explain</code></p></footer>\n</body>\n</html>\n'
    )


def _header(found: Explanation) -> str:
    pieces = []
    for piece in found.pieces():
        if len(piece) == 1:
            pieces.append(tag("span", escape(piece[0], QUERY_LIMIT), class_="outside"))
            continue
        step = level(piece[1], found.scale())
        kind = "" if step == 0 else " earned" if step > 0 else " cost"
        number = tag("sup", signed(piece[1], 2))
        short = " short" if len(piece[0]) <= 24 else ""
        pieces.append(tag("span", isolated(piece[0]) + number, class_=f"segment{kind}{short}", data_level=step))
    target = found.target
    gain = "" if target.gain is None else f", gain {target.gain:g}"
    facts = [
        ("Shared out", escape(found.value)),
        ("Shares", escape(how_estimated(found))),
        ("Check", escape(f"{efficiency(found)[0].upper()}{efficiency(found)[1:]}")),
        ("Product followed", f"{escape(target.doc_id)}, {isolated(target.title, 240)}{gain}: {rank_in_words(target.rank)}"),
    ]
    rows = "".join(tag("div", tag("dt", name) + tag("dd", content)) for name, content in facts)
    tiles = [
        (f"{plain(found.grand)}", "the query", f"{escape(found.unit)}"),
        (f"{plain(found.empty)}", "no words", f"{escape(found.unit)}"),
        (rank_text(target.rank).replace("-", "–"), "rank of the product followed", f"of {count(found.candidates)} candidates"),
    ]
    shown = "".join(tag("div", tag("dt", name) + tag("dd", f"{value}<small>{below}</small>")) for value, name, below in tiles)
    notes = "".join(tag("li", escape(note)) for note in found.notes)
    style = "query long" if len(found.parts) > LONG_QUERY else "query"
    query = tag("p", "".join(pieces), class_=style, dir="auto")
    listed = tag("ul", notes, class_="notes") if notes else ""
    return f"<h1>ospo explain</h1>{query}<dl class='tiles'>{shown}</dl><dl class='tree'>{rows}</dl>{listed}"


def _parts(found: Explanation) -> str:
    errors = has_errors(found)
    reach = max(abs(part.share) + (part.standard_error or 0.0) for part in found.parts)
    names = [found.level, "share", "", *(["± s.e."] if errors else []), "alone", "without it", "rank alone", "rank without", ""]
    head = "".join(tag("th", escape(name), scope="col", class_=None if index in (0, 2) else "number") for index, name in enumerate(names))
    rows = "".join(_part(part, reach, errors) for part in found.parts)
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", rows), class_="explained")
    lead = (
        f"Shares are in units of {escape(found.unit)}. <em>Alone</em>: the value of the {escape(found.level)} by itself; <em>without "
        "it</em>: of the query when it is left out. <em>Rank</em>: where the product followed stands then, – where it is not retrieved."
    )
    return f"<p class='lead'>{lead}</p>" + _scroll(table, "Shares")


def _part(part: Part, reach: float, errors: bool) -> str:
    bar = share_bar(part.share, part.standard_error, reach, f"share {signed(part.share)}")
    cells = [signed(part.share), *([plain(part.standard_error)] if errors else []), plain(part.alone), plain(part.without)]
    cells += [rank_text(rank).replace("-", "–") for rank in (part.rank_alone, part.rank_without)]
    numbers = [tag("td", cell, class_="number") for cell in cells]
    return tag(
        "tr",
        tag("th", isolated(part.text, 240), scope="row")
        + numbers[0]
        + tag("td", bar, class_="share")
        + "".join(numbers[1:])
        + tag("td", escape(verdict(part)), class_="told"),
    )


def _together(found: Explanation) -> str:
    if not found.interactions:
        return "<p class='lead'>Nothing: no neighbours earn more or less together than apart.</p>"
    shown = found.interactions[:SHOWN_INTERACTIONS]
    more = len(found.interactions) - len(shown)
    lead = "Harsanyi dividends of neighbouring segments, strongest first: what a window earns that no smaller window within it earns."
    rows = "".join(_interaction(each) for each in shown)
    rest = f"<p class='note'>{count(more)} weaker ones are left out; <code>--json</code> has them.</p>" if more else ""
    return f"<p class='lead'>{lead}</p><ul class='together'>{rows}</ul>{rest}"


def _interaction(each: Interaction) -> str:
    kind = "earned" if each.dividend > 0 else "cost"
    between = each.last - each.first - 1
    ends = isolated(each.first_text, 120) + (f" + {between} between" if between else "") + " + " + isolated(each.last_text, 120)
    words = dividend_in_words(each.dividend, each.last - each.first + 1, plain(abs(each.dividend)))
    return tag("li", f"<b class='{kind}'>{signed(each.dividend)}</b><span>{ends}</span><small>{escape(words)}</small>")


def _products(found: Explanation) -> str:
    where = "the prompt's pool" if found.is_pool else "the catalogue"
    lead = (
        f"{count(len(found.products))} of {count(found.retrieved)} products that <em>{escape(found.retriever)}</em> retrieves from {where} "
        f"of {count(found.candidates)}. Gain: as judged; ? where nobody judged."
    )
    if not found.products:
        return f"<p class='lead'>{lead}</p>"
    names = ["rank", "product", "title", "score", "gain"]
    head = "".join(tag("th", name, scope="col", class_="number" if name in ("rank", "score", "gain") else None) for name in names)
    rows = "".join(_product(each) for each in found.products)
    return f"<p class='lead'>{lead}</p>" + _scroll(tag("table", tag("thead", tag("tr", head)) + tag("tbody", rows)), "Products")


def _product(each: Product) -> str:
    cells = tag("td", str(each.rank), class_="number") + tag("td", isolated(each.doc_id, 120)) + tag("td", isolated(each.title, 240))
    cells += tag("td", plain(each.score), class_="number") + tag("td", escape(gain_text(each.gain)), class_="number")
    return tag("tr", cells, class_="relevant" if each.gain else None)


def _scroll(table: str, label: str) -> str:
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
