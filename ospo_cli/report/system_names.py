"""What systems are called where people read."""

from __future__ import annotations

RAW_QUERY = "raw-query"
GATED = "gated-"
_NAMES = {RAW_QUERY: "raw query", "policy-000": "warm start", "oracle": "oracle"}


def system_label(system: str) -> str:
    """Return the label of a system: raw query, warm start, iteration k, that behind its gate, oracle.

    >>> system_label("policy-003")
    'iteration 3'
    >>> system_label("gated-policy-003")
    'iteration 3, gated'
    """
    if system.startswith(GATED):
        return f"{system_label(system.removeprefix(GATED))}, gated"
    if system in _NAMES:
        return _NAMES[system]
    return f"iteration {int(system.removeprefix('policy-'))}" if system.removeprefix("policy-").isdecimal() else system


def decoding_label(decoding: str) -> str:
    """Return how a decoding is called: greedy, sampled, sampled at .5.

    >>> decoding_label("sampled-0.5")
    'sampled at 0.5'
    """
    return decoding.replace("sampled-", "sampled at ")


def metric_label(metric: str) -> str:
    """Return the usual spelling of a metric's name."""
    return metric.replace("ndcg", "nDCG").replace("mrr", "MRR")
