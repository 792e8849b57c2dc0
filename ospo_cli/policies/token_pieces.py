"""Which bytes each token id stands for, by `tokenizers` alone (no torch, no transformers)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from ospo_cli.errors import PolicyError


def byte_of_letter() -> dict[str, int]:
    """Return the letter -> byte table of byte-level BPE (Radford et al., Language Models are Unsupervised Multitask Learners, 2019).

    Printable Latin-1 bytes stand for themselves; the other 68 are moved to the code points from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(moved)}


class TokenPieces:
    """Bytes of each token id; the bytes of a completion's ids in a row spell its text.

    Args:
        tokenizer: a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), a byte-fallback BPE or Unigram (Llama 2, Mistral), or a WordLevel
            whose decoder is plain concatenation.
        where: file named in errors.
    """

    def __init__(self, tokenizer: Tokenizer, where: object = "tokenizer.json") -> None:
        self.tokenizer, self.where = tokenizer, where
        self.added = tokenizer.get_added_tokens_decoder()
        description = json.loads(tokenizer.to_str())
        self.kind = str(description["model"].get("type"))
        self.decoders = _decoder_types(description.get("decoder"))
        if "ByteLevel" in self.decoders:
            self.scheme = "byte-level"
        elif {"ByteFallback", "Replace"} <= set(self.decoders):
            self.scheme = "byte-fallback"
        elif description.get("decoder") is None and self.kind == "WordLevel":
            self.scheme = "plain"
        else:
            raise PolicyError(
                where,
                "tokenizer whose ids cannot be mapped to bytes exactly",
                found=f"{self.kind} with decoder {', '.join(self.decoders) or 'none'}",
                expected="byte-level BPE, byte-fallback BPE or Unigram, or WordLevel without a decoder",
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
            raise PolicyError(
                path, "cannot be read as a tokenizer", found=str(error).splitlines()[0] if str(error) else type(error).__name__
            ) from None
        return cls(tokenizer, path)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

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
            return b"" if added.special else added.content.encode()
        token = self.tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise PolicyError(self.where, "token id outside the vocabulary", found=token_id, expected=f"0 to {self.vocabulary_size - 1}")
        if self.scheme == "byte-level":
            try:
                return bytes(self._bytes[letter] for letter in token)
            except KeyError as error:
                raise PolicyError(self.where, "token is no byte-level text", found=f"{token!r} ({error})") from None
        if self.scheme == "byte-fallback":
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes([int(token[3:5], 16)])
            return token.replace("▁", " ").encode()
        return token.encode()


def _decoder_types(decoder: dict | None) -> list[str]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [name for part in decoder["decoders"] for name in _decoder_types(part)]
    return [str(decoder.get("type"))]
