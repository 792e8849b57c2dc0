"""The token map over every kind of tokenizer: what is given to segments reaches exactly their own sampled tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ospo_cli.maths.redistribution import Credit, Settings, TokenMap, redistribute
from ospo_cli.text.answers import find_answer
from ospo_cli.text.segments import segment
from ospo_cli.text.tokens_to_spans import overlaps, token_spans
from tests.text.every_tokenizer import END, KINDS, pieces, tokenizer

# Tags in byte_level and in the plain kinds are cut across tokens; in the others they are added tokens.
HOSTILE = {
    "plain": "<think>warm</think><answer>navy wool coat, for men</answer>",
    "emoji": "<answer>navy 🔥 coat, 👨‍👩‍👧 red</answer>",
    "combining marks": "<answer>cafe\u0301 coat, cre\u0300me wool</answer>",
    "right to left": "<answer>שלום עולם, navy</answer>",
    "several spaces": "<answer>  navy   wool ,   coat  </answer>",
    "a phrase repeated": "<answer>navy, coat, navy, coat, navy</answer>",
    "answer inside think": "<think>say <answer>coat, men</answer></think><answer>navy, wool</answer>",
    "the answer's words in think": "<think>navy, wool coat</think><answer>navy, wool coat</answer>",
    "unclosed tag": "<answer>navy, wool co",
    "no tags": "navy, wool, coat",
    "line breaks": "<think>a\nb</think>\n<answer>navy\nwool\tcoat</answer>\n",
}
BITS = st.sampled_from(["navy", " wool", "coat, ", "é", "e\u0301", "漢字", "🔥", "👨‍👩‍👧", "שלום", "\u200f", "\n", "  ", "▁", "##s", "</w>", "<0x41>", "<answer>", "</answer>", "<think>", "</think>", "\x00"])  # fmt: skip
TEXTS = st.one_of(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30), st.lists(BITS, max_size=14).map("".join))


def ids_of(kind: str, text: str, finish: bool = True) -> list[int]:
    made = tokenizer(kind)
    return made.encode(text, add_special_tokens=False).ids + (
        [made.token_to_id(END)] if finish and made.token_to_id(END) is not None else []
    )


def token_map(kind: str, ids: list[int], level: str = "phrase") -> tuple[TokenMap, str, list[tuple[int, int]]]:
    """The way of the stages: completion from the ids' pieces, answer, segments, spans, overlaps."""
    completion = pieces(kind).text(ids)
    answer = find_answer(completion)
    # A malformed answer has no segments; the map is tested on hostile text all the same.
    first, last = (0, len(completion)) if answer.problem else (answer.start, answer.end)
    spans = [(span.start + first, span.end + first) for span in segment(completion[first:last], level)]
    flat = np.array(spans, dtype=np.int64).reshape(-1, 2)
    rows = np.zeros(len(spans), dtype=np.int64)
    found = overlaps([completion], [token_spans(pieces(kind).pieces(ids), completion)], rows, flat[:, 0], flat[:, 1])
    return TokenMap(np.zeros(len(ids), dtype=np.int64), rows, found.token, found.segment, found.weight, 1), completion, spans


def blocks_of_shared_tokens(tokens: TokenMap) -> list[tuple[list[int], list[int]]]:
    """Segments that share a token, directly or not, with all their tokens: mass cannot be told apart within, and must agree outside."""
    owner = list(range(len(tokens.segment_row)))
    of_token: dict[int, list[int]] = {}
    for token, index in zip(tokens.overlap_token.tolist(), tokens.overlap_segment.tolist(), strict=True):
        of_token.setdefault(token, []).append(index)
    for indices in of_token.values():
        labels = {owner[index] for index in indices}
        owner = [min(labels) if label in labels else label for label in owner]
    return [
        (
            [index for index, name in enumerate(owner) if name == label],
            [token for token, indices in of_token.items() if owner[indices[0]] == label],
        )
        for label in sorted(set(owner))
    ]


