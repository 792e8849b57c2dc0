"""ospo store: what is there, whether it holds, what may go, and the values as a table."""

import dataclasses
import gc
import io
import json
import os
import shutil
import time

import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.errors import OspoError, StoreError
from ospo_cli.instruments import store_upkeep as store
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.store import Store as StoreParams
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.store.folder import DAY_SECONDS, Store
from ospo_cli.stages import score_coalitions
from ospo_cli.tables import parquet
from ospo_cli.tables.store import STORED_VALUES
from tests.stages.small_catalogue import prepared
from tests.stages.test_score_coalitions import project

KEPT = dataclasses.replace(Params(), store=StoreParams(values="always", products=2))


@pytest.fixture
def scored(tmp_path):
    layout = project(tmp_path)
    metrics = score_coalitions.execute(layout, KEPT, 1)
    mrr = dataclasses.replace(KEPT, score_coalitions=ScoreCoalitions(metric="mrr", retriever="rank-bm25"))
    score_coalitions.execute(layout, mrr, 1)
    shutil.rmtree(layout.cache)
    score_coalitions.execute(layout, KEPT, 1)
    return layout, metrics["computed_values"]


def said(function, *arguments, **options):
    stream = io.StringIO()
    result = function(*arguments, **options, stream=stream)
    return result, stream.getvalue()


def break_a_book(layout, retriever):
    (folder,) = (layout.store / book.fingerprint for book in Store(layout.store).summaries() if book.about["retriever"] == retriever)
    path = folder / "values.sqlite"
    path.write_bytes(path.read_bytes()[:6000])
    return folder.name


def test_stats_name_retriever_metric_catalogue_entries_and_bytes(scored):
    layout, count = scored
    books, text = said(store.stats, layout)
    assert {(book.about["retriever"], *book.about["parts"]) for book in books} == {("bm25", "ndcg@10"), ("rank-bm25", "mrr")}
    lines = [line for line in text.splitlines() if " bm25 " in line]
    assert len(lines) == 1
    assert f"ndcg@10 + 2 products         40      {count}" in lines[0]
    assert time.strftime("%Y-%m-%d") in lines[0]
    assert text.splitlines()[-1].startswith(f"{layout.store}: 2 books, ")


def test_upkeep_is_no_use(scored):
    layout, _ = scored
    gc.collect()  # the stages' connections are closed, which moves what was written into the main file
    past = time.time() - 8 * DAY_SECONDS
    for path in layout.store.rglob("values.sqlite"):
        os.utime(path, (past, past))
    said(store.stats, layout)
    said(store.verify, layout)
    assert {round(book.last_used - past) for book in Store(layout.store).summaries()} == {0}
    shutil.rmtree(layout.cache)
    score_coalitions.execute(layout, KEPT, 1)
    assert {book.about["retriever"] for book in Store(layout.store).summaries() if book.last_used - past > DAY_SECONDS} == {"bm25"}


def test_stats_of_no_store_say_so(tmp_path):
    books, text = said(store.stats, project(tmp_path))
    assert books == []
    assert text.endswith("store: 0 books, 0 entries, 0 B\n")


def test_verify_counts_what_it_checked_and_computes_some_again(scored):
    layout, count = scored
    total, text = said(store.verify, layout, KEPT, 25)
    assert total > count
    assert f"25 of the {store.recomputed(layout, KEPT, 1)[1]:,} kept values" in text
    assert store.recomputed(layout, KEPT, 10**6)[0] == store.recomputed(layout, KEPT, 0)[1] >= count - 30


def test_verify_makes_no_book_where_the_store_has_none_of_this_reward(scored):
    layout, _ = scored
    before = [book.fingerprint for book in Store(layout.store).summaries()]
    other = dataclasses.replace(KEPT, score_coalitions=dataclasses.replace(KEPT.score_coalitions, metric="mrr"))
    assert store.recomputed(layout, other, 10) == (0, 0)
    assert [book.fingerprint for book in Store(layout.store).summaries()] == before


def test_verify_goes_on_behind_a_damaged_book_and_then_fails(scored):
    layout, count = scored
    name = break_a_book(layout, "rank-bm25")
    stream = io.StringIO()
    with pytest.raises(StoreError, match=f"{name}.values.sqlite: damaged store of values"):
        store.verify(layout, stream=stream)
    assert f": {count} entries, all sound" in stream.getvalue()
    with pytest.raises(StoreError, match="damaged store of values"):
        store.stats(layout, stream=stream)
    assert " bm25 " in stream.getvalue()


def test_a_kept_value_that_the_retriever_does_not_give_is_found_by_computing_again(scored, monkeypatch):
    layout, _ = scored
    monkeypatch.setattr(JudgedReward, "computed", lambda self, prompt_ids, queries: JudgedReward.values(self, prompt_ids, queries) + 0.25)
    with pytest.raises(StoreError, match=r"the kept value of prompt p\d, text .* is not what the retriever gives now: found"):
        store.recomputed(layout, KEPT, 10)


