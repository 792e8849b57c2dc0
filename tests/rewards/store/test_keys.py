"""Keys: equal for equal scope and text, different for anything else."""

from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.rewards.store.keys import KEY_BYTES, fingerprint, joined, keys, scope

PARTS = st.lists(st.binary(max_size=12), max_size=4)


def as_bytes(found):
    return [row.tobytes() for row in found]


@given(PARTS, PARTS)
def test_scopes_are_equal_exactly_where_their_parts_are(first, second):
    assert (scope(*first) == scope(*second)) == (first == second)


@given(st.binary(max_size=8), st.lists(st.text(max_size=8), max_size=6))
def test_a_key_depends_on_its_own_text_alone(part, texts):
    together = as_bytes(keys(scope(part), texts))
    assert together == [as_bytes(keys(scope(part), [text]))[0] for text in texts]
    assert len(set(together)) == len(set(texts))


@given(st.text(max_size=20), st.binary(max_size=8), st.binary(max_size=8))
def test_another_scope_is_another_key(text, first, second):
    assert (as_bytes(keys(scope(first), [text])) == as_bytes(keys(scope(second), [text]))) == (first == second)


def test_keys_of_a_scope_share_their_first_bytes_so_that_they_are_neighbours():
    found = keys(scope(b"one"), map(str, range(50)))
    assert found.shape == (50, KEY_BYTES)
    assert len({row.tobytes()[:3] for row in found}) == 1
    assert found[:, 3:].std() > 60


def test_no_keys_are_an_empty_array():
    assert joined([]).shape == keys(scope(b""), []).shape == (0, KEY_BYTES)


def test_a_description_has_one_name_whatever_the_order_of_its_entries():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
