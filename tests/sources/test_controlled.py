"""Controlled generation: briefs in words of their own, requirements that interact, a teacher that leaves something to learn."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.retrievers.checker import Checker
from ospo_cli.sources import controlled
from ospo_cli.sources.controlled_words import BRIEFLY, HABITS, KINDS, OPENERS, PLANS
from ospo_cli.text.segments import segment
from ospo_cli.text.words import words


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controlled, "PROMPTS_OF_SPLIT", {"train": 200, "dev": 50, "test": 50})
        yield controlled.read(PrepareData(source="controlled"), 0, Path("/"))


@pytest.fixture(scope="module")
def checked(data):
    catalogue = Catalogue.from_documents(data.documents)
    pools = {}
    for prompt_id, doc_id in data.pools.sort("prompt_id", "doc_id").iter_rows():
        pools.setdefault(prompt_id, []).append(catalogue.index_of[doc_id])
    return Checker(catalogue, Retrieval(), None), {prompt_id: np.array(pool) for prompt_id, pool in pools.items()}


def value(checked, prompt_id, text):
    checker, pools = checked
    return float((checker.rank_queries([text], pools[prompt_id], 0)[0] >= 0).mean())


def test_no_word_of_a_brief_is_one_that_the_checker_looks_for():
    said = {word for plan in PLANS.values() for text in plan.said for word in words(text)}
    said |= {word for text in (*BRIEFLY, *OPENERS, *(text for texts in KINDS.values() for text in texts)) for word in words(text)}
    things = [thing for plan in PLANS.values() for thing in (plan.core, *plan.partner.split(" or "), plan.companion)]
    assert len(things) == len(set(things))
    assert not said & set(things)
    assert not set(HABITS) & (said | set(things))


def test_each_brief_can_be_met_whole_by_an_answer_of_8_to_32_segments_and_a_word_too_many_costs_where_it_is_short(data, checked):
    checker, pools = checked
    lengths, costs = [], []
    assert data.documents["title"].str.contains("within").all()
    is_short = {prompt_id: query.endswith(BRIEFLY) for prompt_id, query in data.prompts.select("prompt_id", "query").iter_rows()}
    for prompt_id, pool in pools.items():
        told = checker.tell(pool)
        assert value(checked, prompt_id, told) == 1.0
        lengths.append(len(segment(told, "phrase")))
        loss = 1.0 - value(checked, prompt_id, f"socks, {told}")
        assert (loss > 0) == is_short[prompt_id]
        costs.append(loss)
    assert min(lengths) >= 8
    assert max(lengths) <= 32
    assert 0.3 < np.mean([*is_short.values()]) < 0.7


def test_what_is_forbidden_costs_every_requirement_that_forbids_it_and_what_counts_together_counts_for_nothing_alone():
    lines = list(controlled.lines_of(["camping", "grill", "tea"], ["flame"], is_short=False))
    documents = pl.DataFrame({"doc_id": list("abcdef"), "title": lines, "category": [""] * 6})
    checker = Checker(Catalogue.from_documents(documents), Retrieval(), None)

    def met(text):
        return int((checker.rank_queries([text], None, 0)[0] >= 0).sum())

    whole = "tent, pegs, tongs, charcoal, mug, teabags, kettle"
    assert met(whole) == 6
    assert met(f"{whole}, matches") == met(f"{whole}, candle, stove") == 4  # the two plans whose companions burn
    assert met(whole.replace("tent, ", "")) == 4
    assert met("pegs, charcoal, teabags, kettle") == 0
    assert met("tent, ropes") - met("tent") == 1


def test_the_teacher_is_right_in_half_and_a_careful_reader_of_its_answers_would_not_be_right_in_all(data, checked):
    pairs = data.teacher_pairs
    values = [
        value(checked, prompt_id, text.removeprefix("<answer>").removesuffix("</answer>")) for prompt_id, _, text in pairs.iter_rows()
    ]
    assert 0.4 < np.mean(values) < 0.65
    assert max(values) == 1.0

    class Usual:  # each choice as the teacher mostly makes it
        def random(self, count):
            return np.full(count, 0.5)

        def permutation(self, choices):
            return choices

    usual = []
    for number in range(60):
        names, forbidden, is_short, _, said = controlled._brief(f"test-{number:05d}", 0, set())
        text = ", ".join(controlled.teacher_list(names, forbidden, said, Usual()))
        lines = list(controlled.lines_of(names, forbidden, is_short))
        documents = pl.DataFrame({"doc_id": [f"{index:02d}" for index in range(len(lines))], "title": lines})
        checker = Checker(Catalogue.from_documents(documents), Retrieval(), None)
        usual.append((checker.rank_queries([text], None, 0)[0] >= 0).mean())
    assert 0.5 < np.mean(usual) < 0.7


def test_equal_seeds_give_equal_briefs_and_others_others(data, monkeypatch):
    monkeypatch.setattr(controlled, "PROMPTS_OF_SPLIT", {"train": 20, "dev": 5, "test": 5})
    first, again, other = (controlled.read(PrepareData(source="controlled"), seed, Path("/")) for seed in (0, 0, 1))
    assert first.documents.equals(again.documents)
    assert first.teacher_pairs.equals(again.teacher_pairs)
    assert not first.prompts.equals(other.prompts)
    assert first.prompts["query"].n_unique() == 30
