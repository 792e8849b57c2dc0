"""Names, packings and shapes in which people have their files: capitals, .gz and .zst, part folders, RankLib lines; and files made to burst."""

import gzip
import json
import shutil

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ospo_cli.errors import SourceError
from ospo_cli.sources import files, judgment_lines, opened
from ospo_cli.tables import parquet
from tests.sources.own_data import JUDGMENTS, PRODUCTS, read, shop, write

QRELS = list(zip(*JUDGMENTS.values(), strict=True))


def packed_zst(path, content):
    with pa.output_stream(path, compression="zstd") as stream:
        stream.write(content)


def pack(path, suffix):
    """Replace a file by its packed form."""
    content = path.read_bytes()
    target = path.with_name(path.name + suffix)
    {".gz": lambda: target.write_bytes(gzip.compress(content)), ".zst": lambda: packed_zst(target, content)}[suffix]()
    path.unlink()


def same(left, right):
    return left.documents.equals(right.documents) and left.prompts.equals(right.prompts) and left.qrels.equals(right.qrels)


@pytest.fixture
def plain(tmp_path):
    """The shop as plain CSV."""
    return read(shop(tmp_path / "plain", ".csv"))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("layout", [".csv", ".tsv", ".jsonl"])
def test_packed_text_is_read_as_its_plain_form(tmp_path, plain, suffix, layout):
    folder = shop(tmp_path / "packed", layout)
    for path in list(folder.iterdir()):
        pack(path, suffix)
    found = read(folder)
    assert found.documents["title"].to_list() == plain.documents["title"].to_list()
    assert found.qrels.equals(plain.qrels)


def test_a_gzip_of_several_members_is_read_whole(tmp_path):
    path = tmp_path / "qrels.txt.gz"
    path.write_bytes(gzip.compress(b"q1 0 a 1\n") + gzip.compress(b"q1 0 b 2\n"))
    assert judgment_lines.read(path)["product_id"].to_list() == ["a", "b"]


@pytest.mark.parametrize(("suffix", "own"), [(".csv", ".CSV"), (".jsonl", ".ndjson"), (".jsonl", ".NDJSON"), (".parquet", ".Parquet")])
def test_a_suffix_in_capitals_or_by_its_other_name_is_known(tmp_path, plain, suffix, own):
    folder = shop(tmp_path / "own", suffix)
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(own))
    assert read(folder).documents["title"].to_list() == plain.documents["title"].to_list()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_folder_of_part_files_is_one_table_in_the_order_of_their_names(tmp_path, suffix):
    folder = shop(tmp_path / "spark", suffix)
    (folder / f"products{suffix}").unlink()
    parts = folder / f"products{suffix}"
    rows = pl.DataFrame(PRODUCTS)
    write(parts / f"part-00001{suffix}", rows.slice(2))
    write(parts / f"part-00000{suffix}", rows.slice(0, 2))
    (parts / "_SUCCESS").touch()
    (parts / f".part-00000{suffix}.crc").write_bytes(b"crc")
    (parts / f"part-00002{suffix}").touch()
    assert read(folder).documents["doc_id"].to_list() == PRODUCTS["product_id"]
    assert f"products{suffix}" in read(folder).card["inputs"]


def test_parts_of_other_columns_and_partitions_are_refused_by_name(tmp_path):
    folder = shop(tmp_path, ".csv")
    (folder / "products.csv").unlink()
    write(folder / "products.csv" / "part-0.csv", PRODUCTS)
    write(folder / "products.csv" / "part-1.csv", {"product_id": ["9"], "title": ["x"]})
    with pytest.raises(SourceError, match=r"products\.csv: its parts differ in their columns: found part-1\.csv: product_id, title"):
        read(folder)
    shutil.rmtree(folder / "products.csv")
    (folder / "products.csv" / "lang=en").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"products\.csv: is a folder of folders: found lang=en"):
        read(folder)


def with_judgments(folder, name, text):
    shop(folder, ".csv")
    (folder / "judgments.csv").unlink()
    (folder / name).write_text(text)
    return folder


