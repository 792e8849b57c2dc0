import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ospo_cli.errors import PolicyError
from ospo_cli.policies.small_llama import END, START, train_tokenizer
from ospo_cli.policies.token_pieces import TokenPieces, byte_of_letter
from tests.policies.tiny import TEXTS

NASTY = [
    "navy wool coat",
    " two  spaces\n\ttab",
    "naïve café 北京 🧥👨‍👩‍👧",
    "‮right-to-left‬",
    "<answer>Ünïcode</answer>",
    "\x00\x07\x1b[31m",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.mark.parametrize("text", NASTY)
def test_the_bytes_of_a_texts_tokens_spell_the_text(tokenizer, text):
    pieces = TokenPieces(tokenizer.backend_tokenizer)
    assert b"".join(pieces.pieces(tokenizer.encode(text, add_special_tokens=False))).decode() == text


def test_every_byte_has_one_letter():
    assert sorted(byte_of_letter().values()) == list(range(256))


def test_special_tokens_stand_for_no_text(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(START), *tokenizer.encode("coat"), tokenizer.convert_tokens_to_ids(END)]
    assert TokenPieces(tokenizer.backend_tokenizer).text(ids) == "coat"


def test_answer_tags_are_one_token_each_and_stay_in_the_text(tokenizer):
    ids = tokenizer.encode("<answer>coat</answer>", add_special_tokens=False)
    pieces = TokenPieces(tokenizer.backend_tokenizer).pieces(ids)
    assert (pieces[0], pieces[-1]) == (b"<answer>", b"</answer>")


def test_half_a_character_becomes_a_replacement_character_in_the_text_but_not_in_the_bytes(tokenizer):
    pieces = TokenPieces(tokenizer.backend_tokenizer)
    letters = {byte: letter for letter, byte in byte_of_letter().items()}
    first_byte_of_e_acute = tokenizer.convert_tokens_to_ids(letters[0xC3])
    assert pieces.pieces([first_byte_of_e_acute]) == [b"\xc3"]
    assert pieces.text([first_byte_of_e_acute]) == "�"


def test_pieces_read_from_a_file_are_those_of_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    pieces = TokenPieces.from_file(tmp_path / "tokenizer.json")
    assert [pieces.piece(i) for i in range(len(tokenizer))] == [
        TokenPieces(tokenizer.backend_tokenizer).piece(i) for i in range(len(tokenizer))
    ]


def test_byte_fallback_tokens_spell_bytes_and_spaces():
    vocabulary = {"<unk>": 0, "▁navy": 1, "<0xC3>": 2, "<0xA9>": 3}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert TokenPieces(raw).text([1, 2, 3]) == " navyé"


def test_a_plain_word_level_tokenizer_is_exact():
    raw = Tokenizer(models.WordLevel({"navy": 0, " ": 1, "coat": 2}, unk_token="navy"))
    assert TokenPieces(raw).text([0, 1, 2]) == "navy coat"


def test_word_pieces_spell_a_blank_before_each_word_and_none_before_its_continuation():
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "coat": 1, "##s": 2, ",": 3}, unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    assert TokenPieces(raw).text([1, 2, 3, 1]) == " coats , coat"
    assert TokenPieces(raw).pieces([1, 2]) == [b" coat", b"s"]


def test_a_byte_token_is_a_byte_only_where_the_decoder_has_byte_fallback():
    raw = Tokenizer(models.BPE({"<unk>": 0, "<0xC3>": 1}, [], unk_token="<unk>"))
    raw.decoder = decoders.Metaspace()
    assert TokenPieces(raw).pieces([1]) == [b"<0xC3>"]


@pytest.mark.parametrize(
    ("kind", "pre_tokenizer", "decoder"),
    [
        ("BPE", None, decoders.CTC()),
        ("WordPiece", None, None),
        ("WordLevel", None, decoders.Sequence([decoders.Replace("a", "b"), decoders.Fuse()])),
        ("WordLevel", pre_tokenizers.ByteLevel(), None),
        ("WordLevel", pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Metaspace()]), decoders.Fuse()),
    ],
)
def test_a_tokenizer_that_cannot_be_mapped_exactly_is_refused(kind, pre_tokenizer, decoder):
    vocabulary = {"[UNK]": 0, "coat": 1}
    made = {
        "BPE": models.BPE(vocabulary, [], unk_token="[UNK]"),
        "WordPiece": models.WordPiece(vocabulary, unk_token="[UNK]"),
        "WordLevel": models.WordLevel(vocabulary, unk_token="[UNK]"),
    }
    raw = Tokenizer(made[kind])
    raw.pre_tokenizer, raw.decoder = pre_tokenizer, decoder
    with pytest.raises(PolicyError, match=f"cannot be mapped to bytes exactly: found {kind} with decoder"):
        TokenPieces(raw)


@pytest.mark.parametrize("token_id", [-1, 100_000])
def test_an_id_outside_the_vocabulary_is_an_error(tokenizer, token_id):
    with pytest.raises(PolicyError, match="outside the vocabulary"):
        TokenPieces(tokenizer.backend_tokenizer).pieces([token_id])


def test_a_missing_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(PolicyError, match="no such file"):
        TokenPieces.from_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(PolicyError, match="cannot be read as a tokenizer"):
        TokenPieces.from_file(tmp_path / "tokenizer.json")
