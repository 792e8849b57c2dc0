"""What a policy folder declares about its tokens: which end an answer, and which ids of the model no tokenizer spells."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import PolicyError
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.tables.files import read_json

CARD = "ospo_policy.json"
KEY = "declared"


@dataclass(frozen=True)
class Declarations:
    """A folder's declarations, as they were read and tried.

    Attributes:
        end_token_ids: all that end an answer; the first is the one that answers are taught to end with.
        unspelled: ids below the model's vocabulary size that the tokenizer has no bytes for: never drawn.
        card: the same and the template's trial, for people, as JSON.
    """

    end_token_ids: tuple[int, ...]
    unspelled: tuple[int, ...]
    card: dict[str, Any]


def read(folder: Path, base: Path, tokenizer: Any, pieces: TokenPieces, vocabulary_size: int, template: Mapping[str, Any]) -> Declarations:
    """Return the declarations of a policy.

    Args:
        folder: the policy's, named in errors.
        base: folder of its configuration: the same, or an adapter's base.
        tokenizer: of transformers, for the end token that it names.
        pieces: of tokenizer.json.
        vocabulary_size: entries of the model's output.
        template: of `chat_template.tried`.

    Raises:
        PolicyError: there is no end token, one is no special token, or the tokenizer has more tokens than the model.
    """
    if tokenizer.eos_token_id is None:
        raise PolicyError(folder, "the tokenizer has no end token", expected="eos_token in tokenizer_config.json")
    known = pieces.spelled_ids
    beyond = sorted(token_id for token_id in known if token_id >= vocabulary_size and pieces.piece(token_id))
    if beyond:
        raise PolicyError(
            folder,
            "the tokenizer has tokens that the model has no entry for",
            found=f"id {beyond[0]} of {len(beyond)}",
            expected=f"ids below vocab_size {vocabulary_size} of config.json",
            remedy="restore the folder: tokenizer and model do not belong together",
        )
    ends = {int(tokenizer.eos_token_id): ["tokenizer_config.json"]}
    for token_id, place in end_ids_of(base):
        ends.setdefault(token_id, [])
        ends[token_id] += [place] * (place not in ends[token_id])
    behind = _first_special(str(template["behind_answer"]), pieces)
    if behind is not None:
        ends.setdefault(behind, []).append("chat template")
    for token_id, places in ends.items():
        _check_end(folder, token_id, places, pieces, vocabulary_size)
    first = behind if behind is not None else int(tokenizer.eos_token_id)
    order = (first, *(token_id for token_id in ends if token_id != first))
    unspelled = tuple(token_id for token_id in range(vocabulary_size) if token_id not in known)
    card = {
        "end_tokens": [{"id": token_id, "token": pieces.added[token_id].content, "declared_in": ends[token_id]} for token_id in order],
        "special_tokens": sum(token.special for token in pieces.added.values()),
        "vocabulary": {"model": vocabulary_size, "tokenizer": len(known), "never_drawn": _ranges(unspelled)},
        "template": {name: value for name, value in template.items() if name != "behind_answer"},
    }
    return Declarations(order, unspelled, card)


def end_ids_of(folder: Path) -> list[tuple[int, str]]:
    """Return (id, file) for every eos_token_id of generation_config.json and config.json.

    Raises:
        PolicyError: a file cannot be read, or declares no whole numbers.
    """
    found = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            declared = read_json(folder / name).get("eos_token_id")
            ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
            if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
                raise PolicyError(
                    folder / name, "eos_token_id is no token id", found=declared, expected="a whole number, or a list of them"
                )
            found += [(token_id, name) for token_id in ids]
    return found


def recorded_end_ids(folder: Path, pieces: TokenPieces) -> frozenset[int]:
    """Return the end tokens that a folder's files name, its card's too; the weights, the template and transformers are not needed."""
    named = [token_id for token_id, _ in end_ids_of(folder)]
    if (folder / CARD).is_file():
        named += [int(token["id"]) for token in read_json(folder / CARD).get(KEY, {}).get("end_tokens", [])]
    if (folder / "tokenizer_config.json").is_file():
        name = read_json(folder / "tokenizer_config.json").get("eos_token")
        content = name.get("content") if isinstance(name, dict) else name
        named += [token_id for token_id, token in pieces.added.items() if token.content == content]
    return frozenset(named)


def _check_end(folder: Path, token_id: int, places: Sequence[str], pieces: TokenPieces, vocabulary_size: int) -> None:
    added = pieces.added.get(token_id)
    if added is not None and added.special and token_id < vocabulary_size:
        return
    if token_id not in pieces.spelled_ids:
        found, remedy = f"{token_id}, which tokenizer.json does not have", "name the id that ends an answer"
    elif token_id >= vocabulary_size:
        found, remedy = f"{token_id}, which the model has no entry for", "restore the folder"
    else:
        found = f"{token_id}, which spells {pieces.text([token_id])!r}"
        remedy = "name another id there, or mark it as special in added_tokens of tokenizer.json"
    raise PolicyError(folder, f"the end token of {' and '.join(places)} is no special token", found=found, remedy=remedy)


def _first_special(text: str, pieces: TokenPieces) -> int | None:
    """Return the special token that the text begins with, blanks left out; the longest of several."""
    text = text.lstrip()
    found = [(len(token.content), token_id) for token_id, token in pieces.added.items() if token.special and text.startswith(token.content)]
    return max(found)[1] if found else None


def _ranges(ids: Iterable[int]) -> list[list[int]]:
    """Return runs of ascending ids as [first, last].

    >>> _ranges([3, 4, 5, 9])
    [[3, 5], [9, 9]]
    """
    runs = [[token_id for _, token_id in run] for _, run in itertools.groupby(enumerate(ids), lambda pair: pair[1] - pair[0])]
    return [[run[0], run[-1]] for run in runs]
