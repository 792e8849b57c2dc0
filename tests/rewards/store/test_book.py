"""A book gives back what was written, to several processes, through kills; and never a value that is not what was written."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import StoreError
from ospo_cli.rewards.store import book as books
from ospo_cli.rewards.store.book import Book
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.store.keys import keys, scope

ABOUT = {"retriever": "fake", "parts": ["ndcg@10", "mrr"], "ranks": 3}
SMALL = {"retriever": "fake", "parts": ["value"]}
ROOT = Path(__file__).parents[3]


def entries(texts, seed=0):
    rng = np.random.default_rng(seed)
    return keys(scope(b"prompt"), texts), rng.random((len(texts), 2)), rng.integers(-1, 1000, size=(len(texts), 3))


def filled(path, count=500):
    book = Store(path).book(ABOUT)
    own, parts, products = entries([f"text {number}" for number in range(count)])
    book.write(own, parts, products)
    book.close()
    return book, own, parts, products


@settings(max_examples=25)
@given(
    st.dictionaries(st.text(max_size=9), st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1)), max_size=40),
    st.data(),
)
def test_what_was_written_is_found_bit_for_bit_and_nothing_else_is(tmp_path_factory, values, data):
    book = Store(tmp_path_factory.mktemp("store")).book(ABOUT)
    texts = list(values)
    products = np.arange(3 * len(texts)).reshape(-1, 3)
    book.write(keys(scope(b"p"), texts), np.array(list(values.values())).reshape(-1, 2), products)
    asked = data.draw(st.lists(st.one_of(st.text(max_size=9), *([st.sampled_from(texts)] if texts else [])), max_size=60))
    found = book.look_up(keys(scope(b"p"), asked))
    assert found.is_found.tolist() == [text in values for text in asked]
    wanted = np.array([values.get(text, (0.0, 0.0)) for text in asked]).reshape(-1, 2)
    assert found.parts.tobytes() == wanted.tobytes()
    assert found.products.tolist() == [products[texts.index(text)].tolist() if text in values else [-1] * 3 for text in asked]
    assert not book.look_up(keys(scope(b"another"), asked)).is_found.any()
    assert book.count() == book.verify() == len(values)


def test_an_entry_that_is_there_stays_as_it_is(tmp_path):
    book, own, parts, products = filled(tmp_path)
    book.write(own, parts + 1.0, products)
    assert book.look_up(own).parts.tobytes() == parts.tobytes()


def test_another_process_finds_what_was_written(tmp_path):
    _, own, parts, products = filled(tmp_path)
    found = Store(tmp_path).book(ABOUT).look_up(own)
    assert (found.parts.tobytes(), found.products.tolist()) == (parts.tobytes(), products.tolist())


def test_two_texts_with_the_same_row_number_are_told_apart(tmp_path):
    book, own, _, _ = filled(tmp_path)
    twin = own[:1].copy()
    twin[0, 15] ^= 1
    assert not book.look_up(twin).is_found.any()
    book.write(twin, np.zeros((1, 2)), np.zeros((1, 3), dtype=np.int64))
    assert not book.look_up(twin).is_found.any()
    assert book.look_up(own[:1]).is_found.all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(tmp_path, value):
    book = Store(tmp_path).book(ABOUT)
    own, parts, products = entries(["a", "b"])
    parts[1, 1] = value
    with pytest.raises(StoreError, match="not a finite number"):
        book.write(own, parts, products)
    assert book.count() == 0


def test_all_entries_can_be_read_in_parts(tmp_path, monkeypatch):
    book, own, parts, _ = filled(tmp_path)
    monkeypatch.setattr(books, "SCAN_ROWS", 64)
    read = [(key.tobytes(), row.tobytes()) for some, found in book.entries() for key, row in zip(some, found.parts, strict=True)]
    assert sorted(read) == sorted((key.tobytes(), row.tobytes()) for key, row in zip(own, parts, strict=True))


def cut(path, content):
    path.write_bytes(content[: len(content) // 2])


def cut_inside_a_page(path, content):
    path.write_bytes(content[:5000])


def emptied(path, content):
    path.write_bytes(b"")


def no_sqlite(path, content):
    path.write_text("prompt_id,value\n" * 100)


def zeros(path, content):
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def of_another_program(path, content):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, record BLOB)")


def removed(path, content):
    path.unlink()


def without_its_table(path, content):
    changed(path, "DROP TABLE entries")


def changed(path, statement):
    """Change the file itself: what stays in the write-ahead log would be moved into it at some later moment."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def of_another_reward(path, content):
    changed(path, """UPDATE about SET description = '{"parts": ["mrr", "ap"], "ranks": 3, "retriever": "fake"}'""")


