"""prepare-data: equal input gives equal bytes, what is dropped is counted, and nothing is written when the data is at fault."""

import dataclasses
import errno
import json

import polars as pl
import pytest

from ospo_cli.errors import FileError, OspoError, ParameterError, SourceError
from ospo_cli.graph import runner
from ospo_cli.graph.nodes import node
from ospo_cli.layout import Layout
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.train import Train
from ospo_cli.params.whole import Params
from ospo_cli.sources.near_duplicates import near_duplicates
from ospo_cli.stages.prepare_data import execute, prepare
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS, TEACHER_PAIRS
from ospo_cli.text.prompt_template import user_message
from tests.sources.own_data import ABSENT, JUDGMENTS, PRODUCTS, QUERIES, SHARED, shop, write
from tests.stages.source_data import data, distinct_queries

TABLES = {"documents": DOCUMENTS, "prompts": PROMPTS, "qrels": QRELS, "pools": POOLS, "teacher_pairs": TEACHER_PAIRS}


def run(folder, root, **changes):
    execute(
        Layout(root),
        dataclasses.replace(
            Params(), prepare_data=PrepareData(source="tables", path=str(folder), **changes), train=Train(seed=changes.pop("seed", 0))
        ),
    )
    return {name: parquet.read(Layout(root).prepared(f"{name}.parquet"), table) for name, table in TABLES.items()}


def test_every_table_passes_its_schema_and_the_card_counts_its_rows(tmp_path):
    tables = run(shop(tmp_path / "in"), tmp_path)
    card = json.loads(Layout(tmp_path).prepared("card.json").read_text())
    assert card["counts"]["documents"] == tables["documents"].height == 4
    assert card["counts"]["prompts"] == tables["prompts"].height == 4
    assert card["counts"]["pool rows"] == tables["pools"].height
    assert card["source"] == "tables"
    assert sorted(card["inputs"]) == ["judgments.parquet", "products.parquet", "queries.parquet"]


def test_equal_input_gives_equal_bytes_and_another_seed_other_pools(tmp_path):
    inputs = data(distinct_queries(30), documents=400)
    params = PrepareData(pool_related=5, pool_same_category=5, pool_random=5)
    one, two, other = (prepare(inputs, params, seed) for seed in (0, 0, 1))
    shuffled = dataclasses.replace(
        inputs,
        documents=inputs.documents.sample(fraction=1, shuffle=True, seed=1),
        prompts=inputs.prompts.reverse(),
        qrels=inputs.qrels.sample(fraction=1, shuffle=True, seed=2),
    )
    three = prepare(shuffled, params, 0)
    names = [field.name for field in dataclasses.fields(one) if field.name != "card"]
    assert all(getattr(one, name).equals(getattr(two, name)) and getattr(one, name).equals(getattr(three, name)) for name in names)
    assert one.card == two.card
    assert not one.pools.equals(other.pools)
    first, second = tmp_path / "a", tmp_path / "b"
    folder = shop(tmp_path / "in")
    for root in (first, second):
        run(folder, root)
    assert all(
        Layout(first).prepared(f"{name}.parquet").read_bytes() == Layout(second).prepared(f"{name}.parquet").read_bytes() for name in TABLES
    )
    assert Layout(first).prepared("card.json").read_bytes() == Layout(second).prepared("card.json").read_bytes()


def test_a_relevant_product_outside_the_catalogue_is_an_error_that_names_it():
    judged = [("q0000", "d000", 1.0), ("q0000", "gone", 2.0)]
    with pytest.raises(
        SourceError, match=r"judgments of query q0000: a relevant product is not in the catalogue: found product gone \(1 such judgments\)"
    ):
        prepare(data(["alpha"], judged=judged), PrepareData(), 0)


