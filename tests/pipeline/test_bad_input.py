"""Bad input ends as one line that names file, place, found, expected and remedy; exit status 1; nothing written, nothing overwritten."""

import json

import polars as pl
import pytest

from tests.pipeline import miniature
from tests.pipeline.conftest import BIN, command

# One project for all cases: it takes a minute to make.
PREPARED = "data/prepared"
FIRST = "data/iterations/001"


def edit(path, change):
    change(pl.read_parquet(path)).write_parquet(path)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


BROKEN = {
    "missing table": (
        "segment --iter 1",
        lambda p: (p / FIRST / "rollouts.parquet").unlink(),
        r"rollouts\.parquet: no such file.*run `ospo rollout --iter 1`",
    ),
    "truncated table": (
        "segment --iter 1",
        lambda p: cut(p / FIRST / "rollouts.parquet", 200),
        r"rollouts\.parquet: cannot be read as Parquet",
    ),
    "not Parquet at all": (
        "score-coalitions --iter 1",
        lambda p: (p / PREPARED / "qrels.parquet").write_text("prompt_id,doc_id\n"),
        r"qrels\.parquet: cannot be read as Parquet",
    ),
    "column of the wrong type": (
        "segment --iter 1",
        lambda p: edit(p / FIRST / "rollouts.parquet", lambda f: f.with_columns(pl.col("answer_start").cast(pl.String))),
        r"table rollouts: column answer_start has the wrong type: found String, expected Int32",
    ),
    "duplicate document": (
        "score-coalitions --iter 1",
        lambda p: edit(p / PREPARED / "documents.parquet", lambda f: pl.concat([f, f.head(1)])),
        r"documents\.parquet: table documents: duplicate key: found doc_id=",
    ),
    "duplicate rollout": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "rollouts.parquet", lambda f: pl.concat([f, f.head(1)])),
        r"table rollouts: duplicate key",
    ),
    "empty catalogue": (
        "score-coalitions --iter 1",
        lambda p: edit(p / PREPARED / "documents.parquet", lambda f: f.head(0)),
        r"(?i)catalogue|document",
    ),
    "a query without judged products": (
        "score-coalitions --iter 1",
        lambda p: edit(
            p / PREPARED / "qrels.parquet",
            lambda f: f.filter(pl.col("prompt_id") != pl.read_parquet(p / FIRST / "rollouts.parquet")["prompt_id"][0]),
        ),
        r"no .*(judg|relevant)",
    ),
    "NaN reward": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "rewards.parquet", lambda f: f.with_columns(reward=pl.lit(float("nan")))),
        r"rewards\.parquet: table rewards: column reward has NaN",
    ),
    "NaN coalition value": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "coalition_values.parquet", lambda f: f.with_columns(coalition_value=pl.lit(float("nan")))),
        r"table coalition_values: column coalition_value has NaN",
    ),
    "NaN advantage": (
        "update --iter 1",
        lambda p: edit(
            p / FIRST / "token_advantages.parquet",
            lambda f: f.with_columns(advantages=pl.col("advantages").list.eval(pl.lit(float("nan"), pl.Float32))),
        ),
        r"(?i)advantages",
    ),
    "advantages of other rollouts": (
        "update --iter 1",
        lambda p: edit(p / FIRST / "token_advantages.parquet", lambda f: f.with_columns(rollout_id=pl.lit("x") + pl.col("rollout_id"))),
        r"(?i)token_advantages.*rollout",
    ),
    "rollouts of another iteration": (
        "segment --iter 1",
        lambda p: edit(p / FIRST / "rollouts.parquet", lambda f: f.with_columns(pl.col("rollout_id").str.replace("^001", "002"))),
        r"table rollouts: holds rollouts of another iteration: found 002:.*, expected 001:…; run `ospo rollout --iter 1` again",
    ),
    "coalition values of other rollouts": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "coalition_values.parquet", lambda f: f.with_columns(pl.col("rollout_id").str.replace("^001", "002"))),
        r"table coalition_values: holds other rollouts than rollouts\.parquet: found 002:",
    ),
    "a run that the parameters did not make": (
        "keep mine",
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("splice_trace: 0.5", "splice_trace: 1.0")),
        r"summary\.json: was not made with params\.yaml as it is: `ospo attribute --iter 1` would run again",
    ),
    "a coalition that is missing": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "coalition_values.parquet", lambda f: f.filter(~pl.col("coalition").str.contains("^1+$"))),
        r"(?i)coalition",
    ),
    "token ids that do not spell the text": (
        "attribute --iter 1",
        lambda p: edit(p / FIRST / "rollouts.parquet", lambda f: f.with_columns(completion=pl.col("completion") + " more")),
        r"(?i)rollout|token",
    ),
    "a policy without tokenizer": (
        "rollout --iter 1",
        lambda p: (p / "data/policies/000/tokenizer.json").unlink(),
        r"data/policies/000.*tokenizer",
    ),
    "a policy without weights": (
        "rollout --iter 1",
        lambda p: (p / "data/policies/000/model.safetensors").unlink(),
        r"data/policies/000.*(weights|safetensors)",
    ),
    "weights cut short": ("rollout --iter 1", lambda p: cut(p / "data/policies/000/model.safetensors", 1000), r"data/policies/000"),
    "an iteration without its predecessor": (
        "rollout --iter 3",
        lambda p: None,
        r"data/policies/002: no such file or folder.*run `ospo update --iter 2` first",
    ),
    "an unknown parameter": (
        "segment --iter 1",
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("  level: ", "  levl: ")),
        r"params\.yaml: segment: unknown parameter: found levl, expected level, window",
    ),
    "params.yaml that is no YAML": (
        "segment --iter 1",
        lambda p: (p / "params.yaml").write_text("a: [1,"),
        r"params\.yaml: cannot be read as YAML",
    ),
    "an unknown retriever": (
        "score-coalitions --iter 1",
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("retriever: bm25", "retriever: bm52")),
        r"bm52.*bm25",
    ),
    "an unknown metric": (
        "score-coalitions --iter 1",
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("metric: ndcg@10", "metric: ndgc@10")),
        r"score_coalitions\.metric: unknown value: found ndgc@10, expected ndcg@K",
    ),
    "a summary that is no JSON": (
        "result",
        lambda p: (p / "data/evaluation/summary.json").write_text("{"),
        r"summary\.json: cannot be read as JSON",
    ),
}


