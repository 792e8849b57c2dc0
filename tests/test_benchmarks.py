"""Benchmarks run to their end on little, and end as they say: what they measure is not looked at here."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from ospo_cli.layout import Layout
from ospo_cli.params.written import render
from tests.retrievers.dense import tiny_encoder

ROOT = Path(__file__).resolve().parents[1]


def run(name, *arguments):
    """Return the lines that a benchmark prints, run in this process: what it imports takes longer than what it does here."""
    script = ROOT / "benchmarks" / name
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.syspath_prepend(script.parent)
        runpy.run_path(str(script), run_name="__main__")
    return printed.getvalue().strip().splitlines()


def run_alone(name, *arguments):
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / name, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    titles = [
        f"{colour} {stuff} {thing}"
        for colour in ("red", "blue", "grey")
        for stuff in ("wool", "linen")
        for thing in ("coat", "shirt", "belt")
    ]
    pl.DataFrame({"doc_id": [f"d{index:02d}" for index in range(len(titles))], "title": titles}).write_parquet(folder / "documents.parquet")
    pl.DataFrame({"query": ["red coat", "linen shirt"]}).write_parquet(folder / "queries.parquet")
    return ["--documents", folder / "documents.parquet", "--queries", folder / "queries.parquet"]


def test_scoring_beside_rank_bm25_and_bm25s(catalogue):
    lines = run("score_coalitions.py", *catalogue, "--coalitions", 300, "--peer-coalitions", 4)
    # The batch of bm25s breaks ties, of which there are many here, in its own way.
    for peer, differing in (("rank-bm25, one by one", "0"), ("bm25s get_scores, one by one", "0"), ("bm25s, one batch", "[0-4]")):
        assert [line for line in lines if re.search(rf"^ *{peer} .* differs in {differing} of 4, .*: [\d,]+x$", line)], lines


def test_engines_rank_alike_and_those_that_are_not_installed_are_named(catalogue):
    lines = run("engines.py", *catalogue, "--queries-count", 80, "--repeats", 1, "--budget", 0.05)
    for engine in ("bm25s, numba", "rank-bm25"):
        place = next(row for row, line in enumerate(lines) if line.startswith(f"{engine} (index"))
        assert re.search("scores within .* differ in 0 of", lines[place + 6]), lines
    assert all(re.search("is not installed$|^    |^  |(index|documents)", line) for line in lines)


def test_dense_beside_one_text_at_a_time(catalogue, tmp_path):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    tiny_encoder.write(encoder, positions=256)
    few = ("--coalitions", 80, "--single-coalitions", 3, "--repeats", 1, "--threads", 1)
    lines = run("dense.py", *catalogue, "--encoder", encoder, *few)
    assert re.search(r"^processor time of one thread, no cache: .* ratio [\d,.]+x$", lines[-1])
    assert "scores differ by more than 1e-05 in 0 of 3" in lines[1]


def test_what_benchmarks_draw_is_svg_with_a_line_per_kind(tmp_path):
    growth = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))
    rows = [{"documents": size} | {f"{kind}: s per 10^6": size / 1e3 for kind in growth["ANSWERS"]} for size in (1e3, 1e4)]
    budget = runpy.run_path(str(ROOT / "benchmarks" / "equal_budget.py"))
    table = pl.DataFrame({"estimator": ["shapley"] * 2, "n": [budget["DRAWN_SIZES"][0]] * 2, "used": [10.0, 20.0], "error": [0.2, 0.1]})
    budget["write_chart"](table, tmp_path / "budget.svg")
    drawn = growth["chart"](rows)
    for text in (drawn, (tmp_path / "budget.svg").read_text(encoding="utf-8")):
        ElementTree.fromstring(text)
    assert drawn.count("<polyline") == len(growth["ANSWERS"])


def test_what_is_gained_without_training_stands_beside_what_is_trained(tmp_path):
    from ospo_cli.stages import evaluate
    from tests.report import small_project
    from tests.stages.test_evaluate import make

    projects = []
    for seed in (0, 1):
        values = small_project.make_params(iterations=1, train={"seed": seed})
        layout = make(tmp_path / f"seed-{seed}", values)
        (layout.root / "params.yaml").write_text(render(values))
        evaluate.execute(layout, values)
        projects.append(layout.root)
    lines = run("without_training.py", *projects, "--samples", 2)
    assert lines[0] == "2 projects, 16 prompts"
    named = {line.split("|")[1].strip() for line in lines[4:]}
    scored = {
        f"{policy}: {kind}"
        for policy in ("warm start", "trained")
        for kind in ("greedy", "mean of 2", "one of 2 by its score", "best of 2")
    }
    assert named == scored | {"raw query", "RM3 feedback", "Bo1 feedback", "oracle"}


def test_reading_text_is_measured_by_script():
    lines = run("words.py", "--texts", 3)
    assert [line.split()[0].strip(",") for line in lines] == ["English", "German", "Japanese", "Chinese", "Thai"]


def test_the_group_game_beside_myerson(tmp_path):
    from tests.stages.test_group_game import changed, project

    measured = runpy.run_path(str(ROOT / "benchmarks" / "group_game.py"))["measured"]
    found = {row["case"]: row for row in measured(project(tmp_path), changed(), 1, groups=3, rounds=1).iter_rows(named=True)}
    assert found["myerson"]["spliced"] == found["answers alone"]["spliced"] == 0
    assert found["splice, batch"]["spliced"] > found["splice, batch"]["spliced_distinct"] > 0
    assert found["myerson"]["rollouts"] == 12


def test_shapley_values_of_the_group_game_are_those_of_its_orders_and_sum_to_the_leave_one_out_advantage():
    from itertools import permutations

    from ospo_cli.instruments.lab.gradient_quality import INTERACTIONS, Condition, draw

    drawn = draw(Condition("pairs", 4, 3), 2, 0)
    found = runpy.run_path(str(ROOT / "benchmarks" / "group_shapley.py"))["shares"](drawn)
    value = INTERACTIONS["pairs"].value
    for seed, words in enumerate(drawn.words):
        for g, own in enumerate(words):
            expected = np.zeros(4)
            for order, other in [(order, h) for order in permutations(range(4)) for h in range(3) if h != g]:
                text = words[other].copy()
                for place in order:
                    before = value(text, drawn.weights[seed])
                    text[place] = own[place]
                    expected[place] += (value(text, drawn.weights[seed]) - before) / 48
            assert found[seed, g] == pytest.approx(expected, abs=1e-12)
        worth = np.array([value(own, drawn.weights[seed]) for own in words])
        assert found[seed].sum(axis=1) == pytest.approx(worth - (worth.sum() - worth) / 2, abs=1e-12)
    lines = run("group_shapley.py", "--segments", 2, "--seeds", 20)
    assert len(lines) == len(INTERACTIONS) * 5


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    from ospo_cli.stages import prepare_data, rollout, warm_start
    from tests.pipeline import miniature

    root = tmp_path_factory.mktemp("sampled")
    values = miniature.make(root, warm_start={"steps": 60}, rollout={"max_new_tokens": 32, "prompts_per_iteration": 12})
    for stage in (prepare_data, warm_start):
        stage.execute(Layout(root), values)
    rollout.execute(Layout(root), values, 1)
    return root


def test_discounts_and_credit_for_parts_of_an_answer_are_compared_by_their_progress(sampled):
    lines = run("credit_of_parts.py", sampled, "--groups", 8)
    names = [line[:32].strip() for line in lines[1:-2]]
    assert len(names) == len(set(names)) == 1 + 3 + 12 + 6
    assert {"uniform, none", "splice(0.25), none", "group-additive, std | stop"} <= set(names)
    assert [sum(map(int, re.findall(r": (\d+)", line))) for line in lines[-2:]] == [200, 200]


def test_ideas_between_splice_and_the_floor_are_compared_at_equal_tokens(sampled):
    _, _, *rows, floor = (
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in run("toward_the_floor.py", sampled, "--prompts", 4)
    )
    found = {name: cells for name, *cells in rows}
    assert len(found) == len(rows) == 6 + 10 + 4 + 3
    assert floor[0].startswith("floor")
    assert found["splice"][-1] == found["uniform"][-2] == "0.000 ± 0.000"
    tokens = {name: int(cells[0]) for name, cells in found.items()}
    # A tree of four roots takes fewer tokens than the continuations of all eight answers beside them.
    assert tokens["splice, groups of 4"] < tokens["splice"] < tokens["splice, groups of 16"]
    assert tokens["splice, groups of 4"] < tokens["tree, exact prefix values"] < tokens["continuations alone (VinePPO)"]


@pytest.mark.slow
def test_the_service_answers_under_load_and_ends_well(tmp_path):
    from ospo_cli.rewriting import setup
    from tests.policies.tiny import write_tiny_policy

    folder = write_tiny_policy(tmp_path / "policy")
    setup.write_card(folder, setup.Setup("{query}", "replace", 12))
    (tmp_path / "queries.txt").write_text("navy coat\nred boots\n")
    queries = ["--policy", folder, "--project", tmp_path]
    lines = run_alone("serving.py", tmp_path / "queries.txt", *queries, "--clients", 1, 8, "--seconds", 1)
    assert [line.split(": p50")[0] for line in lines] == [
        *(
            "never asked before, 1 clients",
            "never asked before, 8 clients",
            "always asked before, 1 clients",
            "always asked before, 8 clients",
        )
    ]
    lines = run_alone("rewriting.py", tmp_path / "queries.txt", *queries, "--batches", 1, 2)
    assert [line.split(": ")[0] for line in lines] == ["batches of 1", "batches of 2"]


@pytest.mark.slow
def test_processes():
    lines = run_alone("processes.py", "--steps", 1, "--groups", 1)
    ways = ["1 process, 1 thread", "1 process, 2 threads", "2 processes, 1 thread each", "2 processes, weights cut"]
    assert [line.partition(" processor ")[0].rstrip() for line in lines] == ways