def test_ids_that_lost_their_leading_zeros_are_pointed_out(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    write(folder / "products.csv", {"product_id": ["007", "012"], "title": ["coat", "lamp"]})
    write(folder / "queries.csv", {"query_id": ["q1"], "query": ["coat"], "split": ["train"]})
    write(folder / "judgments.parquet", {"query_id": ["q1"], "product_id": [7], "grade": [1]})
    with pytest.raises(SourceError, match=r"found product 7 .*7 is there as 0*7: write the ids alike"):
        run(folder, tmp_path, pool="catalogue")


def test_an_irrelevant_product_outside_the_catalogue_is_dropped_and_counted():
    prepared = prepare(data(["alpha"], judged=[("q0000", "d000", 1.0), ("q0000", "gone", 0.0)]), PrepareData(), 0)
    assert prepared.qrels.rows() == [("q0000", "d000", 1.0)]
    assert prepared.card["dropped"]["judgments of unknown products (grade 0)"] == 1


def test_prompts_that_cannot_be_scored_are_dropped_and_counted_by_reason():
    judged = [("q0000", "d000", 1.0), ("q0001", "d001", 0.0), ("q0003", "d003", 1.0)]
    prepared = prepare(data(["alpha", "beta", "gamma", " \x00\n "], judged=judged), PrepareData(), 0)
    assert prepared.prompts["prompt_id"].to_list() == ["q0000"]
    dropped = prepared.card["dropped"]
    assert [dropped[f"prompts {reason}"] for reason in ("without judgments", "without a relevant product", "with an empty query")] == [
        1,
        1,
        1,
    ]


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(SourceError, match=r"no prompt is left: found 1 prompts without judgments.*check that query ids agree"):
        prepare(data(["alpha"], judged=[("q0009", "d000", 1.0)]), PrepareData(), 0)


@pytest.mark.parametrize(
    ("queries", "judged", "settings", "remedy"),
    [
        ([" "], [("q0000", "d000", 1.0)], {}, "check the queries"),
        (["alpha"], [("q0000", "d000", 0.0)], {}, "every grade is 0: check the grades"),
        (["alpha"], [("q0000", "d000", 1.0)], {"relevant_minimum": 2}, "change prepare_data.relevant_minimum"),
    ],
)
def test_the_remedy_is_of_the_cause(queries, judged, settings, remedy):
    with pytest.raises(SourceError, match=remedy):
        prepare(data(queries, judged=judged), PrepareData(**settings), 0)


def test_prompts_with_too_few_or_too_many_best_documents_can_be_left_out():
    judged = [(f"q{query:04d}", f"d{document:03d}", 1.0) for query in range(4) for document in range(query + 1)] + [("q0001", "d009", 0.1)]
    prepared = prepare(data(distinct_queries(4), judged=judged), PrepareData(relevant_minimum=2, relevant_maximum=3), 0)
    assert prepared.prompts["prompt_id"].to_list() == ["q0001", "q0002"]


def test_queries_become_one_line_and_keep_emoji_and_right_to_left_marks():
    prepared = prepare(data([" 👩‍🚀\tred\x00\n\u2028coat \u200f"]), PrepareData(), 0)
    assert prepared.prompts["query"].to_list() == ["👩‍🚀 red coat \u200f"]


def test_a_template_holds_query_and_history_and_their_braces_are_text():
    prepared = prepare(
        data(["{history} {x}"], histories=[["a {query}", "b"]]), PrepareData(prompt_template="Find {query}; bought: {history}."), 0
    )
    assert prepared.prompts["prompt"].to_list() == ["Find {history} {x}; bought: a {query}; b."]


def test_an_empty_history_leaves_its_place_empty():
    assert user_message("{query} ({history})", "mug", []) == "mug ()"


@pytest.mark.parametrize(
    ("template", "found"), [("no place", "no place"), ("{query} {hist}", "{hist}"), ("{history}", "{history}"), ("{query} {}", "{}")]
)
def test_a_template_with_another_name_or_without_query_is_refused(tmp_path, template, found):
    with pytest.raises(ParameterError, match=r"prepare_data\.prompt_template: is no template: found .*expected \{query\}") as caught:
        run(shop(tmp_path / "in"), tmp_path, prompt_template=template)
    assert caught.value.found == found


BROKEN = {
    "missing folder": (lambda p: p.rename(p.parent / "away"), r"no such folder"),
    "truncated Parquet": (lambda p: (p / "judgments.parquet").write_bytes((p / "judgments.parquet").read_bytes()[:50]), r"judgments\.parquet: cannot be read as Parquet"),
    "duplicate ids": (lambda p: write(p / "products.parquet", PRODUCTS | {"product_id": ["1", "1", "2", "3"]}), r"duplicate id: found 1"),
    "empty catalogue": (lambda p: write(p / "products.parquet", pl.DataFrame(PRODUCTS).head(0)), r"the catalogue is empty"),
    "no judged query": (lambda p: write(p / "judgments.parquet", pl.DataFrame(JUDGMENTS).head(0)), r"no prompt is left: .*4 prompts without judgments"),
    "NaN grade": (lambda p: write(p / "judgments.parquet", JUDGMENTS | {"grade": [float("nan")] * 5}), r"is no grade: found nan"),
    "unknown target": (lambda p: write(p / "judgments.parquet", JUDGMENTS | {"product_id": ["12", "404", "12", "13", "14"]}), r"not in the catalogue: found product 404"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_on_failure_nothing_is_written_and_nothing_overwritten(tmp_path, case):
    act, message = BROKEN[case]
    run(shop(tmp_path / "in"), tmp_path)
    before = {path.name: path.read_bytes() for path in Layout(tmp_path).prepared("").iterdir()}
    act(tmp_path / "in")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for root in (tmp_path, fresh):
        with pytest.raises(OspoError, match=message):
            run(tmp_path / "in", root)
    assert {path.name: path.read_bytes() for path in Layout(tmp_path).prepared("").iterdir()} == before
    assert list(fresh.iterdir()) == []


def test_a_full_disk_leaves_every_table_as_it_was(tmp_path, monkeypatch):
    run(shop(tmp_path / "in"), tmp_path)
    before = {path.name: path.read_bytes() for path in Layout(tmp_path).prepared("").iterdir()}
    write_parquet = pl.DataFrame.write_parquet

    def full(frame, *arguments, **options):
        if "relevance" in frame.columns:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_parquet(frame, *arguments, **options)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(FileError, match=r"prepared/qrels\.parquet: cannot be written: found .*No space left on device; free space"):
        run(tmp_path / "in", tmp_path, prompt_template="other {query}")
    assert {path.name: path.read_bytes() for path in Layout(tmp_path).prepared("").iterdir()} == before


def test_hostile_text_and_a_field_of_100_kB_go_through_every_table(tmp_path):
    text = "\x00\x1b[31m \u202eabc\u200f 👩‍🚀 " + "x" * 100_000
    products, queries = (
        PRODUCTS | {"title": [text, "a", "b", "c"]},
        QUERIES | {"query": [text, "lamp", "cup", "blue"], "history": [[text], [], [], []]},
    )
    tables = run(shop(tmp_path / "in", products=products, queries=queries), tmp_path, prompt_template="{query} {history}")
    assert tables["documents"].filter(pl.col("doc_id") == "007")["title"][0] == text
    assert tables["prompts"].filter(pl.col("prompt_id") == "q1")["query"][0] == "[31m \u202eabc\u200f 👩‍🚀 " + "x" * 100_000


@pytest.mark.parametrize(("name", "prompts"), [("chorus-icecat", 98), ("cranfield", 225), ("retail-demo-store", 500), ("esci-mini", 189)])
@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_public_sets_are_prepared_with_every_target_in_its_pool(tmp_path, name, prompts):
    tables = run(SHARED / name, tmp_path)
    missing = tables["qrels"].filter(pl.col("relevance") > 0).join(tables["pools"], on=["prompt_id", "doc_id"], how="anti")
    assert (tables["prompts"].height, missing.height) == (prompts, 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_fourteen_thousand_movie_queries_are_split_without_a_leak(tmp_path):
    tables = run(SHARED / "msrd-movies", tmp_path, pool="catalogue", test_share=0.0)
    prompts = tables["prompts"]
    card = json.loads(Layout(tmp_path).prepared("card.json").read_text())
    pairs = near_duplicates(prompts["query"].to_list(), prompts["history"].to_list(), 0.85)
    split = prompts["split"].to_numpy()
    assert prompts.filter(pl.col("split") == "dev").height == 1644
    assert (split[pairs[:, 0]] == split[pairs[:, 1]]).all()
    assert (
        card["dropped"]["train prompts that repeat a prompt of an earlier split"]
        == 13014 - prompts.filter(pl.col("split") == "train").height
    )
    assert card["dropped"]["judgments of unknown products (grade 0)"] > 0


UNSEEN_ALONE = dataclasses.replace(Params(), evaluate=dataclasses.replace(Params().evaluate, retrievers=["lsa"]))


def test_what_evaluation_could_not_do_is_said_before_data_is_read(tmp_path):
    with pytest.raises(ParameterError, match=r"evaluate\.retrievers: needs the training retriever"):
        runner.execute(node("prepare-data", None, UNSEEN_ALONE), Layout(tmp_path), UNSEEN_ALONE)
    assert list(tmp_path.iterdir()) == []


def test_what_evaluation_could_not_do_stops_a_whole_run_before_any_stage(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(runner, "execute", lambda node, *_: started.append(node.label))
    with pytest.raises(ParameterError, match=r"evaluate\.retrievers: needs the training retriever"):
        runner.run(Layout(tmp_path), UNSEEN_ALONE)
    assert started == []


def test_what_there_is_and_what_was_left_out_is_said(tmp_path, capsys):
    run(shop(tmp_path / "in", queries=dict(QUERIES, query=["", *QUERIES["query"][1:]])), tmp_path)
    said = capsys.readouterr().err
    card = json.loads(Layout(tmp_path).prepared("card.json").read_text())["counts"]
    assert (
        f"prepare-data: 4 documents; prompts: {card['train prompts']} train, {card['dev prompts']} dev, {card['test prompts']} test\n"
        in said
    )
    assert "1 prompts with an empty query" in said
    empty = [name for name in ("train", "dev", "test") if not card[f"{name} prompts"]]
    assert (f"no prompt in split {' and '.join(empty)}" in said) == bool(empty)


def test_a_grade_that_no_sum_can_hold_and_a_catalogue_without_text_are_refused():
    inputs = data(["alpha"], documents=5, judged=[("q0000", "d000", 1e308)])
    with pytest.raises(
        SourceError, match=r"judgments of query q0000: a grade is too large .* product d000: found 1e\+308, expected at most 1e\+12"
    ):
        prepare(inputs, PrepareData(), 0)
    inputs = data(["alpha"], documents=5)
    with pytest.raises(SourceError, match=r"no product has a text: found 5 documents without a letter or digit"):
        prepare(dataclasses.replace(inputs, documents=inputs.documents.with_columns(title=pl.lit(" -- "))), PrepareData(), 0)


def test_queries_that_are_all_empty_are_not_blamed_on_their_ids():
    with pytest.raises(SourceError, match=r"no prompt is left: found 2 prompts with an empty query.*; check the queries$"):
        prepare(data(["", " "]), PrepareData(), 0)
