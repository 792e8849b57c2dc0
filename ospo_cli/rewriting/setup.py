"""What rewriting needs besides weights: template, composition, length of an answer; from the project, or a card in the policy's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ospo_cli.errors import PolicyError
from ospo_cli.layout import Layout
from ospo_cli.policies.folder import content_hash
from ospo_cli.tables import files
from ospo_cli.tables.spellings import fold
from ospo_cli.text.prompt_template import check_template

if TYPE_CHECKING:
    from ospo_cli.params.policy import Policy
    from ospo_cli.params.prepare_data import PrepareData
    from ospo_cli.params.rollout import Rollout
    from ospo_cli.params.score_coalitions import ScoreCoalitions
    from ospo_cli.params.train import Train

CARD = "ospo_rewrite.json"
GATE = "ospo_gate.json"
FORMAT = "ospo-rewrite 1"


@dataclass(frozen=True)
class Setup:
    """How a policy is asked and how its answer is used; the chat format is the tokenizer's own (its chat template).

    Attributes:
        template: user message with {query} and, where wanted, {history}.
        composition: replace or append.
        max_new_tokens: cap of a completion, end token included.
        seed: of further samples.
        folds: whether the policy is asked for queries without capitals and repeated blanks, as it was in training (`tables.spellings`).
        threads, batch_size: of this machine; no part of the card.
    """

    template: str
    composition: str
    max_new_tokens: int
    seed: int = 0
    folds: bool = False
    threads: int = 1
    batch_size: int = 64

    @property
    def card(self) -> dict[str, Any]:
        """Return what is written beside the weights."""
        named = ("template", "composition", "max_new_tokens", "seed")
        return {"format": FORMAT} | {name: getattr(self, name) for name in named} | ({"folds": True} if self.folds else {})

    def spelt(self, queries: Sequence[str]) -> list[str]:
        """Return queries, each in one line, in the spelling that the policy is asked in."""
        return fold(queries) if self.folds else list(queries)


class Sections(Protocol):
    """The sections that a project's setup reads."""

    @property
    def prepare_data(self) -> PrepareData: ...
    @property
    def score_coalitions(self) -> ScoreCoalitions: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...


def of_project(params: Sections) -> Setup:
    """Return the setup of a project's parameters."""
    return Setup(
        params.prepare_data.prompt_template,
        params.score_coalitions.composition,
        params.rollout.max_new_tokens,
        params.train.seed,
        params.prepare_data.folds_spellings,
        params.policy.threads,
        params.rollout.batch_size,
    )


def of_card(folder: Path) -> Setup:
    """Return the setup that a policy folder's card tells; raise PolicyError where a field is missing or is not what it should be."""
    path = folder / CARD
    card = files.read_json(path)
    if card.get("format") != FORMAT:
        raise PolicyError(path, "is of another format", found=card.get("format"), expected=FORMAT, remedy="run `ospo merge` again")
    card.setdefault("folds", False)
    kinds: dict[str, type] = {"template": str, "composition": str, "max_new_tokens": int, "seed": int, "folds": bool}
    for name, kind in kinds.items():
        if type(card.get(name)) is not kind:
            raise PolicyError(path, f"{name} is no {kind.__name__}", found=card.get(name), remedy="run `ospo merge` again")
    if card["composition"] not in ("replace", "append"):
        raise PolicyError(path, "unknown composition", found=card["composition"], expected="replace or append")
    if not 0 < card["max_new_tokens"] <= 1 << 16:
        raise PolicyError(path, "max_new_tokens is out of range", found=card["max_new_tokens"], expected=f"1 to {1 << 16}")
    check_template(card["template"], f"{path}: template")
    return Setup(**{name: card[name] for name in kinds})


def write_card(folder: Path, setup: Setup, verdict: Mapping[str, str] | None = None) -> None:
    """Write the card into a policy folder; `verdict`: what an evaluation said of it (answer, figures), kept with its weights' hash."""
    known = {"verdict": {**verdict, "policy": content_hash(folder)}} if verdict else {}
    files.write_json(folder / CARD, setup.card | known, ensure_ascii=False)


def verdict_of_card(folder: Path) -> dict[str, str]:
    """Return the verdict (answer, figures) that a folder carries; empty where it carries none, or has other weights now.

    Raises:
        PolicyError: it is not what `ospo merge` writes.
    """
    path = folder / CARD
    verdict = files.read_json(path).get("verdict") if path.is_file() else None
    if verdict is None:
        return {}
    names = ("answer", "figures", "policy")
    if not isinstance(verdict, dict) or any(not isinstance(verdict.get(name), str) for name in names):
        raise PolicyError(
            path, "verdict is not what it should be", found=verdict, expected=", ".join(names), remedy="run `ospo merge` again"
        )
    return {name: verdict[name] for name in names[:2]} if verdict["policy"] == content_hash(folder) else {}


def gate_path(folder: Path, project: Layout | None) -> Path:
    """Return where a policy's gate lies or would lie."""
    own = folder / GATE
    return own if own.is_file() or project is None else project.gates(f"{folder.name}.json")
