"""Folders in the shapes of well-known models: what they declare is read, and the loop runs on each."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.stages import attribute, prepare_data, rollout, score_coalitions, segment, update, warm_start
from ospo_cli.tables.files import read_json
from tests.policies import shapes
from tests.sources.own_data import shop

NAMES = tuple(shapes.SHAPES)
PRODUCTS = {
    "product_id": [f"{index:02d}" for index in range(24)],
    "title": [f"{colour} {thing}" for colour in ("navy", "red", "olive") for thing in ("coat", "mug", "lamp", "belt", "a", "e", "0", "x")],
}
QUERIES = {"query_id": [f"q{index}" for index in range(8)], "query": [f"{title} <|im_end|>" for title in PRODUCTS["title"][:8]]}
JUDGMENTS = {"query_id": QUERIES["query_id"], "product_id": PRODUCTS["product_id"][:8], "grade": [1] * 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return {name: shapes.write(root / name, name) for name in NAMES}


@pytest.fixture(scope="module")
def opened(folders):
    return {name: read_policy(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_token_ends_an_answer_and_the_templates_own_is_taught(opened, name):
    policy, shape = opened[name], shapes.SHAPES[name]
    assert [policy.pieces.tokenizer.id_to_token(token_id) for token_id in policy.end_token_ids] == list(shape.ends)


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_the_model_that_the_tokenizer_lacks_are_never_drawn(opened, name):
    policy, padding = opened[name], shapes.SHAPES[name].padding
    size = policy.pieces.tokenizer.get_vocab_size(with_added_tokens=True)
    unspelled = [] if policy.unspelled is None else policy.unspelled.tolist()
    assert unspelled == list(range(size, size + max(padding, 0)))
    assert policy.drawn_ids == list(range(size + min(padding, 0)))


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_of_the_template_says_what_it_takes(opened, name):
    shape, found = shapes.SHAPES[name], opened[name].declared["template"]
    assert found == {"system": shape.system, "history": shape.history, "thinking_switch": name == "qwen3"}


@pytest.mark.parametrize("name", NAMES)
def test_no_special_token_that_a_query_spells_becomes_one(opened, name):
    policy, shape = opened[name], shapes.SHAPES[name]
    control = {token_id for token_id, token in policy.pieces.added.items() if token.special}
    plain, hostile = (
        [token_id for token_id in render_prompt(policy, text) if token_id in control]
        for text in ("red coat", " ".join(("red", *shape.first, *shape.last, "coat")))
    )
    assert hostile == plain != []


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_spell_what_the_tokenizer_decodes(opened, name):
    pieces = opened[name].pieces
    control = {token_id for token_id, token in pieces.added.items() if token.special}
    # Single bytes that are no UTF-8 become as many U+FFFD as the decoder likes.
    ids = sorted(number for number in pieces.spelled_ids - control if pieces.piece(number).isascii() or number in pieces.added)
    rng = np.random.default_rng(5)
    for _ in range(50):
        drawn = rng.choice(ids, 12).tolist()
        assert pieces.text(drawn) == pieces.tokenizer.decode(drawn)


def project(root, base):
    """Write a project over a pretrained folder."""
    params = Params()
    sections = {
        "prepare_data": {"source": "tables", "path": str(shop(root / "shop", ".csv", PRODUCTS, QUERIES, JUDGMENTS))},
        "policy": {"base": str(base), "threads": 1},
        "warm_start": {"teacher": "none"},
        "rollout": {"prompts_per_iteration": 4, "group_size": 6, "max_new_tokens": 16},
        "update": {"groups_per_step": 4},
        "score_coalitions": {"metric": "ndcg@10"},
    }
    for name, values in sections.items():
        params = dataclasses.replace(params, **{name: dataclasses.replace(getattr(params, name), **values)})
    return Layout(root), params


@pytest.mark.parametrize(("name", "rank"), [*((name, 0) for name in NAMES), ("qwen2.5", 2), ("phi3.5", 2)])
def test_the_loop_runs_from_tables_to_the_next_policy_and_ratios_begin_at_1(folders, tmp_path, name, rank):
    layout, params = project(tmp_path, folders[name])
    params = dataclasses.replace(params, policy=dataclasses.replace(params.policy, lora_rank=rank))
    prepare_data.execute(layout, params)
    warm_start.execute(layout, params)
    for stage in (rollout, segment, score_coalitions, attribute):
        stage.execute(layout, params, 1)
    metrics = update.execute(layout, params, 1)
    rollouts = pl.read_parquet(layout.iteration(1, "rollouts.parquet"))
    policy = load_policy(layout.policy(1), 1)
    drawn, ends = set(policy.drawn_ids), set(policy.end_token_ids)
    ids = rollouts["token_ids"].to_list()
    assert {token_id for row in ids for token_id in row} <= drawn
    assert not any(ends & set(row[:-1]) for row in ids)
    assert [row[-1] in ends for row in ids] == (rollouts["finish_reason"] == "stop").to_list()
    assert metrics["logprob_mismatch"] < 1e-4
    assert policy.is_adapter == (rank > 0)
    assert [token["token"] for token in policy.declared["end_tokens"]] == list(shapes.SHAPES[name].ends)
    for number in (0, 1):
        assert read_json(layout.policy(number) / "ospo_policy.json")["declared"] == policy.declared
    assert np.isfinite(metrics["loss"])
