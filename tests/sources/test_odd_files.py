"""Files as people's tools leave them: joined end to end, with words for nothing, marks that are not seen, lists as text, labels of two kinds."""

import gzip
import json

import polars as pl
import pytest

from ospo_cli.errors import OspoError, ParameterError, SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import files
from ospo_cli.stages.prepare_data import prepare
from tests.sources.own_data import JUDGMENTS, PRODUCTS, QUERIES, lines, read, shop

MARK = "\ufeff"


def csv_shop(folder, **changes):
    """Write the shop as CSV; `changes` are functions of a file's text, by its name."""
    shop(folder, ".csv")
    for name, change in changes.items():
        path = folder / f"{name}.csv"
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def prepared(folder, **settings):
    return prepare(read(folder, pool="catalogue", **settings), PrepareData(source="tables", pool="catalogue", **settings), 0)


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (lambda text: text, "the header once more"),
        (lambda text: MARK + text, "a byte order mark"),
        (lambda text: MARK + text.split("\n", 1)[1], "a byte order mark"),
    ],
    ids=["header", "mark and header", "mark"],
)
@pytest.mark.parametrize("name", ["products", "queries", "judgments"])
def test_files_that_were_joined_end_to_end_are_named_where_the_second_begins(tmp_path, name, second, found):
    folder = csv_shop(tmp_path / "shop", **{name: lambda text: text + second(text)})
    rows = len({"products": PRODUCTS, "queries": QUERIES, "judgments": JUDGMENTS}[name]["query_id" if name != "products" else "product_id"])
    with pytest.raises(SourceError, match=f"{name}.csv: row {rows + 1}: another file begins here.*found {found}"):
        read(folder)


def test_a_mark_within_json_lines_is_named_with_its_line(tmp_path):
    folder = csv_shop(tmp_path / "shop")
    (folder / "products.csv").unlink()
    row = json.dumps({"product_id": "007", "title": "coat"})
    (folder / "products.jsonl").write_text(f"{row}\n{MARK}{row}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"products.jsonl: line 2: .*BOM"):
        read(folder)


@pytest.mark.parametrize("mark", ["\u200b", "\u200f", MARK, "\u00a0", " \u2060 "])
def test_marks_around_an_id_that_nobody_sees_are_no_part_of_it(tmp_path, mark):
    folder = csv_shop(tmp_path / "shop", judgments=lambda text: text.replace("q1,007", f"q1{mark},{mark}007{mark}"))
    assert read(folder).qrels.equals(read(csv_shop(tmp_path / "plain")).qrels)
    (folder / "judgments.csv").unlink()
    (folder / "qrels.txt").write_text(f"q1 0 007{mark.strip()} 3\n", encoding="utf-8")
    assert read(folder).qrels.row(0) == ("q1", "007", 3.0)


def test_ids_that_agree_but_for_a_mark_are_one_id_twice(tmp_path):
    with pytest.raises(SourceError, match=r"duplicate id: found 007 in rows 1 and 5"):
        read(csv_shop(tmp_path / "shop", products=lambda text: text + "007\u200b,Other,,\n"))


@pytest.mark.parametrize(("own", "there"), [("q1.0", "q1"), ("Q1", "q1"), ("qe\u0301", "q\u00e9"), ("q\u200d1", "q1")])
def test_a_query_in_another_spelling_is_shown_beside_it(tmp_path, own, there):
    folder = csv_shop(tmp_path / "shop", queries=lambda text: text.replace("q1", there), judgments=lambda text: text.replace("q1", own))
    with pytest.raises(SourceError, match=f"unknown query: .* is there as {there}: write the ids alike"):
        read(folder)


@pytest.mark.parametrize("truths", [("True", "False"), ("TRUE", "false"), ("true", "FALSE")])
def test_truth_values_in_text_are_those_of_parquet(tmp_path, truths):
    rows = JUDGMENTS | {"grade": [truths[0], truths[0], truths[1], truths[0], truths[0]]}
    expected = [1, 1, 0, 1, 1]
    assert read(shop(tmp_path / "text", ".csv", judgments=rows)).qrels["relevance"].to_list() == expected
    booleans = JUDGMENTS | {"grade": [bool(value) for value in expected]}
    assert read(shop(tmp_path / "boolean", judgments=booleans)).qrels["relevance"].to_list() == expected
    for label in ("true", "True", "1"):
        assert read(tmp_path / "text", gains={label: 0.5}).qrels["relevance"].to_list() == [0.5, 0.5, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ({"3": 1.0, "3.0": 0.5}, "two of its labels are the same one: found 3 and 3.0"),
        ({"true": 1.0, "1": 0.5}, "two of its labels are the same one: found true and 1"),
        ({"3": -1.0}, "the gain of label 3 is none: found -1.0"),
        ({"3": float("nan")}, "the gain of label 3 is none: found nan"),
    ],
)
def test_gains_that_cannot_be_meant_are_refused_as_such(tmp_path, gains, message):
    with pytest.raises(ParameterError, match=f"prepare_data.gains: {message}"):
        read(shop(tmp_path / "shop"), gains=gains)


