"""Deliberately broken copies of the token map: each is caught by the check that is named beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ospo_cli.maths.redistribution import TokenMap
from ospo_cli.text.answers import find_answer
from ospo_cli.text.segments import segment
from ospo_cli.text.tokens_to_spans import overlaps, token_spans
from tests.text.every_tokenizer import KINDS, pieces
from tests.text.test_every_tokenizer import ids_of, proportional

# Without an end token the answer ends in the last token; a phrase occurs twice in the answer, and in the think block before it.
TEXT = "<think>navy, wool coat</think>navy, wool coat, navy"

Spans = list[tuple[int, int]]
Mapping = Callable[[str, list[int], str, Spans], TokenMap]


def mapped(spans_of_tokens: np.ndarray, completion: str, spans: Spans) -> TokenMap:
    flat = np.array(spans, dtype=np.int64).reshape(-1, 2)
    rows = np.zeros(len(spans), dtype=np.int64)
    found = overlaps([completion], [spans_of_tokens], rows, flat[:, 0], flat[:, 1])
    return TokenMap(np.zeros(len(spans_of_tokens), dtype=np.int64), rows, found.token, found.segment, found.weight, 1)


def right(kind: str, ids: list[int], completion: str, spans: Spans) -> TokenMap:
    return mapped(token_spans(pieces(kind).pieces(ids), completion), completion, spans)


def shifted_by_one_token(kind: str, ids: list[int], completion: str, spans: Spans) -> TokenMap:
    made = right(kind, ids, completion, spans)
    later = np.minimum(made.overlap_token + 1, len(ids) - 1)
    return TokenMap(made.token_row, made.segment_row, later, made.overlap_segment, made.overlap_weight, 1)


def without_the_last_token(kind: str, ids: list[int], completion: str, spans: Spans) -> TokenMap:
    made = right(kind, ids, completion, spans)
    kept = made.overlap_token < len(ids) - 1
    return TokenMap(made.token_row, made.segment_row, made.overlap_token[kept], made.overlap_segment[kept], made.overlap_weight[kept], 1)


def retokenised_answer(kind: str, ids: list[int], completion: str, spans: Spans) -> TokenMap:
    """The answer by itself, its tokens then laid from the completion's first token on, as the released code has it."""
    answer = find_answer(completion)
    alone = ids_of(kind, completion[answer.start : answer.end], finish=False)
    text = pieces(kind).text(alone)
    own = [(span.start, span.end) for span in segment(text, "phrase")]
    made = mapped(token_spans(pieces(kind).pieces(alone), text), text, own)
    rows = np.zeros(len(ids), dtype=np.int64)
    return TokenMap(rows, made.segment_row, made.overlap_token, made.overlap_segment, made.overlap_weight, 1)


def first_match_of_the_phrase(kind: str, ids: list[int], completion: str, spans: Spans) -> TokenMap:
    tokens = token_spans(pieces(kind).pieces(ids), completion)
    found = [mapped(tokens, completion, [(at := completion.find(completion[start:end]), at + end - start)]) for start, end in spans]
    return TokenMap(
        found[0].token_row,
        np.zeros(len(spans), dtype=np.int64),
        np.concatenate([one.overlap_token for one in found]),
        np.concatenate([np.full(len(one.overlap_token), index) for index, one in enumerate(found)]),
        np.concatenate([one.overlap_weight for one in found]),
        1,
    )


def weights_are_shares_of_visible_characters(made: TokenMap, kind: str, ids: list[int], completion: str, spans: Spans) -> bool:
    """Character by character, from the bytes of the sampled ids."""
    owner = [index for index, character in enumerate(completion) for _ in character.encode()]
    position = 0
    for token, piece in enumerate(pieces(kind).pieces(ids)):
        inside = sorted(set(owner[position : position + len(piece)]))
        position += len(piece)
        visible = [at for at in inside if not completion[at].isspace()] or inside
        for index, (start, end) in enumerate(spans):
            wanted = sum(start <= at < end for at in visible) / max(len(visible), 1)
            weight = made.overlap_weight[(made.overlap_token == token) & (made.overlap_segment == index)].sum()
            if abs(weight - wanted) > 1e-12:
                return False
    return True


def credited_tokens_spell_the_segment(made: TokenMap, kind: str, ids: list[int], completion: str, spans: Spans) -> bool:
    """Each segment's tokens, in a row, hold its text."""
    for index, (start, end) in enumerate(spans):
        tokens = sorted(set(made.overlap_token[made.overlap_segment == index].tolist()))
        if completion[start:end] not in b"".join(pieces(kind).pieces([ids[token] for token in tokens])).decode(errors="replace"):
            return False
    return True


def no_credit_before_the_answer(made: TokenMap, kind: str, ids: list[int], completion: str, spans: Spans) -> bool:
    """Tokens that end before the first segment get nothing where the answer alone is credited."""
    advantages = proportional(made, np.ones(len(spans)))
    ends = np.cumsum([len(piece) for piece in pieces(kind).pieces(ids)])
    return not advantages[ends <= len(completion[: spans[0][0]].encode())].any()


def every_segment_has_a_token_of_its_own(made: TokenMap, kind: str, ids: list[int], completion: str, spans: Spans) -> bool:
    """Else its mass would be lost."""
    return bool((made.length > 0).all())


CHECKS = {
    check.__name__: check
    for check in (
        weights_are_shares_of_visible_characters,
        credited_tokens_spell_the_segment,
        no_credit_before_the_answer,
        every_segment_has_a_token_of_its_own,
    )
}
CAUGHT_BY = [
    (shifted_by_one_token, ("weights_are_shares_of_visible_characters", "credited_tokens_spell_the_segment")),
    (without_the_last_token, ("weights_are_shares_of_visible_characters", "credited_tokens_spell_the_segment")),
    (retokenised_answer, ("weights_are_shares_of_visible_characters", "no_credit_before_the_answer")),
    (first_match_of_the_phrase, ("weights_are_shares_of_visible_characters", "no_credit_before_the_answer")),
]


def example(kind: str) -> tuple[list[int], str, Spans]:
    ids = ids_of(kind, TEXT, finish=False)
    # Blanks behind the last word (</w>) end in no token of their own.
    completion = pieces(kind).text(ids)
    answer = find_answer(completion)
    return (
        ids,
        completion,
        [(span.start + answer.start, span.end + answer.start) for span in segment(completion[answer.start : answer.end], "phrase")],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", CHECKS)
def test_the_token_map_passes_every_check(kind: str, check: str) -> None:
    ids, completion, spans = example(kind)
    assert len(spans) == 3
    assert CHECKS[check](right(kind, ids, completion, spans), kind, ids, completion, spans)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("broken", "checks"), CAUGHT_BY, ids=[broken.__name__ for broken, _ in CAUGHT_BY])
def test_a_broken_token_map_is_caught(kind: str, broken: Mapping, checks: tuple[str, ...]) -> None:
    ids, completion, spans = example(kind)
    made = broken(kind, ids, completion, spans)
    assert {name: CHECKS[name](made, kind, ids, completion, spans) for name in checks} == dict.fromkeys(checks, False)


def test_a_segment_whose_only_token_is_dropped_is_caught() -> None:
    ids, completion, spans = example("word_level")
    assert not every_segment_has_a_token_of_its_own(
        without_the_last_token("word_level", ids, completion, spans), "word_level", ids, completion, spans
    )
