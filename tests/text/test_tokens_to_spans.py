"""Character spans of sampled tokens, and weights of segments in tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.text.segments import segment
from ospo_cli.text.tokens_to_spans import Overlaps, overlaps, token_spans
from tests.text.byte_level import END, pieces, tokenizer

TEXTS = st.one_of(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), st.lists(st.sampled_from(["navy", " wool", ", ", "é", "e\u0301", "漢字", "🔥", "👨‍👩‍👧", "שלום", "\u200f", "\n", "<answer>", "\x00"]), max_size=12).map("".join))  # fmt: skip


def spans_by_prefixes(byte_pieces: list[bytes], text: str) -> list[tuple[int, int]]:
    """The obvious way for valid UTF-8: a character belongs to each token that holds some of its bytes."""
    owner = [index for index, character in enumerate(text) for _ in character.encode()]
    spans, position = [], 0
    for piece in byte_pieces:
        inside = owner[position : position + len(piece)]
        here = owner[position] if position < len(owner) else len(text)
        spans.append((inside[0], inside[-1] + 1) if inside else (here, here))
        position += len(piece)
    return spans


@pytest.mark.parametrize("vocabulary_size", [257, 300, 500])
@settings(max_examples=60)
@given(text=TEXTS)
def test_tokens_of_any_text_have_the_spans_of_their_bytes(vocabulary_size: int, text: str) -> None:
    ids = [*tokenizer(vocabulary_size).encode(text).ids, tokenizer(vocabulary_size).token_to_id(END)]
    byte_pieces = pieces(vocabulary_size).pieces(ids)
    assert [tuple(span) for span in token_spans(byte_pieces, text)] == spans_by_prefixes(byte_pieces, text)


@settings(max_examples=100)
@given(data=st.binary(max_size=24), cuts=st.lists(st.integers(0, 24), max_size=8))
def test_bytes_that_are_no_utf8_agree_with_pythons_decoder(data: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    byte_pieces = [data[left:right] for left, right in pairwise(borders)]
    text = data.decode("utf-8", errors="replace")
    spans = token_spans(byte_pieces, text)
    assert {character for first, last in spans for character in range(first, last)} == set(range(len(text)))
    # Where a token's end is no character's inside, the text up to it is what its bytes say.
    for (_, last), right in zip(spans, borders[1:], strict=True):
        assert abs(len(data[:right].decode("utf-8", errors="replace")) - last) <= 2


@pytest.mark.parametrize(
    ("byte_pieces", "spans"),
    [
        ([b"caf", b"\xc3", b"\xa9 x", b""], [[0, 3], [3, 4], [3, 6], [6, 6]]),
        (["🔥".encode()[:1], "🔥".encode()[1:3], "🔥".encode()[3:] + b"a"], [[0, 1], [0, 1], [0, 2]]),
        ([b"a", b"\xff", b"b"], [[0, 1], [1, 2], [2, 3]]),
        ([b"a\xe2\x82", b""], [[0, 2], [2, 2]]),
        ([b"\xe2", b"\x82", b"x"], [[0, 1], [0, 1], [1, 2]]),
        ([b"", b"a", b"", b"b"], [[0, 0], [0, 1], [1, 1], [1, 2]]),
        ([], []),
        ([b""], [[0, 0]]),
    ],
)
def test_known_spans(byte_pieces: list[bytes], spans: list[list[int]]) -> None:
    assert token_spans(byte_pieces, b"".join(byte_pieces).decode("utf-8", errors="replace")).tolist() == spans


@pytest.mark.parametrize("text", ["navy coat", "navy wool ", "navy wooL", ""])
def test_pieces_that_do_not_spell_the_text_are_an_error_and_not_a_guess(text: str) -> None:
    with pytest.raises(CreditError, match="do not spell the completion"):
        token_spans([b"navy", b" wool"], text)


def test_letters_in_another_normal_form_are_another_text() -> None:
    with pytest.raises(CreditError, match="do not spell the completion"):
        token_spans(["é".encode()], "e\u0301")


# Weights


def weights(texts: list[str], byte_pieces: list[list[bytes]], spans: list[list[tuple[int, int]]]) -> Overlaps:
    rows = np.repeat(np.arange(len(texts)), [len(row) for row in spans])
    flat = np.array([span for row in spans for span in row], dtype=np.int64).reshape(-1, 2)
    return overlaps(texts, [token_spans(row, text) for row, text in zip(byte_pieces, texts, strict=True)], rows, flat[:, 0], flat[:, 1])


def as_list(found: Overlaps) -> list[tuple[int, int, float]]:
    return list(zip(found.token.tolist(), found.segment.tolist(), found.weight.round(6).tolist(), strict=True))


def test_the_blank_before_a_word_counts_for_nothing() -> None:
    assert as_list(weights(["navy wool"], [[b"navy", b" wool"]], [[(0, 4), (5, 9)]])) == [(0, 0, 1.0), (1, 1, 1.0)]


def test_a_token_cut_by_a_border_is_shared_by_overlap() -> None:
    assert as_list(weights(["ab,cd"], [[b"ab,c", b"d"]], [[(0, 2), (3, 5)]])) == [(0, 0, 0.5), (0, 1, 0.25), (1, 1, 1.0)]


def test_a_token_of_blanks_belongs_to_the_segment_around_it_or_to_none() -> None:
    assert as_list(weights(["a b c"], [[b"a", b" ", b"b", b" ", b"c"]], [[(0, 3), (4, 5)]])) == [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (2, 0, 1.0),
        (4, 1, 1.0),
    ]


def test_rows_never_touch_each_other() -> None:
    assert as_list(weights(["ab", "", "cd"], [[b"ab", b""], [b""], [b"c", b"d"]], [[(0, 2)], [], [(0, 2)]])) == [
        (0, 0, 1.0),
        (3, 1, 1.0),
        (4, 1, 1.0),
    ]


def check_token_mass(text: str, byte_pieces: list[bytes], spans: list[tuple[int, int]], found: Overlaps) -> None:
    """The obvious way, character by character: the part of a token's visible characters that lies in each segment."""
    for token, (first, last) in enumerate(token_spans(byte_pieces, text).tolist()):
        visible = [position for position in range(first, last) if not text[position].isspace()] or list(range(first, last))
        for index, (start, end) in enumerate(spans):
            expected = sum(start <= position < end for position in visible) / max(len(visible), 1)
            weight = found.weight[(found.token == token) & (found.segment == index)].sum()
            assert weight == pytest.approx(expected)
    assert all(found.weight[found.segment == index].sum() > 0 for index in range(len(spans)))


