"""Which policy rewrites, by what a person names; apart from setup.py, since it reads all of params.yaml and a stage must not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.errors import OspoError, PolicyError
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.retrievers.base import Retriever
from ospo_cli.retrievers.opening import build
from ospo_cli.rewriting.setup import CARD, Setup, gate_path, of_card, of_project
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import DOCUMENTS


@dataclass(frozen=True)
class Chosen:
    """A policy that rewrites: its folder, how it is asked, and the project that it belongs to (None: the folder stands alone)."""

    folder: Path
    setup: Setup
    made_by: str
    project: Layout | None
    params: Params | None

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
    """Return what `--policy` names: the project's last policy (empty), one by its number, or a folder; its card counts before params.yaml.

    Raises:
        PolicyError: there is no such policy; or a folder has no card, and there is no params.yaml.
    """
    layout = Layout(project)
    folder = None if not policy or policy.isdecimal() else Path(policy)
    has_card = folder is not None and (folder / CARD).is_file()
    if has_card and not layout.params.is_file():
        assert folder is not None
        return Chosen(folder, _with(of_card(folder), threads), "", None, None)
    if folder is not None and not layout.params.is_file():
        raise PolicyError(
            folder, f"has no {CARD}, and there is no params.yaml here", expected="one of them, for the template and the composition",
            remedy="`ospo merge` writes a folder with its card; --project names a project",
        )  # fmt: skip
    params = whole.load(layout.params)
    if folder is None:
        number = int(policy) if policy else _last(layout)
        folder, made_by = layout.policy(number), f"ospo update --iter {number}" if number else "ospo warm-start"
    else:
        made_by = ""
    own = of_project(params)
    setup = dataclasses.replace(of_card(folder), threads=own.threads, batch_size=own.batch_size) if has_card else own
    return Chosen(folder, _with(setup, threads), made_by, layout, params)


def _with(setup: Setup, threads: int) -> Setup:
    return dataclasses.replace(setup, threads=threads) if threads else setup


def _last(layout: Layout) -> int:
    places = layout.policy(0).parent
    numbers = [int(path.name) for path in places.iterdir() if path.name.isdecimal()] if places.is_dir() else []
    if not numbers:
        raise PolicyError(places, "no policy", expected="000 or later", remedy="run `ospo run`, or name a folder with --policy")
    return max(numbers)
