"""What `ospo prune` deletes, what it never does, and that what was made from it stays current."""

import dataclasses
import json

import pytest

from ospo_cli.graph.records import PRUNED, Records
from ospo_cli.instruments import prune
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.tables import files


def params(iterations, every):
    own = Params()
    return dataclasses.replace(
        own, train=dataclasses.replace(own.train, iterations=iterations), evaluate=dataclasses.replace(own.evaluate, every=every)
    )


@pytest.fixture
def layout(tmp_path):
    """A project of policies 000 to 012 of a hundred bytes and more, and a cache."""
    made = Layout(tmp_path)
    for number in range(13):
        made.policy(number).mkdir(parents=True)
        (made.policy(number) / "model.safetensors").write_bytes(bytes([number]) * (100 + number))
    for name in ("rollouts", "dense"):
        (made.cache / name / "ab").mkdir(parents=True)
        (made.cache / name / "ab" / "x.parquet").write_bytes(b"x" * 50)
    return made


def left(layout):
    return sorted(int(path.name) for path in (layout.data / "policies").iterdir() if path.name.isdigit())


def test_first_last_evaluated_and_multiples_stay_and_the_others_bytes_come_back(layout):
    found = prune.find(layout, params(12, 6).evaluated_iterations, 4, False)
    assert sorted(found.stays) == [0, 4, 6, 8, 12]
    assert found.bytes == sum(100 + number for number in (1, 2, 3, 5, 7, 9, 10, 11))
    prune.prune(layout, found)
    assert left(layout) == [0, 4, 6, 8, 12]
    assert (layout.cache / "rollouts").is_dir()


def test_the_best_policy_and_one_with_a_gate_stay(layout, monkeypatch):
    monkeypatch.setattr(prune, "read_summary", lambda _: {"choice": {"best_policy": "policy-007"}})
    layout.evaluation("").mkdir()
    layout.evaluation("summary.json").write_text("{}")
    layout.gates("").mkdir()
    layout.gates("003.json").write_text("{}")
    assert sorted(prune.find(layout, params(12, 12).evaluated_iterations, 0, False).stays) == [0, 3, 7, 12]


def test_before_the_end_the_last_policy_there_is_stays(layout):
    assert sorted(prune.find(layout, params(40, 40).evaluated_iterations, 0, False).stays) == [0, 12]


def test_shards_go_where_that_is_asked_and_what_the_catalogue_was_turned_into_stays(layout):
    found = prune.find(layout, params(12, 1).evaluated_iterations, 0, True)
    assert (sorted(found.goes), found.bytes) == ([layout.cache / "rollouts"], 50)
    prune.prune(layout, found)
    assert not (layout.cache / "rollouts").exists()
    assert (layout.cache / "dense" / "ab" / "x.parquet").is_file()


def test_a_dry_run_deletes_nothing(layout, capsys):
    found = prune.find(layout, params(12, 6).evaluated_iterations, 0, False)
    prune.print_found(layout, found, True)
    assert left(layout) == list(range(13))
    assert "would go: data/policies/001, 0.0 MB" in capsys.readouterr().out


def test_what_went_has_the_hash_that_it_had_until_it_is_there_again(layout):
    before = files.sha256_of(layout.policy(5))
    prune.prune(layout, prune.find(layout, params(12, 12).evaluated_iterations, 0, False))
    assert json.loads((layout.data / PRUNED).read_text())["data/policies/005"] == before
    assert Records(layout, params(12, 12)).of("data/policies/005") == before
    layout.policy(5).mkdir()
    (layout.policy(5) / "model.safetensors").write_bytes(b"another")
    assert Records(layout, params(12, 12)).of("data/policies/005") == files.sha256_of(layout.policy(5)) != before
    assert Records(layout, params(12, 12)).of("data/policies/099") == files.ABSENT


def test_a_second_time_nothing_goes_and_the_record_stays(layout):
    prune.prune(layout, prune.find(layout, params(12, 12).evaluated_iterations, 0, False))
    again = prune.find(layout, params(12, 12).evaluated_iterations, 0, False)
    assert again.goes == {}
    prune.prune(layout, again)
    assert len(json.loads((layout.data / PRUNED).read_text())) == 11