LINES = {
    "TREC": ("qrels.txt", "".join(f"{q} 0 {d} {g}\n" for q, d, g in QRELS)),
    "MS MARCO's tabs": ("qrels.tsv", "".join(f"{q}\t0\t{d}\t{g}\n" for q, d, g in QRELS)),
    "BEIR's three with a header": ("qrels.tsv", "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in QRELS)),
    "capitals": ("QRELS.TXT", "".join(f"{q} 0 {d} {g}\n" for q, d, g in QRELS)),
    "RankLib": ("qrels.txt", "# grade, query, features\n" + "".join(f"{g} qid:{q} 1:12.3 2:0.5 # {d} a title\n" for q, d, g in QRELS)),
    "LETOR 4": ("qrels.txt", "".join(f"{g} qid:{q} 1:0.1 46:0.0 #docid = {d} inc = 0.2 prob = 0.1\n" for q, d, g in QRELS)),
}


@pytest.mark.parametrize("case", LINES)
def test_judgments_in_lines_of_the_field_are_those_of_the_table(tmp_path, plain, case):
    assert same(read(with_judgments(tmp_path / "own", *LINES[case])), plain)


def test_a_collection_that_ir_datasets_exported_is_read_by_names_of_its_columns(tmp_path):
    # What `ir_datasets export beir/NAME docs|queries|qrels` writes (0.6.3), with the options of docs/own-data.md.
    docs = [{"doc_id": "d1", "title": "T", "text": "one"}, {"doc_id": "d2", "title": "U", "text": "two"}]
    asked = [{"query_id": "q1", "text": "first"}, {"query_id": "q2", "text": "second"}]
    for name, records in (("products", docs), ("queries", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "qrels.txt").write_text("q1 0 d1 2\nq2 0 d2 1\n")
    data = read(tmp_path, columns={"product_id": "doc_id", "query": "text"})
    assert data.documents.select("doc_id", "title", "text").rows() == [("d1", "T", "one"), ("d2", "U", "two")]
    assert dict(data.prompts.select("prompt_id", "query").rows()) == {"q1": "first", "q2": "second"}
    assert data.qrels.select("prompt_id", "doc_id", "relevance").sort("prompt_id").rows() == [("q1", "d1", 2.0), ("q2", "d2", 1.0)]
    assert "prepare_data.columns: query is read from text of queries.jsonl" in data.card["notes"]
    untitled = read(tmp_path, columns={"product_id": "doc_id", "query": "text", "title": "text"}).documents
    assert untitled["title"].to_list() == ["one", "two"]


def test_a_feature_line_without_a_product_is_named(tmp_path):
    folder = with_judgments(tmp_path, "qrels.txt", "3 qid:q1 1:12.3 # 007\n1 qid:q2 1:3\n")
    with pytest.raises(SourceError, match=r"qrels\.txt: line 2: no judgment with features"):
        read(folder)


def test_a_broken_line_of_a_packed_file_is_named_as_in_a_plain_one(tmp_path):
    folder = shop(tmp_path, ".csv")
    (folder / "products.csv").write_text("product_id,title\n1,a\n2,b,c\n")
    pack(folder / "products.csv", ".gz")
    with pytest.raises(SourceError, match=r"products\.csv\.gz: line 3: .*3 fields where the header has 2"):
        read(folder)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_was_cut_short_is_refused(tmp_path, suffix):
    folder = shop(tmp_path, ".csv")
    (folder / "products.csv").write_text("product_id,title\n" + "".join(f"{i},title {i * i}\n" for i in range(5000)))
    pack(folder / "products.csv", suffix)
    path = folder / f"products.csv{suffix}"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match=rf"products\.csv\{suffix}: cannot be unpacked as \{suffix}"):
        read(folder)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_bursts_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(opened, "UNBOUNDED_BYTES", 1 << 20)
    path = tmp_path / "products.csv"
    path.write_bytes(b"product_id,title\n" + b"1,aaaaaaaaaaaaa\n" * 400_000)
    pack(path, suffix)
    with pytest.raises(SourceError, match="holds far more than a packed file of its size should"):
        files.read(path.with_name(path.name + suffix))


def test_a_parquet_file_of_kilobytes_that_stands_for_far_more_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "LARGEST_VALUES", 1 << 20)
    path = tmp_path / "products.parquet"
    pq.write_table(pa.table({"product_id": pa.array([1] * 2_000_000, pa.int8())}), path, compression="zstd")
    for reader in (files.read, files.scan):
        with pytest.raises(
            SourceError,
            match=r"cannot be read as Parquet: found 2,000,000 values in [\d,]+ bytes, far more than a file of its size should hold",
        ):
            reader(path)
    pl.DataFrame({"product_id": range(2_000_000)}).write_parquet(path)
    assert files.read(path).height == 2_000_000


QUEPID = 'query,docid,rating\nwool coat,a,2\nwool coat,b,0\n"lamp, small",c,3\n'
QUEPID_COLUMNS = {"query_id": "query", "query": "query", "product_id": "docid", "grade": "rating"}


def quepid(folder, content=QUEPID, **settings):
    write(folder / "products.csv", {"product_id": ["a", "b", "c"], "title": ["wool coat", "coat", "lamp"]})
    (folder / "judgments.csv").write_text(content)
    return read(folder, columns=QUEPID_COLUMNS, **settings)


def test_a_quepid_export_holds_queries_and_judgments(tmp_path):
    found = quepid(tmp_path)
    assert found.prompts["query"].to_list() == ["wool coat", "lamp, small"]
    assert found.prompts["prompt_id"].to_list() == found.prompts["query"].to_list()
    assert sorted(found.qrels.select("prompt_id", "doc_id", "relevance").rows()) == [
        ("lamp, small", "c", 3.0), ("wool coat", "a", 2.0), ("wool coat", "b", 0.0),
    ]  # fmt: skip


def test_a_query_of_quepid_that_nobody_judged_is_named_by_its_line(tmp_path):
    with pytest.raises(SourceError, match=r"judgments.csv: line 3: .*1 fields where the header has 3"):
        quepid(tmp_path, "query,docid,rating\ncoat,a,1\nunjudged\n")


def test_judgments_without_their_queries_still_need_a_file_of_them(tmp_path):
    with pytest.raises(SourceError, match="queries is missing"):
        quepid(tmp_path, "text,docid,rating\ncoat,a,1\n")
