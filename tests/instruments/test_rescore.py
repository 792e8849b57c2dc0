"""Saved rollouts under another reward: the loop's tables stay, the new ones are what the loop would have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.errors import CreditError, OspoError, ParameterError
from ospo_cli.instruments import rescore as rescoring
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.stages import attribute, score_coalitions, segment
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.prepared import DOCUMENTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from tests.exchange.small_shop import PARAMS, write_project

WRITTEN = ("rewards", "coalition_values", "attributions", "token_advantages", "interactions")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return write_project(tmp_path / "project")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed(**changes: dict) -> Params:
    content = whole.to_mapping(PARAMS)
    for section, values in changes.items():
        content[section].update(values)
    return whole.from_mapping(content)


@pytest.mark.parametrize(
    ("changes", "sections"),
    [
        ({"score_coalitions.retriever": "tfidf-char"}, {"score_coalitions": {"retriever": "tfidf-char"}}),
        ({"score_coalitions.metric": "RR"}, {"score_coalitions": {"metric": "RR"}}),
        ({"retrieval.k1": 0.5, "attribute.rule": "signed"}, {"retrieval": {"k1": 0.5}, "attribute": {"rule": "signed"}}),
        ({"segment.level": "word"}, {"segment": {"level": "word"}}),
    ],
)
def test_the_tables_are_those_of_a_project_with_these_parameters(layout: Layout, tmp_path: Path, changes: dict, sections: dict) -> None:
    done = rescoring.rescore(layout, PARAMS, 1, changes)
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root, other.root)
    for stage in (segment, score_coalitions, attribute):
        stage.execute(other, changed(**sections), 1)
    for name in WRITTEN:
        assert (Path(done["folder"]) / f"{name}.parquet").read_bytes() == other.iteration(1, f"{name}.parquet").read_bytes(), name


def test_the_loop_s_own_files_are_not_touched(layout: Layout) -> None:
    before = bytes_of(layout.data / "iterations")
    done = rescoring.rescore(layout, PARAMS, 1, {"score_coalitions.metric": "recall@3"})
    assert bytes_of(layout.data / "iterations") == before
    assert "iterations" not in Path(done["folder"]).parts  # dvc repro watches that folder


def test_equal_input_gives_equal_bytes_and_the_card_says_what_was_changed(layout: Layout) -> None:
    folders = []
    for _ in range(2):
        done = rescoring.rescore(layout, PARAMS, 1, {"score_coalitions.metric": "mrr"}, "mine")
        folders.append({name: data for name, data in bytes_of(Path(done["folder"])).items() if not name.endswith("metrics.json")})
    assert folders[0] == folders[1]
    card = json.loads(folders[0]["rescored.json"])
    assert card["changes"] == {"score_coalitions.metric": "mrr"}
    assert card["params"]["score_coalitions"]["metric"] == "mrr"


def test_another_catalogue_is_scored_and_the_project_s_stays(layout: Layout, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(layout.prepared("documents.parquet").parent, other)
    documents = parquet.read(other / "documents.parquet", DOCUMENTS)
    parquet.write(documents.with_columns(title=pl.lit("coat ") + pl.col("title")), other / "documents.parquet", DOCUMENTS)
    before = bytes_of(layout.prepared("x").parent)
    done = rescoring.rescore(layout, PARAMS, 1, {}, "coats", prepared=other)
    assert bytes_of(layout.prepared("x").parent) == before
    found = parquet.read(Path(done["folder"]) / "rewards.parquet", REWARDS)
    assert not found.equals(parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS))


def test_answers_are_cut_again_only_where_a_change_of_segments_asks_for_it(layout: Layout) -> None:
    words = Path(rescoring.rescore(layout, PARAMS, 1, {"segment.level": "word"}, "words")["folder"])
    whole = Path(rescoring.rescore(layout, PARAMS, 1, {"attribute.rule": "signed"}, "signed")["folder"])
    assert (
        parquet.read(words / "segments.parquet", SEGMENTS).height > parquet.read(layout.iteration(1, "segments.parquet"), SEGMENTS).height
    )
    assert not (whole / "segments.parquet").exists()


def test_a_failure_leaves_what_was_there(layout: Layout) -> None:
    done = rescoring.rescore(layout, PARAMS, 1, {"score_coalitions.metric": "mrr"}, "mine")
    before = bytes_of(Path(done["folder"]).parent)
    with pytest.raises(ParameterError, match=r"score_coalitions\.retriever: unknown value: found google"):
        rescoring.rescore(layout, PARAMS, 1, {"score_coalitions.retriever": "google"}, "mine")
    assert bytes_of(Path(done["folder"]).parent) == before


def test_what_is_missing_is_asked_of_the_same_command(layout: Layout) -> None:
    changes = {"score_coalitions.estimators": ["uniform"], "score_coalitions.families": [], "attribute.estimator": "alone"}
    with pytest.raises(CreditError, match=r"were not evaluated.*; add --set score_coalitions\.estimators=\[alone\]$"):
        rescoring.rescore(layout, PARAMS, 1, changes)


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({}, "", "nothing is changed"),
        ({"rollout.temperature": 2.0}, "", "changes nothing that rewards or credit read: expected section retrieval"),
        ({"score_coalitions.metrik": "mrr"}, "", "unknown parameter: found metrik"),
        ({"score_coalitions.metric": "map"}, "", "metric: unknown value: found map"),
        ({"score_coalitions.metric": "mrr"}, "../up", "cannot be a folder's name"),
        ({"score_coalitions.metric": "mrr"}, "loop", "cannot be a folder's name"),
        ({"score_coalitions.metric": "mrr"}, ".hidden", "cannot be a folder's name"),
    ],
)
def test_a_change_that_makes_no_sense_is_one_line_and_writes_nothing(layout: Layout, changes: dict, name: str, message: str) -> None:
    with pytest.raises(OspoError, match=message):
        rescoring.rescore(layout, PARAMS, 1, changes, name)
    assert not (layout.data / "rescored").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["score_coalitions.metric"], "is no section.key=value"),
        (["metric=mrr"], "is no section.key=value"),
        (["a.b=[1"], "cannot be read as YAML"),
        (["a.b=1", "a.b=2"], "is given twice"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        rescoring.parse_changes(settings)


def test_a_change_of_the_rule_alone_leaves_values_and_shares_as_they_are(layout: Layout) -> None:
    folder = Path(rescoring.rescore(layout, PARAMS, 1, {"attribute.rule": "uniform"})["folder"])
    for name, table in (("coalition_values", COALITION_VALUES), ("rewards", REWARDS)):
        assert parquet.read(folder / f"{name}.parquet", table).equals(parquet.read(layout.iteration(1, f"{name}.parquet"), table))
    shares = [
        parquet.read(path, ATTRIBUTIONS)["share"].to_list()
        for path in (folder / "attributions.parquet", layout.iteration(1, "attributions.parquet"))
    ]
    assert shares[0] == shares[1]
