"""What each stage takes of an iteration, as processes of their own (`ospo STAGE --iter K`) and in one process (`ospo run`).

    python benchmarks/iteration_share.py PROJECT [--iter 2] [--repeats 3]
    python benchmarks/iteration_share.py PROJECT --repeats 5 --in-one      # what `ospo run` saves by keeping things from stage to stage

The project must hold what iterations K − 1 and K need (`ospo run` once); it is copied, and nothing of it is written. Finished shards are
deleted before each repeat, so that every stage works anew; the index of the catalogue and compiled loops are there, as in any iteration but
a project's first. CPU seconds of all threads, children included; the best of the repeats counts, stage by stage. One process runs iteration
K − 1 first, with everything that is imported and read on first use, then K: what a process of its own takes more than that is the
interpreter's start, imports, loading, and the graph's bookkeeping. `ospo run` keeps the policy, the reward and the prompts in between; the
last column is the same process without that, in turns with it, and at the end stand the medians of both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ("rollout", "segment", "score-coalitions", "attribute", "update")
CACHES = ("rollouts", "score_coalitions", "update")
IN_ONE = """
import contextlib, importlib, json, shutil, sys, time
from pathlib import Path
from ospo_cli.executors import kept
from ospo_cli.graph import runner
from ospo_cli.graph.nodes import node
from ospo_cli.layout import Layout
from ospo_cli.params.whole import load
layout, iteration, LOADS = Layout(Path(".")), int(sys.argv[1]), json.loads(sys.argv[4])
parameters = load(layout.params)
loading, depth = {}, []
def counted(label, work):
    def run(*given, **named):
        depth.append(label)
        start = time.process_time()
        try:
            return work(*given, **named)
        finally:
            depth.pop()
            if not depth:
                loading[label] = loading.get(label, 0.0) + time.process_time() - start
    return run
with kept.between_stages() if sys.argv[5] else contextlib.nullcontext():
    for name, number in (("first", iteration - 1), ("later", iteration)):
        if name == "later":  # all modules are there now
            for label, places in LOADS.items():
                for place in places:
                    module, _, function = place.partition(":")
                    module = importlib.import_module("ospo_cli." + module)
                    setattr(module, function, counted(label, getattr(module, function)))
        for cache in sys.argv[2].split(","):
            shutil.rmtree(layout.cache / cache, ignore_errors=True)
        for stage in sys.argv[3].split(","):
            runner.execute(node(stage, number, parameters), layout, parameters)
            actual = layout.plan(f"actual/{stage}@{number}.json")
            actual.rename(actual.parent / f"{name}-{stage}.json")
layout.plan("actual/loading.json").write_text(json.dumps(loading))
"""
# What opens what the stage before had in memory, by what it is.
LOADS = {
    "policies": ["policies.opening:open_policy", "sampling.chosen_sampler:load_for"],
    "tables": [
        "tables.placed:read",
        *(f"stages.{stage}:read_rollouts" for stage in ("segment", "score_coalitions", "attribute", "update")),
    ],
    "reward and index": ["stages.score_coalitions:open_reward"],
}


def main() -> None:
    """Print a line per stage: seconds and share, both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, help="folder of a project that has run")
    parser.add_argument("--iter", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--in-one", action="store_true", help="leave out the stages as processes of their own")
    arguments = parser.parse_args()
    ways: dict[str, list[dict[str, float]]] = {name: [] for name in ("own processes", "one process, first", "later", "nothing kept")}
    if arguments.in_one:
        del ways["own processes"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        shutil.copytree(arguments.project, folder, ignore=shutil.ignore_patterns("store", ".git"))
        for _ in range(arguments.repeats):
            if not arguments.in_one:
                ways["own processes"].append(as_processes(folder, arguments.iter))
            once, again = in_one_process(folder, arguments.iter, keeps=True)
            ways["one process, first"].append(once)
            ways["later"].append(again)
            ways["nothing kept"].append(in_one_process(folder, arguments.iter, keeps=False)[1])
    show(ways)


def show(ways: dict[str, list[dict[str, float]]]) -> None:
    """Print the best of each stage, what opening took, and what keeping saves."""
    best = {way: {stage: min(found[stage] for found in repeats) for stage in STAGES} for way, repeats in ways.items()}
    print(f"{'CPU seconds (share)':<18}" + "".join(f"{way:>22}" for way in ways))
    for stage in STAGES:
        print(f"{stage:<18}" + "".join(f"{took[stage]:>13.2f} {took[stage] / sum(took.values()):>7.1%}" + " " for took in best.values()))
    print(f"{'iteration':<18}" + "".join(f"{sum(took.values()):>13.2f}" + " " * 9 for took in best.values()))
    for way in ("later", "nothing kept"):
        whole = [sum(found[stage] for stage in STAGES) for found in ways[way]]
        loads = ", ".join(f"{name} {statistics.median(found.get(name, 0.0) for found in ways[way]):.3f}" for name in LOADS)
        middle = f"{statistics.median(whole):.2f} [{min(whole):.2f} to {max(whole):.2f}]"
        print(f"one process, {way}: median {middle}, of these opening and reading: {loads}")
    if "own processes" not in best:
        return
    print("\nCPU seconds of each process outside its work (own process less one process, nothing kept):")
    for stage in STAGES:
        print(f"{stage:<18}{best['own processes'][stage] - best['nothing kept'][stage]:>13.2f}")


def as_processes(folder: Path, iteration: int) -> dict[str, float]:
    """Return the CPU seconds of each stage as a command of its own, the interpreter's start among them."""
    _forget(folder)
    return {stage: _run([sys.executable, "-m", "ospo_cli", stage, "--iter", str(iteration)], folder) for stage in STAGES}


def in_one_process(folder: Path, iteration: int, keeps: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Return the CPU seconds of each stage when one process runs the iteration before and this one."""
    code = [IN_ONE, str(iteration), ",".join(CACHES), ",".join(STAGES), json.dumps(LOADS), "kept" * keeps]
    _run([sys.executable, "-c", *code], folder)
    actual = folder / "data" / "plan" / "actual"
    first, later = (
        {stage: json.loads((actual / f"{name}-{stage}.json").read_text())["cpu_seconds"] for stage in STAGES} for name in ("first", "later")
    )
    return first, later | json.loads((actual / "loading.json").read_text())


def _forget(folder: Path) -> None:
    for name in CACHES:
        shutil.rmtree(folder / "data" / "cache" / name, ignore_errors=True)


def _run(command: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