def files(project):
    return {
        str(path.relative_to(project)): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and not {".git", ".dvc", "cache"} & set(path.parts)
    }


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_is_one_line_and_changes_nothing(name, project):
    arguments, damage, message = BROKEN[name]
    damage(project)
    before = files(project)
    done = command(project, "ospo", *arguments.split(), check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1, done.stdout + done.stderr
    assert last.startswith("ospo: ")
    assert "Traceback" not in done.stderr
    import re

    assert re.search(message, last), last
    assert files(project) == before


def test_a_folder_that_cannot_be_written_is_named_and_what_was_there_stays(project):
    target = project / FIRST / "segments.parquet"
    before = target.read_bytes()
    done = command(project, "bash", "-c", f"ulimit -f 1; trap '' XFSZ; exec {BIN}/ospo segment --iter 1", check=False)
    assert done.returncode == 1
    assert "segments.parquet: cannot be written" in done.stderr
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir() if path.name.endswith(".tmp")] == []


HOSTILE = "\x1b[2J\x07 👩‍👩‍👧 \u202eevil\u202c <script>alert(1)</script> \u2028 " + "long " * 20_000


def test_hostile_text_goes_through_every_table_and_reaches_no_terminal(project):
    documents = project / PREPARED / "documents.parquet"
    edit(documents, lambda f: f.with_columns(title=pl.when(pl.int_range(pl.len()) < 5).then(pl.lit(HOSTILE)).otherwise("title")))
    edit(project / PREPARED / "prompts.parquet", lambda f: f.with_columns(query=pl.col("query") + pl.lit(" \x1b[31m\u202e<b>")))
    for stage in ("score-coalitions --iter 1", "attribute --iter 1", "report"):
        done = command(project, "ospo", *stage.split())
        assert "\x1b" not in done.stdout + done.stderr
    shown = command(project, "ospo", "inspect", "documents", "--rows", "5")
    assert "\x1b[2J" not in shown.stdout
    assert "\u202e" not in shown.stdout
    page = (project / "data/report/report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\u202e" not in page


def test_usage_errors_exit_2(project):
    assert command(project, "ospo", "rollout", check=False).returncode == 2
    assert command(project, "ospo", "rollout", "--iter", "0", check=False).returncode == 2


def test_a_metrics_file_is_json_with_sorted_keys(project):
    text = (project / FIRST / "score_metrics.json").read_text()
    assert json.dumps(json.loads(text), indent=2, sort_keys=True) == text.strip()


def test_the_miniature_has_something_to_break(repro):
    assert len(miniature.tables(repro)) >= 14
