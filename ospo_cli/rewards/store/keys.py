"""What a value hangs on, as 16 bytes: one hash of the scope (reward, pool, judgments) and of the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
# So many bytes of a key tell the scope alone: keys of one prompt are neighbours in the file, which is what makes look-ups fast.
SCOPE_BYTES = 3

Keys = NDArray[np.uint8]


def scope(*parts: bytes) -> bytes:
    """Return the BLAKE2b (16 bytes) of parts, each with its length: where one ends and the next begins is part of it."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def keys(own_scope: bytes, texts: Iterable[str]) -> Keys:
    """Return uint8[texts, 16]: the first bytes are the scope's, the others a BLAKE2b of the text, keyed by the scope.

    >>> keys(scope(b"reward"), ["coat", "coat", "boot"]).tolist()[0] == keys(scope(b"reward"), ["coat"]).tolist()[0]
    True
    """
    start, prefix, found = hashlib.blake2b(key=own_scope, digest_size=KEY_BYTES - SCOPE_BYTES), own_scope[:SCOPE_BYTES], []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        found.append(prefix + digest.digest())
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, KEY_BYTES)


def fingerprint(about: dict[str, object]) -> str:
    """Return the BLAKE2b (32 hex digits) of a description: a book's name."""
    return hashlib.blake2b(json.dumps(about, sort_keys=True, ensure_ascii=True).encode(), digest_size=KEY_BYTES).hexdigest()


def joined(parts: Sequence[Keys]) -> Keys:
    """Return the rows of several arrays of keys, one after another."""
    return np.concatenate(parts) if parts else np.zeros((0, KEY_BYTES), dtype=np.uint8)
