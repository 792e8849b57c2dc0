"""From sampled token ids to character spans, and from spans to the weight of each segment in each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError

_WHITE_SPACE = np.array([*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000], dtype=np.uint32)  # fmt: skip  # noqa: E501


def token_spans(pieces: Sequence[bytes], text: str) -> NDArray[np.int32]:
    """Return [tokens, 2]: first character and character after the last of each sampled token within the text.

    Args:
        pieces: bytes that each token stands for; b"" for special tokens.
        text: the completion, `b"".join(pieces).decode("utf-8", errors="replace")`.

    A character whose bytes are cut across tokens belongs to each of them. Bytes that are no UTF-8 are one U+FFFD per maximal
    ill-formed part, as Python's decoder has it. A token of no bytes has an empty span where it stands.

    Raises:
        CreditError: the pieces do not spell the text; never a guess.

    >>> token_spans([b"caf", b"\\xc3", b"\\xa9 x", b""], "café x").tolist()
    [[0, 3], [3, 4], [3, 6], [6, 6]]
    """
    joined = b"".join(pieces)
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    ends = np.cumsum(lengths)
    if joined.isascii():
        _check_spelling(joined.decode("ascii"), text)
        return np.stack([ends - lengths, ends], axis=1).astype(np.int32)
    character_of_byte, spelled = _characters(joined)
    _check_spelling(spelled, text)
    # One past the end stands for "after the last character".
    boundary = np.append(character_of_byte, len(text))
    first = boundary[ends - lengths]
    last = np.where(lengths > 0, boundary[np.maximum(ends - 1, 0)] + 1, first)
    return np.stack([first, last], axis=1).astype(np.int32)


@dataclass(frozen=True)
class Overlaps:
    """Sparse weights of segments in tokens, sorted by token: weight[i] of token[i] lies in segment[i]; the rest of a token in none."""

    token: NDArray[np.int64]
    segment: NDArray[np.int64]
    weight: NDArray[np.float64]


def overlaps(
    texts: Sequence[str],
    spans_of_tokens: Sequence[NDArray[np.int32]],
    segment_row: NDArray[np.int64],
    segment_start: NDArray[np.int64],
    segment_end: NDArray[np.int64],
) -> Overlaps:
    """Return which share of each token lies in which segment, over many rows at once.

    Args:
        texts: [rows] completions.
        spans_of_tokens: [rows] arrays [tokens, 2] as from `token_spans`.
        segment_row: [segments] row of each segment, ascending.
        segment_start: [segments] first character within the row's text; disjoint and ascending within a row.
        segment_end: [segments] character after the last.

    White space at a token's ends counts for nothing, since byte-level tokens carry the blank before their word; a token of white
    space alone is shared by its blanks. Indices are flat, tokens and segments numbered through all rows. Weights of one token sum to
    at most 1, and each segment that holds a visible character has a positive sum.

    Raises:
        CreditError: segments overlap, are out of order or leave the text.
    """
    text_length = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    offset = np.cumsum(text_length) - text_length
    start, end = segment_start + offset[segment_row], segment_end + offset[segment_row]
    wrong = (segment_start < 0) | (segment_start >= segment_end) | (segment_end > text_length[segment_row])
    wrong[1:] |= start[1:] < end[:-1]
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise CreditError(
            f"row {segment_row[place]}",
            "segments must be non-empty, disjoint, ordered and inside the completion",
            found=f"{segment_start[place]}..{segment_end[place]} of {text_length[segment_row[place]]} characters",
        )
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    visible = np.concatenate([[0], np.cumsum(~np.isin(codes, _WHITE_SPACE))])
    token_count = np.fromiter(map(len, spans_of_tokens), dtype=np.int64, count=len(spans_of_tokens))
    spans = np.concatenate([np.zeros((0, 2), dtype=np.int32), *spans_of_tokens]).astype(np.int64) + np.repeat(offset, token_count)[:, None]
    first = np.searchsorted(end, spans[:, 0], side="right")
    count = np.maximum(np.searchsorted(start, spans[:, 1], side="left") - first, 0)
    token = np.repeat(np.arange(len(spans)), count)
    segment = np.arange(len(token)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    left, right = np.maximum(spans[token, 0], start[segment]), np.minimum(spans[token, 1], end[segment])
    total = (visible[spans[:, 1]] - visible[spans[:, 0]])[token]
    part = np.where(total > 0, visible[right] - visible[left], right - left)
    weight = part / np.where(total > 0, total, np.maximum(spans[token, 1] - spans[token, 0], 1))
    kept = (part > 0) & (spans[token, 1] > spans[token, 0])
    return Overlaps(token[kept], segment[kept], weight[kept])


def _characters(joined: bytes) -> tuple[NDArray[np.int64], str]:
    """Return the character index of each byte, and the text with U+FFFD for what is no UTF-8."""
    starts = np.ones(len(joined), dtype=bool)
    parts: list[str] = []
    position = 0
    while position < len(joined):
        try:
            parts.append(joined[position:].decode("utf-8"))
            good_end = bad_end = len(joined)
        except UnicodeDecodeError as error:
            good_end, bad_end = position + error.start, position + error.end
            parts += [joined[position:good_end].decode("utf-8"), "\ufffd"]
            starts[good_end + 1 : bad_end] = False
        good = np.frombuffer(joined, dtype=np.uint8)[position:good_end]
        starts[position:good_end] = (good & 0xC0) != 0x80
        position = bad_end
    return np.cumsum(starts) - 1, "".join(parts)


def _check_spelling(spelled: str, text: str) -> None:
    if spelled == text:
        return
    common = next((index for index, (a, b) in enumerate(zip(spelled, text, strict=False)) if a != b), min(len(spelled), len(text)))
    raise CreditError(
        f"character {common}",
        "the sampled token ids do not spell the completion",
        found=repr(spelled[max(common - 20, 0) : common + 20]),
        expected=repr(text[max(common - 20, 0) : common + 20]),
        remedy="use the tokenizer of the policy that sampled it, and run the rollout again",
    )
