"""What systems are called where people read."""

from __future__ import annotations

_NAMES = {"raw-query": "raw query", "policy-000": "warm start", "oracle": "oracle"}


def system_label(system: str) -> str:
    """Return the label of a system: raw query, warm start, iteration k, oracle.

    >>> system_label("policy-003")
    'iteration 3'
    """
    if system in _NAMES:
        return _NAMES[system]
    return f"iteration {int(system.removeprefix('policy-'))}" if system.removeprefix("policy-").isdecimal() else system
