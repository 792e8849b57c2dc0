"""Tables are whole, checked on both sides, and equal bytes for equal rows."""

import datetime
import decimal
import errno
import os

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ospo_cli.errors import FileError, MissingInputError, TableError
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, QRELS


@pytest.fixture
def qrels():
    return pl.DataFrame({"prompt_id": ["b", "a"], "doc_id": ["1", "2"], "relevance": [1.0, 0.5]})


def test_the_order_of_rows_does_not_change_the_bytes(tmp_path, qrels):
    parquet.write(qrels, tmp_path / "one.parquet", QRELS)
    parquet.write(qrels.reverse(), tmp_path / "two.parquet", QRELS)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_missing_table_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(MissingInputError, match="run `ospo prepare-data`"):
        parquet.read(tmp_path / "qrels.parquet", QRELS, made_by="ospo prepare-data")


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_a_truncated_table_is_one_line_that_names_the_file(tmp_path, qrels, keep):
    path = tmp_path / "qrels.parquet"
    parquet.write(qrels, path, QRELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TableError, match=r"qrels.parquet: cannot be read as Parquet") as caught:
        parquet.read(path, QRELS)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.with_columns(pl.col("relevance").cast(pl.Float32)),
            "column relevance has the wrong type: found Float32, expected Float64",
        ),
        (lambda f: f.drop("doc_id"), "column doc_id is missing"),
        (lambda f: f.with_columns(grade=1), "unknown column: found grade"),
        (lambda f: pl.concat([f, f]), "duplicate key: found prompt_id=a, doc_id=2"),
        (lambda f: f.with_columns(relevance=pl.lit(float("nan"))), "column relevance has NaN"),
        (lambda f: f.with_columns(doc_id=pl.lit(None, pl.String)), "column doc_id has nulls"),
    ],
)
def test_a_table_that_breaks_its_declaration_is_refused_on_both_sides(tmp_path, qrels, change, message):
    broken = change(qrels)
    broken.write_parquet(tmp_path / "broken.parquet")
    with pytest.raises(TableError, match=message):
        parquet.read(tmp_path / "broken.parquet", QRELS)
    with pytest.raises(TableError, match=message):
        parquet.write(broken, tmp_path / "new.parquet", QRELS)
    assert not (tmp_path / "new.parquet").exists()


def test_a_full_disk_leaves_what_was_there_before(tmp_path, qrels, monkeypatch):
    path = tmp_path / "qrels.parquet"
    parquet.write(qrels, path, QRELS)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot be written: found .*No space left on device"):
        parquet.write(qrels.head(1), path, QRELS)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["qrels.parquet"]


def test_hostile_text_survives_a_round_trip(tmp_path):
    texts = ["\x00\x1b[31m", "👩‍👩‍👧", "\u202eabc", "x" * 100_000]
    frame = pl.DataFrame({"doc_id": list("abcd"), "title": texts, "category": [""] * 4})
    parquet.write(frame, tmp_path / "documents.parquet", DOCUMENTS)
    assert parquet.read(tmp_path / "documents.parquet", DOCUMENTS)["title"].to_list() == texts


def test_an_error_line_shows_control_characters_and_stays_short():
    line = TableError("f\x1b[2J", "bad\n", found="\u202e" + "y" * 100_000).line()
    assert line.isprintable()
    assert len(line) < 1500


def test_order_proves_that_keys_differ_and_nulls_prove_nothing():
    ascending = pl.DataFrame({"name": ["a", "a", "b"], "place": [1, 2, 0]})
    assert parquet.is_ascending(ascending, ["name", "place"])
    assert not parquet.is_ascending(ascending, ["name"])
    assert not parquet.is_ascending(pl.DataFrame({"name": [None, None]}, schema={"name": pl.String}), ["name"])


def test_a_hash_of_rows_knows_where_texts_end_and_what_columns_are():
    frame = pl.DataFrame({"name": ["ab", "c"], "place": [1, 2], "is_first": [True, False]})
    others = [
        frame.with_columns(name=pl.Series(["a", "bc"])),
        frame.with_columns(place=pl.Series([2, 1])),
        frame.with_columns(pl.col("place").cast(pl.Int32)),
        frame.with_columns(is_first=pl.Series([True, True])),
        frame.rename({"name": "nom"}),
        frame.reverse(),
        frame.head(1),
    ]
    hashes = [parquet.rows_hash(each) for each in (frame, *others)]
    assert len(set(hashes)) == len(hashes)
    assert parquet.rows_hash(pl.concat([frame.head(1), frame.tail(1)], rechunk=False)) == hashes[0]
    with pytest.raises(ValueError, match="column name has nulls"):
        parquet.rows_hash(frame.with_columns(name=pl.Series(["a", None])))


