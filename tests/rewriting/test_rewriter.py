"""Rewrites of single queries, whatever they are, alone or in a batch."""

import dataclasses
import math
import shutil

import pytest

from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.rewriting.rewriter import Asked, Rewriter, likeliest, raw, samples_for
from ospo_cli.sampling.sampler import SampledRow
from ospo_cli.text.answers import find_answer
from ospo_cli.text.prompt_template import one_line
from tests.rewriting.scripted import SETUP, gate_of_words, scripted

HOSTILE = [
    "", " ", "\x00", "word " * 10_000, "красные туфли", "赤いドレス", "\x1b[2J\x1b]0;x\x07", "<answer>x</answer>", "</s><|im_end|>{query}", "'; DROP TABLE--",
    "\u202eabc", "🔥", "a" * 5000, "e\u0301" * 50, "\ufffd" * 9, "{history} {0} %s", "\n\n\n", "\U000e0001", "null",
]  # fmt: skip


def test_a_query_gets_the_same_rewrite_alone_and_among_others(tiny_policy):
    rewriter = Rewriter(tiny_policy, SETUP)
    asked = [Asked(query) for query in ["navy coat", "red", "olive linen dress for the office", "boots"]]
    together = rewriter.rewrite(asked, best=3)
    alone = [rewriter.rewrite([one], best=3)[0] for one in asked]
    assert [dataclasses.replace(one, milliseconds=0) for one in together] == [dataclasses.replace(one, milliseconds=0) for one in alone]
    assert all(one.milliseconds > 0 for one in together)


def test_no_query_whatever_it_holds_stops_the_others(tiny_policy):
    found = Rewriter(tiny_policy, SETUP).rewrite([Asked(query) for query in HOSTILE])
    assert [one.query for one in found] == HOSTILE
    assert all(one.engine_query == one_line(one.query) for one in found if not one.is_used)
    why = dict(zip(HOSTILE, (one.why for one in found), strict=True))
    assert (why[""], why["\x00"], why["🔥"], why["word " * 10_000], why["a" * 5000]) == ("empty", "empty", "empty", "too long", "too long")


def test_a_query_that_the_template_refuses_stays_as_typed_and_stops_no_other(tiny_folder, tiny_policy, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "picky")
    template = tmp_path / "picky" / "chat_template.jinja"
    refusal = "{% if 'odd' in messages[0]['content'] %}{{ raise_exception('odd') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    found = Rewriter(load_policy(tmp_path / "picky", threads=1), SETUP).rewrite([Asked("odd coat"), Asked("coat")])
    assert (found[0].why, found[0].engine_query) == ("refused by the chat template", "odd coat")
    alone = Rewriter(tiny_policy, SETUP).rewrite([Asked("coat")])[0]
    assert (found[1].rewrite, found[1].why) == (alone.rewrite, alone.why)


def test_a_prompt_longer_than_the_context_is_too_long_in_tokens(tiny_policy):
    room = dataclasses.replace(tiny_policy, context_length=40)
    found = Rewriter(room, SETUP).rewrite([Asked("coat " * 60), Asked("coat"), Asked("coat", ("navy wool coat " * 20,))])
    assert [one.why == "too long" for one in found] == [True, False, True]


def test_the_answer_is_read_by_the_one_rule_and_composed(tiny_policy):
    answers = {"a1": ["<answer>navy\n wool</answer>"], "a2": ["lamp<answer>oak"], "a3": ["<answer>a3</answer>"]}
    asked = [Asked(query) for query in answers]
    replaced = scripted(tiny_policy, answers).rewrite(asked)
    appended = scripted(tiny_policy, answers, dataclasses.replace(SETUP, composition="append")).rewrite(asked)
    assert [one.engine_query for one in replaced] == ["navy wool", "a2", "a3"]
    assert [one.engine_query for one in appended] == ["a1 navy wool", "a2", "a3"]
    assert [one.why for one in replaced] == ["rewritten", "malformed: unclosed", "same as the query"]


def test_the_policy_is_asked_with_the_projects_template_in_its_own_chat_format(tiny_policy):
    rewriter = scripted(tiny_policy)
    rewriter.rewrite([Asked(" navy\x00coat ", ("red\nboots", "scarf"))])
    assert rewriter.sampler.requests[0].prompts == [render_prompt(tiny_policy, "navy coat\nbought: red boots; scarf")]


