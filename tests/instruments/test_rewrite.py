"""`ospo rewrite`: files of every format, streams, kills, duplicates, result lists."""

import csv
import gzip
import io
import json
import os
import shutil
import threading

import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.errors import OspoError
from ospo_cli.instruments.rewrite import command, inputs, stream
from ospo_cli.instruments.rewrite.command import Request, execute
from ospo_cli.instruments.rewrite.rankings import overlap
from ospo_cli.params import written
from ospo_cli.policies.opening import load_policy
from ospo_cli.rewriting import setup
from ospo_cli.rewriting.rewriter import Rewriter
from ospo_cli.tables import parquet
from ospo_cli.tables.rewrite import with_columns
from ospo_cli.text.prompt_template import one_line
from tests.policies.tiny import tiny_params, write_project
from tests.rewriting.scripted import scripted
from tests.rewriting.test_rewriter import HOSTILE

QUERIES = ["navy coat", "boots", "navy coat", "", "красные туфли", 'a "quoted", query', "olive dress"]
HISTORIES = [["red boots"], [], ["red boots"], [], ["scarf", "coat"], [], []]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    layout = write_project(tmp_path_factory.mktemp("rewrite") / "shop")
    layout.params.write_text(written.render(tiny_params()))
    return layout


@pytest.fixture
def answers(monkeypatch, project):
    """Rewriters answer what is written here, in place of what the random policy says; no shard of another test is used."""
    shutil.rmtree(project.cache / "rewrite", ignore_errors=True)
    said = {"navy coat": ["<answer>wool coat</answer>"], "boots": ["oak<answer>"], "olive dress": ["<answer>olive dress</answer>"]}
    made = []

    def opened(chosen):
        made.append(scripted(load_policy(chosen.folder, 1), said, chosen.setup))
        return made[-1]

    monkeypatch.setattr(Rewriter, "opened", opened)
    return made


def written_as(kind, path, queries=QUERIES, histories=HISTORIES):
    ids = [f"q{index}" for index in range(len(queries))]
    frame = pl.DataFrame({"query_id": ids, "query": queries, "history": histories[: len(ids)] + [[]] * (len(ids) - len(histories))})
    writers = {
        "parquet": frame.write_parquet,
        "jsonl": frame.write_ndjson,
        "csv": lambda to: frame.with_columns(pl.col("history").list.join("; ")).write_csv(to),
        "tsv": lambda to: frame.with_columns(pl.col("history").list.join("; ")).write_csv(to, separator="\t"),
        "text": lambda to: to.write_text("\n".join(queries) + "\n", encoding="utf-8"),
    }
    writers[kind](path)
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv"])
def test_queries_are_read_alike_from_every_format_of_columns(tmp_path, kind):
    found = inputs.read(written_as(kind, tmp_path / f"queries.{kind}"), kind, "query", "history")
    assert [one.query for one in found.asked] == QUERIES
    assert ["; ".join(one.history) for one in found.asked] == ["; ".join(history) for history in HISTORIES]
    assert found.ids == [f"q{index}" for index in range(len(QUERIES))]


