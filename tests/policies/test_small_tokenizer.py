"""The small policy's tokenizer without transformers: the same ids, and any other tokenizer is left to transformers."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ospo_cli.policies import small_tokenizer
from ospo_cli.policies.folder import load_tokenizer

PIECES = st.sampled_from(["<|im_start|>", "<|im_end|>", "<answer>", "</think>", "red", " wool", "\n", "{{ 1 }}", "ß", "羊毛", "\x00", " "])
MESSAGES = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=8).map("".join)


@pytest.fixture(scope="module")
def pair(tiny_folder):
    return load_tokenizer(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=MESSAGES, opens=st.booleans())
def test_ids_of_prompts_and_texts_are_those_of_transformers(pair, message, opens):
    own, theirs = pair
    messages = [{"role": "user", "content": message}, {"role": "assistant", "content": message[:3]}]
    for turns, is_text in ((1, False), (1, True), (2, True)):
        asked = {"add_generation_prompt": opens, "tokenize": not is_text, "return_dict": False, "date_string": "26 Jul 2024"}
        assert own.apply_chat_template(messages[:turns], **asked) == theirs.apply_chat_template(messages[:turns], **asked)
    for splits in (True, False):
        asked = {"add_special_tokens": False, "split_special_tokens": splits}
        assert own.encode(message, **asked) == theirs.encode(message, **asked)


def test_its_special_tokens_are_those_of_transformers(pair):
    own, theirs = pair
    assert isinstance(own, small_tokenizer.SmallTokenizer)
    assert own.unk_token_id is theirs.unk_token_id is None
    assert [own.convert_tokens_to_ids(name) for name in ("<answer>", "red")] == [
        theirs.convert_tokens_to_ids(name) for name in ("<answer>", "red")
    ]
    assert (own.eos_token_id, own.pad_token_id, len(own)) == (theirs.eos_token_id, theirs.pad_token_id, len(theirs))
    assert set(own.all_special_tokens) == set(theirs.all_special_tokens)
    assert own.chat_template == theirs.chat_template
    found = [{number: (token.content, token.special) for number, token in each.added_tokens_decoder.items()} for each in pair]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"}),
        ("tokenizer_config.json", {"eos_token": "<answer>"}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<answer>"]}),
        ("tokenizer.json", {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}}),
    ],
)
def test_a_tokenizer_with_another_setting_is_left_to_transformers(tiny_folder, tmp_path, file, change):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert small_tokenizer.read(copy) is not None
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert small_tokenizer.read(copy) is None


def test_a_tokenizer_with_another_template_or_broken_files_is_left_to_transformers(tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(small_tokenizer.CHAT_TEMPLATE + "\n", encoding="utf-8")
    assert small_tokenizer.read(copy) is None
    (copy / "chat_template.jinja").write_text(small_tokenizer.CHAT_TEMPLATE, encoding="utf-8")
    (copy / "tokenizer.json").write_text("{", encoding="utf-8")
    assert small_tokenizer.read(copy) is None
