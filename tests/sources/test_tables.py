"""Source tables: every layout means the same; what cannot be read is named with file and place."""

from datetime import timedelta

import polars as pl
import pytest

from ospo_cli.errors import OspoError, ParameterError, SourceError
from tests.sources.own_data import ABSENT, JUDGMENTS, PRODUCTS, QUERIES, SHARED, lines, read, shop, write

LRM = "\u200f"


def same(left, right):
    return left.documents.equals(right.documents) and left.prompts.equals(right.prompts) and left.qrels.equals(right.qrels)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_every_format_gives_what_parquet_gives(tmp_path, suffix):
    assert same(read(shop(tmp_path / "a")), read(shop(tmp_path / "b", suffix)))


def test_trec_judgments_and_topics_without_header_give_what_tables_give(tmp_path):
    queries = {name: QUERIES[name] for name in ("query_id", "query")}
    uniform = read(shop(tmp_path / "a", queries=queries))
    write(tmp_path / "b" / "products.parquet", PRODUCTS)
    (tmp_path / "b" / "queries.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in zip(*queries.values(), strict=True)))
    (tmp_path / "b" / "qrels.txt").write_text("".join(f"{q} 0\t{d} {g}\n" for q, d, g in zip(*JUDGMENTS.values(), strict=True)))
    assert same(uniform, read(tmp_path / "b"))


def test_leading_zeros_of_an_id_survive_csv(tmp_path):
    assert "007" in read(shop(tmp_path, ".csv")).documents["doc_id"].to_list()


def test_byte_order_mark_quotes_and_stray_index_columns_do_no_harm(tmp_path):
    shop(tmp_path, ".csv")
    text = '\ufeff,product_id,title,__index_level_0__\r\n0,"007","a ""fine"" coat",5\r\n1,12,"two\nlines",6\r\n2,13,5" screen,7\r\n3,14,x,8\r\n'
    (tmp_path / "products.csv").write_bytes(text.encode())
    documents = read(tmp_path).documents
    assert documents.columns == ["doc_id", "title", "category"]
    assert documents["title"].to_list() == ['a "fine" coat', "two\nlines", '5" screen', "x"]


def test_further_columns_become_text_and_nulls_become_empty(tmp_path):
    products = pl.DataFrame(PRODUCTS).with_columns(
        year=pl.Series([1999, None, 2001, 2002]),
        tags=pl.Series([["a", "b"], [], None, ["c"]]),
        made=pl.Series(["2020-01-02"] * 4).str.to_date(),
        box=pl.struct(w=pl.lit(1)),
    )
    documents = read(shop(tmp_path, products=products)).documents
    assert documents.schema == dict.fromkeys(documents.columns, pl.String)
    assert documents["year"].to_list() == ["1999", "", "2001", "2002"]
    assert documents["tags"].to_list() == ["a, b", "", "", "c"]
    assert documents["made"][0] == "2020-01-02"
    assert documents["box"][0] == '{"w":1}'
    assert documents["category"][3] == ""


def test_own_column_names_are_read_through_the_parameter(tmp_path):
    products = pl.DataFrame(PRODUCTS).rename({"product_id": "sku", "title": "name"})
    judgments = pl.DataFrame(JUDGMENTS).rename({"product_id": "sku"})
    renamed = read(shop(tmp_path / "b", products=products, judgments=judgments), columns={"product_id": "sku", "title": "name"})
    assert same(read(shop(tmp_path / "a")), renamed)


def test_labels_get_the_gains_that_the_parameters_give_them(tmp_path):
    judgments = JUDGMENTS | {"grade": ["good", "good", "fair", "bad", "2.5"]}
    gains = read(shop(tmp_path, judgments=judgments), gains={"good": 1.0, "fair": 0.3, "bad": 0.0}).qrels["relevance"].to_list()
    assert gains == [1.0, 1.0, 0.3, 0.0, 2.5]


@pytest.mark.parametrize("history", [[["Red mug", " Coat "], [], None, ["x"]], ["Red mug| Coat ", "", None, "x"]])
def test_a_history_is_a_list_or_text_with_bars(tmp_path, history):
    found = read(shop(tmp_path, queries=QUERIES | {"history": history})).prompts["history"].to_list()
    assert found == [["Red mug", "Coat"], [], [], ["x"]]


def test_teacher_pairs_and_pools_are_read_where_they_are(tmp_path):
    shop(tmp_path)
    write(
        tmp_path / "teacher_pairs.csv",
        {"query_id": ["q1", "q2", "q1"], "completion": ["<answer>a</answer>", "<answer>b</answer>", "<answer>c</answer>"]},
    )
    write(tmp_path / "pools.csv", {"query_id": ["q1", "q1"], "product_id": ["007", "12"]})
    data = read(tmp_path)
    assert data.teacher_pairs.sort("prompt_id", "pair_index").rows() == [
        ("q1", 0, "<answer>a</answer>"),
        ("q1", 1, "<answer>c</answer>"),
        ("q2", 0, "<answer>b</answer>"),
    ]
    assert data.pools.height == 2


def test_equal_judgments_are_merged_and_counted(tmp_path):
    judgments = pl.concat([pl.DataFrame(JUDGMENTS), pl.DataFrame(JUDGMENTS).head(2)])
    data = read(shop(tmp_path, judgments=judgments))
    assert data.qrels.height == 5
    assert data.card["counts"] == {"equal judgments merged": 2}


def test_hostile_text_passes_through_unchanged(tmp_path):
    titles = ["\x00nul\x1b[31m", f"{LRM}עברית{LRM}", "👩‍🚀 rocket", "x" * 100_000]
    assert read(shop(tmp_path, products=PRODUCTS | {"title": titles})).documents["title"].to_list() == titles


def test_the_card_names_the_files_and_their_hashes(tmp_path):
    card = read(shop(tmp_path)).card
    assert sorted(card["inputs"]) == ["judgments.parquet", "products.parquet", "queries.parquet"]
    assert all(len(value) == 64 for value in card["inputs"].values())


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def change(stem, **columns):
    table = {"products": PRODUCTS, "queries": QUERIES, "judgments": JUDGMENTS}[stem]
    return lambda p: write(p / f"{stem}.parquet", pl.DataFrame(table | columns, strict=False))


def as_text(stem, text, suffix=".csv"):
    def act(p):
        (p / f"{stem}.parquet").unlink()
        (p / f"{stem}{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())

    return act


def as_trec(text):
    return lambda p: ((p / "judgments.parquet").unlink(), (p / "qrels.txt").write_text(text))


BROKEN = {
    "missing products": (lambda p: (p / "products.parquet").unlink(), r"products is missing: found judgments\.parquet, queries\.parquet, expected products\.parquet or products\.csv.*product_id, title, any text columns"),
    "missing judgments": (lambda p: (p / "judgments.parquet").unlink(), r"judgments are missing.*expected judgments\.parquet.*qrels\.txt"),
    "products twice": (lambda p: write(p / "products.csv", PRODUCTS), r"two files for products: found products\.csv, products\.parquet"),
    "judgments twice": (lambda p: (p / "qrels.txt").write_text("q1 0 007 1\n"), r"two files of judgments"),
    "truncated Parquet": (lambda p: cut(p / "products.parquet"), r"products\.parquet: cannot be read as Parquet.*cut short"),
    "git-lfs pointer": (lambda p: (p / "products.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), r"products\.parquet: is a git-lfs pointer.*git lfs pull"),
    "empty file": (as_text("products", ""), r"products\.csv: is empty: found 0 bytes"),
    "no title": (lambda p: write(p / "products.parquet", {"product_id": ["1"]}), r"products\.parquet: column title is missing: found product_id, expected product_id, title; .*prepare_data\.columns"),
    "title of the wrong type": (change("products", title=[1, 2, 3, 4]), r"products\.parquet: column title: wrong type: found Int64, expected text"),
    "id of the wrong type": (change("products", product_id=[1.5, 2.5, 3.5, 4.5]), r"column product_id: wrong type: found Float64"),
    "binary column": (change("products", material=[b"a", b"b", b"c", b"d"]), r"column material: wrong type: found Binary"),
    "durations": (change("products", material=[timedelta(1)] * 4), r"column material: wrong type: found Duration"),
    "bytes in structs": (change("products", material=[{"a": b"x"}] * 4), r"column material: wrong type: found Struct"),
    "durations in lists": (change("products", material=[[timedelta(1)]] * 4), r"column material: wrong type: found List\(Duration"),
    "JSON nested too deep": (as_text("products", '{"product_id": "1", "title": ' + "[" * 100_000 + "]" * 100_000 + "}\n", ".jsonl"), r"products\.jsonl: line 1: cannot be read as JSON lines: found lists or objects nested too deep"),
    "grades in a list": (change("judgments", grade=[[1], [1], [1], [1], [1]]), r"column grade: wrong type: found List"),
    "duplicate product": (change("products", product_id=["12", "1", "12", "2"]), r"products\.parquet: column product_id: duplicate id: found 12 in rows 1 and 3"),
    "duplicate query": (change("queries", query_id=["q1", "q1", "q2", "q3"]), r"queries\.parquet: column query_id: duplicate id: found q1 in rows 1 and 2"),
    "missing id": (change("products", product_id=["1", None, " ", "2"]), r"products\.parquet: row 2, column product_id: no id: found 2 rows"),
    "empty catalogue": (lambda p: write(p / "products.parquet", pl.DataFrame(PRODUCTS).head(0)), r"products\.parquet: the catalogue is empty"),
    "no queries": (lambda p: write(p / "queries.parquet", pl.DataFrame(QUERIES).head(0)), r"queries\.parquet: no queries"),
    "unknown split": (change("queries", split=["train", "valid", "dev", "test"]), r"queries\.parquet: row 2, column split: unknown split: found valid, expected train, dev, test or nothing"),
    "NaN grade": (change("judgments", grade=[1.0, float("nan"), 1.0, 1.0, 1.0]), r"judgments\.parquet: row 2, column grade: is no grade: found nan, expected a number ≥ 0"),
    "negative grade": (change("judgments", grade=[1, 1, -1, 1, 1]), r"row 3, column grade: is no grade: found -1"),
    "no grade": (change("judgments", grade=[1, 1, 1, None, 1]), r"row 4, column grade: is no grade: found nothing"),
    "a label without gain": (change("judgments", grade=["1", "good", "1", "1", "1"]), r"row 2, column grade: is no grade: found good.*prepare_data\.gains"),
    "two grades of one pair": (change("judgments", query_id=["q1", "q1", "q3", "q3", "q4"], product_id=["12", "12", "13", "14", "14"]), r"two judgments of one pair disagree: found query q1, product 12: 3 and 1"),
    "unknown query": (change("judgments", query_id=["q1", "q2", "q9", "q9", "q4"]), r"judgments\.parquet: unknown query: found q9"),
    "semicolons": (as_text("products", "product_id;title\n1;a\n"), r"products\.csv: column product_id is missing: found product_id;title.*semicolons"),
    "tabs in CSV": (as_text("products", "product_id\ttitle\n1\ta\n"), r"separated by tabs"),
    "a field too many": (as_text("products", "product_id,title\n1,a\n2,b,c\n"), r"products\.csv: line 3: .*found 3 fields where the header has 2"),
    "a field too few": (as_text("products", 'product_id,title\n1,"a\nb"\n2\n'), r"products\.csv: line 4: .*found 1 fields where the header has 2"),
    "a quote never closed": (as_text("products", 'product_id,title\n1,a\n2,"b\n3,c\n'), r"products\.csv: line 3: a quote is opened here and not closed before the next record"),
    "a quote never closed, in the last record": (as_text("products", 'product_id,title\n1,a\n2,"b\nand so on\n'), r"products\.csv: line 3: a quote is opened and never closed"),
    "a quote that another record closes": (as_text("products", 'product_id\ttitle\n1\t"a\n2\tb\n3\t24"\n', ".tsv"), r"products\.tsv: line 2: a quote is opened here and not closed before the next record"),
    "quotes with backslashes": (as_text("products", 'product_id,title\n1,"24\\" tv"\n'), r"products\.csv: line 2: a quote is escaped by a backslash.*quoting: backslash"),
    "a folder of parts": (lambda p: [(p / "products.parquet").unlink(), (p / "products.parquet").mkdir()], r"products\.parquet: is a folder without part files: found an empty folder"),
    "a link to nothing": (lambda p: [(p / "products.parquet").unlink(), (p / "products.csv").symlink_to("gone.csv")], r"products\.csv: is a link to a file that is not there: found gone\.csv"),
    "not UTF-8": (as_text("products", "product_id,title\n1,a\n2,caf\xe9\n".encode("latin-1")), r"products\.csv: line 3: .*not UTF-8"),
    "a column twice": (as_text("products", "product_id,title,title\n1,a,b\n"), r"line 1: column named twice: found title"),
    "a broken JSON line": (as_text("products", '{"product_id": "1", "title": "a"}\n{"product_id": "2", "title"\n', ".jsonl"), r"products\.jsonl: line 2: cannot be read as JSON lines"),
    "NaN in JSON": (as_text("products", '{"product_id": "1", "title": NaN}\n', ".jsonl"), r"products\.jsonl: line 1: .*found NaN, which is no JSON"),
    "JSON that is not UTF-8": (as_text("products", b'{"product_id": "1", "title": "caf\xe9"}\n', ".jsonl"), r"products\.jsonl: line 1: .*not UTF-8"),
    "JSON that is no object": (as_text("products", '{"product_id": "1", "title": "a"}\n[1]\n', ".jsonl"), r"products\.jsonl: line 2: .*a JSON list"),
    "TREC with three fields": (as_trec("q1 0 007 1\nq2 12 1\n"), r"qrels\.txt: line 2: wrong number of fields: found 3 \(q2 12 1\), expected 4"),
    "TREC with a word for a grade": (as_trec("q1 0 007 high\n"), r"qrels\.txt: row 1, column grade: is no grade: found high"),
    "a topic with two tabs": (as_text("queries", "q1\ta\nq2\tb\tc\n", ".tsv"), r"queries\.tsv: line 2: wrong number of fields: found 3"),
    "an empty completion": (lambda p: write(p / "teacher_pairs.csv", {"query_id": ["q1"], "completion": [" "]}), r"teacher_pairs\.csv: row 1, column completion: is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_one_line_with_file_place_and_remedy(tmp_path, case):
    act, message = BROKEN[case]
    act(shop(tmp_path))
    with pytest.raises(SourceError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: no such folder: expected the folder of the data set"):
        read(tmp_path / "nowhere")


def test_terminal_escapes_of_a_file_are_not_printed(tmp_path):
    shop(tmp_path, queries=QUERIES | {"split": ["\x1b[31mred", "train", "dev", "test"]})
    with pytest.raises(SourceError) as caught:
        read(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_an_unknown_name_in_the_column_parameter_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"unknown column of the layout: found produkt"):
        read(shop(tmp_path), columns={"produkt": "sku"})


def test_json_lines_may_begin_with_a_byte_order_mark_and_hold_blank_lines(tmp_path):
    shop(tmp_path)
    (tmp_path / "products.parquet").unlink()
    (tmp_path / "products.jsonl").write_bytes(
        '\ufeff{"product_id": "1", "title": "é"}\r\n\r\n{"product_id": "2", "title": "b"}\r\n'.encode()
    )
    assert read(tmp_path).documents["title"].to_list() == ["é", "b"]


def test_a_panic_of_the_reader_is_an_unreadable_file(tmp_path, monkeypatch):
    def panic(*arguments, **options):
        raise pl.exceptions.PanicException("not yet implemented")

    shop(tmp_path)
    monkeypatch.setattr(pl, "from_arrow", panic)
    with pytest.raises(SourceError, match=r"products\.parquet: cannot be read as Parquet: found not yet implemented"):
        read(tmp_path)


def test_an_unknown_source_is_refused_with_the_list_of_sources(tmp_path):
    with pytest.raises(OspoError, match=r"unknown source: found table, expected demo-shop, .*tables.*did you mean tables\?"):
        read(tmp_path, source="table")


def test_numbers_as_ids_in_json_lines_are_text(tmp_path):
    shop(tmp_path)
    (tmp_path / "products.parquet").unlink()
    lines(tmp_path / "products.jsonl", [{"product_id": 12, "title": "a"}, {"product_id": "x", "title": None, "late": True}])
    assert read(tmp_path).documents.rows() == [("12", "a", "", ""), ("x", "", "", "true")]


@pytest.mark.parametrize(
    ("name", "documents", "prompts", "judged"),
    [
        ("msrd-movies", 9750, 14658, 346568),
        ("chorus-icecat", 19406, 116, 3235),
        ("cranfield", 1400, 225, 1837),
        ("retail-demo-store", 2465, 500, 500),
        ("esci-mini", 216, 201, 216),
    ],
)
@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_public_sets_in_the_uniform_layout_are_read_whole(name, documents, prompts, judged):
    data = read(SHARED / name)
    assert (data.documents.height, data.prompts.height, data.qrels.height) == (documents, prompts, judged)