@pytest.mark.parametrize("value", [25, 255])
def test_every_changed_byte_of_a_file_is_an_error_or_rows_and_never_the_end_of_the_process(tmp_path, value, capfd):
    # polars' own reader asks for 2 EiB and aborts where byte 39 is 25
    path = tmp_path / "table.parquet"
    pl.DataFrame({"a": ["x"], "b": [1]}).write_parquet(path)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        for read in (parquet.load, lambda path: parquet.scan(path).collect(engine="streaming")):
            try:
                assert read(path).height <= 1
            except parquet.UNREADABLE:
                refused += 1
    assert refused > len(whole)
    assert capfd.readouterr().err == ""  # a panic prints where it stood


def test_the_check_of_a_wide_table_looks_at_its_schema_as_often_as_that_of_a_narrow_one(monkeypatch):
    whole, asked = pl.DataFrame.schema, []
    monkeypatch.setattr(pl.DataFrame, "schema", property(lambda frame: asked.append(1) or whole.fget(frame)))
    for width in (2, 200):
        extra = {f"c{number}": ["x"] for number in range(width)}
        parquet.check(pl.DataFrame({"doc_id": ["1"], "title": ["a"], "category": [""], **extra}), DOCUMENTS, "wide")
        asked.append(0)
    assert asked.index(0) == len(asked) - 2 - asked.index(0)  # each look takes as many steps as there are columns


@pytest.mark.parametrize(
    "asked",
    [
        lambda rows: rows.select(pl.len()),
        lambda rows: rows.head(70_000).select(pl.len(), pl.col("a").sum()),
        lambda rows: rows.head(70_000).filter(pl.col("a") % 2 == 0).select("a.b", "a"),
        lambda rows: rows.filter(pl.col("a") > 99_990).head(3),
        lambda rows: rows.select("s", "a.b").tail(2),
    ],
    ids=["count", "limit beyond a batch", "limit, then filter", "filter, then limit", "columns with a dot and within others"],
)
def test_rows_that_are_read_lazily_are_those_of_polars_own_reader(tmp_path, asked):
    path, count = tmp_path / "rows.parquet", 100_000
    pl.DataFrame({"a": range(count), "a.b": ["x", "y"] * (count // 2), "s": [{"u": 1}] * count}).write_parquet(path)
    assert asked(parquet.scan(path)).collect().equals(asked(pl.scan_parquet(path)).collect())


def test_a_lazy_reader_ends_after_the_rows_that_are_wanted(tmp_path):
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": range(200_000)}).write_parquet(path)
    assert parquet.scan(path).head(7).collect()["a"].to_list() == list(range(7))


FOREIGN = {
    "categories": pa.array(["x", None, "y"]).dictionary_encode(),
    "long texts": pa.array(["é", None, ""], pa.large_string()),
    "decimals": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal(-3)], pa.decimal128(10, 2)),
    "days": pa.array([datetime.date(2020, 2, 29), None, datetime.date(1, 1, 1)]),
    "moments": pa.array([1, None, -1], pa.timestamp("ns", "Europe/Berlin")),
    "bytes": pa.array([b"\xff\x00", None, b""]),
    "maps": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "lists of structs": pa.array([[{"u": [1, 2], "v": "x"}], None, []]),
    "vectors": pa.array([[1.0, 2.0], None, [0.0, float("nan")]], pa.list_(pa.float32(), 2)),
    "nothing": pa.nulls(3),
    "": pa.array([1, None, 3], pa.uint8()),
}


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_columns_of_every_foreign_type_are_those_of_polars_own_reader(tmp_path, rows):
    path = tmp_path / "rows.parquet"
    pandas = {"pandas": '{"index_columns": [""], "columns": []}'}
    pq.write_table(pa.table(FOREIGN).replace_schema_metadata(pandas).slice(0, rows), path, row_group_size=2)
    expected = pl.read_parquet(path)
    for found in (parquet.load(path), parquet.scan(path).collect(), parquet.scan(path).select(*FOREIGN).collect()):
        assert found.schema == expected.schema
        assert found.equals(expected)
    assert parquet.schema(path) == expected.schema
    assert parquet.scan(path).select("", "days").collect().equals(expected.select("", "days"))


@pytest.mark.parametrize(
    "rows",
    [pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), pa.table({"a": pa.array([decimal.Decimal(1)], pa.decimal256(50, 2))})],
    ids=["a name twice", "a type that polars lacks"],
)
def test_what_a_frame_cannot_hold_is_one_error_and_no_panic(tmp_path, rows, capfd):
    path = tmp_path / "rows.parquet"
    pq.write_table(rows, path)
    for read in (parquet.load, parquet.schema, parquet.scan):
        with pytest.raises(parquet.UNREADABLE, match=r"once|unique|38 digits"):
            read(path)
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        parquet.read_undeclared(path, "rows")
    assert capfd.readouterr().err == ""
