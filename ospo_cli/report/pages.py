"""Pages by Jinja2: one file each, every text made visible and escaped, one style and one script, allowed by their hashes (CSP)."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup

import ospo_cli
from ospo_cli.report import number_text
from ospo_cli.report.charts import Drawing
from ospo_cli.report.system_names import metric_label, system_label
from ospo_cli.text.visible import visible

TEMPLATES = Path(__file__).resolve().parent / "templates"


class _Cut(str):
    """A text that is visible and cut already."""

    __slots__ = ()


def render(template: Path, content: Mapping[str, object], styles: Sequence[Path] = (), script: Path | None = None) -> str:
    """Return the page; equal content gives equal bytes.

    Args:
        template: a file that extends base.html; templates beside it can be included.
        content: what the template reads; a name that it reads and that is not there is an error, and so is a None that it shows.
        styles: style sheets after that of all pages.
        script: the page's script, or None.
    """
    style = "".join(path.read_text(encoding="utf-8") for path in (TEMPLATES / "page.css", *styles))
    code = script.read_text(encoding="utf-8") if script else ""
    allowed = f"style-src {_source(style)};" + (f" script-src {_source(code)};" if code else "")
    policy = f"default-src 'none'; {allowed} base-uri 'none'; form-action 'none'"
    # Style and script are files of this package; nothing else enters a page unescaped.
    frame = {"policy": policy, "style": Markup(style), "script": Markup(code), "version": ospo_cli.__version__}  # noqa: S704
    return environment(template.parent).get_template(template.name).render(**content, **frame) + "\n"


@functools.cache
def environment(folder: Path) -> Environment:
    """Return the environment of the templates in `folder`; those that all pages share are found from there."""
    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(number_text, name) for name in ("plain", "signed", "interval", "count", "short", "p_value", "setting")}
    made.filters |= {"cut": _cut, "metric": metric_label, "system": system_label, "direction": direction}
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":"), "allow_nan": False}
    return made


def svg(drawing: Drawing) -> str:
    """Return a drawing as an SVG element, for files that are no pages."""
    return str(environment(TEMPLATES).get_template("macros.html").module.drawing(drawing)).strip()  # type: ignore[attr-defined]


def direction(cell: Mapping[str, float]) -> str:
    """Return where an interval lies: `up`, `down`, or `unclear` where it holds 0."""
    return "up" if cell["low"] > 0 else "down" if cell["high"] < 0 else "unclear"


def _shown(value: object) -> object:
    """Return what a template's `{{ … }}` shows, before it is escaped."""
    if isinstance(value, (Markup, Undefined, _Cut)):
        return value
    if value is None:
        raise TypeError("a template shows None")
    return visible(str(value))


def _cut(text: object, limit: int) -> _Cut:
    return _Cut(visible(str(text), limit))


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
