"""The command lines of rescore, compare-rewards, headroom and plan: what they refuse, and what a user sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.errors import OspoError
from tests.exchange.small_shop import PARAMS, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    write_project(root)
    (root / "params.yaml").write_text(presets.render(PARAMS), encoding="utf-8")
    return root


def called(project: Path, *arguments: str) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, [*arguments, "--project", str(project)])
    return done.exit_code, done.output, done.exception


def test_a_reward_is_scored_again_and_compared_from_the_command_line(project: Path) -> None:
    code, output, _ = called(project, "rescore", "--iter", "1", "--metric", "recall@2", "--set", "attribute.rule=signed")
    assert code == 0
    assert "recall@2+rule-signed" in output
    assert "mean reward" in output
    code, output, _ = called(project, "compare-rewards", "--iter", "1", "loop", "recall@2+rule-signed", "--html", str(project / "c.html"))
    assert code == 0
    assert "order of answers: Kendall's τ-b" in output
    assert (project / "c.html").is_file()


def test_a_parameter_that_is_given_twice_is_a_usage_error(project: Path) -> None:
    code, output, _ = called(project, "rescore", "--iter", "1", "--metric", "mrr", "--set", "score_coalitions.metric=ap")
    assert code == 2
    assert "given twice" in output


def test_headroom_prints_a_grid_per_retriever(project: Path) -> None:
    code, output, _ = called(project, "headroom", "--split", "train", "--retrievers", "bm25,tfidf-char", "--words", "4", "--iter", "1")
    assert code == 0
    assert "bm25, ndcg@10 on 3 train prompts" in output
    assert "tfidf-char, ndcg@10 on 3 train prompts" in output


def test_a_comparison_with_a_plan_needs_a_plan(project: Path) -> None:
    code, _, error = called(project, "plan", "--actual")
    assert code == 1
    assert isinstance(error, OspoError)
    assert "run `ospo plan` first" in error.line()
