"""Shards are computed once, and one that is not what was written is computed again."""

import polars as pl
import pytest

from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.tables.declare import Column, Table
from tests.policies.tiny import folder_bytes

NUMBERS = Table("numbers", "", ("n",), (Column("n", pl.Int64, "a number"), Column("text", pl.String, "it in words")))


def shard(number: int) -> Shard:
    return Shard(content_key("shard", number), 1, number)


def mapped(folder, calls, numbers=(1, 2)):
    def work(number):
        calls.append(number)
        return {"numbers": pl.DataFrame({"n": range(200 * number), "text": [f"word {n}" for n in range(200 * number)]})}

    found = ShardFolder(folder).map_shards(work, [shard(number) for number in numbers], {"numbers": NUMBERS}, "test", "shards")
    return [tables["numbers"] for tables in found]


def test_a_finished_shard_is_not_computed_again(tmp_path):
    calls = []
    first = mapped(tmp_path, calls)
    assert [left.equals(right) for left, right in zip(first, mapped(tmp_path, calls), strict=True)] == [True, True]
    assert calls == [1, 2]


def test_every_changed_byte_of_a_shard_is_noticed_said_and_mended(tmp_path, capsys):
    calls = []
    first = mapped(tmp_path, calls, (1,))[0]
    before = folder_bytes(tmp_path)
    noticed = 0
    for name, content in before.items():
        for place in range(0, len(content), max(1, len(content) // 40)):
            (tmp_path / name).write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
            assert mapped(tmp_path, calls, (1,))[0].equals(first)
            assert folder_bytes(tmp_path) == before
            noticed += 1
    assert calls == [1] * (noticed + 1)
    assert noticed > 80
    assert capsys.readouterr().err.count("is not what was written (damaged?): computed again") == noticed


@pytest.mark.parametrize("harm", ["cut", "gone", "another's", "not sealed"])
def test_a_shard_that_is_cut_short_or_exchanged_or_unfinished_is_computed_again(harm, tmp_path):
    calls = []
    mapped(tmp_path, calls)
    one, two = (tmp_path / shard(number).key[:2] / shard(number).key for number in (1, 2))
    table, seal = one / "numbers.parquet", one / "hashes.json"
    {
        "cut": lambda: table.write_bytes(table.read_bytes()[:-1]),
        "gone": table.unlink,
        "another's": lambda: table.write_bytes((two / "numbers.parquet").read_bytes()),
        "not sealed": seal.unlink,
    }[harm]()
    assert [frame.height for frame in mapped(tmp_path, calls)] == [200, 400]
    assert calls == [1, 2, 1]


def test_a_kill_between_the_table_and_its_hashes_is_no_damage(tmp_path, capsys):
    calls = []
    mapped(tmp_path, calls, (1,))
    next(tmp_path.rglob("hashes.json")).unlink()
    capsys.readouterr()
    mapped(tmp_path, calls, (1,))
    assert calls == [1, 1]
    assert "damaged" not in capsys.readouterr().err