@pytest.mark.parametrize("answer", ["no<answer>", "<answer>oak lamp</answer>", "<answer>iron lamp</answer>"])
@pytest.mark.parametrize("is_gated", [False, True])
def test_the_engine_is_given_one_line_without_control_characters_whatever_becomes_of_the_query(tiny_policy, answer, is_gated):
    setup = dataclasses.replace(SETUP, composition="append")
    rewriter = scripted(tiny_policy, {"oak lamp": [answer]}, setup)
    if is_gated:
        rewriter.gate = dataclasses.replace(gate_of_words(tiny_policy.content_hash, 0.0), threshold=None)
    typed = "  oak \t\x00\x1b\u2028 lamp\r\n"
    found = rewriter.rewrite([Asked(typed)])[0]
    assert (found.query, found.is_used) == (typed, "iron" in answer and not is_gated)
    assert found.engine_query == ("oak lamp iron lamp" if found.is_used else "oak lamp")
    assert raw(Asked(typed), "deadline").engine_query == "oak lamp"


SPELLINGS = ["black skillet", "BLACK SKILLET", "  Black \t Skillet "]


def test_of_one_spelling_the_policy_is_asked_alike_and_the_engine_is_given_what_was_typed(tiny_policy):
    answers = {"black skillet": ["<answer>iron pan</answer>"], "iron pan": ["<answer>iron pan</answer>"], "odd": ["no<answer>"]}
    setup = dataclasses.replace(SETUP, composition="append", folds=True)
    rewriter = scripted(tiny_policy, answers, setup)
    found = rewriter.rewrite([Asked(query) for query in [*SPELLINGS, "IRON Pan", " ODD"]])
    assert {tuple(prompt) for prompt in rewriter.sampler.requests[0].prompts[:3]} == {
        tuple(render_prompt(tiny_policy, "black skillet\nbought: "))
    }
    assert [one.engine_query for one in found] == [
        "black skillet iron pan", "BLACK SKILLET iron pan", "Black Skillet iron pan", "IRON Pan", "ODD",
    ]  # fmt: skip
    assert [one.why for one in found] == ["rewritten"] * 3 + ["same as the query", "malformed: unclosed"]
    real = Rewriter(tiny_policy, setup).rewrite([Asked(query) for query in SPELLINGS], best=2)
    assert len({(one.rewrite, one.why, one.mean_logprob, one.probability, tuple(one.best)) for one in real}) == 1


def test_elsewhere_the_policy_is_asked_in_the_spelling_that_was_typed(tiny_policy):
    rewriter = scripted(tiny_policy)
    rewriter.rewrite([Asked(query) for query in SPELLINGS])
    messages = [f"{query}\nbought: " for query in ("black skillet", "BLACK SKILLET", "Black Skillet")]
    assert rewriter.sampler.requests[0].prompts == [render_prompt(tiny_policy, message) for message in messages]


def test_probabilities_are_those_of_the_completions(tiny_policy):
    rewriter = Rewriter(tiny_policy, SETUP)
    found = rewriter.rewrite([Asked("navy coat")])[0]
    row = rewriter._sampled([render_prompt(tiny_policy, "navy coat\nbought: ")], [("navy coat", ())], 1)[0][0]
    assert found.probability == pytest.approx(math.exp(sum(row.policy_logprobs)))
    assert found.mean_logprob == pytest.approx(sum(row.policy_logprobs) / len(row.token_ids))
    assert find_answer(row.text).problem == found.why.removeprefix("malformed: ").replace("rewritten", "")


def row(text, ids, logprob):
    return SampledRow(ids, [logprob], [logprob], [logprob], "stop", text)


def test_a_rewrite_is_as_likely_as_its_distinct_completions_together():
    rows = [("a", row("a", [1], math.log(0.2))), ("b", row("b", [2], math.log(0.3))), ("a", row(" a", [3], math.log(0.25)))]
    rows += [("a", row("a", [1], math.log(0.2))), ("", row("<answer>", [4], math.log(0.9)))]
    found = likeliest(rows, 2)
    assert [one.rewrite for one in found] == ["a", "b"]
    assert [one.probability for one in found] == pytest.approx([0.45, 0.3])
    assert likeliest(rows, 1) == found[:1]


@pytest.mark.parametrize(("best", "count"), [(2, 16), (4, 16), (5, 20)])
def test_more_completions_are_sampled_than_rewrites_are_asked_for(tiny_policy, best, count):
    rewriter = scripted(tiny_policy, {"x": ["<answer>a</answer>", "<answer>b</answer>", "<answer>c"]})
    found = rewriter.rewrite([Asked("x")], best)[0]
    assert samples_for(best) == count
    assert len(rewriter.sampler.requests[0].row_ids[0]) == 1 + count
    assert [one.rewrite for one in found.best] == ["a", "b"]
