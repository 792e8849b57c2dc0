"""An explained query on the terminal."""

from __future__ import annotations

from ospo_cli.report.explanation import Explanation, Interaction, Part, dividend_in_words, window_name
from ospo_cli.report.number_text import MINUS, plain, short, signed
from ospo_cli.report.terminal import Terminal
from ospo_cli.text.visible import visible

SHOWN_INTERACTIONS = 6
QUERY_LIMIT = 4000
_TITLE = 64
_WORD = 40


def print_explanation(found: Explanation, output: Terminal) -> None:
    """Print query with credit, value, segments, interactions and products; every text of users and catalogues made visible."""
    output.line(f"query, {found.level} by {found.level}, with the share of each:", style="bold")
    output.painted([[visible(piece[0], QUERY_LIMIT), *piece[1:]] for piece in found.pieces()], found.scale())
    output.line()
    output.line(f"value:   {visible(found.value, 300)}")
    output.line(f"         the query {_plain(found.grand)}, no words {_plain(found.empty)}")
    output.line(f"shares:  {how_estimated(found)}")
    output.line(f"         {efficiency(found).replace(MINUS, '-')}")
    target = found.target
    gain = "" if target.gain is None else f", gain {target.gain:g}"
    output.line(f"product: {visible(target.doc_id, 60)}, {_cut(target.title, _TITLE)}{gain}: {rank_in_words(target.rank)}")
    for note in found.notes:
        output.line(f"note:    {visible(note, 1000)}")
    output.line()
    header, numbers = _part_header(found)
    output.grid(header, [_part_row(part, found) for part in found.parts], numbers)
    output.line(
        "alone, without: value of the word by itself, and of the query without it; rank: where the product above is then", style="dim"
    )
    output.line()
    _print_interactions(found, output)
    output.line()
    where = "the prompt's pool" if found.is_pool else "the catalogue"
    output.line(
        f"products: {len(found.products):,} of {found.retrieved:,} retrieved by {found.retriever} from {where} of {found.candidates:,}",
        style="bold",
    )
    if found.products:
        rows = [
            [str(each.rank), visible(each.doc_id, _WORD), _plain(each.score), gain_text(each.gain), _cut(each.title, _TITLE)]
            for each in found.products
        ]
        output.grid(["rank", "product", "score", "gain", "title"], rows, ["rank", "score", "gain"])


def how_estimated(found: Explanation) -> str:
    """Return the estimator, its meaning, and what it rests on."""
    how = "sampled, so with standard errors" if found.special_case.startswith("sampled") else "computed, not sampled"
    return f"{found.estimator}: {found.estimator_meaning}; {how}; {found.coalitions:,} parts of the query were tried"


def efficiency(found: Explanation) -> str:
    """Return the check of the sum, in words."""
    gain = found.grand - found.empty
    if found.is_efficient:
        return f"they sum to {plain(found.share_sum)}, which is what the query gains over no words (gap {short(found.efficiency_gap)})"
    return (
        f"they sum to {plain(found.share_sum)}, while the query gains {plain(gain)} over no words "
        f"(gap {plain(found.efficiency_gap)}): this estimator need not share out exactly that"
    )


def rank_in_words(rank: int | None) -> str:
    """Return `rank 3`, or that it is not retrieved."""
    return "not retrieved" if rank is None else f"rank {rank}"


def rank_text(rank: int | None) -> str:
    """Return the rank, or a dash where there is none."""
    return "-" if rank is None else str(rank)


def gain_text(gain: float | None) -> str:
    """Return the judged gain, or a question mark where nobody judged."""
    return "?" if gain is None else f"{gain:g}"


def verdict(part: Part, is_score: bool = False) -> str:
    """Return what is told of a segment besides its numbers; `is_score`: the value is the score of the product above.

    >>> verdict(Part(0, 4, "navy", 0.0, None, 1, 0.0, 0.5, None, 1, ["navy"]))
    'retrieves nothing'
    >>> verdict(Part(0, 4, "navy", 0.0, None, 1, 0.0, 0.5, None, 1, []), is_score=True)
    'does not find the product above'
    """
    if not part.unknown_words:
        return "does not find the product above" if is_score and part.rank_alone is None else ""
    return "retrieves nothing" if part.text.split() == [part.text] else f"retrieves nothing: {', '.join(part.unknown_words)}"


def _part_header(found: Explanation) -> tuple[list[str], list[str]]:
    numbers = ["share", *(["± s.e."] if has_errors(found) else []), "alone", "without", "rank alone", "rank without"]
    return [found.level, *numbers, *([""] if any(_told(found)) else [])], numbers


def has_errors(found: Explanation) -> bool:
    """Tell whether any share has a standard error."""
    return any(part.standard_error is not None for part in found.parts)


def _told(found: Explanation) -> list[str]:
    return [verdict(part, found.value_kind == "score") for part in found.parts]


def _part_row(part: Part, found: Explanation) -> list[str]:
    error = [_plain(part.standard_error)] if has_errors(found) else []
    told = [visible(verdict(part, found.value_kind == "score"), 200)] if any(_told(found)) else []
    ranks = [rank_text(part.rank_alone), rank_text(part.rank_without)]
    return [_cut(part.text, _WORD), _signed(part.share), *error, _plain(part.alone), _plain(part.without), *ranks, *told]


def _print_interactions(found: Explanation, output: Terminal) -> None:
    if not found.interactions:
        output.line("together: no neighbours earn more or less together than apart", style="bold")
        return
    output.line("together: what neighbours earn that no smaller part of the window earns (Harsanyi dividends)", style="bold")
    for each in found.interactions[:SHOWN_INTERACTIONS]:
        output.line(f"  {interaction_line(each)}")
    more = len(found.interactions) - SHOWN_INTERACTIONS
    if more > 0:
        output.line(f"  … {more:,} weaker ones", style="dim")


def interaction_line(each: Interaction) -> str:
    """Return one interaction in words, for terminals."""
    name = window_name(each.first, each.last, _cut(each.first_text, _WORD), _cut(each.last_text, _WORD))
    words = dividend_in_words(each.dividend, each.last - each.first + 1, plain(abs(each.dividend)))
    return f"{_signed(each.dividend)}  {name}: {words}"


def _cut(text: str, limit: int) -> str:
    shown = visible(text[: limit + 1], limit + 1)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _plain(value: float | None) -> str:
    return plain(value).replace(MINUS, "-").replace("–", "-")


def _signed(value: float) -> str:
    return signed(value).replace(MINUS, "-")