def test_a_name_is_read_from_the_files_that_have_it_alone(tmp_path):
    with pytest.raises(SourceError, match="columns: category: no file that may have it has a column split"):
        read(csv_shop(tmp_path / "shop"), columns={"category": "split"})


@pytest.mark.parametrize("written", ["['red hat', 'scarf']", '["red hat"]', "[]", '[{"title": "red hat"}]'])
def test_a_history_that_is_a_list_written_as_text_is_no_title(tmp_path, written):
    queries = QUERIES | {"history": ["coat|[Brand] hat [L]", written, "", ""]}
    with pytest.raises(SourceError, match="row 2, column history: is a list written as text"):
        read(shop(tmp_path / "shop", ".csv", queries=queries))
    queries["history"][1] = ""
    assert read(shop(tmp_path / "shop", ".csv", queries=queries)).prompts["history"].to_list()[0] == ["coat", "[Brand] hat [L]"]


def test_words_for_nothing_are_counted_by_column(tmp_path):
    products = PRODUCTS | {"title": ["NaN", "lamp", "None", "mug"], "material": ["nan", "NULL", "clay", "nano"]}
    queries = QUERIES | {"query": ["coat", "null", "cup", "cup nan"]}
    said = prepared(shop(tmp_path / "shop", ".csv", products, queries)).card["warnings"]
    assert any(
        "values that read nan, NaN, None, NULL or the like are text: 2 of title, 2 of material, 1 of query;" in line for line in said
    )
    priced = shop(
        tmp_path / "priced",
        products=PRODUCTS | {"price": [12.5, 99.0, None, 7.0], "ean": ["0042", "7", "12", "1"], "mark": ["10 €", "12,50 €", "x", ""]},
    )
    (said,) = [line for line in prepared(priced).card["warnings"] if "numbers" in line]
    assert said.startswith("every value of price, ean is a number: they are searched as text, unless retrieval.fields names others")
    assert not any("numbers" in line for line in prepared(shop(tmp_path / "plain")).card["warnings"])
    assert not any("values that read" in line for line in prepared(shop(tmp_path / "plain")).card["warnings"])


@pytest.mark.parametrize("judgments", ["query_id,product_id,grade\n", ""])
def test_a_file_without_judgments_is_not_called_ids_that_disagree(tmp_path, judgments):
    folder = csv_shop(tmp_path / "shop")
    (folder / "judgments.csv").unlink()
    (folder / ("judgments.csv" if judgments else "qrels.txt")).write_text(judgments)
    with pytest.raises(SourceError, match="there is no judgment at all: check the file of judgments"):
        prepared(folder)


def test_lists_of_two_shapes_in_json_lines_become_text(tmp_path):
    rows = [{"product_id": "a", "title": "x", "tags": ["b", ["c"]]}, {"product_id": "d", "title": "y", "tags": None}]
    lines(tmp_path / "products.jsonl", rows)
    lines(tmp_path / "queries.jsonl", [{"query_id": "q", "query": "x"}])
    lines(tmp_path / "judgments.jsonl", [{"query_id": "q", "product_id": "a", "grade": 1}])
    assert read(tmp_path).documents["tags"].to_list() == ['["b", ["c"]]', ""]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"product_id,title\n1,\xc3\xa9\n", mtime=0), "gzip, so .gz belongs to its name"),
        (b"PAR1\xff\xfe", "Parquet"),
        (b"PK\x03\x04\xff\xfe", "a zip file or an Excel workbook"),
    ],
    ids=["gzip", "Parquet", "zip"],
)
def test_what_is_no_text_at_all_is_called_by_its_name(tmp_path, content, said):
    folder = csv_shop(tmp_path / "shop")
    (folder / "products.csv").write_bytes(content)
    with pytest.raises(SourceError, match=f"it looks like {said}"):
        read(folder)


