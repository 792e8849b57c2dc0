"""Names that a user gives to columns, labels and quotes: applied and counted, or refused."""

import json

import polars as pl
import pytest

from ospo_cli.errors import ParameterError, SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import files, json_lines, opening
from ospo_cli.sources.tables import read

PRODUCTS = "product_id\ttitle\nA1\tteal coat\nA2\tnavy coat\n"
QUERIES = "query_id\tquery\nq1\tcoat\nq2\tnavy\n"
JUDGMENTS = "query_id\tproduct_id\tgrade\nq1\tA1\t3\nq2\tA2\t2\n"


@pytest.fixture
def shop(tmp_path):
    for name, text in (("products", PRODUCTS), ("queries", QUERIES), ("judgments", JUDGMENTS)):
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    return tmp_path


def source(shop, **settings):
    return read(PrepareData(source="tables", path=".", **settings), 0, shop)


def test_a_named_column_goes_before_one_of_the_layouts_own_name(shop):
    (shop / "judgments.tsv").write_text("query_id\tproduct_id\tgrade\tfinal\nq1\tA1\t3\t1\nq2\tA2\t2\t1\n", encoding="utf-8")
    found = source(shop, columns={"grade": "final"})
    assert found.qrels["relevance"].to_list() == [1.0, 1.0]
    assert found.card["notes"] == ["prepare_data.columns: grade is read from final of judgments.tsv"]


def test_one_column_stands_for_two_names(shop):
    (shop / "queries.tsv").write_text("text\tlang\ncoat\ten\nnavy\ten\n", encoding="utf-8")
    (shop / "judgments.tsv").write_text("text\tproduct_id\tgrade\ncoat\tA1\t3\nnavy\tA2\t2\n", encoding="utf-8")
    prompts = source(shop, columns={"query_id": "text", "query": "text"}).prompts
    assert prompts.select("prompt_id", "query").rows() == [("coat", "coat"), ("navy", "navy")]


def test_a_named_column_that_is_in_no_file_is_refused_with_what_is_there(shop):
    with pytest.raises(
        SourceError,
        match=r"columns: category: no file that may have it has a column section: found products\.tsv: product_id, title; queries",
    ):
        source(shop, columns={"category": "section"})


@pytest.mark.parametrize(
    ("grades", "gains", "expected"),
    [
        ([3.0, 2.0], {"3": 1.0, "2": 0.3}, [1.0, 0.3]),
        ([3, 2], {"3.0": 1.0}, [1.0, 2.0]),
        ([True, False], {"true": 5.0, "false": 0.5}, [5.0, 0.5]),
        (["3.0", "2"], {"3": 1.0, "2": 0.3}, [1.0, 0.3]),
        (["Exact", "2"], {"Exact": 1.0}, [1.0, 2.0]),
        ([0.5, 0.25], {"0.5": 1.0}, [1.0, 0.25]),
    ],
)
def test_a_label_is_found_however_the_file_writes_it(shop, grades, gains, expected):
    (shop / "judgments.tsv").unlink()
    pl.DataFrame({"query_id": ["q1", "q2"], "product_id": ["A1", "A2"], "grade": grades}).write_parquet(shop / "judgments.parquet")
    found = source(shop, gains=gains)
    assert found.qrels["relevance"].to_list() == expected
    assert [note.split(" in ")[1] for note in found.card["notes"]] == ["1 judgments"] * len(gains)


def test_gains_of_which_no_label_occurs_are_refused_with_the_labels_that_do(shop):
    with pytest.raises(
        SourceError, match=r"gains, .*judgments\.tsv: column grade: no judgment has one of these labels: found Exact, .* such as 2, 3"
    ):
        source(shop, gains={"Exact": 1.0})


def titles(shop, text, suffix=".tsv", **settings):
    (shop / "products.tsv").unlink()
    (shop / f"products{suffix}").write_text(text, encoding="utf-8")
    return source(shop, **settings).documents["title"].to_list()


def test_a_title_that_only_begins_with_a_quote_is_text(shop):
    text = 'product_id\ttitle\nA1\t"Navy" linen coat, 24" long\nA2\t"Tall ""black"" mug"\nA3\t5" screen\n'
    assert titles(shop, text) == ['"Navy" linen coat, 24" long', 'Tall "black" mug', '5" screen']


def test_a_quoted_field_may_hold_line_breaks_and_separators(shop):
    text = 'product_id,title\nA1,"a coat\nthat is, warm"\nA2,"b"\n'
    assert titles(shop, text, ".csv") == ["a coat\nthat is, warm", "b"]