def proportional(tokens: TokenMap, share: NDArray[np.float64], advantage: float = 1.0) -> NDArray[np.float64]:
    one = np.array([advantage])
    credit = Credit(one, np.ones(1), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool), share)
    return redistribute("proportional", tokens, credit, Settings(outside="zero"), ["rollout a"]).advantages


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=TEXTS, data=st.data(), finish=st.booleans(), level=st.sampled_from(["phrase", "word"]))
def test_the_mass_given_to_segments_reaches_their_own_tokens(kind: str, text: str, data: st.DataObject, finish: bool, level: str) -> None:
    tokens, _, spans = token_map(kind, ids_of(kind, f"navy, {text} coat", finish), level)
    assume(len(spans) > 1)
    share = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=len(spans), max_size=len(spans))))
    advantages = proportional(tokens, share, 1.5)
    given_mass = tokens.tokens[0] * 1.5 * share / share.sum()
    for indices, of_block in blocks_of_shared_tokens(tokens):
        assert advantages[of_block].sum() == pytest.approx(given_mass[indices].sum(), abs=1e-9)
    assert advantages.sum() == pytest.approx(given_mass.sum(), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_sampled_ids_spell_their_completion(kind: str, data: st.DataObject) -> None:
    """Policies sample ids that no text is encoded to: half characters, special tokens in the middle, doubled marks."""
    ids = data.draw(st.lists(st.integers(0, pieces(kind).vocabulary_size - 1), max_size=20))
    completion = pieces(kind).text(ids)
    spans = token_spans(pieces(kind).pieces(ids), completion)
    assert {at for first, last in spans.tolist() for at in range(first, last)} == set(range(len(completion)))
    tokens, _, found = token_map(kind, ids)
    assert all(tokens.length > 0)
    assert len(tokens.length) == len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_every_visible_character_of_a_segment_is_weighed_in_the_tokens_that_spell_it(kind: str, name: str) -> None:
    ids = ids_of(kind, HOSTILE[name], finish=name != "unclosed tag")
    tokens, completion, spans = token_map(kind, ids)
    touched = token_spans(pieces(kind).pieces(ids), completion).tolist()
    for index, (start, end) in enumerate(spans):
        of_segment = {
            token
            for token, (first, last) in enumerate(touched)
            if any(start <= at < end and not completion[at].isspace() for at in range(first, last))
        }
        weighed = set(tokens.overlap_token[tokens.overlap_segment == index].tolist())
        blank = {token for token, (first, last) in enumerate(touched) if completion[first:last].isspace()}
        assert weighed - blank == of_segment


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeated_phrase_and_an_answer_in_the_think_block_leave_the_credit_at_its_place(kind: str) -> None:
    for name in ("a phrase repeated", "answer inside think", "the answer's words in think"):
        ids = ids_of(kind, HOSTILE[name])
        tokens, completion, spans = token_map(kind, ids)
        share = np.zeros(len(spans))
        share[-1] = 1.0
        advantages = proportional(tokens, share)
        spelled = b"".join(piece for piece, value in zip(pieces(kind).pieces(ids), advantages, strict=True) if value > 0).decode()
        assert completion[slice(*spans[-1])] in spelled
        assert advantages[tokens.inside > 0].sum() == pytest.approx(len(ids), abs=1e-9)
        before = [index for index, (_, last) in enumerate(token_spans(pieces(kind).pieces(ids), completion)) if last <= spans[-1][0]]
        assert not advantages[before].any()


@pytest.mark.parametrize(
    ("kind", "completion"),
    [
        ("byte_level", " navy  wool"),
        ("byte_level_with_tags", " navy  wool"),
        ("unigram", " navy  wool"),
        ("sentencepiece_with_bytes", "  navy  wool"),
        ("word_piece", " navy wool"),
        ("suffix_bpe", "navy wool "),
        ("characters", " navy  wool"),
        ("word_level", " navy  wool"),
    ],
)
def test_what_each_kind_spells_of_two_blanks_and_two_words(kind: str, completion: str) -> None:
    assert pieces(kind).text(ids_of(kind, " navy  wool")) == completion


def test_words_that_a_word_piece_tokenizer_folds_are_spelled_as_the_vocabulary_has_them() -> None:
    assert pieces("word_piece").text(ids_of("word_piece", "<answer>Café Wool</answer>")) == "<answer> cafe wool</answer>"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(text=TEXTS)
def test_pieces_say_what_decode_says_but_for_blanks_and_special_tokens(kind: str, text: str) -> None:
    ids = ids_of(kind, text)
    known = tokenizer(kind).decode(ids, skip_special_tokens=True) if pieces(kind).decoders else pieces(kind).text(ids)
    assert "".join(pieces(kind).text(ids).split()) == "".join(known.split())
