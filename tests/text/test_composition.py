"""What a search engine is given for a completion."""

import pytest

from ospo_cli.text.composition import compose, served
from tests.text.test_answers import MALFORMED


@pytest.mark.parametrize("composition", ["replace", "append"])
@pytest.mark.parametrize(("completion", "problem"), MALFORMED)
def test_a_user_gets_the_raw_query_where_there_is_no_answer(completion: str, problem: str, composition: str) -> None:
    found = served("wool coat", completion, composition)
    assert (found.query, found.answer, found.problem) == ("wool coat", "", problem)


def test_an_answer_replaces_the_query_or_follows_it() -> None:
    assert served("coat", "<answer> navy wool </answer>", "replace").query == "navy wool"
    assert served("coat", "<answer> navy wool </answer>", "append").query == "coat navy wool"


def test_in_training_no_text_is_the_raw_query_only_where_words_are_added_to_it() -> None:
    assert (compose("coat", "", "replace"), compose("coat", "", "append")) == ("", "coat")
