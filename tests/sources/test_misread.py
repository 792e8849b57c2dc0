"""Files that are easily misread: each is read as its writer meant it, or refused with a remedy that helps."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ospo_cli.errors import SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import files
from ospo_cli.stages.prepare_data import prepare
from tests.sources.own_data import JUDGMENTS, PRODUCTS, read, shop


def rewritten(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.replace(b"\n", b"\r"), "lines end in a carriage return alone"),
        (lambda content: content.decode().encode("utf-16"), "it looks like UTF-16"),
        (lambda content: content.decode().encode("latin-1"), "it looks like Latin-1 or Windows-1252"),
    ],
)
def test_other_line_ends_and_encodings_are_called_by_their_names(tmp_path, change, said):
    folder = rewritten(shop(tmp_path / "shop", ".csv"), "products.csv", change)
    with pytest.raises(SourceError, match=said):
        read(folder)


@pytest.mark.parametrize(
    ("source", "name", "columns"),
    [
        ("tables", "products.csv", {"title": "name"}),
        ("tables", "queries.csv", {"query": "text"}),
        ("tables", "judgments.csv", {"grade": "label"}),
        ("clicks", "products.csv", {"title": "name"}),
        ("clicks", "clicks.csv", {"query": "text"}),
    ],
)
@pytest.mark.parametrize("is_mapped", [False, True])
def test_windows_1252_is_called_by_its_name_with_a_mapping_of_columns_too(tmp_path, source, name, columns, is_mapped):
    folder = shop(tmp_path / "shop", ".csv")
    (folder / "clicks.csv").write_text("query,product_id,position,clicked\ncoat,007,1,1\ncoat,12,2,0\n")
    ((ours, theirs),) = columns.items()
    foreign = (folder / name).read_text(encoding="utf-8").replace(ours, theirs if is_mapped else ours, 1) + "caf\u00e9,007,3,1\n"
    (folder / name).write_bytes(foreign.encode("cp1252"))
    with pytest.raises(SourceError, match=rf"{name}.*it looks like Latin-1 or Windows-1252"):
        read(folder, source, columns=columns if is_mapped else {})


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    folder = shop(tmp_path / "shop", ".csv")
    (folder / "products.csv").unlink()
    os.mkfifo(folder / "products.csv")
    with pytest.raises(SourceError, match=r"products.csv: is no file: found a pipe"):
        read(folder)


def test_a_name_that_occurs_twice_is_no_choice_of_the_readers(tmp_path):
    path = tmp_path / "products.jsonl"
    path.write_text('{"product_id": "1", "title": "a", "deep": {"x": 1}}\n{"product_id": "2", "title": "b", "title": "c"}\n')
    with pytest.raises(SourceError, match=r"products.jsonl: line 2: a name occurs twice in an object: found title"):
        files.read(path)
    table = pa.Table.from_arrays([pa.array(["1"])] * 3, names=["product_id", "title", "title"])
    pq.write_table(table, tmp_path / "products.parquet")
    with pytest.raises(SourceError, match=r"title.*rename one of the columns"):
        files.read(tmp_path / "products.parquet")


def test_a_number_that_is_missing_is_no_word(tmp_path):
    folder = shop(tmp_path / "shop", products=PRODUCTS | {"price": [1.5, float("nan"), None, 2.0]})
    assert read(folder).documents.sort("doc_id")["price"].to_list() == ["1.5", "", "", "2.0"]


@pytest.mark.parametrize(
    ("own", "there"), [("12.0", "12"), ("7", "007"), ("A-9", "a-9"), ("e\u0301", "é")], ids=["float", "zeros", "case", "accents"]
)
def test_ids_in_another_spelling_are_shown_side_by_side(tmp_path, own, there):
    products = PRODUCTS | {"product_id": [there, "x1", "x2", "x3"]}
    folder = shop(tmp_path / "shop", ".csv", products, judgments=JUDGMENTS | {"product_id": [own, "x1", "x2", "x3", "x3"]})
    with pytest.raises(SourceError, match=rf"{own} is there as {there}: write the ids alike in both files"):
        prepare(read(folder, pool="catalogue"), PrepareData(source="tables", pool="catalogue"), 0)


def test_labels_that_yaml_takes_for_truth_values_are_pointed_out(tmp_path):
    folder = shop(tmp_path / "shop", ".csv", judgments=JUDGMENTS | {"grade": ["yes", "no", "yes", "yes", "yes"]})
    with pytest.raises(SourceError, match=r"found yes.*put labels such as yes and no in quotes"):
        read(folder, gains={"True": 1.0, "False": 0.0})
    assert read(folder, gains={"yes": 1.0, "no": 0.0}).qrels["relevance"].to_list() == [1, 0, 1, 1, 1]


def test_queries_of_zero_width_characters_are_empty_and_products_without_title_are_said(tmp_path):
    queries = {"query_id": ["q1", "q2", "q3", "q4"], "query": ["warm coat", "\u200b\ufeff", "cup", "🔥"], "split": ["train"] * 4}
    folder = shop(tmp_path / "shop", ".csv", PRODUCTS | {"title": ["Navy wool coat", None, "Red mug", "Blue mug"]}, queries)
    prepared = prepare(read(folder), PrepareData(source="tables", pool="catalogue"), 0)
    assert prepared.prompts["prompt_id"].to_list() == ["q1", "q3", "q4"]
    assert prepared.card["dropped"]["prompts with an empty query"] == 1
    assert "1 of 4 products have no title" in prepared.card["warnings"]
