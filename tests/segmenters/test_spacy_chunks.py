"""spaCy's noun chunks as phrases. The parses are set by hand on a blank pipeline: no trained model is on the package registry."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.params.segment import Segment
from ospo_cli.params.whole import Params, from_mapping, to_mapping
from ospo_cli.segmenters import spacy_chunks
from ospo_cli.segmenters.chosen import by_rules
from ospo_cli.stages import segment as stage
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.text.segments import segmentation, word_coverage
from tests.stages.test_segment import cut, rollouts
from tests.text.hostile_texts import ANSWERS

needs_spacy = pytest.mark.skipif(importlib.util.find_spec("spacy") is None, reason="spaCy is not installed (pip install '.[spacy]')")


def pipeline() -> Any:
    """A blank English pipeline whose parser reads words by a list: what is no noun depends on the next noun."""
    import spacy
    from spacy.language import Language

    nouns = {"coat", "men", "hood", "laptop", "screen", "dress"}
    attributes = {"navy": "amod", "wool": "compound", "the": "det", "red": "amod", "gaming": "compound"}

    if not Language.has_factory("ospo_word_list"):

        @Language.component("ospo_word_list")
        def word_list(document: Any) -> Any:
            for token in document:
                following = next((other for other in document[token.i :] if other.lower_ in nouns), token)
                token.pos_ = "NOUN" if token.lower_ in nouns else "ADP" if token.lower_ in ("for", "without") else "ADJ"
                token.dep_ = "ROOT" if token.lower_ in nouns or token.lower_ not in attributes else attributes[token.lower_]
                token.head = following if token.lower_ in attributes else token
            return document

    made = spacy.blank("en")
    made.add_pipe("ospo_word_list")
    return made


def phrases(answer: str, chunks: list[tuple[int, int]], level: str = "phrase") -> list[str]:
    return [answer[span.start : span.end] for span in segmentation(answer, level, chunks=chunks).spans]


@pytest.mark.parametrize(
    ("answer", "chunks", "expected"),
    [
        ("the navy coat for men", [(0, 13), (18, 21)], ["the navy coat", "for men"]),
        ("navy coat with no hood", [(0, 9), (18, 22)], ["navy coat", "with no hood"]),
        ("buy a coat quickly now", [(4, 10)], ["buy", "a coat", "quickly now"]),
        ("red coat, blue hat", [(0, 18)], ["red coat", "blue hat"]),
        ("usb-c hub", [(0, 3), (4, 9)], ["usb-c", "hub"]),
        ('"red coat" hat', [(1, 4), (11, 14)], ["red coat", "hat"]),
        ("red coat of", [(0, 8)], ["red coat", "of"]),
        ("red coat", [], ["red coat"]),
        ("", [], []),
    ],
)
def test_noun_chunks_become_a_partition_of_all_words(answer: str, chunks: list[tuple[int, int]], expected: list[str]) -> None:
    assert phrases(answer, chunks) == expected


@settings(max_examples=80)
@given(answer=ANSWERS)
def test_any_chunks_make_segments_that_hold_every_letter_and_digit(answer: str) -> None:
    chunks = [(start, start + 3) for start in range(0, len(answer), 5)]
    for level in ("phrase", "word"):
        spans = segmentation(answer, level, chunks=chunks).spans
        covered, total = word_coverage(answer, spans)
        assert covered == total
        assert [span.union_index for span in spans] == sorted(span.union_index for span in spans)


def test_without_spacy_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(spacy_chunks.importlib.util, "find_spec", lambda name: None if name == "spacy" else real(name))
    with pytest.raises(CreditError, match=r"spaCy is not installed.*pip install '\.\[spacy\]'"):
        spacy_chunks.load("en_core_web_sm")


@pytest.mark.parametrize("level", ["sentence", "window"])
def test_spacy_for_a_level_without_phrases_is_refused(level: str) -> None:
    content = to_mapping(dataclasses.replace(Params(), segment=Segment(level=level, segmenter="spacy")))
    with pytest.raises(ParameterError, match=r"segment.segmenter: finds phrases, which the level does not use"):
        from_mapping(content)


def test_the_stage_takes_the_chunks_it_is_given() -> None:
    completions = ["<answer>buy a coat</answer>"]
    frame, metrics = stage.segment(rollouts(completions), Segment(), by_rules(Segment(), lambda answer: [(4, 10)]))
    assert cut(frame, completions) == [["buy", "a coat"]]
    assert metrics["coverage"] == 1.0


@needs_spacy
def test_a_model_that_is_not_installed_is_an_error_and_no_download() -> None:
    with pytest.raises(
        CreditError, match=r"no such model package is installed: found no_such_model.*python -m spacy download no_such_model"
    ):
        spacy_chunks.load("no_such_model")


@needs_spacy
@pytest.mark.parametrize("path", [".", "/etc", "https://example.org/model"])
def test_a_path_or_address_is_no_model_package(path: str) -> None:
    with pytest.raises(CreditError, match="no such model package"):
        spacy_chunks.load(path)


@needs_spacy
def test_a_pipeline_without_a_parser_is_refused() -> None:
    import spacy

    with pytest.raises(CreditError, match="no dependency parser"):
        spacy_chunks.chunker(spacy.blank("en"))("navy coat")


@needs_spacy
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("the navy wool coat for men without hood", ["the navy wool coat", "for men", "without hood"]),
        ("red dress, gaming laptop", ["red dress", "gaming laptop"]),
        ("", []),
    ],
)
def test_noun_chunks_of_a_pipeline_are_the_phrases(answer: str, expected: list[str]) -> None:
    assert phrases(answer, spacy_chunks.chunker(pipeline())(answer)) == expected


@needs_spacy
@settings(max_examples=40)
@given(answer=ANSWERS)
def test_spacys_chunks_of_hostile_texts_are_ordered_and_cover_all_words(answer: str) -> None:
    chunks = spacy_chunks.chunker(pipeline())(answer)
    assert [border for chunk in chunks for border in chunk] == sorted(border for chunk in chunks for border in chunk)
    covered, total = word_coverage(answer, segmentation(answer, "phrase", chunks=chunks).spans)
    assert covered == total


@needs_spacy
def test_execute_with_spacy_records_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import spacy

    monkeypatch.setattr(spacy.util, "is_package", lambda name: name == "word_list")
    monkeypatch.setattr(spacy, "load", lambda name: pipeline())
    layout = Layout(tmp_path)
    parquet.write(rollouts(["<answer>the navy coat for men</answer>"]), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    metrics = stage.execute(layout, dataclasses.replace(Params(), segment=Segment(segmenter="spacy", spacy_model="word_list")), 1)
    assert metrics["segmenter"].startswith(f"spacy {spacy.__version__}, word_list")
    assert metrics["segments"] == 2
