"""An encoder without a model: words and their character n-grams, hashed into 512 places."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ospo_cli.retrievers.dense.vectors import Side, digest, rounded
from ospo_cli.text.words import STANDARD, reader, reading

DIMENSIONS = 512
SIZES = (3, 4, 5)


class HashedNgrams:
    """Sum over distinct words of (1 + ln count) times the word's vector.

    A word's vector has length 1 before collisions: half of its square is the word itself, the other half its n-grams of 3 to 5 characters
    (a space at both ends); each goes to the place and the sign that its CRC-32 says. Two texts are close when they share words, or words
    of like spelling; nothing is learnt from a catalogue.

    Source: Weinberger et al., "Feature hashing for large scale multitask learning" (2009).
    """

    def __init__(self, normalize: bool, folding: str = STANDARD) -> None:
        self.words = reader(folding)
        self.dimensions = DIMENSIONS
        self.normalize = normalize
        self.fingerprint = digest("hashed-ngrams-1", DIMENSIONS, SIZES, normalize, reading(folding))

    def encode(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """Return the vectors; queries and passages are encoded alike."""
        vectors = np.zeros((len(texts), DIMENSIONS))
        for row, text in zip(vectors, texts, strict=True):
            # In the order of the words, so that a sum does not depend on where they stand in the text.
            for word, count in sorted(Counter(self.words(text)).items()):
                places, weights = _word_vector(word)
                row[places] += (1.0 + np.log(count)) * weights
        return rounded(vectors, self.normalize, "encoder hashed-ngrams")


@lru_cache(maxsize=1 << 16)
def _word_vector(word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    padded = f" {word} "
    grams = [padded[start : start + size] for size in SIZES for start in range(len(padded) - size + 1)]
    vector = np.zeros(DIMENSIONS)
    for gram, weight in [(f"word:{word}", np.sqrt(0.5)), *((gram, np.sqrt(0.5 / len(grams))) for gram in grams)]:
        code = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
        vector[code % DIMENSIONS] += weight if code >> 31 else -weight
    places = np.flatnonzero(vector)
    return places, vector[places]