def of_records_of_another_size(path, content):
    changed(path, "UPDATE entries SET record = record || x'00'")


DAMAGE = [
    cut, cut_inside_a_page, emptied, no_sqlite, zeros, of_another_program, removed, without_its_table, of_another_reward,
    of_records_of_another_size,
]  # fmt: skip


def written_and_verified(book, own, parts, products):
    book.write(own, parts, products)  # what is written beside the damage does not hide it
    book.verify()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_error_with_a_remedy_and_stays_as_it_is(tmp_path, damage):
    book, own, parts, products = filled(tmp_path)
    damage(book.path, book.path.read_bytes())
    before = {path.name: path.read_bytes() for path in book.folder.iterdir() if path.name == books.FILE_NAME}
    for work in (Book.look_up, Book.verify, lambda again, _: written_and_verified(again, own, parts, products)):
        again = Store(tmp_path).book(ABOUT)
        arguments = (own,) if work is not Book.verify else ()
        with pytest.raises(StoreError, match=r"values\.sqlite: damaged store of values: found .*; delete its folder") as caught:
            work(again, *arguments)
        assert "\n" not in caught.value.line()
        again.close()
    assert {path.name: path.read_bytes() for path in book.folder.iterdir() if path.name == books.FILE_NAME} == before


def test_every_flipped_bit_of_an_entry_is_noticed(tmp_path):
    book, own = Store(tmp_path).book(SMALL), keys(scope(b"prompt"), ["coat"])
    book.write(own, np.array([[0.5]]))
    book.close()
    with sqlite3.connect(book.path) as connection:
        number, record = connection.execute("SELECT number, record FROM entries").fetchone()
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        with sqlite3.connect(book.path) as connection:
            connection.execute("UPDATE entries SET record = ? WHERE number = ?", (bytes(flipped), number))
        connection.close()
        with pytest.raises(StoreError, match=f"wrong checksum of entry {number}"):
            Store(tmp_path).book(SMALL).look_up(own)


def test_an_entry_under_another_row_number_is_noticed(tmp_path):
    book, _, _, _ = filled(tmp_path, 3)
    with sqlite3.connect(book.path) as connection:
        connection.execute("UPDATE entries SET number = number + 1 WHERE number = (SELECT min(number) FROM entries)")
    connection.close()
    with pytest.raises(StoreError, match="wrong checksum"):
        Book.at(book.folder).verify()


def test_random_garbage_in_the_file_never_gives_a_wrong_value(tmp_path):
    book, own, parts, _ = filled(tmp_path, 2000)
    content, rng, noticed = book.path.read_bytes(), np.random.default_rng(3), 0
    for _ in range(60):
        broken = bytearray(content)
        start = int(rng.integers(100, len(content) - 64))
        broken[start : start + 64] = rng.bytes(64)
        book.path.write_bytes(broken)
        again = Store(tmp_path).book(ABOUT)
        try:
            found = again.look_up(own)
            assert found.parts[found.is_found].tobytes() == parts[found.is_found].tobytes()
        except StoreError:
            noticed += 1
        again.close()
        for left in book.folder.glob("*-*"):
            left.unlink()
    assert noticed > 20


