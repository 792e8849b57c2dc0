"""Which books may go, and that only they do."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.rewards.store.folder import DAY_SECONDS, Store, Summary, superfluous
from ospo_cli.rewards.store.keys import keys, scope

NOW = 1_000 * DAY_SECONDS
BOOKS = st.lists(
    st.builds(
        Summary,
        st.uuids().map(lambda found: found.hex),
        st.sampled_from("abc").map(lambda name: {"retriever_fingerprint": name}),
        st.integers(0, 1000),
        st.floats(0, 900 * DAY_SECONDS),
    ),
    max_size=8,
    unique_by=lambda book: book.fingerprint,
)


def make(root, name, size=10):
    book = Store(root).book({"retriever": name, "retriever_fingerprint": name, "documents": 3, "parts": ["mrr"]})
    book.write(keys(scope(b"p"), map(str, range(size))), np.zeros((size, 1)))
    book.close()
    return book


@given(BOOKS, st.floats(0, 1000))
def test_books_unused_for_longer_than_the_days_go_and_no_others(books, days):
    gone = superfluous(books, NOW, days=days)
    assert {book.fingerprint for book in gone} == {book.fingerprint for book in books if NOW - book.last_used > days * DAY_SECONDS}


@given(BOOKS, st.integers(0, 4000))
def test_what_is_left_has_at_most_the_bytes_and_one_more_book_would_have_had_more(books, most):
    gone = superfluous(books, NOW, most_bytes=most)
    left = sum(book.size for book in books if book not in gone)
    assert left <= most
    assert not gone or left + gone[-1].size > most
    assert all(book.last_used <= other.last_used for book in gone for other in books if other not in gone)


@given(BOOKS)
def test_books_of_other_retrievers_go(books):
    gone = superfluous(books, NOW, kept_retrievers={"a"})
    assert {book.fingerprint for book in gone} == {book.fingerprint for book in books if book.about["retriever_fingerprint"] != "a"}


def test_a_store_that_is_not_there_holds_no_books(tmp_path):
    assert Store(tmp_path / "store").summaries() == []
    assert not (tmp_path / "store").exists()


def test_only_the_named_books_are_deleted_and_what_a_kill_left_long_ago(tmp_path):
    kept, gone = make(tmp_path, "kept"), make(tmp_path, "gone")
    (tmp_path / "notes").mkdir()
    for name, age in ((".new-old", 2 * DAY_SECONDS), (".new-young", 0.0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (NOW - age, NOW - age))
    Store(tmp_path).drop([gone.folder.name], NOW)
    assert {path.name for path in tmp_path.iterdir()} == {kept.folder.name, "notes", ".new-young"}


def test_a_summary_tells_what_a_book_holds_and_a_damaged_one_has_its_problem(tmp_path):
    book, broken = make(tmp_path, "bm25"), make(tmp_path, "other")
    broken.path.write_bytes(b"x")
    found = {summary.fingerprint: summary for summary in Store(tmp_path).summaries()}
    assert found[book.folder.name].about["retriever"] == "bm25"
    assert found[book.folder.name].size == book.size()
    assert found[book.folder.name].problem is None
    assert "damaged store of values" in found[broken.folder.name].problem.line()


@pytest.mark.parametrize("process", ["same", "forked"])
def test_a_fork_does_not_share_the_connection(tmp_path, process):
    book = make(tmp_path, "bm25")
    own = keys(scope(b"p"), ["0", "1"])
    assert book.look_up(own).is_found.all()
    child = os.fork() if process == "forked" else -1
    if child == 0:
        book.write(keys(scope(b"p"), ["new"]), np.ones((1, 1)))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child > 0 else 0
    assert code == 0
    assert book.look_up(keys(scope(b"p"), ["new"])).is_found.all() == (process == "forked")
    assert book.verify() == 10 + (process == "forked")
