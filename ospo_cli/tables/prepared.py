"""The data set, as stage prepare-data writes it."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

PREPARED = Place("ospo prepare-data", "prepared")
DOCUMENTS = Table(
    "documents",
    "the catalogue; every further String column is a text field that retrievers may index",
    ("doc_id",),
    (
        Column("doc_id", pl.String, "identity of the product"),
        Column("title", pl.String, "name of the product"),
        Column("category", pl.String, "category, for the pools' same-category negatives; empty where there is none"),
    ),
    extra=pl.String,
    place=PREPARED,
)
PROMPTS = Table(
    "prompts",
    "what the policy is asked",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("split", pl.String, "train, dev or test"),
        Column("query", pl.String, "what the user typed"),
        Column("history", pl.List(pl.String), "titles of past purchases, oldest first; empty where there are none"),
        Column("prompt", pl.String, "the user message given to the policy's chat template"),
    ),
    place=PREPARED,
)
QRELS = Table(
    "qrels",
    "judgments",
    ("prompt_id", "doc_id"),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("doc_id", pl.String, "identity of the product"),
        Column("relevance", pl.Float64, "gain, ≥ 0"),
    ),
    place=PREPARED,
)
POOLS = Table(
    "pools",
    "candidates of each prompt; no rows at all: every prompt ranks the whole catalogue",
    ("prompt_id", "doc_id"),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("doc_id", pl.String, "identity of the candidate"),
    ),
    place=PREPARED,
)
TEACHER_PAIRS = Table(
    "teacher_pairs",
    "completions that warm-start imitates",
    ("prompt_id", "pair_index"),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("pair_index", pl.Int32, "from 0 within a prompt"),
        Column("completion", pl.String, "full completion text with its tags, without the end token"),
    ),
    place=PREPARED,
)
