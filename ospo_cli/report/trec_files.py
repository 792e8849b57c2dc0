"""Rankings and judgments as TREC files, for the tools that the field already has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.tables import files


def write(run: pl.DataFrame, qrels: pl.DataFrame, systems: Sequence[str], retrievers: Sequence[str], folder: Path) -> None:
    """Write SYSTEM.RETRIEVER.run for each of them (empty where nothing was retrieved) and qrels.txt; remove other runs.

    Args:
        run: table run.
        qrels: table qrels of the evaluated prompts. Gains that are no whole numbers are written as they are; trec_eval wants whole ones.
        systems: names of the systems.
        retrievers: names of the retrievers.
        folder: where the files go.
    """
    written = set()
    names = {
        identity: trec_id(identity)
        for name in ("prompt_id", "doc_id")
        for frame in (run, qrels)
        for identity in frame[name].unique().to_list()
    }
    ranked = run.sort("system", "retriever", "prompt_id", "rank").partition_by("system", "retriever", as_dict=True)
    for system in systems:
        for retriever in retrievers:
            path = folder / f"{system}.{retriever}.run"
            rows = ranked.get((system, retriever))
            files.write_text(path, "" if rows is None else _run_lines(rows, names, system))
            written.add(path)
    for path in set(folder.glob("*.run")) - written:  # of systems that an earlier evaluation had
        path.unlink()
    judged = qrels.sort("prompt_id", "doc_id").select("prompt_id", "doc_id", "relevance").iter_rows()
    files.write_text(
        folder / "qrels.txt", "".join(f"{names[prompt_id]} 0 {names[doc_id]} {gain:g}\n" for prompt_id, doc_id, gain in judged)
    )


def trec_id(identity: str) -> str:
    """Return the id with white space, unprintable letters and % as %XX, since TREC lines are split at spaces.

    >>> trec_id("shoe 100%")
    'shoe%20100%25'
    """
    return "".join(
        f"%{ord(letter):02X}" if letter.isspace() or letter == "%" or not letter.isprintable() else letter for letter in identity
    )


def _run_lines(rows: pl.DataFrame, names: dict[str, str], system: str) -> str:
    """Return the lines of one run; `rows` by prompt, then rank."""
    prompts, documents, ranks = (rows[name].to_list() for name in ("prompt_id", "doc_id", "rank"))
    # trec_eval sorts by the score in single precision, ties by descending id: steps of one ulp keep our order. Bits of positive
    # floats are ordered as the floats are, so that "below the one before" is a running minimum over bits + place.
    bits = rows["score"].to_numpy().astype(np.float32).view(np.int32).astype(np.int64)
    for start, end in itertools.pairwise([*np.flatnonzero(rows["rank"].to_numpy() == 1), len(bits)]):
        places = np.arange(end - start)
        bits[start:end] = np.minimum.accumulate(bits[start:end] + places) - places
    scores = bits.astype(np.int32).view(np.float32).tolist()
    return "".join(
        f"{names[prompt_id]} Q0 {names[doc_id]} {rank} {score:.9g} {system}\n"
        for prompt_id, doc_id, rank, score in zip(prompts, documents, ranks, scores, strict=True)
    )
