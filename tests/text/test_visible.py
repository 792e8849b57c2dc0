"""Hostile text becomes visible; ordinary text stays as it is."""

from ospo_cli.text.visible import visible


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
