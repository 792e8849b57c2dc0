"""The known answers in the docstrings are right."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

MODULES = [
    "ospo_cli.maths.advantages",
    "ospo_cli.maths.coalitions",
    "ospo_cli.maths.myerson",
    "ospo_cli.maths.shaping",
    "ospo_cli.text.answers",
    "ospo_cli.text.coalition_text",
    "ospo_cli.text.segments",
    "ospo_cli.text.tokens_to_spans",
    "ospo_cli.text.words",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0
