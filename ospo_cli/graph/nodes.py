"""The plan of the loop: the declared stages for the given parameters, in order, and who makes which file."""

from __future__ import annotations

from collections.abc import Iterator

from ospo_cli.errors import MissingInputError, ParameterError
from ospo_cli.graph.declared import STAGES, Node
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params

ITERATED = tuple(name for name, stage in STAGES.items() if stage.is_iterated)


def node(stage: str, iteration: int | None, params: Params) -> Node:
    """Return the node of a stage and iteration.

    Raises:
        ParameterError: there is no such stage, or no such iteration of it.
    """
    if stage not in STAGES:
        raise ParameterError(stage, "no such stage", expected=", ".join(STAGES))
    if STAGES[stage].is_iterated and (iteration is None or iteration < 1):
        raise ParameterError(f"ospo {stage}", "no such iteration", found=iteration, expected="1 or more (policy 000 is the warm start)")
    return STAGES[stage].declare(params, iteration or 0)


def plan(params: Params) -> list[Node]:
    """Return every node of the loop in an order in which each finds its inputs."""
    needed = _needed(params)
    first, last = needed.index(ITERATED[0]), needed.index(ITERATED[-1]) + 1
    iterated = [(name, k) for k in range(1, params.train.iterations + 1) for name in needed[first:last]]
    once = [[(name, None) for name in names] for names in (needed[:first], needed[last:])]
    return [node(name, k, params) for name, k in [*once[0], *iterated, *once[1]]]


def each(params: Params) -> list[Node]:
    """Return the nodes of the loop, each stage once: iterated ones as in iteration 1, without the thousands of the others."""
    stages = [(name, STAGES[name].is_iterated) for name in _needed(params)]
    return [node(name, 1 if is_iterated else None, params) for name, is_iterated in stages if params.train.iterations or not is_iterated]


def _needed(params: Params) -> list[str]:
    return [name for name, stage in STAGES.items() if stage.is_needed(params)]


def planned(params: Params, iteration: int | None = None) -> Iterator[Node]:
    """Yield every node of the planned iterations and those up to `iteration`; unneeded stages too."""
    iterations = range(1, max(params.train.iterations, iteration or 0) + 1)
    for name, stage in STAGES.items():
        for k in iterations if stage.is_iterated else (None,):
            yield node(name, k, params)


def require_inputs(wanted: Node, layout: Layout, params: Params) -> None:
    """Raise MissingInputError naming the first input that is not there and the command that makes it."""
    for path in wanted.inputs:
        if (layout.root / path).exists():
            continue
        nodes = planned(params, wanted.iteration)
        commands = {output: made.command for made in nodes for output in (*made.outputs, *made.metrics)}
        remedy = f"run `{commands[path]}` first" if path in commands else "put it there, or correct params.yaml"
        if wanted.iteration is None and path.startswith(("data/policies", "data/iterations")):
            remedy += "; under dvc repro: run `ospo graph`, which unrolls train.iterations, then dvc repro"
        if path not in commands and path == params.policy.base:
            remedy = "run `ospo fetch-policy NAME`, or give policy.base a folder in the Hugging Face layout"
        raise MissingInputError(path, "no such file or folder", expected=f"input of `{wanted.command}`", remedy=remedy)