def test_gc_deletes_what_was_not_used_for_long_and_leaves_the_rest(scored):
    layout, _ = scored
    gc.collect()
    old = next(book for book in Store(layout.store).summaries() if book.about["retriever"] == "rank-bm25")
    past = time.time() - 8 * DAY_SECONDS
    for path in (layout.store / old.fingerprint).iterdir():
        os.utime(path, (past, past))
    assert [book.fingerprint for book in said(store.gc, layout, None, days=9.0)[0]] == []
    assert [book.fingerprint for book in said(store.gc, layout, None, days=7.0, dry_run=True)[0]] == [old.fingerprint]
    assert len(Store(layout.store).folders()) == 2
    assert "1 of 2 books deleted" in said(store.gc, layout, None, days=7.0)[1]
    assert [book.about["retriever"] for book in Store(layout.store).summaries()] == ["bm25"]


def test_gc_keeps_the_books_of_this_projects_retrievers_and_catalogue(scored):
    layout, _ = scored
    other = dataclasses.replace(KEPT, evaluate=Evaluate(retrievers=["bm25"]))
    assert [book.about["retriever"] for book in said(store.gc, layout, other, others=True, dry_run=True)[0]] == ["rank-bm25"]
    both = dataclasses.replace(KEPT, evaluate=Evaluate(retrievers=["bm25", "rank-bm25"]))
    assert said(store.gc, layout, both, others=True)[0] == []
    k1 = dataclasses.replace(KEPT, retrieval=Retrieval(k1=0.7), evaluate=Evaluate(retrievers=["bm25"]))
    assert len(said(store.gc, layout, k1, others=True)[0]) == 2


def test_gc_down_to_a_number_of_bytes_takes_the_longest_unused_first(scored):
    layout, _ = scored
    for book in Store(layout.store).summaries():  # a clock may give both the same moment
        moment = 1_000_000 + 10 * (book.about["retriever"] == "bm25")
        os.utime(layout.store / book.fingerprint / "values.sqlite", (moment, moment))
    largest = max(book.size for book in Store(layout.store).summaries())
    gone, _ = said(store.gc, layout, None, most_bytes=str(largest))
    assert [book.about["retriever"] for book in gone] == ["rank-bm25"]
    assert len(said(store.gc, layout, None, most_bytes="0")[0]) == 1
    assert Store(layout.store).folders() == []


def test_gc_deletes_a_damaged_book_where_it_may_go(scored):
    layout, _ = scored
    name = break_a_book(layout, "rank-bm25")
    assert [book.fingerprint for book in said(store.gc, layout, None, most_bytes="0")[0] if book.problem] == [name]
    assert Store(layout.store).folders() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "nothing tells what may go"), ({"most_bytes": "-1"}, "not a number"), ({"most_bytes": "2X"}, "not a number")],
)
def test_gc_without_a_rule_or_with_a_wrong_one_is_refused(scored, options, message):
    with pytest.raises(OspoError, match=message):
        store.gc(scored[0], None, **options)
    assert len(Store(scored[0].store).folders()) == 2


def test_sizes_have_units():
    assert [store._parsed(size) for size in ("10", "1K", "2 MiB".replace(" ", ""), "1.5G", "1tb")] == [10, 1024, 2 << 20, 3 << 29, 1 << 40]


def test_an_export_holds_every_value_with_its_products(scored, tmp_path):
    layout, count = scored
    rows, entries = store.export(layout, tmp_path / "all.parquet")
    found = parquet.read(tmp_path / "all.parquet", STORED_VALUES)
    assert found.height == rows == entries == said(store.verify, layout)[0]
    own = found.filter(retriever="bm25")
    assert (own.height, set(own["part"]), set(own["documents"])) == (count, {"ndcg@10"}, {40})
    assert own["products"].list.len().max() == 2
    reward = JudgedReward(prepared(), dataclasses.replace(KEPT, store=StoreParams(values="never")))
    assert set(reward.values(["p1"] * 3, ["red", "wool coat", ""]).tolist()) <= {
        *own["value"].to_list(),
        0.0,
        *reward.values(["p1"], ["red"]),
    }
    name = own["book"][0]
    assert store.export(layout, tmp_path / "one.jsonl", name[:10]) == (count, count)
    lines = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert pl.DataFrame(lines, schema=STORED_VALUES.schema).sort("key").equals(own.sort("key"))


@pytest.mark.parametrize(("out", "book", "message"), [("x.csv", "", "unknown ending"), ("x.jsonl", "zz", "no such book")])
def test_an_export_of_nothing_or_to_another_format_is_refused(scored, tmp_path, out, book, message):
    with pytest.raises(OspoError, match=message):
        store.export(scored[0], tmp_path / out, book)
    assert not (tmp_path / out).exists()


def test_the_commands_print_and_fail_in_one_line(scored):
    layout, count = scored
    (layout.root / "params.yaml").write_text(presets.render(KEPT))

    def command(*arguments):
        done = CliRunner().invoke(app, ["store", *arguments, "-p", str(layout.root)])
        return done.exit_code, done.stdout, done.exception

    assert f"{count}" in command("stats")[1]
    assert "all equal" in command("verify", "--recompute", "5")[1]
    assert command("gc")[0] == 1
    assert command("export", "--out", str(layout.root / "x.jsonl"))[0] == 0
    break_a_book(layout, "bm25")
    code, _, error = command("verify")
    assert code == 1
    assert len(error.line().splitlines()) == 1
    assert "delete its folder: what it held is computed again" in error.line()
