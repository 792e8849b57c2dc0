"""What `ospo inspect` prints: schema with meanings, counts, rows, credit on the words; never a terminal escape of a model."""

import io
import re

import polars as pl
import pytest

from ospo_cli.errors import MissingInputError, OspoError, TableError
from ospo_cli.instruments.inspect_table import inspect
from ospo_cli.layout import Layout
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS
from ospo_cli.tables.score_coalitions import REWARDS
from tests.report import small_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Layout of a project of two iterations."""
    return small_project.write_project(tmp_path_factory.mktemp("project"), iterations=2)[0]


def printed(*arguments, **options) -> str:
    stream = io.StringIO()
    inspect(*arguments, stream=stream, **options)
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "name", ["documents", "prompts", "rollouts", "segments", "rewards", "attributions", "token_advantages", "query_metrics", "completions"]
)
def test_every_declared_column_is_shown_with_its_meaning(project, name):
    text = printed(name, project, 1)
    table = reference.TABLES[name]
    assert table.meaning in text
    assert [column.name for column in table.columns if column.meaning not in text] == []


def test_a_rollout_is_shown_with_the_share_behind_each_segment(project):
    attributions = parquet.read(project.iteration(1, "attributions.parquet"), ATTRIBUTIONS)
    shares = attributions.filter(pl.col("rollout_id") == "001:q003:01").sort("segment_index")["share"].to_list()
    text = printed("rollouts", project, 1, rollout_id="001:q003:01")
    line = next(line for line in text.splitlines() if line.startswith("<answer>"))
    positions = [line.index(f"[{share:+.2f}]" if round(share, 2) else "[0.00]") for share in shares]
    assert positions == sorted(positions)
    assert line.endswith("</answer>")


def test_where_no_shares_stand_beside_a_group_game_its_credit_is_shown_and_named(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    path = layout.iteration(1, "attributions.parquet")
    table = parquet.read(path, ATTRIBUTIONS)
    shown = printed("rollouts", layout, 1, rollout_id="001:q003:01")
    parquet.write(table.with_columns(share=pl.lit(None, pl.Float64), credit=-pl.col("share")), path, ATTRIBUTIONS)
    turned = printed("rollouts", layout, 1, rollout_id="001:q003:01")
    assert "numbers: share of the reward that each segment earned" in shown
    assert "numbers: what each segment gained over what the other answers say" in turned
    numbers = [re.findall(r"\[([+-]?[0-9.]+)\]", text) for text in (shown, turned)]
    assert [-float(one) for one in numbers[0]] == [float(other) for other in numbers[1]]
    assert any(map(float, numbers[0]))


def test_the_iteration_comes_from_the_rollout_id(project):
    assert "rollout 002:q003:00" in printed("attributions", project, 1, rollout_id="002:q003:00")


def test_only_rows_of_the_asked_rollout_are_listed(project):
    text = printed("attributions", project, 1, rollout_id="001:q003:01")
    assert "001:q003:02" not in text


def test_without_a_rollout_id_the_best_rewarded_one_is_painted(project):
    rewards = parquet.read(project.iteration(2, "rewards.parquet"), REWARDS)
    best = rewards.sort(["reward", "rollout_id"], descending=[True, False])["rollout_id"][0]
    assert f"rollout {best}: reward" in printed("rewards", project, 2)


def test_a_terminal_gets_colours_and_a_pipe_gets_none(project):
    stream = Terminal()
    inspect("rollouts", project, 1, stream=stream)
    assert "\x1b[" in stream.getvalue()
    assert "\x1b" not in printed("rollouts", project, 1)


def test_control_characters_of_models_and_catalogues_are_spelled_out(tmp_path):
    hostile = "\x1b[2J\u202e\x07</answer>"
    layout, _ = small_project.write_project(tmp_path, iterations=1, hostile=hostile)
    for name in ("documents", "prompts", "rollouts", "completions"):
        for stream in (io.StringIO(), Terminal()):
            inspect(name, layout, 1, stream=stream)
            assert "\x1b[2J" not in stream.getvalue()
            assert "\u202e" not in stream.getvalue()
            assert "\x07" not in stream.getvalue()
    assert "⟨U+001B⟩" in printed("documents", layout, 1)


def test_a_long_field_is_cut(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1, hostile="x" * 100_000)
    assert max(map(len, printed("documents", layout, 1).splitlines())) < 1000
    assert "characters in all]" in printed("rollouts", layout, 1)


def test_a_table_without_credit_says_which_command_gives_it(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    layout.iteration(1, "attributions.parquet").unlink()
    assert "run `ospo attribute --iter 1`" in printed("rollouts", layout, 1)


def test_a_path_is_recognised_by_its_name_or_its_columns(project, tmp_path):
    copied = tmp_path / "mine.parquet"
    copied.write_bytes(project.prepared("documents.parquet").read_bytes())
    assert printed(str(project.prepared("qrels.parquet")), project, 1).startswith("qrels: judgments")
    assert printed(str(copied), project, 1).startswith("documents: the catalogue")


def test_no_rows_shows_the_schema_alone(project):
    assert "P000" not in printed("documents", project, 1, rows=0)
    assert "P000" in printed("documents", project, 1, rows=1)
    assert "P001" not in printed("documents", project, 1, rows=1)


def test_what_cannot_be_shown_is_refused_with_a_remedy(project, tmp_path):
    stray = tmp_path / "stray.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(stray)
    broken = tmp_path / "rollouts.parquet"
    broken.write_bytes(b"PAR1 cut short")
    with pytest.raises(OspoError, match="did you mean attributions"):
        printed("attribution", project, 1)
    with pytest.raises(MissingInputError, match="run `ospo rollout --iter 7`"):
        printed("rollouts", project, 7)
    with pytest.raises(OspoError, match="no such rollout in iteration 1"):
        printed("rollouts", project, 1, rollout_id="001:q003:99")
    with pytest.raises(OspoError, match="holds no rollout to paint"):
        printed("documents", project, 1, rollout_id="001:q003:00")
    with pytest.raises(OspoError, match="holds no declared table"):
        printed(str(stray), project, 1)
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        printed(str(broken), project, 1)


@pytest.mark.parametrize("name", ["interactions", "attributions"])
def test_the_strongest_interactions_of_the_painted_rollout_are_told_in_words(project, name):
    text = printed(name, project, 1, rollout_id="001:q003:01")
    together = text[text.index("together:") :].splitlines()[1:]
    interactions = parquet.read(project.iteration(1, "interactions.parquet"), INTERACTIONS)
    own = interactions.filter(pl.col("rollout_id") == "001:q003:01")
    found = [float(line.split()[0]) for line in together]
    assert found == sorted(own["dividend"].round(3).to_list(), key=lambda dividend: -abs(dividend))
    assert all(("more together" in line) == (value > 0) for line, value in zip(together, found, strict=True))


def test_without_table_interactions_inspect_says_which_command_writes_it(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    layout.iteration(1, "interactions.parquet").unlink()
    assert "no interactions yet: run `ospo attribute --iter 1`" in printed("rollouts", layout, 1)
    with pytest.raises(MissingInputError, match="run `ospo attribute --iter 1`"):
        printed("interactions", layout, 1)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("targets", "ospo attribute --iter 2"),
        ("preference_pairs", "ospo attribute --iter 2"),
        ("sampling_logprobs", "ospo rollout --iter 2"),
        ("gradient_audit", "ospo audit --iter 2 --gradients"),
    ],
)
def test_a_table_of_an_iteration_that_is_not_there_is_named_with_what_makes_it(tmp_path, name, command):
    with pytest.raises(MissingInputError, match=rf"iterations/002/{name}\.parquet.*run `{command}`"):
        inspect(name, Layout(tmp_path), 2)
