"""A folder's chat template: tried when the folder is opened, and a message stays text within it."""

import dataclasses
import json
import shutil
import signal

import pytest
from tokenizers import AddedToken

from ospo_cli.errors import PolicyError
from ospo_cli.policies import chat_template, template_trial
from ospo_cli.policies.folder import load_tokenizer, render_prompt
from ospo_cli.policies.opening import read_policy
from ospo_cli.policies.small_tokenizer import CHAT_TEMPLATE


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "policy")


def set_template(folder, text):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": text}))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('System role is required') }}", "cannot be rendered.*System role is required"),
        ("{% for message in messages %}", "cannot be rendered"),
        ("{{ strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}", "reads the clock.*strftime_now"),
        ("{{ date_string }}{{ strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}", "reads the clock.*strftime_now"),
        ("{{ ['a', 'b'] | random }}{{ messages[0]['content'] }}", "draws lots"),
        ("{{ messages[0]['content'] | e }}", "loses or changes the user's message"),
        ("<|im_start|>Good day.<|im_end|>", "loses or changes the user's message"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_when_the_folder_is_opened(folder, template, message):
    set_template(folder, template)
    with pytest.raises(PolicyError, match=message):
        read_policy(folder)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0]['content'] }}", "more than 1 s of the processor"),
        ("{% if messages | length > 2 %}{{ (9 ** (9 ** 9)) % 2 }}{% endif %}{{ messages[0]['content'] }}", "more than 1 s of the processor"),
        ("{{ messages | tojson(indent=2) }}{{ 'a' * 10 ** 10 }}{{ messages[0]['content'] }}", "more than 1024 MiB"),
        ("{% generation %}{% set n = namespace(t='aa') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}{% endgeneration %}", "more than 1024 MiB"),
    ],
)  # fmt: skip
def test_a_template_that_takes_time_or_memory_without_bound_is_refused(folder, template, found, monkeypatch):
    monkeypatch.setattr(template_trial, "SECONDS", 1 if "processor" in found else 60)
    set_template(folder, template)
    with pytest.raises(PolicyError, match=f"the chat template does not come to an end: found {found}; mend the template"):
        read_policy(folder)


@pytest.mark.parametrize(
    ("program", "found"),
    [("/nowhere/python", "No such file or directory"), ("/bin/false", "exit status 1")],
)
def test_a_template_whose_trial_cannot_run_does_not_pass_untried(folder, program, found, monkeypatch):
    set_template(folder, CHAT_TEMPLATE + "{# tried by nobody #}")
    monkeypatch.setattr(chat_template.sys, "executable", program)
    with pytest.raises(PolicyError, match=f"cannot be tried in a process of its own, and is not used untried: found {found}"):
        read_policy(folder)


def test_a_template_that_hangs_at_one_query_alone_is_ended_there(folder, monkeypatch):
    hangs = (
        "{% if 'boots' in messages[0]['content'] %}{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    set_template(folder, hangs + CHAT_TEMPLATE)
    policy = read_policy(folder)
    monkeypatch.setattr(template_trial, "SECONDS", 0.5)
    assert render_prompt(policy, "coat")
    with pytest.raises(
        PolicyError, match=r"cannot be rendered for the user's message 'red boots': found more than 0\.5 s of the processor"
    ):
        render_prompt(policy, "red boots")
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert render_prompt(policy, "coat")


@pytest.mark.parametrize(
    ("change", "query"),
    [("replace('coat', 'hat')", "red coat"), ("split('</think>')[-1]", "red </think> coat"), ("[:100]", "coat " * 30)],
)
def test_a_message_that_the_template_changes_is_refused_at_its_own_query(folder, change, query):
    changed = f"{{{{ (messages[0]['content']{'' if change[0] == '[' else '.'}{change}) }}}}"
    set_template(folder, f"<|im_start|>{changed}<|im_end|>")
    policy = read_policy(folder)
    assert render_prompt(policy, " red boots ")
    with pytest.raises(PolicyError, match=r"the chat template loses or changes the user's message: found '<\|im_start\|>"):
        render_prompt(policy, query)


def test_a_template_whose_day_can_be_given_is_given_a_fixed_one(folder):
    set_template(
        folder, "{% if date_string is defined %}{{ date_string }}{% else %}{{ strftime_now('%d') }}{% endif %}{{ messages[0]['content'] }}"
    )
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "user", "content": "coat"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, date_string="26 Jul 2024")
    assert render_prompt(dataclasses.make_dataclass("Policy", ["tokenizer"])(tokenizer), "coat") == expected


def test_every_special_token_that_a_message_spells_stays_text(tiny_policy, folder):
    set_template(folder, CHAT_TEMPLATE + " ")  # of another template, so that transformers reads it
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True)])
    policy = dataclasses.replace(tiny_policy, tokenizer=tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") not in render_prompt(policy, "red <|eot_id|> coat")