def test_quotes_are_text_where_the_user_says_so(shop):
    text = 'product_id\ttitle\nA1\t"Soft black mug\nA2\tblue bowl\nA3\t"Tall black mug\n'
    assert titles(shop, text, quoting="none") == ['"Soft black mug', "blue bowl", '"Tall black mug']


def test_quotes_behind_backslashes_are_text_where_the_user_says_so(shop):
    assert titles(shop, 'product_id,title\nA1,"24\\" tv, black"\nA2,b\n', ".csv", quoting="backslash") == ['24" tv, black', "b"]


def test_null_of_mysql_is_nothing(shop):
    text = "product_id\ttitle\tcolour\nA1\tcoat\t\\N\nA2\tcoat\tred\n"
    (shop / "products.tsv").write_text(text, encoding="utf-8")
    found = source(shop)
    assert found.documents["colour"].to_list() == ["", "red"]
    assert found.card["notes"] == ["products.tsv: 1 values \\N were read as empty"]


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ",")])
def test_an_export_of_mysql_is_read_with_its_escapes(shop, suffix, separator):
    rows = [
        ["product_id", "title", "colour", "size"],
        ["A1", '"Red \\"big\\" mug"', "\\N", "N"],
        ["A2", "in\\\\out", '"\\N"', "\\\\N"],
        ["A3", "one\\ntwo\\tthree\\0", "a\\" + separator + "b", "\\N"],
        ["A4", "lost\\\\next", "line\\\nbreak", "\\N x"],
    ]
    (shop / "products.tsv").unlink()
    (shop / f"products{suffix}").write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    found = source(shop, quoting="backslash")
    assert found.documents.select("title", "colour", "size").rows() == [
        ('Red "big" mug', "", "N"),
        ("in\\out", "", "\\N"),
        ("one two three", f"a{separator}b", ""),
        ("lost\\next", "line\nbreak", "N x"),
    ]
    assert found.card["notes"] == [f"products{suffix}: 3 values \\N were read as empty"]


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_the_writer_of_python_quotes_are_read_as_they_were(tmp_path, seed):
    import csv
    import random

    rng = random.Random(seed)
    rows = [(f"p{number}", "".join(rng.choice("ab\" ,;'é") for _ in range(rng.randrange(12)))) for number in range(200)]
    path = tmp_path / "products.csv"
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator=rng.choice(["\n", "\r\n"])).writerows([("product_id", "title"), *rows])
    assert [(a, b or "") for a, b in files.read(path).rows()] == rows


def test_json_lines_whose_column_has_two_shapes_are_read_and_the_column_becomes_text(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": "a", "text": "x", "metadata": {"n": {"a": 1}}}, {"_id": "b", "text": "y", "metadata": {"n": [1, 2]}}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    frame = files.read(path)
    assert frame["_id"].to_list() == ["a", "b"]
    assert [json.loads(text) for text in frame["metadata"]] == [row["metadata"] for row in rows]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"locale": "jp"}, r"prepare_data\.locale: has no effect: source tables does not read it: found jp, expected source esci"),
        ({"cut_off_date": "2020-01-01"}, r"prepare_data\.cut_off_date: has no effect"),
        ({"source": "esci", "columns": {"title": "name"}}, r"prepare_data\.columns: has no effect: source esci does not read it"),
        ({"source": "demo-shop", "gains": {"1": 2.0}}, r"gains: has no effect.*expected source tables or esci or wands or beir"),
    ],
)
def test_a_setting_that_the_source_does_not_read_is_refused(shop, settings, message):
    with pytest.raises(ParameterError, match=message):
        opening.read(PrepareData(**{"source": "tables", "path": ".", **settings}), 0, shop)


def test_objects_within_json_lines_become_the_text_of_what_each_product_has(tmp_path):
    rows = [{"product_id": str(n), "title": "x", "facts": {f"name {n}": n}} for n in range(300)]
    rows[1]["facts"] = None
    rows[2]["tags"] = [{"a": 1}, {"b": "é"}]
    (tmp_path / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = files.read(tmp_path / "products.jsonl")
    assert found["facts"][0] == '{"name 0":0}'
    assert found["facts"][1] is None
    assert found["facts"][299] == '{"name 299":299}'
    assert found["tags"][2] == '[{"a":1},{"b":"é"}]'


def test_objects_that_come_late_are_read_like_those_of_the_first_lines(tmp_path):
    rows = [{"product_id": str(n), "price": n} for n in range(json_lines._FIRST_ROWS + 5)]
    rows[-1] |= {"facts": {"a": 1}, "price": 2.5}
    (tmp_path / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = files.read(tmp_path / "products.jsonl")
    assert (found["facts"][-1], found["price"].to_list()[-2:]) == ('{"a":1}', [103.0, 2.5])
