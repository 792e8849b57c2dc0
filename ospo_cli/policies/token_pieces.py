"""Which bytes each token id stands for, by `tokenizers` alone (no torch, no transformers)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ospo_cli.errors import PolicyError, first_line

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def byte_of_letter() -> dict[str, int]:
    """Return the letter -> byte table of byte-level BPE (Radford et al., Language Models are Unsupervised Multitask Learners, 2019).

    Printable Latin-1 bytes stand for themselves; the other 68 are moved to the code points from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(moved)}


class TokenPieces:
    """Bytes of each token id; the bytes of a completion's ids in a row spell its text.

    A token's bytes depend on nothing but its id, so the completion is by definition what the pieces spell. `tokenizer.decode` differs
    where it is lossy: it drops the first blank (Metaspace, WordPiece, suffixes) and mends blanks before punctuation (WordPiece).

    Args:
        tokenizer: one of
            byte-level: BPE over bytes (GPT-2, Llama 3, Qwen, SmolLM);
            metaspace: Unigram or BPE whose ▁ stands for a blank (T5, Llama 2, Mistral), with or without byte fallback;
            wordpiece: a word's first token spells a blank before itself, `##s` spells s (BERT), in the vocabulary's own letters;
            suffix: BPE whose `</w>` spells a blank behind the word;
            plain: pieces as they are (characters, WordLevel), no decoder or Fuse alone.
        where: file named in errors.

    Added tokens spell their content, special ones nothing; metaspace's ▁ is a blank in them too.
    """

    def __init__(self, tokenizer: Tokenizer, where: object = "tokenizer.json") -> None:
        self.tokenizer, self.where = tokenizer, where
        self.added = tokenizer.get_added_tokens_decoder()
        description = json.loads(tokenizer.to_str())
        self.kind = str(description["model"].get("type"))
        parts = _parts(description.get("decoder"), "decoders")
        self.decoders = [str(part.get("type")) for part in parts]
        self.scheme, self.mark = _scheme(self.kind, parts, _parts(description.get("pre_tokenizer"), "pretokenizers"))
        if not self.scheme:
            raise PolicyError(
                where,
                "tokenizer whose ids cannot be mapped to bytes exactly",
                found=f"{self.kind} with decoder {', '.join(self.decoders) or 'none'}",
                expected="decoder ByteLevel, Metaspace, ByteFallback, WordPiece or BPEDecoder, or none where pieces are plain text",
            )

    @classmethod
    def from_file(cls, path: Path) -> TokenPieces:
        """Read `tokenizer.json`; raise PolicyError where it is missing or cannot be read."""
        if not path.is_file():
            raise PolicyError(
                path, "no such file", expected="the policy's tokenizer.json", remedy="restore the policy folder or make it again"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise PolicyError(path, "cannot be read as a tokenizer", found=first_line(error)) from None
        return cls(tokenizer, path)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def spelled_ids(self) -> frozenset[int]:
        """Ids that stand for bytes (special tokens for none): the vocabulary without tokens that no byte-level text can hold."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        if self.scheme == "byte-level" and not set().union(*vocabulary) <= self._bytes.keys():
            letters = self._bytes.keys()
            vocabulary = {token: number for token, number in vocabulary.items() if number in self.added or letters >= set(token)}
        return frozenset(vocabulary.values())

    def pieces(self, token_ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id; special tokens stand for no text.

        Raises:
            PolicyError: an id is not in the vocabulary.
        """
        return [self.piece(token_id) for token_id in token_ids]

    def piece(self, token_id: int) -> bytes:
        """Return the bytes of one id."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(int(token_id))
        return known

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text that the ids spell; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.pieces(token_ids)).decode("utf-8", errors="replace")

    @cached_property
    def _known(self) -> dict[int, bytes]:
        return {}

    @cached_property
    def _bytes(self) -> dict[str, int]:
        return byte_of_letter()

    def _spell(self, token_id: int) -> bytes:
        added = self.added.get(token_id)
        if added is not None:
            if self.scheme == "metaspace":  # runs of blanks are added tokens of Gemma
                return b"" if added.special else added.content.replace(self.mark, " ").encode()
            return b"" if added.special else added.content.encode()
        token = self.tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise PolicyError(self.where, "token id outside the vocabulary", found=token_id, expected=f"0 to {self.vocabulary_size - 1}")
        if self.scheme == "byte-level":
            try:
                return bytes(self._bytes[letter] for letter in token)
            except KeyError as error:
                raise PolicyError(self.where, "token is no byte-level text", found=f"{token!r} ({error})") from None
        if "ByteFallback" in self.decoders and _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        if self.scheme == "metaspace":
            return token.replace(self.mark, " ").encode()
        if self.scheme == "wordpiece":
            return token.removeprefix(self.mark).encode() if token.startswith(self.mark) else f" {token}".encode()
        if self.scheme == "suffix":
            return f"{token.removesuffix(self.mark)} ".encode() if token.endswith(self.mark) else token.encode()
        return token.encode()


def _scheme(kind: str, decoder: list[dict[str, Any]], pre_tokenizer: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the scheme and its mark (what stands for a blank or joins pieces); an empty scheme where there is no exact one."""
    by_type = {str(part.get("type")): part for part in decoder}
    if "ByteLevel" in by_type:
        return "byte-level", ""
    if "Metaspace" in by_type:
        return "metaspace", str(by_type["Metaspace"]["replacement"])
    if "WordPiece" in by_type and by_type["WordPiece"]["prefix"]:
        return "wordpiece", str(by_type["WordPiece"]["prefix"])
    if "BPEDecoder" in by_type and by_type["BPEDecoder"]["suffix"]:
        return "suffix", str(by_type["BPEDecoder"]["suffix"])
    blanks = [str(part["pattern"].get("String")) for part in decoder if part.get("type") == "Replace" and part.get("content") == " "]
    if blanks and set(by_type) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return "metaspace", blanks[0]
    # Letters that stand for bytes or blanks would stay in the text if nothing turned them back.
    hidden = {"ByteLevel", "Metaspace"} & {str(part.get("type")) for part in pre_tokenizer}
    if set(by_type) <= {"Fuse"} and kind != "WordPiece" and not hidden:
        return "plain", ""
    return "", ""


def _parts(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the steps of a decoder or pre-tokenizer, sequences taken apart."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part[name] for step in _parts(inner, name)]
    return [part]
