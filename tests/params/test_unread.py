"""Settings that the chosen mode does not read are said; the modes that are declared exist."""

from __future__ import annotations

import dataclasses

import pytest

from ospo_cli import presets
from ospo_cli.params import whole
from ospo_cli.params.unread import conditions, unread
from ospo_cli.params.whole import Params
from ospo_cli.retrievers import RETRIEVERS


def _with(**sections: dict[str, object]) -> Params:
    return dataclasses.replace(
        Params(), **{name: dataclasses.replace(getattr(Params(), name), **values) for name, values in sections.items()}
    )


@pytest.mark.parametrize(
    ("unheard", "heard", "name"),
    [
        ({"title_fields": ["brand"]}, {"teacher": "judgments", "title_fields": ["brand"]}, "warm_start.title_fields"),
        ({"teacher": "none", "learning_rate": 0.5}, {"learning_rate": 0.5}, "warm_start.learning_rate"),
    ],
)
def test_a_setting_is_named_with_the_mode_that_reads_it_and_only_where_the_mode_is_another(
    unheard: dict[str, object], heard: dict[str, object], name: str
) -> None:
    line = unread(_with(warm_start=unheard))
    assert line.startswith(f"params.yaml: set, and not read: {name} (read where teacher: ")
    assert line.count("\n") == 1
    assert unread(_with(warm_start=heard)) == ""


def test_a_mode_of_another_section_a_number_a_list_and_a_text_count() -> None:
    assert "attribute.pairs (read where update.objective: dpo)" in unread(_with(attribute={"pairs": "all"}))
    assert unread(_with(attribute={"pairs": "all"}, update={"objective": "dpo"})) == ""
    assert "policy.lora_alpha (read where lora_rank not 0)" in unread(_with(policy={"lora_alpha": 2.0}))
    assert unread(_with(policy={"lora_alpha": 2.0, "lora_rank": 4})) == ""
    assert "score_coalitions.alignment" in unread(_with(score_coalitions={"alignment": "index", "estimators": ["myerson"]}))
    assert unread(_with(score_coalitions={"alignment": "index", "estimators": ["myerson", "swap"]})) == ""
    assert "score_coalitions.own_ranks" in unread(_with(score_coalitions={"own_ranks": 3}))
    assert unread(_with(score_coalitions={"own_ranks": 3, "own_reward": "mine.py:reward"})) == ""


@pytest.mark.parametrize(
    ("group", "value", "name", "reads"),
    [
        ("dense", {"encoder": "./e5", "hnsw_links": 8}, "retrieval.dense.encoder, retrieval.dense.hnsw_links", {"evaluate": {"retrievers": ["bm25", "dense"]}}),
        ("http", {"url": "http://localhost:9200"}, "retrieval.http.url", {"evaluate": {"retrievers": ["bm25", "http"]}}),
        ("hybrid", {"depth": 5}, "retrieval.hybrid.depth", {"evaluate": {"retrievers": ["bm25", "hybrid"]}}),
        ("vllm", {"eager": True}, "rollout.vllm.eager", {"rollout": {"sampler": "vllm"}}),
        ("server", {"retries": 1}, "rollout.server.retries", {"rollout": {"sampler": "openai"}}),
    ],
)  # fmt: skip
def test_settings_of_a_retriever_or_sampler_that_was_not_chosen_are_named(
    group: str, value: dict[str, object], name: str, reads: dict[str, dict[str, object]]
) -> None:
    section = "rollout" if group in ("vllm", "server") else "retrieval"
    inner = dataclasses.replace(getattr(getattr(Params(), section), group), **value)
    mode = next(iter(next(iter(reads.values()))))
    assert f"{name} (read where {'' if section == 'rollout' else 'evaluate.'}{mode}: " in unread(_with(**{section: {group: inner}}))
    asked = {section: {group: inner}} | {each: reads[each] | ({group: inner} if each == section else {}) for each in reads}
    assert name.partition(",")[0] not in unread(_with(**asked))


def test_of_two_modes_either_one_reads() -> None:
    targets = {"targets": "all"}
    assert "attribute.targets (read where update.objective: sft, or where update.imitation_weight not 0)" in unread(
        _with(attribute=targets)
    )
    assert unread(_with(attribute=targets, update={"objective": "sft"})) == ""
    assert unread(_with(attribute=targets, update={"imitation_weight": 0.1})) == ""


def test_only_the_sections_that_are_asked_for_are_named() -> None:
    params = _with(warm_start={"title_fields": ["brand"]}, policy={"lora_alpha": 2.0})
    assert "lora_alpha" not in unread(params, ["warm_start"])
    assert unread(params, ["rollout"]) == ""


def test_every_declared_mode_is_a_parameter_with_such_a_value() -> None:
    rows = {row["name"]: row for row in whole.describe()}
    found = list(conditions())
    assert len(found) > 40
    for name, other, values in found:
        assert name != other
        allowed = rows[other]["allowed"].split(", ")
        free = {"policy.base": ["config"], "evaluate.retrievers": list(RETRIEVERS)}  # a folder's name; a list of a registry's names
        assert set(values) <= set(free.get(other, allowed)), (name, other, values)


@pytest.mark.parametrize("name", [*presets.NAMES, *presets.ALGORITHMS])
def test_no_preset_sets_what_it_does_not_read(name: str) -> None:
    assert unread(presets.load(name)) == ""
