"""Numbers and settings as people read them."""

from __future__ import annotations

from typing import Any

MINUS = "−"


def plain(value: float | None, digits: int = 3) -> str:
    """Return the number with fixed digits and a true minus sign, or a dash where there is none.

    >>> plain(-0.5), plain(None)
    ('−0.500', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Return the number with its sign.

    >>> signed(0.25), signed(-0.0001)
    ('+0.250', '0.000')
    """
    text = plain(value, digits)
    return text if value is None or value <= 0 or not float(f"{value:.{digits}f}") else "+" + text


def interval(cell: dict[str, Any], digits: int = 3, with_sign: bool = False) -> str:
    """Return `[low, high]`."""
    write = signed if with_sign else plain
    return f"[{write(cell['low'], digits)}, {write(cell['high'], digits)}]"


def count(value: int) -> str:
    """Return a count with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def short(value: float | None) -> str:
    """Return a measure of unknown size in about three digits.

    >>> short(1234), short(0.00012), short(1), short(0)
    ('1234', '1.2e−4', '1.00', '0')
    """
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 100:
        text = f"{value:.0f}"
    elif size >= 0.001:
        text = f"{value:#.3g}" if size >= 1 else f"{value:.3f}"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", MINUS)


def p_value(value: float) -> str:
    """Return `p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def setting(value: object) -> str:
    """Return a value as params.yaml would have it.

    >>> setting([1, 2]), setting(None), setting(True), setting("")
    ('1, 2', 'null', 'true', '(empty)')
    """
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "(empty)"
