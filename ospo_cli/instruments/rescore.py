"""Saved rollouts under another reward: coalitions and credit again, in a folder beside the loop's tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.errors import CreditError, OspoError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.tables import files

# Sections that the stages from segment to attribute read.
SECTIONS = ("retrieval", "segment", "score_coalitions", "attribute")
CARD = "rescored.json"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}"


@dataclass(frozen=True)
class RescoredLayout(Layout):
    """The project's paths, but for what is scored again: its tables lie in a folder of their own.

    Attributes:
        folder: of the tables that are written.
        prepared_folder: documents, prompts, judgments and pools, of this project or of another catalogue.
        writes_segments: whether the answers are cut again.
    """

    folder: Path
    prepared_folder: Path
    writes_segments: bool

    def iteration(self, iteration: int, name: str) -> Path:
        """The loop's own rollouts, and segments unless they are cut again; all else in the folder."""
        is_loop = name == "rollouts.parquet" or (name.startswith("segment") and not self.writes_segments)
        return super().iteration(iteration, name) if is_loop else self.folder / name

    def prepared(self, name: str) -> Path:
        """A table of the catalogue that counts."""
        return self.prepared_folder / name


def rescore(
    layout: Layout, params: Params, iteration: int, changes: Mapping[str, Any], name: str = "", prepared: Path | None = None
) -> dict[str, Any]:
    """Write rewards, coalition values and credit of an iteration's rollouts under changed parameters; return what was counted.

    The folder data/rescored/KKK/NAME is written whole or not at all; the loop's own tables are read and never written. It lies outside
    data/iterations, which `dvc repro` watches.

    Args:
        layout, params: the project.
        iteration: whose rollouts.
        changes: section.key -> value, of SECTIONS.
        name: of the folder; empty: made from the changes.
        prepared: folder with documents, prompts, qrels and pools of another catalogue; None: the project's own.

    Raises:
        OspoError: a change that the reward does not read, a name that cannot be a folder, or what the stages raise.
    """
    from ospo_cli.stages import attribute, score_coalitions, segment

    if not changes and prepared is None:
        raise OspoError(
            "ospo rescore", "nothing is changed", expected="--retriever, --metric, --set section.key=value or --prepared FOLDER"
        )
    changed = _changed(whole.to_mapping(params), changes)
    name = name or _name_of(changes, prepared)
    if not re.fullmatch(_NAME, name) or name == "loop":
        expected = "letters, digits, . _ @ + -, and not loop, the loop's own"
        raise OspoError("ospo rescore --name", "cannot be a folder's name", found=name, expected=expected)
    folder = layout.rescored(iteration, name)
    cuts_again = any(key.startswith("segment.") for key in changes)
    with files.replacing_folder(folder) as temporary:
        inside = RescoredLayout(layout.root, temporary, prepared or layout.prepared("documents.parquet").parent, cuts_again)
        if cuts_again:
            segment.execute(inside, changed, iteration)
        scored = score_coalitions.execute(inside, changed, iteration)
        try:
            credited = attribute.execute(inside, changed, iteration)
        except CreditError as error:
            raise _for_rescoring(error) from None
        # No durations here: equal input is to give equal bytes.
        card = {
            "name": name,
            "iteration": iteration,
            "changes": dict(changes),
            "prepared": str(prepared) if prepared else None,
            "params": {section: whole.to_mapping(changed)[section] for section in SECTIONS},
        }
        files.write_json(temporary / CARD, card)
    names = ("asked_values", "distinct_values", "computed_values", "rollout_groups", "degenerate_groups", "mean_reward", "mean_retrieval")
    found = {key: scored[key] for key in names if key in scored}
    return found | {"folder": str(folder), "name": name, "estimator": credited["estimator"], "rule": credited["rule"]}


def _for_rescoring(error: CreditError) -> CreditError:
    # Coalitions are evaluated by this command: what is missing is asked for here, and not in the loop's parameters.
    name, colon, value = str(error.expected).partition(": ")
    if not (colon and name.startswith("score_coalitions.")):
        return error
    option = f"--set {name}={value.replace(', ', ',')}"
    return CreditError(error.where, error.problem, found=error.found, expected=error.expected, remedy=f"add {option}")


def parse_changes(settings: Sequence[str]) -> dict[str, Any]:
    """Return section.key -> value of texts such as `score_coalitions.metric=mrr`; values are read as YAML.

    >>> parse_changes(["retrieval.k1=0.9", "retrieval.fields=[title]"])
    {'retrieval.k1': 0.9, 'retrieval.fields': ['title']}
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ParameterError(f"--set {key}", "cannot be read as YAML", found=" ".join(str(error).split())) from None
        if not equals or key.count(".") != 1 or key in found:
            what = "is given twice" if key in found else "is no section.key=value"
            raise ParameterError("--set", what, found=setting, expected="such as score_coalitions.metric=mrr")
        found[key] = value
    return found


def _changed(values: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any]) -> Params:
    content = {section: dict(own) for section, own in values.items()}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if section not in SECTIONS:
            raise ParameterError(f"--set {key}", "changes nothing that rewards or credit read", expected=f"section {', '.join(SECTIONS)}")
        content[section][name] = value
    return whole.from_mapping(content, where="params.yaml with the changes")


def _name_of(changes: Mapping[str, Any], prepared: Path | None) -> str:
    values = []
    for key, value in changes.items():
        option = key.partition(".")[2]
        values.append(str(value) if option in ("retriever", "metric") else f"{option}-{value}")
    if prepared is not None:
        values.append(f"{prepared.resolve().parent.parent.name}-{prepared.name}")
    return "+".join(re.sub(r"[^A-Za-z0-9._@-]+", "-", value).strip("-.") for value in values)[:80]
