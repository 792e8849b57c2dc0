"""A policy's chat template: tried when its folder is opened, and rendered around a user's message that stays text."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ospo_cli.errors import PolicyError, first_line, shorten
from ospo_cli.policies import template_trial

# The day that a template with a variable for it is told: equal settings give equal prompts. Llama 3.2's own takes it where it has no clock.
DAY = "26 Jul 2024"
# What queries and product texts hold and a template might take for its own: braces, quotes, markup, backslashes, other scripts.
AWKWARD = "{{ 7 * 7 }} {% raw %} {# 5\" #} <b>&amp;</b> \\n 'it''s' %s $1 café İı 日本語 🧥"
_SYSTEM, _ANSWER = "Keep to the catalogue.", "navy wool coat"
_CHANCE = re.compile(r"\|\s*random\b|\blipsum\b")
# In place of transformers' function of that name, which reads the clock: a template that calls it fails.
_NO_CLOCK = "no clock"


def token_ids(tokenizer: Any, user_message: str) -> list[int]:
    """Return the ids of the template with a user's message, up to where the answer starts.

    Raises:
        PolicyError: the template raises for this message, takes longer than any template should, or does not hold the message.
    """
    try:
        with _deadline(template_trial.SECONDS):
            text = _text(tokenizer, ("user", user_message), add_generation_prompt=True)
    except Exception as error:  # templates raise what they like
        raise _refused(tokenizer, error, f"the user's message {shorten(repr(user_message), 80)}", tokenizer.name_or_path) from None
    if user_message.strip() not in text:
        raise PolicyError(
            tokenizer.name_or_path,
            "the chat template loses or changes the user's message",
            found=repr(text),
            expected=f"{shorten(repr(user_message), 80)} within it",
            remedy="mend the template, or leave the prompt out",
        )
    return [int(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False)]


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so much processor time within: the trial saw other messages. Only the main thread is told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds:g} s of the processor")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the special tokens and their ids: all that a text must not turn into."""
    # Not every added token that is special is one of all_special_tokens (Llama 3's <|eot_id|> is none).
    named = {str(name): int(tokenizer.convert_tokens_to_ids(name)) for name in tokenizer.all_special_tokens}
    added = {token.content: int(token_id) for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return named | added


def as_text(tokenizer: Any, message: str) -> str:
    """Return the message with every special token that it spells broken by a space (a product text may hold `<|im_end|>`).

    Raises:
        PolicyError: one is still there, since the tokenizer reads other letters as those (a normaliser, say).
    """
    control = control_tokens(tokenizer)
    for special in sorted(control, key=len, reverse=True):
        if special in message:
            message = message.replace(special, f"{special[0]} {special[1:]}")
    # The token for unknown words is what unknown words become.
    left = (set(tokenizer.encode(message, add_special_tokens=False)) & set(control.values())) - {tokenizer.unk_token_id}
    if left:
        raise PolicyError(
            f"message {message!r}",
            "becomes a special token of the policy, and cannot be kept text",
            found=", ".join(name for name, token_id in control.items() if token_id in left),
            remedy="leave the prompt out, or change its letters",
        )
    return message


def tried(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return what a trial of the template shows: which messages it takes, and the text that it puts behind an answer.

    Raises:
        PolicyError: it takes more time or memory than any template should, cannot be rendered for a user's message alone, loses or changes
            that message, or asks for the time or for chance.
    """
    named = tokenizer.chat_template
    for template in named.values() if isinstance(named, dict) else [named]:
        if excess := _excess(str(template)):
            raise PolicyError(folder, "the chat template does not come to an end", found=excess, remedy="mend the template")
    if _CHANCE.search(str(tokenizer.chat_template)):
        raise PolicyError(folder, "the chat template draws lots: equal settings would give other prompts", remedy="write it without them")
    try:
        text = _text(tokenizer, ("user", AWKWARD), add_generation_prompt=True)
    except Exception as error:  # templates raise what they like
        raise _refused(tokenizer, error, "a user's message alone", folder) from None
    if AWKWARD not in text:
        raise PolicyError(
            folder,
            "the chat template loses or changes the user's message",
            found=repr(text),
            expected=f"{AWKWARD!r} within it",
            remedy="mend the template",
        )
    behind = _behind(_taken(tokenizer, _ANSWER, ("user", "coat"), ("assistant", _ANSWER))[1], _ANSWER)
    return {
        "system": _taken(tokenizer, _SYSTEM, ("system", _SYSTEM), ("user", "coat"))[0],
        "history": _taken(tokenizer, _ANSWER, ("user", "coat"), ("assistant", _ANSWER), ("user", "boots"))[0],
        "thinking_switch": "enable_thinking" in str(tokenizer.chat_template),
        "behind_answer": behind,
    }


@cache
def _excess(template: str) -> str:
    """Return what a trial in another process takes too much of; empty where it comes to an end.

    Raises:
        PolicyError: there was no trial.
    """
    turns = {"user": AWKWARD, "assistant": _ANSWER, "system": _SYSTEM}
    orders = (("user",), ("user", "assistant"), ("system", "user"), ("user", "assistant", "user"))
    conversations = [[{"role": role, "content": turns[role]} for role in roles] for roles in orders]
    further = {"date_string": DAY, "strftime_now": _NO_CLOCK}
    given = {"template": template, "conversations": conversations, "further": further, "seconds": template_trial.SECONDS}
    program = [sys.executable, "-I", template_trial.__file__]
    try:
        status = subprocess.run(program, input=json.dumps(given), capture_output=True, text=True, check=False)
    except OSError as error:
        raise _untried(error.strerror) from None
    if "memory" in status.stderr or "MemoryError" in status.stderr:
        return f"more than {template_trial.BYTES >> 20} MiB"
    if status.returncode > 0:
        raise _untried((status.stderr.strip().splitlines() or [f"exit status {status.returncode}"])[-1])
    return f"more than {template_trial.SECONDS} s of the processor" if status.returncode else ""


def _untried(why: object) -> PolicyError:
    return PolicyError(
        f"{sys.executable} -I {template_trial.__file__}",
        "the chat template cannot be tried in a process of its own, and is not used untried",
        found=why,
        remedy="mend what keeps that command from running",
    )


def _refused(tokenizer: Any, error: Exception, what: str, folder: object) -> PolicyError:
    if "strftime_now" in str(tokenizer.chat_template) and isinstance(error, TypeError) and "not callable" in str(error):
        return PolicyError(
            folder,
            "the chat template reads the clock: equal settings would give other prompts tomorrow",
            found="strftime_now",
            remedy="write a fixed date in its place, in chat_template.jinja or tokenizer_config.json",
        )
    return PolicyError(folder, f"the chat template cannot be rendered for {what}", found=first_line(error), remedy="mend the template")


def _taken(tokenizer: Any, wanted: str, *turns: tuple[str, str]) -> tuple[str, str]:
    """Return (taken, left out or refused: why; the rendered text)."""
    try:
        text = _text(tokenizer, *turns)
    except Exception as error:  # templates raise what they like
        return f"refused: {shorten(first_line(error), 200)}", ""
    return ("taken" if wanted in text else "left out"), text


def _behind(text: str, answer: str) -> str:
    return text.rpartition(answer)[2] if answer in text else ""


def _text(tokenizer: Any, *turns: tuple[str, str], add_generation_prompt: bool = False) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    further = {"date_string": DAY, "strftime_now": _NO_CLOCK, "add_generation_prompt": add_generation_prompt}
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **further))
