"""Noun chunks of an installed spaCy pipeline (extra [spacy]); nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from ospo_cli.errors import CreditError, of_extra

Chunker = Callable[[str], list[tuple[int, int]]]


def load(model: str) -> tuple[Chunker, str]:
    """Return the chunker of an installed model package, and its name with versions, which metrics record.

    Raises:
        CreditError: spaCy or the model is not installed, or the model parses no dependencies.
    """
    if importlib.util.find_spec("spacy") is None:
        raise CreditError(
            "segment.segmenter",
            "spaCy is not installed",
            found="spacy",
            expected="rules",
            remedy=of_extra("spacy"),
        )
    import spacy

    # Only packages: a path or an address would load whatever lies there.
    if not spacy.util.is_package(model):
        raise CreditError(
            "segment.spacy_model",
            "no such model package is installed",
            found=model,
            expected=", ".join(sorted(spacy.util.get_installed_models())) or "an installed one",
            remedy=f"`python -m spacy download {model}` installs it with pip; or segment.segmenter: rules",
        )
    pipeline = spacy.load(model)
    return chunker(pipeline), f"spacy {spacy.__version__}, {model} {pipeline.meta.get('version', '')}".strip()


def chunker(pipeline: Any) -> Chunker:
    """Return answer -> spans of the noun chunks of a spaCy pipeline, in order and disjoint."""

    def chunks(answer: str) -> list[tuple[int, int]]:
        if len(answer) > pipeline.max_length:
            raise CreditError(
                "segment", "answer too long for spaCy", found=f"{len(answer)} characters", expected=f"≤ {pipeline.max_length}"
            )
        document = pipeline(answer)
        if len(document) and not document.has_annotation("DEP"):
            raise CreditError(
                "segment.spacy_model",
                "has no dependency parser, which noun chunks need",
                found=", ".join(pipeline.pipe_names) or "an empty pipeline",
                expected="a pipeline with a parser, such as en_core_web_sm",
            )
        return [(chunk.start_char, chunk.end_char) for chunk in document.noun_chunks]

    return chunks
