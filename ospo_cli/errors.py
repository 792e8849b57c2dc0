"""What a person can repair: every error names the place, what was found, what was expected and the remedy."""

from __future__ import annotations


class OspoError(Exception):
    """An error that a person can repair; printed as one line, exit status 1, no traceback.

    Args:
        where: file, row, column, parameter or command at fault.
        problem: what is wrong, in words.
        found: what is there.
        expected: what should be there.
        remedy: what to do or run next.
    """

    def __init__(self, where: object, problem: str, *, found: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.where, self.problem = str(where), problem
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(self.line())

    def line(self) -> str:
        """Return the one line `where: what is wrong: found ..., expected ...; remedy`, printable and bounded in length."""
        parts = []
        if self.found is not None:
            parts.append(f"found {shorten(self.found)}")
        if self.expected is not None:
            parts.append(f"expected {shorten(self.expected, 600)}")
        text = f"{shorten(self.where, 300)}: {shorten(self.problem, 400)}"
        if parts:
            text += ": " + ", ".join(parts)
        if self.remedy:
            text += f"; {self.remedy}"
        return text


class Finished(BaseException):
    """This process has done its share of the work in good order, before the end of what its command does; no error."""


class FileError(OspoError):
    """A file or folder that cannot be read or written."""


class TableError(OspoError):
    """A table that is missing, unreadable or breaks its schema."""


class MissingInputError(OspoError):
    """A file that another command makes is not there."""


class ParameterError(OspoError):
    """A parameter that is unknown, missing, of the wrong type or out of range."""


class SourceError(OspoError):
    """A data set that cannot be turned into documents, prompts and judgments."""


class RetrievalError(OspoError):
    """A retriever that cannot rank; never turned into a reward."""


class PolicyError(OspoError):
    """A policy folder or a sampled row that cannot be used."""


class StoreError(OspoError):
    """A store of values that is damaged, of another version, or cannot be written; never a wrong value."""


class DamagedStoreError(StoreError):
    """A store of values whose file is not what was written."""


class CreditError(OspoError):
    """Credit that cannot be computed or does not add up."""


def shorten(value: object, limit: int = 200) -> str:
    """Return text on one line, control and bidirectional characters escaped, cut to `limit` characters.

    Text of catalogues and models is hostile: it may hold terminal escapes or right-to-left overrides.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(character if is_plain(character) else character.encode("unicode_escape").decode() for character in text)


def first_line(error: BaseException | None) -> str:
    """Return an exception's first line of text, or its kind where it has none: what `found` says of a foreign error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_plain(character: str) -> bool:
    """Tell whether a character is safe to print on a terminal: no control, format (bidi, zero width) or line separator."""
    return character.isprintable() and character not in "\u200e\u200f\u2028\u2029"


def of_extra(name: str) -> str:
    """Return the command that installs an extra. The package lies in no registry, so a name alone would install somebody else's."""
    return f"pip install '.[{name}]' in a clone of the repository"
