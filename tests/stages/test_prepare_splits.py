"""prepare-data: no prompt is in two splits, nor one that is nearly it; what is cut is cut by seed."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources.near_duplicates import near_duplicates
from ospo_cli.stages.prepare_data import prepare
from tests.stages.source_data import data, distinct_queries


def splits_of(prepared):
    return dict(prepared.prompts.select("query", "split").rows())


def test_of_near_duplicates_in_given_splits_only_the_earliest_split_keeps_its_own():
    queries = [
        "Blue Suède shoes",
        "shoes, blue suede",
        "blue  suede SHOES!",
        "something else entirely",
        "wireless noise cancelling headphones",
        "wireless noise canceling headphones",
    ]
    splits = ["train", "dev", "test", "train", "test", "train"]
    prepared = prepare(data(queries, splits), PrepareData(dev_share=0, near_duplicate=0.8), 0)
    assert splits_of(prepared) == {
        "blue suede SHOES!": "test",
        "something else entirely": "train",
        "wireless noise cancelling headphones": "test",
    }
    dropped = prepared.card["dropped"]
    assert (
        dropped["train prompts that repeat a prompt of an earlier split"],
        dropped["dev prompts that repeat a prompt of an earlier split"],
    ) == (2, 1)
    assert prepared.card["leak check"]["near-duplicate pairs across splits left"] == 0


@pytest.mark.parametrize(("folding", "expected"), [("standard", 1), ("turkish", 0)])
def test_two_spellings_that_the_folding_makes_alike_are_one_query(folding, expected):
    prepared = prepare(data(["IŞIK", "ışık", "lamba"], ["train", "test", "train"]), PrepareData(dev_share=0), 0, folding)
    assert prepared.prompts.filter((pl.col("split") == "train") & (pl.col("query") == "IŞIK")).height == expected


def test_near_duplicates_within_one_split_stay():
    prepared = prepare(data(["red mug", "mug red", "lamp"], ["train"] * 3), PrepareData(dev_share=0, test_share=0), 0)
    assert prepared.prompts.height == 3


def test_a_split_that_is_not_given_is_cut_by_seed_and_a_given_one_is_kept():
    queries = distinct_queries(100)
    given = ["test"] * 20 + ["train"] * 80
    prepared = prepare(data(queries, given), PrepareData(dev_share=0.25, test_share=0.5), 0)
    counts = {split: prepared.card["counts"][f"{split} prompts"] for split in ("train", "dev", "test")}
    assert counts == {"train": 60, "dev": 20, "test": 20}
    assert prepared.card["cut by seed"] == {"dev": 20}
    assert set(prepared.prompts.filter(pl.col("split") == "test")["query"]) == set(queries[:20])


def test_prompts_left_without_a_split_are_cut_and_the_given_train_is_left_alone():
    queries = distinct_queries(50)
    prepared = prepare(data(queries, ["train"] * 10 + [None] * 40), PrepareData(dev_share=0.25, test_share=0.25), 0)
    assert {prepared.card["counts"][f"{split} prompts"] for split in ("dev", "test")} == {10}
    assert set(queries[:10]) <= set(prepared.prompts.filter(pl.col("split") == "train")["query"])


def test_what_is_cut_by_seed_keeps_near_duplicates_together():
    queries = [f"{word} {ending}" for word in distinct_queries(40) for ending in ("film", "film!", "FILM")]
    prepared = prepare(data(queries), PrepareData(dev_share=0.3, test_share=0.3), 0)
    spread = prepared.prompts.group_by(pl.col("query").str.head(12)).agg(pl.col("split").n_unique())
    assert spread["split"].to_list() == [1] * 40
    assert prepared.prompts.height == 120


def test_the_history_is_part_of_the_question():
    histories = [["Red mug"], ["Blue mug"], ["mug, red"]]
    prepared = prepare(data(["cup"] * 3, ["train", "dev", "test"], histories), PrepareData(), 0)
    assert sorted(prepared.prompts["split"].to_list()) == ["dev", "test"]


def test_max_prompts_keeps_so_many_of_each_split_by_seed():
    inputs = data(distinct_queries(60))
    one, two = (prepare(inputs, PrepareData(max_prompts=5), seed).prompts for seed in (0, 1))
    assert one["split"].value_counts(sort=True).sort("split").rows() == [("dev", 5), ("test", 5), ("train", 5)]
    assert not one.equals(two)


def test_teacher_pairs_teach_train_prompts_only():
    pairs = pl.DataFrame(
        {"prompt_id": ["q0000", "q0001"], "pair_index": [0, 0], "completion": ["<answer>a</answer>"] * 2},
        schema_overrides={"pair_index": pl.Int32},
    )
    prepared = prepare(data(["alpha", "beta"], ["train", "test"], teacher_pairs=pairs), PrepareData(dev_share=0), 0)
    assert prepared.teacher_pairs["prompt_id"].to_list() == ["q0000"]
    assert prepared.card["dropped"]["teacher pairs outside train"] == 1


def jaccard(left, right):
    left, right = ({f" {text} "[start : start + 3] for start in range(max(1, len(text)))} for text in (left, right))
    return len(left & right) / len(left | right)


@settings(max_examples=60)
@given(st.lists(st.text("ab ", min_size=1, max_size=9), min_size=2, max_size=12), st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0]))
def test_near_duplicates_are_those_of_a_slow_comparison_of_all_pairs(queries, similarity):
    spelled = [" ".join(query.split()) or "".join(query.split()) for query in queries]
    keys = [(" ".join(sorted(set(query.split()))) or query) for query in spelled]
    fast = near_duplicates(queries, [[]] * len(queries), similarity)
    group = list(range(len(queries)))

    def root(position):
        return position if group[position] == position else root(group[position])

    for left, right in fast:
        group[root(int(left))] = root(int(right))
    firsts = [position for position, text in enumerate(spelled) if text not in spelled[:position]]
    slow = {
        (left, right) for left in firsts for right in firsts if left < right and jaccard(spelled[left], spelled[right]) >= similarity - 1e-9
    }
    assert slow <= {tuple(pair) for pair in fast.tolist()}
    assert all(keys[left] == keys[right] or (left, right) in slow for left, right in fast.tolist())
    assert all(root(left) == root(right) for left in range(len(keys)) for right in range(left) if keys[left] == keys[right])
