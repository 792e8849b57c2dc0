"""`ospo lab`: tables, page and terminal, from a small plan."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.errors import OspoError
from ospo_cli.instruments.lab import command as stage
from ospo_cli.maths.redistribution import RULES
from ospo_cli.tables import parquet
from ospo_cli.tables.lab import LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY

SMALL = stage.Plan(
    estimators=("myerson", "alone"),
    segments=(2, 8),
    group_sizes=(2, 8),
    noises=(0.0, 0.5),
    problems=("independent", "context"),
    seeds=30,
    steps=50,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place, stream = tmp_path_factory.mktemp("lab"), io.StringIO()
    stage.execute(place, SMALL, stream)
    return place, stream.getvalue()


def test_the_tables_hold_every_rule_estimator_and_axis(folder: tuple[Path, str]) -> None:
    quality = parquet.read(folder[0] / "lab_gradient_quality.parquet", LAB_GRADIENT_QUALITY)
    assert set(quality["rule"]) == set(RULES)
    assert set(quality.filter(group_size=8)["estimator"]) == {"myerson", "alone"}
    assert set(quality["segments"]) == {2, 8}
    assert set(quality["group_size"]) == {2, 8}
    assert set(quality["noise"]) == {0.0, 0.5}
    convergence = parquet.read(folder[0] / "lab_convergence.parquet", LAB_CONVERGENCE)
    assert set(convergence.select("problem", "outside").iter_rows()) == {("independent", "-"), ("context", "sequence"), ("context", "zero")}
    curves = parquet.read(folder[0] / "lab_curves.parquet", LAB_CURVES)
    ends = curves.filter(pl.col("step") == 50).select("problem", "outside", "rule", "expected_reward")
    assert ends.join(convergence, on=["problem", "outside", "rule"]).filter(pl.col("expected_reward") != pl.col("end_reward")).height == 0


def test_ninety_five_per_cent_are_of_the_way_from_the_start_to_the_end(folder: tuple[Path, str]) -> None:
    rows = parquet.read(folder[0] / "lab_convergence.parquet", LAB_CONVERGENCE).filter(pl.col("steps_to_95").is_not_null())
    curves = parquet.read(folder[0] / "lab_curves.parquet", LAB_CURVES)
    before = 0
    for row in rows.iter_rows(named=True):
        own = curves.filter(**{name: row[name] for name in ("problem", "outside", "estimator", "rule")})
        level = row["start_reward"] + 0.95 * (row["end_reward"] - row["start_reward"])
        assert (own.filter(pl.col("step") >= row["steps_to_95"])["expected_reward"] >= level - 1e-12).all()
        last = own.filter(pl.col("step") == row["steps_to_95"] - 1)["expected_reward"]
        assert (last < level).all()
        before += last.len()
    assert before > 0


def test_the_best_of_each_condition_is_behind_nothing_and_tied_with_itself(folder: tuple[Path, str]) -> None:
    quality = parquet.read(folder[0] / "lab_gradient_quality.parquet", LAB_GRADIENT_QUALITY)
    best = quality.group_by("interaction", "segments", "group_size", "noise", "estimator").agg(
        pl.col("behind_best").min().alias("least"), pl.col("is_tied").sort_by("behind_best").first()
    )
    assert best["least"].abs().max() < 1e-9
    assert best["is_tied"].all()
    uniform = quality.filter(rule="uniform")
    assert uniform["over_uniform"].abs().max() == 0


def test_equal_plans_give_equal_bytes(folder: tuple[Path, str], tmp_path: Path) -> None:
    stage.execute(tmp_path, SMALL, io.StringIO())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["lab.html", "lab_convergence.parquet", "lab_curves.parquet", "lab_gradient_quality.parquet", "lab_noise.parquet"]
    assert [(tmp_path / name).read_bytes() for name in names] == [(folder[0] / name).read_bytes() for name in names]


def test_the_terminal_shows_where_rules_end_and_which_to_take(folder: tuple[Path, str]) -> None:
    printed = folder[1]
    assert re.search(r"^best possible +0\.900 +1\.100 +1\.100$", printed, re.MULTILINE)
    assert "Which rule for answers of n segments" in printed
    assert "\x1b" not in printed
    assert max(len(line) for line in printed.splitlines()) < 240


def test_the_page_is_one_file_without_script_or_address(folder: tuple[Path, str]) -> None:
    page = (folder[0] / "lab.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    assert page.count("<svg") == page.count("</svg>") >= 3 + 3 * 3
    assert "NaN" not in page
    assert "nan" not in re.findall(r"points=\"([^\"]*)\"", page)


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    found = stage.Plan(
        rules={"<b>x</b>": RULES["uniform"]},
        estimators=("alone",),
        segments=(2,),
        group_sizes=(4,),
        noises=(0.0,),
        problems=("independent",),
        seeds=3,
        steps=3,
    )
    stage.execute(tmp_path, found, io.StringIO(), command="ospo lab --rule-file '<img src=x>'")
    page = (tmp_path / "lab.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rules", "sined", r"--rules: unknown name: found sined, expected uniform, proportional"),
        ("--estimators", "nobody", "--estimators: unknown name: found nobody"),
        ("--interactions", "x", "--interactions: unknown name: found x, expected additive, pairs, substitutes"),
        ("--problems", "x", "--problems: unknown name"),
        ("--segments", "2,a", "--segments: is no number: found a, expected numbers separated by commas"),
        ("--segments", "0", "--segments: out of range: found 0, expected 1 to 64"),
        ("--segments", ",", "--segments: is empty"),
        ("--group-sizes", "1", "--group-sizes: out of range"),
        ("--noise", "nan", "--noise: out of range: found nan"),
        ("--seeds", "1", "--seeds: out of range: found 1, expected 2 to 1000000"),
        ("--seeds", "10000000", "--seeds: out of range"),
        ("--rule-file", "nowhere.py", "nowhere.py: no such file"),
    ],
)
def test_a_wrong_option_is_one_line(option: str, value: str, message: str, tmp_path: Path) -> None:
    lists = {"segments": "2", "group_sizes": "2", "noise": "0", "rules": "", "estimators": "", "interactions": "", "problems": ""}
    numbers = {"seeds": 5, "seed": 0, "steps": 5, "beta": 0.5, "alpha": 0.5, "is_crossed": False}
    name, file = option.removeprefix("--").replace("-", "_"), Path(value) if option == "--rule-file" else None
    lists |= {name: value} if name in lists else {}
    numbers |= {name: int(value)} if name in numbers else {}
    with pytest.raises(OspoError, match=message):
        stage.run(tmp_path / "out", lists, numbers, file)
    assert not (tmp_path / "out").exists()


def test_a_condition_beyond_memory_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(OspoError, match=r"--seeds: too much for one condition: found 64,000,000 tokens"):
        stage.lab(stage.Plan(segments=(64,), group_sizes=(1000,), seeds=1000))


def test_the_command_needs_no_project(tmp_path: Path) -> None:
    options = (
        "--segments 2 --group-sizes 4 --noise 0 --estimators alone --problems none --interactions pairs --rules uniform,signed --seeds 20"
    )
    command = [sys.executable, "-m", "ospo_cli", "lab", *options.split(), "--out", str(tmp_path / "found")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    )
    assert done.returncode == 0, done.stderr
    assert "Cosine with the exact gradient, pairs" in done.stdout
    assert "Convergence" not in done.stdout
    assert (tmp_path / "found" / "lab.html").is_file()
