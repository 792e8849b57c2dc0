"""What a policy is asked: the user message of a query, from the project's template."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ospo_cli.errors import ParameterError

PLACEHOLDER = re.compile(r"\{(\w*)\}")
# As `prepare-data` cleans queries; Python's \s holds the separators U+001C to U+001F too, which are control characters there.
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def check_template(template: str, where: str = "prepare_data.prompt_template") -> None:
    """Raise ParameterError where the template lacks {query} or holds another name than {query} and {history}."""
    names = PLACEHOLDER.findall(template)
    unknown = [name for name in names if name not in ("query", "history")]
    if unknown or "query" not in names:
        raise ParameterError(
            where, "is no template", found=f"{{{unknown[0]}}}" if unknown else template, expected="{query}, and {history} where wanted"
        )


def user_message(template: str, query: str, history: Sequence[str]) -> str:
    """Return the template with query and history (titles joined by "; ") in their places; braces in them are plain text.

    >>> user_message("Search: {query} (bought: {history})", "red {x}", ["a", "b"])
    'Search: red {x} (bought: a; b)'
    """
    values = {"query": query, "history": "; ".join(history)}
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def one_line(text: str) -> str:
    """Return the text with each run of blanks, line ends and control characters as one blank, none at its ends; the rest stays.

    >>> one_line(" red\\n\\x00 coat ")
    'red coat'
    """
    return _BLANKS.sub(" ", text).strip(" ")
