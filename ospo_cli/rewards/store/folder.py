"""The folder of all books: which are there, and which may go."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import StoreError
from ospo_cli.rewards.store.book import ASIDE, FILE_NAME, Book, remove
from ospo_cli.rewards.store.keys import fingerprint

DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Summary:
    """What is known of a book without reading its entries; `problem` says why it cannot be used, where it cannot."""

    fingerprint: str
    about: dict[str, Any]
    size: int
    last_used: float
    problem: StoreError | None = None


class Store:
    """A folder with one folder per book, named by its fingerprint; it need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def book(self, about: dict[str, Any]) -> Book:
        """Return the book of that description; it is made when it is first used."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(self.root, "is no folder", expected="that of the store of values", remedy="name another one by OSPO_STORE")
        return Book(self.root / fingerprint(about), about)

    def has_book(self, about: dict[str, Any]) -> bool:
        """Tell whether the book of that description is there."""
        return (self.root / fingerprint(about) / FILE_NAME).is_file()

    def folders(self) -> list[Path]:
        """Return the folders of all books, by name; others, and what is half made or half deleted, are not among them."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and _is_fingerprint(path.name))

    def summaries(self) -> list[Summary]:
        """Return every book's summary, by fingerprint."""
        found = []
        for folder in self.folders():
            size, path = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()), folder / FILE_NAME
            last_used = (path if path.exists() else folder).stat().st_mtime
            try:
                found.append(Summary(folder.name, Book.at(folder).about, size, last_used))
            except StoreError as error:
                found.append(Summary(folder.name, {}, size, last_used, error))
        return found

    def drop(self, names: Collection[str], now: float) -> None:
        """Delete books, and what was left half made, half deleted or moved aside more than a day ago."""
        for name in names:
            remove(self.root / name)
        for left in self.root.glob(".*-*"):
            if left.name.startswith((".new-", ".old-", ASIDE)) and left.is_dir() and now - left.stat().st_mtime > DAY_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def superfluous(
    books: Sequence[Summary],
    now: float,
    *,
    days: float | None = None,
    kept_retrievers: Collection[str] | None = None,
    most_bytes: int | None = None,
) -> list[Summary]:
    """Return the books that may go, the longest unused first.

    Args:
        books: all books.
        now: seconds since 1970.
        days: those not used for more than so many days go.
        kept_retrievers: those of other retriever fingerprints go.
        most_bytes: the longest unused go until the others take no more.
    """
    by_use = sorted(books, key=lambda book: (book.last_used, book.fingerprint))
    gone = [
        book
        for book in by_use
        if (days is not None and now - book.last_used > days * DAY_SECONDS)
        or (kept_retrievers is not None and book.about.get("retriever_fingerprint") not in kept_retrievers)
    ]
    if most_bytes is not None:
        kept = [book for book in by_use if book not in gone]
        while kept and sum(book.size for book in kept) > most_bytes:
            gone.append(kept.pop(0))
    return gone


def _is_fingerprint(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")
