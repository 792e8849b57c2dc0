"""When a rewrite is trusted: a score from what is known at query time, and a threshold that was certified on judged queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import OspoError, PolicyError
from ospo_cli.rewriting.search_signs import SEARCH_FEATURES
from ospo_cli.tables import files

FORMAT = "ospo-gate 2"
POLICY_FEATURES = ("mean_logprob", "log_probability", "query_words", "rewrite_words", "words_kept", "words_new")
_FARTHEST = 3.0  # deviations: a feature beyond is taken as that far out, so that no product of two grows without end
_REMEDY = (
    "run `ospo gate` again, or give `ospo rewrite` or `ospo serve` --ungated: then every query is rewritten, also where the evaluation "
    "says that this finds less"
)
Values = NDArray[np.float64]


def policy_features(query: str, rewrite: str, mean_logprob: float, probability: float) -> list[float]:
    """Return POLICY_FEATURES of an answered query: the policy's confidence, lengths, and how much of the query stays."""
    asked, answered = query.casefold().split(), rewrite.casefold().split()
    kept = sum(word in answered for word in asked) / max(1, len(asked))
    new = sum(word not in asked for word in answered) / max(1, len(answered))
    return [mean_logprob, math.log(max(probability, 1e-300)), float(min(len(asked), 50)), float(min(len(answered), 50)), kept, new]


def expanded(features: Values, centre: Values, scale: Values) -> Values:
    """Return features float64[n, d] in units of their deviation, and the products of each two (and squares): [n, d + d (d + 1) / 2]."""
    units = np.clip((features - centre) / scale, -_FARTHEST, _FARTHEST)
    first, second = np.triu_indices(units.shape[1])
    return np.concatenate([units, units[:, first] * units[:, second]], axis=1)


@dataclass(frozen=True)
class Gate:
    """A score of what is known at query time; a rewrite is used from the threshold on.

    Attributes:
        policy: content hash of the policy that it was made for.
        retriever: whose result lists are looked at; empty: the policy's own features alone, and no search engine is needed.
        centre, scale: of each feature.
        weights: of each of `expanded`.
        threshold: smallest score that passes; None: nothing could be certified, so nothing passes.
        bound, confidence: mean loss of the rewritten queries stays below `bound` with this confidence.
        facts: how it was made and what it did on test queries; for people.
    """

    policy: str
    retriever: str
    centre: Sequence[float]
    scale: Sequence[float]
    weights: Sequence[float]
    threshold: float | None
    bound: float
    confidence: float
    facts: dict[str, Any] = field(default_factory=dict)

    def scores(self, features: Values) -> Values:
        """Return how much each rewrite is expected to gain, float64[n], in the metric's units and but for a constant."""
        return np.asarray(expanded(features, np.array(self.centre), np.array(self.scale)) @ np.array(self.weights))

    def passes(self, features: Values) -> NDArray[np.bool_]:
        """Tell for each rewrite, float64[n, features], whether it is trusted."""
        return np.asarray(self.scores(features) >= (np.inf if self.threshold is None else self.threshold))

    @property
    def identity(self) -> list[object]:
        """Return what decisions depend on, besides the search engine."""
        return [FORMAT, self.policy, self.retriever, list(self.centre), list(self.scale), list(self.weights), self.threshold]


def feature_names(retriever: str) -> list[str]:
    """Return what a gate looks at."""
    return [*POLICY_FEATURES, *(SEARCH_FEATURES if retriever else ())]


def write(path: Path, gate: Gate) -> None:
    """Write a gate as JSON."""
    files.write_json(path, {"format": FORMAT, "features": feature_names(gate.retriever)} | vars(gate))


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
    retriever = found.get("retriever")
    if found.get("format") != FORMAT or not isinstance(retriever, str) or found.get("features") != feature_names(retriever):
        raise PolicyError(path, "is of another format", found=found.get("format"), expected=FORMAT, remedy=_REMEDY)
    count, threshold = len(feature_names(retriever)), found.get("threshold")
    sizes = {"centre": count, "scale": count, "weights": count + count * (count + 1) // 2}
    limits = [found.get("bound"), found.get("confidence"), *([] if threshold is None else [threshold])]
    if (
        any(len(_numbers(found.get(name))) != size for name, size in sizes.items())
        or len(_numbers(limits)) != len(limits)
        or min(_numbers(found.get("scale"))) <= 0
        or not isinstance(found.get("facts"), dict)
        or not isinstance(found.get("policy"), str)
    ):
        raise PolicyError(path, "holds a field that is not what it should be", expected="what `ospo gate` writes", remedy=_REMEDY)
    fields = ("policy", "retriever", "centre", "scale", "weights", "threshold", "bound", "confidence", "facts")
    return Gate(**{name: found[name] for name in fields})


def told(path: Path, policy_hash: Callable[[], str]) -> str:
    """Return in a few words what the gate of a policy does to queries; empty where it has none. A damaged one is said by `read`."""
    try:
        gate = load(path)
    except OspoError:
        return ""
    if gate is None or gate.policy != policy_hash():
        return ""
    if gate.threshold is None:
        return "gate: rewrites nothing"
    gated, queries = gate.facts.get("gated"), gate.facts.get("test_queries")
    if not isinstance(gated, dict) or len(figures := _numbers([queries, *map(gated.get, ("rewritten", "gain", "low", "high"))])) != 5:
        return f"gate: mean loss of rewritten queries below {gate.bound:g} with {gate.confidence:.0%} confidence"
    of, rewritten, gain, low, high = figures
    return f"gate: rewrites {rewritten / max(1, of):.0%} of test queries, {gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)]
