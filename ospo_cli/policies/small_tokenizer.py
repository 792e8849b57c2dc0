"""The tokenizer that `small_llama` writes, read without transformers: one byte-level BPE and one chat template, known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ospo_cli.tables.files import read_json

START, END = "<|im_start|>", "<|im_end|>"
# One start and one end per message and no role names: prompts of a small policy are short, and every token costs time.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '" + START + "' + message['content'] + '" + END + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + START + "' }}{% endif %}"
)
_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_KNOWN = {"backend", "bos_token", "eos_token", "model_max_length", "pad_token", "tokenizer_class"}


class SmallTokenizer:
    """What the policies' code asks of a transformers tokenizer, under its names; ids are the same."""

    chat_template = CHAT_TEMPLATE
    all_special_tokens = (START, END)
    unk_token_id = None

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self.tokenizer, self.name_or_path = tokenizer, str(folder)
        self.added_tokens_decoder = tokenizer.get_added_tokens_decoder()
        self.eos_token_id = int(tokenizer.token_to_id(END) or 0)
        self.pad_token_id = self.eos_token_id

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False) -> list[int]:
        """Return the token ids of a text; with `split_special_tokens` a special token that it spells is text like any other."""
        self.tokenizer.encode_special_tokens = split_special_tokens
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return a token's id; None where there is none."""
        found: int | None = self.tokenizer.token_to_id(token)
        return found

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, tokenize: bool = True, add_generation_prompt: bool = False, **_: Any
    ) -> list[int] | str:
        """Return the messages as token ids or as text; other arguments, which no part of the template reads, are taken and left."""
        text = "".join(f"{START}{message['content']}{END}" for message in messages) + START * add_generation_prompt
        return self.encode(text, add_special_tokens=False) if tokenize else text


def read(folder: Path) -> SmallTokenizer | None:
    """Return the tokenizer of a policy folder that `small_llama` made or that was trained from it; None for any other."""
    try:
        config = read_json(folder / "tokenizer_config.json")
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers raises bare Exceptions; transformers says what is wrong
        return None
    tokens = [config.get(name) for name in ("bos_token", "eos_token", "pad_token")]
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    is_own = template == CHAT_TEMPLATE and tokens == [START, END, END] and special == {START, END}
    if not is_own or not set(config) <= _KNOWN or config.get("tokenizer_class") not in _CLASSES:
        return None
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        return None
    return SmallTokenizer(tokenizer, folder)
