"""Hostile text: shown, never obeyed."""

import html
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.report.markup import escape, isolated, json_script, tag, visible

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "\u2028\u2029",
    "<!--",
    "]]>",
]


@settings(deadline=None, max_examples=60)
@given(st.text() | st.sampled_from(HOSTILE))
def test_escaped_text_holds_no_markup_and_reads_back_as_what_is_visible(text):
    escaped = escape(text)
    assert not set("<>\"'") & set(escaped)
    assert html.unescape(escaped) == visible(text)


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_data_block_cannot_end_its_script_element_and_keeps_the_data(content):
    block = json_script("data", content)
    inside = block.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert not set("<>&\u2028\u2029") & set(inside)
    assert json.loads(inside) == content


def test_control_and_bidirectional_characters_become_visible():
    assert visible("a\u202eb\u2066c\x1b[31m\x00\ufeff\u200b") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+001B⟩[31m⟨U+0000⟩⟨U+FEFF⟩⟨U+200B⟩"
    assert visible("one\ntwo\tthree") == "one⏎two⇥three"


def test_ordinary_text_of_any_script_stays_as_it_is():
    for text in ("crème brûlée – 15″", "معطف صوف", "羊毛大衣", "👩\u200d🔬 lab coat", "क्\u200dष"):
        assert visible(text) == text


def test_a_joiner_between_latin_letters_is_shown_since_it_hides_a_difference():
    assert visible("wo\u200dol") == "wo⟨U+200D⟩ol"


def test_a_long_field_is_cut_with_a_mark_that_says_how_long_it_was():
    shown = visible("x" * 100_000, 50)
    assert shown == "x" * 50 + " … [cut: 100,000 characters in all]"


def test_attribute_values_are_escaped_and_absent_ones_left_out():
    assert tag("b", "", title='"><i>', class_="x", hidden=None, open=True) == '<b title="&quot;&gt;&lt;i&gt;" class="x" open></b>'


def test_text_of_another_direction_is_isolated():
    assert isolated("<א>") == "<bdi>&lt;א&gt;</bdi>"