def test_every_index_that_pandas_left_is_taken_away(tmp_path):
    text = "Unnamed: 0.1,Unnamed: 0,product_id,title\n0,0,007,coat\n1,1,12,lamp\n2,2,13,mug\n3,3,14,mug\n"
    assert read(csv_shop(tmp_path / "shop", products=lambda _: text)).documents.columns == ["doc_id", "title", "category"]


def test_topics_whose_first_line_names_columns_have_no_query_of_that_name(tmp_path):
    folder = csv_shop(tmp_path / "shop")
    (folder / "queries.csv").unlink()
    (folder / "queries.tsv").write_text("qid\ttext\nq1\tcoat\nq2\tlamp\nq3\tcup\nq4\tmug\n")
    with pytest.raises(SourceError, match="column query_id is missing: found qid, text"):
        read(folder)


def clicks_of(folder, text, suffix=".csv"):
    shop(folder, ".csv")
    (folder / f"clicks{suffix}").write_text(text, encoding="utf-8")
    return folder


ROWS = [
    ("coat", p, place + 1, int(place == day % 2), f"2026-01-0{day + 1}")
    for day in range(4)
    for _ in range(12)
    for place, p in enumerate(("007", "12"))
]
NAMES = ("query", "product_id", "position", "clicked", "day")


def log(rows=ROWS, separator=","):
    return "".join(separator.join(map(str, row)) + "\n" for row in (NAMES, *rows))


def test_a_click_log_is_read_through_the_door_of_the_other_tables(tmp_path):
    plain = read(clicks_of(tmp_path / "plain", log()), "clicks")
    assert read(clicks_of(tmp_path / "tabs", log(separator="\t"), ".tsv"), "clicks").qrels.equals(plain.qrels)
    marked = [(query, f"{product}\u200b", *rest) for query, product, *rest in ROWS]
    assert read(clicks_of(tmp_path / "marks", log(marked)), "clicks").qrels.equals(plain.qrels)
    quoted = [('"5" nails', *rest) for _, *rest in ROWS]
    assert read(clicks_of(tmp_path / "quotes", log(quoted)), "clicks").prompts["query"].to_list() == ['"5" nails']
    (tmp_path / "quotes" / "products.csv").write_text("product_id,title\n007,coat\n12,lamp\n")
    assert read(tmp_path / "quotes", "clicks", quoting="none").prompts["query"].to_list() == ['"5" nails']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (log([*ROWS, ('"soft', *ROWS[0][1:]), *ROWS, ('tall"', *ROWS[0][1:])]), "line 98: a quote is opened here"),
        (log() + MARK + log(ROWS).split("\n", 1)[1], "row 97: another file begins here"),
        (log([*ROWS, (*ROWS[0][:4], "05/01/2026")]), r"column day: is no date: found 05/01/2026"),
        (log([*ROWS, (*ROWS[0][:4], "\\N")]), r"row 97, column day: is no date: found nothing"),
    ],
    ids=["quote", "joined", "dates", "null"],
)
def test_a_click_log_that_would_be_misread_is_refused(tmp_path, text, message):
    with pytest.raises(OspoError, match=message):
        read(clicks_of(tmp_path / "shop", text), "clicks")


@pytest.mark.parametrize("piece", range(3, 12))
def test_a_mark_between_two_pieces_of_a_long_log_is_seen(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(files, "_PIECE", piece)
    with pytest.raises(SourceError, match="row 97: another file begins here"):
        read(clicks_of(tmp_path / "shop", log() + MARK + log(ROWS).split("\n", 1)[1]), "clicks")


def test_impressions_without_a_query_are_counted(tmp_path):
    data = read(clicks_of(tmp_path / "shop", log([*ROWS, *[("", *row[1:]) for row in ROWS[:7]]])), "clicks")
    assert data.card["counts"]["impressions without a query"] == 7


def test_judgments_of_beir_that_are_not_read_are_named_and_quotes_are_as_the_user_says(tmp_path):
    lines(tmp_path / "corpus.jsonl", [{"_id": '"d1', "title": "coat", "text": ""}])
    lines(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "coat"}])
    (tmp_path / "qrels").mkdir()
    for name in ("test", "validation"):
        (tmp_path / "qrels" / f"{name}.tsv").write_text('query-id\tcorpus-id\tscore\nq1\t"d1\t1\n')
    data = read(tmp_path, "beir", quoting="none")
    assert data.qrels.equals(pl.DataFrame({"prompt_id": ["q1"], "doc_id": ['"d1'], "relevance": [1.0]}))
    assert "prepare_data.path: not read: qrels/validation.tsv" in data.card["notes"]
