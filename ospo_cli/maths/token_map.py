"""Where segments lie among the sampled tokens of many rows: flat arrays, and sums over rows, segments and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TokenMap:
    """Which tokens and segments belong to which row, and how much of each token lies in each segment.

    Attributes:
        token_row: [tokens] row of each token, ascending.
        segment_row: [segments] row of each segment, ascending.
        overlap_token, overlap_segment, overlap_weight: sparse weights, 0 to 1, of a segment in a token.
        n_rows: number of rows, those without tokens or segments included.
        before_answer: [rows] tokens that end before the answer's first character; None: the answer begins with its first segment.
    """

    token_row: Indices
    segment_row: Indices
    overlap_token: Indices
    overlap_segment: Indices
    overlap_weight: Values
    n_rows: int
    before_answer: Indices | None = None

    @cached_property
    def tokens(self) -> Values:
        """[rows] T, number of tokens."""
        return np.bincount(self.token_row, minlength=self.n_rows).astype(np.float64)

    @cached_property
    def segments(self) -> Indices:
        """[rows] n, number of segments."""
        return np.bincount(self.segment_row, minlength=self.n_rows)

    @cached_property
    def position(self) -> Indices:
        """[segments] index of each segment within its row."""
        return np.arange(len(self.segment_row)) - np.repeat(np.cumsum(self.segments) - self.segments, self.segments)

    @cached_property
    def length(self) -> Values:
        """[segments] tokens of each segment, parts of tokens counted as such."""
        return np.bincount(self.overlap_segment, weights=self.overlap_weight, minlength=len(self.segment_row)).astype(np.float64)

    @cached_property
    def first_token(self) -> Indices:
        """[rows] flat index of each row's first token (where it would stand, in a row without tokens)."""
        return np.asarray(np.cumsum(self.tokens).astype(np.int64) - self.tokens.astype(np.int64))

    @cached_property
    def inside(self) -> Values:
        """[tokens] part of each token that lies in segments."""
        return np.minimum(np.bincount(self.overlap_token, weights=self.overlap_weight, minlength=len(self.token_row)), 1.0)

    @cached_property
    def tokens_inside(self) -> Values:
        """[rows] tokens in segments, parts counted as such."""
        return self.sum_of_row(self.length)

    @cached_property
    def place(self) -> Indices:
        """[tokens] first segment of its row that each token touches, else the first behind it, else -1."""
        first_token = np.full(len(self.segment_row), len(self.token_row))
        np.minimum.at(first_token, self.overlap_segment, self.overlap_token)
        found = np.searchsorted(first_token, np.arange(len(self.token_row)))
        np.minimum.at(found, self.overlap_token, self.overlap_segment)
        return np.where(np.append(self.segment_row, -1)[found] == self.token_row, found, -1)

    def sum_of_row(self, of_segments: Values) -> Values:
        """Return [rows] sums of a quantity of segments."""
        return np.bincount(self.segment_row, weights=of_segments, minlength=self.n_rows).astype(np.float64)

    def to_tokens(self, of_segments: Values) -> Values:
        """Return [tokens] what each token has of a quantity of segments, by overlap."""
        weights = self.overlap_weight * of_segments[self.overlap_segment]
        return np.bincount(self.overlap_token, weights=weights, minlength=len(self.token_row)).astype(np.float64)

    def to_segments(self, of_tokens: Values) -> Values:
        """Return [segments] sums of a quantity of tokens, weighted by overlap."""
        weights = self.overlap_weight * of_tokens[self.overlap_token]
        return np.bincount(self.overlap_segment, weights=weights, minlength=len(self.segment_row)).astype(np.float64)
