"""Which policy rewrites, by what a person names; apart from setup.py, since it reads all of params.yaml and a stage must not."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import FileError, OspoError, PolicyError
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.policies.folder import content_hash
from ospo_cli.retrievers.base import Retriever
from ospo_cli.retrievers.opening import build
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.setup import CARD, Setup, gate_path, of_card, of_project, verdict_of_card
from ospo_cli.tables import evaluated_data, files, placed
from ospo_cli.tables.prepared import DOCUMENTS


@dataclass(frozen=True)
class Chosen:
    """A policy that rewrites: its folder, how it is asked, the project that it belongs to (None: it stands alone), and why this one.

    `ungated`: it rewrites without its gate, whatever the evaluation says.
    """

    folder: Path
    setup: Setup
    made_by: str
    project: Layout | None
    params: Params | None
    why: str = "named by --policy"
    ungated: bool = False

    @property
    def gate_path(self) -> Path:
        """Where the policy's gate lies, if it has one: beside the weights, or with the project, by the policy's number."""
        return gate_path(self.folder, self.project)

    def engine(self, name: str, asker: object) -> Retriever:
        """Return the project's retriever of that name; `asker` is who needs it, for an error.

        Raises:
            OspoError: there is no project, or no such retriever.
            MissingInputError: the project has no documents yet.
        """
        if self.project is None or self.params is None:
            raise OspoError(
                asker, f"needs the project's documents, to rank them by {name}", found="a policy folder alone",
                expected="--project with params.yaml", remedy="or make the gate by `ospo gate --without-search`",
            )  # fmt: skip
        return build(name, placed.read(DOCUMENTS, self.project), self.params.retrieval, self.project.cache)


def choose(project: Path, policy: str, threads: int = 0) -> Chosen:
    """Return what `--policy` names: a number, or a folder, whose card counts before params.yaml; empty: `by_default`, said on stderr.

    Raises:
        PolicyError: there is no such policy; or a folder has no card, and there is no params.yaml.
    """
    return _said(_found(project, policy, threads), policy)


def to_serve(project: Path, policy: str, threads: int = 0, ungated: bool = False) -> Chosen:
    """Return what `choose` does for queries of people: where the evaluation found it worse than the raw query, its gate must be in force.

    Raises:
        PolicyError: as `choose`; or the verdict is on these weights, says worse, and no gate is in force; `ungated` insists.
    """
    found = _found(project, policy, threads, is_gated=not ungated)
    if not ungated:
        _refuse_harm(found)
    return _said(dataclasses.replace(found, ungated=ungated), policy)


def _said(found: Chosen, policy: str) -> Chosen:
    if not policy or found.project is None:
        sys.stderr.write(f"policy {found.folder.name}: {found.why}\n")
    return found


def _found(project: Path, policy: str, threads: int, is_gated: bool = True) -> Chosen:
    layout = Layout(project)
    folder = None if not policy or policy.isdecimal() else Path(policy)
    has_card = folder is not None and (folder / CARD).is_file()
    if has_card and not layout.params.is_file():
        assert folder is not None
        why = _with_gate(f"{Chosen.why}; {_carried(folder)}", folder, None, is_gated)
        return Chosen(folder, _with(of_card(folder), threads), "", None, None, why)
    if folder is not None and not layout.params.is_file():
        raise PolicyError(
            folder, f"has no {CARD}, and there is no params.yaml here", expected="one of them, for the template and the composition",
            remedy="`ospo merge` writes a folder with its card; --project names a project",
        )  # fmt: skip
    params, why = whole.load(layout.params), Chosen.why
    if folder is None:
        number, why = (int(policy), why) if policy else by_default(layout)
        folder, made_by = layout.policy(number), f"ospo update --iter {number}" if number else "ospo warm-start"
    else:
        made_by = ""
    why = _with_gate(why, folder, layout, is_gated)
    own = of_project(params)
    setup = dataclasses.replace(of_card(folder), threads=own.threads, batch_size=own.batch_size) if has_card else own
    return Chosen(folder, _with(setup, threads), made_by, layout, params, why)


def verdict_on(folder: Path, layout: Layout) -> dict[str, str]:
    """Return the evaluation's answer on these weights and its figures, in words; empty where it is not about them.

    Raises:
        FileError: the summary holds no verdict that can be read.
    """
    path = layout.evaluation("summary.json")
    if not path.is_file() or not folder.is_dir():
        return {}
    summary = files.read_json(path, "ospo evaluate")
    try:
        found = summary["against_raw_query"]
        system = found.get("system")
        if system is None or summary["policies"].get(system) != content_hash(folder):
            return {}
        apart = found["difference"]
        figures = (
            f"{summary['metric']} {found['value']:.3f} against {found['raw']:.3f} on {found['prompts']:,} {summary['split']} queries, "
            f"{apart['mean']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
        )
        return {"answer": found["answer"], "figures": figures}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(path, "holds no verdict that can be read", found=repr(error), remedy="run `ospo evaluate` again") from None


def _refuse_harm(found: Chosen) -> None:
    """Raise PolicyError where a verdict is on these weights and says worse, unless a gate holds rewrites back.

    A folder of `ospo merge` carries its verdict; a merged adapter has other weights than those that its project evaluated.
    """
    if found.gate_path.is_file():
        return  # another policy's gate, or one that cannot be read, is an error of its own when the policy is opened
    verdict, path = verdict_of_card(found.folder), found.folder / CARD
    if not verdict and found.project:
        verdict, path = verdict_on(found.folder, found.project), found.project.evaluation("summary.json")
    if verdict.get("answer") != "worse":
        return
    raise PolicyError(
        path,
        f"the verdict on policy {found.folder.name} is that rewritten queries find less than the queries as typed, and it has no gate",
        found=verdict["figures"], expected="a policy that is not worse, or a gate",
        remedy="run `ospo gate`, which rewrites only where that is certified, or insist with --ungated",
    )  # fmt: skip


def by_default(layout: Layout) -> tuple[int, str]:
    """Return the policy that the evaluation chose, if it has the weights that were evaluated, else the last one; and why, in words.

    Raises:
        PolicyError: there is no policy.
        FileError: the evaluation's summary cannot be read.
    """
    last, path = _last(layout), layout.evaluation("summary.json")
    if not path.is_file():
        return last, "the last one; nothing is evaluated yet"
    summary = files.read_json(path, "ospo evaluate")
    try:
        return _evaluated(layout, last, summary, summary["choice"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(path, "holds no choice that can be read", found=repr(error), remedy="run `ospo evaluate` again") from None


def _evaluated(layout: Layout, last: int, summary: dict[str, Any], choice: dict[str, Any]) -> tuple[int, str]:
    best, weights = choice.get("best_policy"), summary.get("policies", {})
    if best is None:
        return last, f"the last one; the evaluation chose none ({choice['reason']})"
    number = int(best.removeprefix("policy-"))
    if not layout.policy(number).is_dir() or content_hash(layout.policy(number)) != weights.get(best):
        return last, f"the last one; {number:03d}, which the evaluation chose, is gone or has other weights now: run `ospo evaluate`"
    why = f"the best on {choice['prompts']:,} {choice['split']} queries"
    if choice["best"] != best:
        why += ", where nothing beats the queries as typed"
    if summary["against_raw_query"]["answer"] == "worse":
        why += f"; on {summary['split']} queries it finds less than they do as typed"
        why += "" if _gate(layout.policy(number), layout) else ": do not switch it on without a gate"
    why += f"; {last:03d} is not evaluated" if f"policy-{last:03d}" not in weights else ""
    moved = evaluated_data.moved_on(layout, summary)
    return number, why + (f"; {moved}" if moved else "")


def _with_gate(why: str, folder: Path, project: Layout | None, is_gated: bool) -> str:
    """Return why this policy, and what its gate does if it has one."""
    gate = _gate(folder, project) if is_gated else "no gate is asked (--ungated)"
    return f"{why}; {gate}" if gate else why


def _carried(folder: Path) -> str:
    """Return the verdict that a policy folder alone carries, in words."""
    verdict = verdict_of_card(folder)
    if not verdict:
        return "whether it finds more than the queries as typed is not known (no evaluation of these weights)"
    said = {"better": "it finds more than", "worse": "it finds less than"}.get(verdict["answer"], "not shown to find more than")
    return f"{said} the queries as typed ({verdict['figures']})"


def _gate(folder: Path, project: Layout | None) -> str:
    return gates.told(gate_path(folder, project), lambda: content_hash(folder))


def _with(setup: Setup, threads: int) -> Setup:
    return dataclasses.replace(setup, threads=threads) if threads else setup


def _last(layout: Layout) -> int:
    places = layout.policy(0).parent
    numbers = [int(path.name) for path in places.iterdir() if path.name.isdecimal()] if places.is_dir() else []
    if not numbers:
        raise PolicyError(places, "no policy", expected="000 or later", remedy="run `ospo run`, or name a folder with --policy")
    return max(numbers)