def test_a_text_file_holds_a_query_a_line_whatever_its_bytes(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_bytes(b"\xef\xbb\xbfnavy coat\r\n\n\xff\xfeboots\n  spaced  ")
    assert [one.query for one in inputs.read(path, "text", "query", "history").asked] == [
        "navy coat",
        "",
        "\ufffd\ufffdboots",
        "  spaced  ",
    ]


@pytest.mark.parametrize("name", ["queries.txt.gz", "QUERIES.CSV.GZ", "queries.ndjson"])
def test_packed_files_and_other_suffixes_are_read_too(tmp_path, name):
    kind = inputs.format_of(tmp_path / name)
    content = written_as(kind, tmp_path / "plain").read_bytes()
    (tmp_path / name).write_bytes({True: gzip.compress(content), False: content}[name.lower().endswith("gz")])
    assert [one.query for one in inputs.read(tmp_path / name, kind, "query", "history").asked] == QUERIES


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_rewrites_stand_in_the_order_of_the_file_in_every_format(project, answers, tmp_path, kind):
    source = written_as("csv", tmp_path / "queries.csv")
    out = tmp_path / f"out.{kind}"
    execute(project.root, source, Request(best=2), out)
    readers = {
        "parquet": pl.read_parquet,
        "jsonl": pl.read_ndjson,
        "csv": lambda path: pl.read_csv(path).with_columns(pl.col(pl.String).fill_null("")),
    }
    found = readers[kind](out)
    assert found["row"].to_list() == list(range(1, 8))
    assert found["query"].to_list() == QUERIES
    assert found["query_id"].to_list() == [f"q{index}" for index in range(7)]
    assert found["engine_query"].to_list() == ["wool coat", "boots", "wool coat", "", "красные туфли", "wool coat", "olive dress"]
    assert found["is_used"].to_list() == [True, False, True, False, False, True, False]
    assert found["why"].to_list() == [
        *("rewritten", "malformed: unclosed", "rewritten", "empty", "another script", "rewritten", "same as the query")
    ]
    best = [json.loads(value) for value in found["best"]] if kind == "csv" else found["best"].to_list()
    assert [row["rewrite"] for row in best[0]] == ["wool coat"]
    assert found.columns == list(with_columns(found.columns).schema)


FOREIGN = [
    *HOSTILE, "a" * 1_000_000, "\r", "a\rb", "a\r\nb", '"', '""', ",", ";", "\t", "=1+1", "NULL", "nan", "\u2028", "\u0085", "\x1a", "\ufeffcoat",
    "Set-Cookie: a\r\nX: b", "<script>alert(1)</script>", "{" * 5000, "\U0001f469\u200d\U0001f52c", "\x7f", "\x80",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("kind_out", ["parquet", "jsonl", "csv"])
def test_hostile_queries_come_through_every_format_as_they_were(project, answers, tmp_path, kind, kind_out):
    source = written_as(kind, tmp_path / f"queries.{kind}", FOREIGN)
    out = tmp_path / f"out.{kind_out}"
    assert execute(project.root, source, Request(), out)["rows"] == len(FOREIGN)
    if kind_out == "csv":
        with out.open(encoding="utf-8", newline="") as stream:
            csv.field_size_limit(1 << 24)
            rows = list(csv.DictReader(stream))
    else:
        rows = (pl.read_parquet(out) if kind_out == "parquet" else pl.read_ndjson(out)).to_dicts()
    assert [row["query"] for row in rows] == FOREIGN
    assert all(row["engine_query"] == one_line(row["query"]) for row in rows if row["is_used"] in (False, "false"))


def test_the_parquet_file_is_a_declared_table(project, answers, tmp_path):
    execute(project.root, written_as("text", tmp_path / "queries"), Request(milliseconds=True), tmp_path / "out.parquet")
    columns = pl.read_parquet_schema(tmp_path / "out.parquet")
    frame = parquet.read(tmp_path / "out.parquet", with_columns(columns))
    assert "milliseconds" in frame.columns
    assert "query_id" not in frame.columns


def test_equal_queries_of_equal_history_are_asked_once(project, answers, tmp_path):
    counts = execute(project.root, written_as("csv", tmp_path / "queries.csv"), Request(), tmp_path / "out.csv")
    assert (counts["rows"], counts["distinct"]) == (7, 6)
    asked = [name for request in answers[0].sampler.requests for names in request.row_ids for name in names]
    assert len(asked) == len(set(asked)) == 5  # the empty one is not asked


def test_after_a_kill_finished_shards_are_used_and_the_bytes_are_equal(project, tmp_path, monkeypatch):
    source = written_as("text", tmp_path / "queries", [f"coat {index}" for index in range(20)] + HOSTILE[:3])
    monkeypatch.setattr(command, "QUERIES_PER_SHARD", 4)
    execute(project.root, source, Request(best=2), whole := tmp_path / "whole.parquet")
    for folder in (project.cache / "rewrite").rglob("answered.parquet"):
        folder.unlink()
    calls, rewrite = [], Rewriter.rewrite
    killed_at = iter([False, False, True])

    def killed(self, asked, best=1):
        calls.append(len(asked))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "sampler", None if next(killed_at) else self.sampler)
            return rewrite(self, asked, best)

    monkeypatch.setattr(Rewriter, "rewrite", killed)
    with pytest.raises(AttributeError):
        execute(project.root, source, Request(best=2), out := tmp_path / "out.parquet")
    assert not out.exists()
    monkeypatch.setattr(Rewriter, "rewrite", lambda self, asked, best=1: calls.append(len(asked)) or rewrite(self, asked, best))
    execute(project.root, source, Request(best=2), out)
    assert calls == [4, 4, 4, 4, 4, 4, 3]
    assert out.read_bytes() == whole.read_bytes()


def test_a_policy_folder_alone_needs_no_project_and_leaves_nothing_behind(project, answers, tmp_path):
    shutil.copytree(project.policy(0), tmp_path / "bare")
    setup.write_card(tmp_path / "bare", setup.of_project(tiny_params(score_coalitions={"composition": "append"})))
    source = written_as("text", tmp_path / "queries")
    execute(tmp_path, source, Request(policy=str(tmp_path / "bare")), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["engine_query"] == "navy coat wool coat"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "out.jsonl", "queries"]


def test_result_lists_of_query_and_rewrite_are_those_of_the_retriever(project, answers, tmp_path, capsys):
    source = written_as("text", tmp_path / "queries", ["navy coat", "boots", "", "xyzzy"])
    execute(project.root, source, Request(top=3, retriever="bm25"), tmp_path / "out.parquet")
    found = pl.read_parquet(tmp_path / "out.parquet")
    titles = dict(pl.read_parquet(project.prepared("documents.parquet")).select("doc_id", "title").iter_rows())
    assert all("coat" in titles[name] or "wool" in titles[name] for name in found["engine_top"][0])
    assert found["overlap"].to_list() == [overlap(*pair) for pair in zip(found["query_top"], found["engine_top"], strict=True)]
    assert found["query_top"].to_list()[1:3] == found["engine_top"].to_list()[1:3]
    assert found["query_top"].list.len().to_list()[2:] == [0, 0]
    assert "ospo rewrite: bm25 retrieves nothing for 1 of 3 raw queries (33%), such as 'xyzzy'" in capsys.readouterr().err
    execute(
        project.root, written_as("text", tmp_path / "some", ["coat", "coat", "boots"]), Request(top=3, retriever="bm25"), tmp_path / "o.csv"
    )
    assert "retrieves nothing" not in capsys.readouterr().err


def test_overlap_is_one_for_equal_lists_and_for_two_empty_ones():
    assert (overlap([], []), overlap(["a"], []), overlap(["a", "b"], ["b", "a"]), overlap(["a"], ["a", "b"])) == (1.0, 0.0, 1.0, 0.5)


def streamed(rewriter, content, kind_in="text", kind_out="jsonl", request=None):
    lines = []
    why = stream.answer(io.BytesIO(content), lines.append, rewriter, request or Request(), kind_in, kind_out)
    return lines, why


def test_a_stream_answers_every_line_in_order_whatever_it_holds(tiny_policy):
    lines, why = streamed(
        Rewriter(tiny_policy, scripted(tiny_policy).setup), "\n".join(one.replace("\n", " ") for one in HOSTILE).encode() + b"\n\xff\xfe\n"
    )
    rows = [json.loads(line) for line in lines]
    assert [row["query"] for row in rows] == [one.replace("\n", " ") for one in HOSTILE] + ["\ufffd\ufffd"]
    assert sum(why.values()) == len(HOSTILE) + 1
    assert all(line.count("\n") == 1 for line in lines)


def test_a_line_is_answered_before_the_next_one_has_come(tiny_policy):
    receive, send = os.pipe()
    back, answers = [], threading.Event()

    def write(line):
        back.append(line)
        answers.set()

    source = os.fdopen(receive, "rb")
    arguments = (source, write, scripted(tiny_policy), Request(), "text", "text")
    working = threading.Thread(target=stream.answer, args=arguments)
    working.start()
    for index in range(3):
        answers.clear()
        os.write(send, f"query {index}\n".encode())
        assert answers.wait(20)
        assert len(back) == index + 1
    os.close(send)
    working.join(20)
    assert back == ["wool coat\n"] * 3


def test_a_stream_asks_equal_lines_once(tiny_policy):
    rewriter = scripted(tiny_policy)
    streamed(rewriter, b"boots\n" * 500)
    assert sum(len(request.prompts) for request in rewriter.sampler.requests) == 1


def test_a_stream_of_json_lines_takes_history_and_names_lines_that_are_none(tiny_policy):
    rewriter = scripted(tiny_policy)
    content = b'{"query": "boots", "history": ["scarf"]}\nboots\n[1]\n{"query": 3}\n{"query": "\\ud800"}\n'
    lines, why = streamed(rewriter, content, "jsonl")
    assert [json.loads(line)["why"] for line in lines] == ["rewritten", *["no JSON object with a query"] * 3, "empty"]
    assert why == {"rewritten": 1, "no JSON object with a query": 3, "empty": 1}
    assert rewriter.sampler.requests[0].row_ids == [["rewrite:boots|('scarf',):0"]]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "no such file"),
        ("id,text\n1,coat\n", {}, "column query is missing"),
        ("query\ncoat\n", {"policy": "7"}, "ospo update --iter 7"),
        ("query\ncoat\n", {"policy": "nowhere"}, "no such policy folder"),
        ("query\ncoat\n", {"top": 2, "retriever": "bm52"}, "unknown retriever"),
    ],
)
def test_what_is_wrong_with_the_whole_is_one_line_and_nothing_is_written(project, tmp_path, content, options, message):
    source = tmp_path / "queries.csv"
    (source.write_text if content else len)(content or "")
    with pytest.raises(OspoError, match=message):
        execute(project.root, source, Request(**options), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_command_writes_a_file_and_says_what_became_of_the_queries(project, answers, tmp_path):
    source = written_as("text", tmp_path / "queries")
    done = CliRunner().invoke(app, ["rewrite", str(source), "--project", str(project.root), "--out", str(tmp_path / "out.txt")])
    assert done.exit_code == 0, done.output
    lines = ["wool coat", "boots", "wool coat", "", "красные туфли", "wool coat", "olive dress"]
    assert (tmp_path / "out.txt").read_text().splitlines() == lines
    assert "7 queries, 6 distinct" in done.stderr
    assert "3 rewritten; the raw query for 4: 1 same as the query, 1 malformed: unclosed, 1 empty, 1 another script" in done.stderr


def test_on_a_terminal_nothing_but_printable_characters_is_written():
    from ospo_cli.instruments.rewrite.outputs import line

    row = {"engine_query": "a\u202eb\x9b31m", "query": "x"}
    assert line(row, "text", True).isascii()
    assert "\x9b" not in line(row, "jsonl", True)