def test_a_store_of_another_version_is_refused_with_both_versions(tmp_path):
    book, own, _, _ = filled(tmp_path)
    with sqlite3.connect(book.path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with sqlite3.connect(book.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with pytest.raises(
        StoreError, match=r"of another version: found 7, expected 1; use the ospo that wrote it, name another folder by OSPO_STORE"
    ):
        Store(tmp_path).book(ABOUT).look_up(own)


def test_a_file_where_the_store_should_be_is_named(tmp_path):
    (tmp_path / "store").write_text("x")
    with pytest.raises(StoreError, match="store: is no folder"):
        Store(tmp_path / "store").book(ABOUT)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "file" / "store").book(ABOUT).look_up(entries(["a"])[0])


def test_the_folder_may_be_deleted_while_it_is_in_use(tmp_path):
    book, own, parts, products = filled(tmp_path)
    assert book.look_up(own).is_found.all()
    shutil.rmtree(tmp_path)
    assert not book.look_up(own).is_found.any()
    book.write(own[:5], parts[:5], products[:5])
    shutil.rmtree(book.folder)
    book.write(own[5:9], parts[5:9], products[5:9])
    assert book.look_up(own).is_found.sum() == Book.at(book.folder).verify() == 4


def test_a_book_that_is_made_anew_by_another_while_it_is_in_use_is_the_one_that_counts(tmp_path):
    book, own, parts, products = filled(tmp_path)
    book.look_up(own)
    shutil.rmtree(tmp_path)
    other = Store(tmp_path).book(ABOUT)
    other.write(own[:3], parts[:3], products[:3])
    assert book.look_up(own).is_found.sum() == 3
    book.write(own[3:8], parts[3:8], products[3:8])
    assert other.look_up(own).is_found.sum() == 8


WRITER = """
import os, sys
from pathlib import Path
import numpy as np
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.store.keys import keys, scope
root, name, batches = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
book = Store(root / "store").book({"retriever": "fake", "parts": ["value"]})
log = os.open(root / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for batch in range(batches):
    # Half of the texts are written by everybody, half by this process alone.
    texts = [f"{'all' if number % 2 else name} {batch} {number}" for number in range(40)]
    own = keys(scope(b"prompt"), texts)
    book.write(own, own[:, 15:].astype(np.float64))
    os.write(log, f"{batch}\\n".encode())
"""


def expected(name, batch):
    return keys(scope(b"prompt"), [f"{'all' if number % 2 else name} {batch} {number}" for number in range(40)])


def assert_whole(root, names):
    book = Store(root / "store").book(SMALL)
    done = 0
    for name in names:
        log = root / f"{name}.log"
        for batch in map(int, log.read_text().split()) if log.exists() else ():
            own = expected(name, batch)
            found = book.look_up(own)
            assert found.is_found.all()
            assert found.parts[:, 0].tolist() == own[:, 15].tolist()
            done += 1
    for own, found in book.entries():
        assert found.parts[:, 0].tolist() == own[:, 15].tolist()
    assert book.verify() % 20 == 0  # half of a batch is everybody's: no batch is there in part
    book.close()
    return done


def start(root, name, batches):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), name, str(batches)], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    names = ["first", "second", "third"]
    running = [start(tmp_path, name, 60) for name in names]
    assert [process.wait() for process in running] == [0, 0, 0], [process.stderr.read() for process in running]
    assert assert_whole(tmp_path, names) == 180
    assert Store(tmp_path / "store").book(SMALL).count() == 60 * (3 * 20 + 20)


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_no_committed_batch_and_leaves_none_in_part(tmp_path, kills):
    rng, done = np.random.default_rng(11), 0
    for kill in range(kills):
        names = [f"{kill}-{writer}" for writer in range(2)]
        running = [start(tmp_path, name, 100_000) for name in names]
        while not all((tmp_path / f"{name}.log").exists() for name in names):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        for process in running:
            process.kill()
            assert process.wait() == -signal.SIGKILL
        done += assert_whole(tmp_path, names)
    assert done > kills
