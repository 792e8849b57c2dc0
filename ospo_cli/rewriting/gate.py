"""When a rewrite is trusted: a score from what is known at query time, and a threshold that was certified on judged queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ospo_cli.errors import PolicyError
from ospo_cli.rewriting.decision import Candidate
from ospo_cli.tables import files

FORMAT = "ospo-gate 1"
FEATURES = ("mean_logprob", "log_probability", "query_words", "rewrite_words", "words_kept", "words_new")
_REMEDY = "run `ospo gate` again, or remove the file"


def features(candidate: Candidate) -> list[float]:
    """Return FEATURES of an answered query: the policy's confidence, lengths, and how much of the query stays. No judgment, no engine."""
    asked, answered = candidate.query.casefold().split(), candidate.rewrite.casefold().split()
    kept = sum(word in answered for word in asked) / max(1, len(asked))
    new = sum(word not in asked for word in answered) / max(1, len(answered))
    log_probability = math.log(max(candidate.probability, 1e-300))
    return [candidate.mean_logprob, log_probability, float(min(len(asked), 50)), float(min(len(answered), 50)), kept, new]


@dataclass(frozen=True)
class Gate:
    """A linear score of FEATURES; a rewrite is used from the threshold on. A threshold of infinity uses none.

    Attributes:
        policy: content hash of the policy that it was made for.
        centre, weights: of each feature.
        threshold: smallest score that passes; None: nothing could be certified, so nothing passes.
        bound, confidence: mean loss of the rewritten queries stays below `bound` with this confidence.
        facts: how it was made and what it did on test queries; for people.
    """

    policy: str
    centre: Sequence[float]
    weights: Sequence[float]
    threshold: float | None
    bound: float
    confidence: float
    facts: dict[str, Any] = field(default_factory=dict)

    def score(self, candidate: Candidate) -> float:
        """Return how much the rewrite is expected to gain, in the metric's units, up to what the fit could tell."""
        found = zip(features(candidate), self.centre, self.weights, strict=True)
        return sum((value - centre) * weight for value, centre, weight in found)

    def passes(self, candidate: Candidate) -> bool:
        """Tell whether the rewrite is trusted."""
        return self.threshold is not None and self.score(candidate) >= self.threshold

    @property
    def identity(self) -> list[object]:
        """Return what decisions depend on."""
        return [FORMAT, self.policy, list(self.centre), list(self.weights), self.threshold]


def write(path: Path, gate: Gate) -> None:
    """Write a gate as JSON."""
    files.write_json(path, {"format": FORMAT, "features": list(FEATURES)} | vars(gate))


def read(path: Path, policy: str) -> Gate | None:
    """Return the gate of a policy; None where there is none.

    Raises:
        FileError: it cannot be read.
        PolicyError: it is of another format or another policy, or a field is not what it should be.
    """
    gate = load(path)
    if gate is not None and gate.policy != policy:
        raise PolicyError(path, "is another policy's gate", found=gate.policy, expected=policy, remedy=_REMEDY)
    return gate


def load(path: Path) -> Gate | None:
    """Return the gate that a file holds, whichever policy's it is; None where there is none. Raises as `read` does otherwise."""
    if not path.is_file():
        return None
    found = files.read_json(path, "ospo gate")
    if found.get("format") != FORMAT or found.get("features") != list(FEATURES):
        raise PolicyError(path, "is of another format", found=found.get("format"), expected=FORMAT, remedy=_REMEDY)
    numbers = [*_numbers(found.get("centre")), *_numbers(found.get("weights")), *_numbers([found.get("bound"), found.get("confidence")])]
    threshold = found.get("threshold")
    if (
        len(numbers) != 2 * len(FEATURES) + 2
        or not (threshold is None or _numbers([threshold]))
        or not isinstance(found.get("facts"), dict)
        or not isinstance(found.get("policy"), str)
    ):
        raise PolicyError(path, "holds a field that is not what it should be", expected="what `ospo gate` writes", remedy=_REMEDY)
    fields = ("policy", "centre", "weights", "threshold", "bound", "confidence", "facts")
    return Gate(**{name: found[name] for name in fields})


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)]
