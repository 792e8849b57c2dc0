"""Quotes in delimited text, line by line: fields that only begin with one are text; one that swallows records is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from ospo_cli.errors import SourceError
from ospo_cli.sources.opened import open_bytes, open_text, read_bytes

REMEDY = "close the quote, double one that is text, or set prepare_data.quoting: none, which takes quotes as they stand"

# What stands for an empty value between `unescaped` and the reader: no character at all to Unicode.
NULL = "\ufdd0N"
_BLANKS = {b"n": b" ", b"r": b" ", b"t": b" ", b"0": b"", b"b": b"", b"Z": b""}


def mended(path: Path, separator: str, width: int) -> tuple[bytes | None, int]:
    """Return the file with stray quotes doubled (None where it has none), and how many records it holds, the header's included.

    A field in quotes is quoted where its closing quote stands before a separator or the line's end. A field that only begins with a
    quote (`"Navy" coat, 24" long`) is text. A quoted field may hold line breaks, unless a line within it is itself a record.

    Args:
        path: UTF-8, with or without a byte order mark.
        separator: one character.
        width: fields of the header.

    Raises:
        SourceError: a quote is opened and never closed, or closed behind lines that look like records; names the line.
        UnicodeDecodeError: the file is no UTF-8.
    """
    grammar = _Grammar(separator)
    out: BytesIO | None = None
    records = position = 0
    for start, text in _records(path, grammar, width):
        records += bool(text.strip("\r\n"))
        raw = text.encode()
        if '"' in text and not grammar.is_quoted(text):
            if out is None:
                out = BytesIO()
                with open_bytes(path) as stream:  # what was right so far, without its byte order mark
                    stream.seek(3 if stream.read(3) == b"\xef\xbb\xbf" else 0)
                    out.write(stream.read(position))
            raw = grammar.doubled(text, f"{path}: line {start}").encode()
        position += len(text.encode())
        if out is not None:
            out.write(raw)
    return (None if out is None else out.getvalue()), records


def unescaped(path: Path, separator: str) -> bytes | None:
    """Return a file under `quoting: backslash` with its empty values and blanks written out, None where it has none.

    A field that is `\\N` becomes NULL; of the other escapes `\\n`, `\\r` and `\\t` become a blank, `\\0`, `\\b` and `\\Z` nothing. What
    else a backslash stands before is left to the reader, to which it is that character.
    """
    content = read_bytes(path)
    found = re.sub(_empty(separator), NULL.encode(), content)
    found = re.sub(rb"\\([\s\S])", lambda escape: _BLANKS.get(escape[1], escape[0]), found)
    return None if found == content else found


def empty_values(path: Path, separator: str) -> int:
    """Return how many fields of a file are `\\N`."""
    content = read_bytes(path)
    return len(re.findall(_empty(separator), content)) if b"\\N" in content else 0


def _empty(separator: str) -> bytes:
    ends = b"[^" + re.escape(separator.encode()) + b"\r\n]"
    return b"(?<!" + ends + rb')("?)\\N\1(?!' + ends + b")"


class _Grammar:
    """What a record is, for one separator."""

    def __init__(self, separator: str) -> None:
        self.separator, mark = separator, re.escape(separator)
        field = rf'(?:"(?:[^"]|"")*"|[^"{mark}\r\n][^{mark}\r\n]*|)'
        self.record = re.compile(rf"{field}(?:{mark}{field})*\r?\n?")
        self.opened = re.compile(rf'{field}(?:{mark}{field})*{mark}"(?:[^"]|"")*|"(?:[^"]|"")*')
        self.field = re.compile(rf'"(?:[^"]|"")*"(?={mark}|\r?\n?$)|[^{mark}\r\n]*')

    def is_quoted(self, text: str) -> bool:
        """Tell whether every quote at a field's start is closed at that field's end."""
        return self.record.fullmatch(text) is not None

    def is_open(self, text: str) -> bool:
        """Tell whether all is as it should be but for a last field whose quote is not closed."""
        return self.opened.fullmatch(text) is not None

    def doubled(self, line: str, where: str) -> str:
        """Return a record with each field that only begins with a quote in quotes of its own."""
        body = line.rstrip("\r\n")
        if '\\"' in body:
            raise SourceError(
                where, "a quote is escaped by a backslash", found=body, expected='"" for a quote',
                remedy="export it with doubled quotes, or set prepare_data.quoting: backslash",
            )  # fmt: skip
        fields, place = [], 0
        while place <= len(body):
            found = self.field.match(body, place)
            assert found is not None
            text = found.group()
            is_stray = text.startswith('"') and not re.fullmatch(r'"(?:[^"]|"")*"', text)
            fields.append('"' + text.replace('"', '""') + '"' if is_stray else text)
            place = found.end() + 1
        return self.separator.join(fields) + line[len(body) :]


def _records(path: Path, grammar: _Grammar, width: int) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of each record; a record is one line, or several where a quoted field holds line breaks."""
    with open_text(path, newline="\n") as stream:
        held, first, number = "", 0, 0
        for number, line in enumerate(stream, 1):
            if held:
                held += line
                is_whole = grammar.is_quoted(held)
                if _looks_like_a_record(line, grammar, width) or not (is_whole or grammar.is_open(held)):
                    raise _swallowed(path, first, number)
                if is_whole:
                    yield first, held
                    held = ""
                continue
            if '"' in line and grammar.is_open(line):
                held, first = line, number
                continue
            yield number, line
        if held:
            raise SourceError(
                f"{path}: line {first}", "a quote is opened and never closed", found="the end of the file", expected='"', remedy=REMEDY
            )


def _looks_like_a_record(line: str, grammar: _Grammar, width: int) -> bool:
    # As many fields as the header, and an id in front: running text has a blank before its first comma.
    cells = line.rstrip("\r\n").split(grammar.separator)
    return len(cells) == width > 1 and bool(cells[0].strip()) and " " not in cells[0].strip()


def _swallowed(path: Path, first: int, last: int) -> SourceError:
    return SourceError(
        f"{path}: line {first}", "a quote is opened here and not closed before the next record", found=f"it would reach line {last}",
        expected="a field that is closed in its own record", remedy=REMEDY,
    )  # fmt: skip