@pytest.mark.parametrize("vocabulary_size", [257, 500])
@pytest.mark.parametrize("level", ["phrase", "word"])
@settings(max_examples=50)
@given(text=TEXTS)
def test_every_token_of_any_text_is_shared_by_its_visible_characters(vocabulary_size: int, level: str, text: str) -> None:
    byte_pieces = pieces(vocabulary_size).pieces(tokenizer(vocabulary_size).encode(text).ids)
    spans = [(span.start, span.end) for span in segment(text, level)]
    check_token_mass(text, byte_pieces, spans, weights([text], [byte_pieces], [spans]))


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_alignment_that_is_off_by_one_would_be_seen(shift: int) -> None:
    text, byte_pieces, spans = "x navy, wool y", [bytes([byte]) for byte in b"x navy, wool y"], [(2, 6), (8, 12)]
    shifted = [(start + shift, end + shift) for start, end in spans]
    with pytest.raises(AssertionError):
        check_token_mass(text, byte_pieces, spans, weights([text], [byte_pieces], [shifted]))


@pytest.mark.parametrize("spans", [[(0, 3), (2, 4)], [(2, 4), (0, 1)], [(1, 1)], [(3, 9)], [(-1, 2)]])
def test_segments_that_are_no_disjoint_ordered_spans_of_the_text_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(CreditError, match="row 0: segments must be"):
        weights(["navy"], [[b"navy"]], [spans])
