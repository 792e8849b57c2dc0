"""Every table: its name, key, columns with type and meaning. The only place that says what a table holds."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ospo_cli.errors import OspoError


@dataclass(frozen=True)
class Column:
    """One column: polars type, meaning (axis, unit, index origin) and whether null is allowed."""

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: unique key, declared columns, and the type of further columns where these are allowed."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    extra: pl.DataType | type[pl.DataType] | None = None
    extra_meaning: str = "a text field"

    @property
    def schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """Return column name -> polars type, in declared order."""
        return {column.name: column.dtype for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """Return a frame of no rows with the declared columns."""
        return pl.DataFrame(schema=self.schema)


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
)
POOLS = Table(
    "pools",
    "candidates of each prompt; no rows at all: every prompt ranks the whole catalogue",
    ("prompt_id", "doc_id"),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("doc_id", pl.String, "identity of the candidate"),
    ),
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
)
RAW_QUERY_VALUES = Table(
    "raw_query_values",
    "value of each user query by itself under the reward's retriever",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "retrieval reward of the raw query, 0 to 1"),
    ),
)
ROLLOUTS = Table(
    "rollouts",
    "sampled completions; no reward, so that a change of reward never samples again",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "iteration:prompt_id:sample_index, unique over all iterations"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0 within a rollout group"),
        Column("prompt_token_ids", pl.List(pl.Int32), "token ids that the policy was given"),
        Column("completion", pl.String, "text of token_ids without the end token"),
        Column("token_ids", pl.List(pl.Int32), "sampled token ids, end token included where it was sampled"),
        Column(
            "behavior_logprobs",
            pl.List(pl.Float32),
            "natural log-probability of each sampled token under the sampling policy at rollout.temperature, no token cut off",
        ),
        Column("answer_start", pl.Int32, "first character of the answer within completion, from 0"),
        Column("answer_end", pl.Int32, "character after the answer"),
        Column("has_answer_tags", pl.Boolean, "whether a closed <answer> pair was found outside the think block"),
        Column("finish_reason", pl.String, "stop (end token sampled) or length (cut off)"),
    ),
)
SAMPLING_LOGPROBS = Table(
    "sampling_logprobs",
    "two more natural log-probabilities of each sampled token; all three are equal at temperature 1 without top-k and top-p",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("sampled_logprobs", pl.List(pl.Float32), "of the distribution that was drawn from: temperature, then top_k, then top_p"),
        Column("policy_logprobs", pl.List(pl.Float32), "of the raw policy: temperature 1, no token cut off"),
    ),
)
SEGMENTS = Table(
    "segments",
    "the players: disjoint spans of the answer, in order",
    ("rollout_id", "segment_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("segment_index", pl.Int32, "from 0 within a rollout"),
        Column("union_index", pl.Int32, "block of the a-priori partition, from 0"),
        Column("start", pl.Int32, "first character within completion, from 0"),
        Column("end", pl.Int32, "character after the last"),
    ),
)
REWARDS = Table(
    "rewards",
    "reward of each whole answer and its parts",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("reward", pl.Float64, "weighted sum of the parts"),
        Column("retrieval", pl.Float64, "metric of the ranking, unweighted"),
        Column("format", pl.Float64, "0 if answer tags and end token are there, else minus their missing share; unweighted"),
        Column("length", pl.Float64, "minus the words over the limit, as a share of the limit; unweighted"),
        Column("repetition", pl.Float64, "minus the number of repeated words; unweighted"),
        Column("is_degenerate_group", pl.Boolean, "all rewards of the rollout group are equal: no advantage, no coalitions"),
    ),
    extra=pl.Float64,
    extra_meaning="a further part by its name: a metric, or own.NAME for a part of score_coalitions.own_reward; unweighted",
)
COALITION_VALUES = Table(
    "coalition_values",
    "the characteristic function v(S), for rollouts of groups that are not degenerate",
    ("rollout_id", "coalition"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("coalition", pl.String, "bit mask, one character per segment in order: 1 present, 0 absent"),
        Column("query", pl.String, "text that the retriever was given"),
        Column("coalition_value", pl.Float64, "v(S): weighted sum of the parts that a text can earn or lose (all but format)"),
        Column("retrieval", pl.Float64, "metric of the ranking, unweighted"),
        Column("length", pl.Float64, "as in rewards, of this text; unweighted"),
        Column("repetition", pl.Float64, "as in rewards, of this text; unweighted"),
    ),
    extra=pl.Float64,
    extra_meaning="a further part, as in rewards, of this text; unweighted",
)
ATTRIBUTIONS = Table(
    "attributions",
    "what each segment earned",
    ("rollout_id", "segment_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("segment_index", pl.Int32, "from 0 within a rollout"),
        Column("share", pl.Float64, "φ, in units of reward"),
        Column("n_contributions", pl.Int32, "marginals that the estimate rests on"),
        Column("standard_error", pl.Float64, "of share; null where nothing is sampled", nullable=True),
        Column("special_case", pl.String, "empty, or the named case that applied (such as degenerate-group)"),
        Column("segment_advantage", pl.Float64, "sum of the advantages of the segment's tokens (weighted by overlap)"),
    ),
)
INTERACTIONS = Table(
    "interactions",
    "Harsanyi dividends of the evaluated windows of two segments or more: what they earn together that no smaller window within earns",
    ("rollout_id", "first_segment", "last_segment"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("first_segment", pl.Int32, "segment_index of the window's first segment"),
        Column("last_segment", pl.Int32, "segment_index of the window's last segment"),
        Column("dividend", pl.Float64, "D of the window, in units of reward; windows without one (to 1e-9) are left out"),
    ),
)
TOKEN_ADVANTAGES = Table(
    "token_advantages",
    "what update learns from",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("advantages", pl.List(pl.Float32), "one per sampled token id"),
    ),
)
TARGETS = Table(
    "targets",
    "completions that an update with objective sft imitates",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("reward", pl.Float64, "its reward"),
    ),
)
PREFERENCE_PAIRS = Table(
    "preference_pairs",
    "pairs of completions of one prompt that an update with objective dpo learns from",
    ("chosen_rollout_id", "rejected_rollout_id"),
    (
        Column("chosen_rollout_id", pl.String, "the one with the higher reward"),
        Column("rejected_rollout_id", pl.String, "the other"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("margin", pl.Float64, "reward of the chosen one minus that of the other, > 0"),
    ),
)
COMPLETIONS = Table(
    "completions",
    "what each evaluated system answered",
    ("system", "decoding", "prompt_id", "sample_index"),
    (
        Column("system", pl.String, "raw-query, oracle, policy-000 (warm start), policy-001, …"),
        Column("decoding", pl.String, "greedy, sampled, or none where nothing is decoded"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0"),
        Column("completion", pl.String, "full text; empty where nothing is decoded"),
        Column("query", pl.String, "text that the retriever was given"),
    ),
)
RUN = Table(
    "run",
    "rankings, TREC sense; exported as TREC run files too",
    ("system", "prompt_id", "retriever", "rank"),
    (
        Column("system", pl.String, "as in completions; greedy decoding"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("retriever", pl.String, "name of the retriever"),
        Column("rank", pl.Int32, "from 1"),
        Column("doc_id", pl.String, "identity of the product"),
        Column("score", pl.Float64, "score given by the retriever"),
    ),
)
QUERY_METRICS = Table(
    "query_metrics",
    "one value per prompt, system, decoding, retriever and metric",
    ("split", "system", "decoding", "prompt_id", "retriever", "metric"),
    (
        Column("split", pl.String, "split of the prompt"),
        Column("system", pl.String, "as in completions"),
        Column("decoding", pl.String, "as in completions; sampled values are means over the samples"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("retriever", pl.String, "name of the retriever"),
        Column("metric", pl.String, "ndcg@10, ndcg@pool, mrr, recall@10"),
        Column("metric_value", pl.Float64, "0 to 1"),
    ),
)
KEPT_VALUES = Table(
    "kept_values",
    "value of each held-out prompt under the policies of a run that `ospo keep` put by, under the reward's metric and retriever",
    ("iteration", "decoding", "prompt_id"),
    (
        Column("iteration", pl.Int32, "of the policy; 0 is the warm start"),
        Column("decoding", pl.String, "greedy or sampled"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "mean over the samples"),
    ),
)
LAB_CONVERGENCE = Table(
    "lab_convergence",
    "where each rule leads a policy on small decision problems, along exact expected gradients (`ospo lab`)",
    ("problem", "outside", "estimator", "rule"),
    (
        Column("problem", pl.String, "name of the decision problem"),
        Column("outside", pl.String, "what tokens of no segment get: sequence or zero; - where every token lies in a segment"),
        Column("estimator", pl.String, "of the shares"),
        Column("rule", pl.String, "from shares to token advantages"),
        Column("start_reward", pl.Float64, "J before the first step"),
        Column("end_reward", pl.Float64, "J after the last step"),
        Column("best_reward", pl.Float64, "the largest J that a policy can reach"),
        Column("steps", pl.Int32, "steps taken, all of one size"),
        Column("steps_to_95", pl.Int32, "steps to 95 % of the way from start to end; null where J did not rise", nullable=True),
        Column("steps_to_level", pl.Int32, "steps to 95 % of best_reward, and never below again; null where not reached", nullable=True),
        Column("first_gradient", pl.Float64, "length of the expected gradient at the start: how much of the pace is step size"),
        Column("last_gradient", pl.Float64, "and at the end"),
    ),
)
LAB_CURVES = Table(
    "lab_curves",
    "the way there: expected reward by step (`ospo lab`)",
    ("problem", "outside", "estimator", "rule", "step"),
    (
        Column("problem", pl.String, "as in lab_convergence"),
        Column("outside", pl.String, "as in lab_convergence"),
        Column("estimator", pl.String, "as in lab_convergence"),
        Column("rule", pl.String, "as in lab_convergence"),
        Column("step", pl.Int32, "steps taken so far"),
        Column("expected_reward", pl.Float64, "J"),
    ),
)
LAB_GRADIENT_QUALITY = Table(
    "lab_gradient_quality",
    "how well the gradient of one rollout group points along the exact one, means over seeds (`ospo lab`)",
    ("interaction", "segments", "group_size", "noise", "estimator", "rule"),
    (
        Column("interaction", pl.String, "how words earn together: additive, pairs, substitutes"),
        Column("segments", pl.Int32, "n, words of the answer"),
        Column("group_size", pl.Int32, "G, completions per rollout group"),
        Column("noise", pl.Float64, "standard deviation of the noise of every value, in those of the reward"),
        Column("estimator", pl.String, "of the shares"),
        Column("rule", pl.String, "from shares to token advantages"),
        Column("seeds", pl.Int32, "problems drawn, one rollout group each"),
        Column("cosine", pl.Float64, "mean cosine of estimated and exact gradient; a gradient of 0 counts as 0"),
        Column("cosine_standard_error", pl.Float64, "of that mean"),
        Column("squared_error", pl.Float64, "mean squared error under the one best scale, in units of the exact gradient's mean square"),
        Column("squared_error_standard_error", pl.Float64, "of that mean"),
        Column("silent_share", pl.Float64, "part of the rollout groups whose gradient is 0"),
        Column("behind_best", pl.Float64, "cosine of the best rule of the same condition and estimator, minus this one's"),
        Column("behind_standard_error", pl.Float64, "of that difference, paired by seed"),
        Column("is_tied", pl.Boolean, "the difference may be chance (5 % over all rules together, Bonferroni)"),
        Column("over_uniform", pl.Float64, "cosine minus that of rule uniform (GRPO); null where it did not run", nullable=True),
        Column("over_uniform_standard_error", pl.Float64, "of that difference, paired by seed", nullable=True),
    ),
)

CREDIT = Table(
    "credit",
    "an exported iteration for other trainers (docs/export.md); ordered by prompt_id, then sample_index",
    ("prompt_id", "sample_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column(
            "group_id",
            pl.Int32,
            "number of the rollout group, from 0 in the order of prompt_id; its rollouts were compared with each other",
        ),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0 within a rollout group"),
        Column("prompt", pl.String, "the user message, before the chat template"),
        Column("completion", pl.String, "text of completion_token_ids without special tokens"),
        Column("finish_reason", pl.String, "stop (end token sampled) or length (cut off)"),
        Column("prompt_token_ids", pl.List(pl.Int32), "token ids that the policy was given, chat template included"),
        Column("completion_token_ids", pl.List(pl.Int32), "sampled token ids, end token included where it was sampled"),
        Column(
            "old_logprobs",
            pl.List(pl.Float32),
            "natural log-probability of each sampled token under the sampling policy, at its temperature",
        ),
        Column(
            "advantages",
            pl.List(pl.Float32),
            "advantage of each sampled token, in standard deviations of the group's rewards (normalize: none: in units of reward)",
        ),
        Column("reward", pl.Float64, "reward of the whole completion"),
        Column("is_degenerate_group", pl.Boolean, "all rewards of the rollout group are equal: every advantage is 0"),
    ),
)
FOREIGN_ROLLOUTS = Table(
    "foreign_rollouts",
    "rollouts of another trainer, as `ospo attribute --rollouts` reads them",
    ("rollout_id",),
    (
        Column("prompt_id", pl.String, "a prompt_id of table prompts; rollouts with the same one are a rollout group"),
        Column("completion", pl.String, "text of completion_token_ids without special tokens"),
        Column("completion_token_ids", pl.List(pl.Int32), "sampled token ids without padding, end token included where it was sampled"),
        Column("old_logprobs", pl.List(pl.Float32), "natural log-probability of each sampled token, at most 0"),
        Column("rollout_id", pl.String, "identity; where absent: foreign:prompt_id:sample_index", nullable=True),
        Column("sample_index", pl.Int32, "from 0 within a rollout group; where absent: in the order of the file", nullable=True),
        Column(
            "prompt_token_ids",
            pl.List(pl.Int32),
            "ids that the policy was given; where absent: none, and no export to trl or verl",
            nullable=True,
        ),
        Column(
            "finish_reason",
            pl.String,
            "stop or length; where absent: stop if the last id is a special token, else length (the reward's format part reads it)",
            nullable=True,
        ),
    ),
)

AUDIT = Table(
    "audit",
    "what `ospo audit` measured of each estimator on an iteration's rollouts (docs/audit.md)",
    ("estimator", "check", "measure"),
    (
        Column("estimator", pl.String, "as in attribute.estimator"),
        Column("check", pl.String, "what is checked, such as null player"),
        Column("measure", pl.String, "which number of it, such as largest |share|; a retriever's name for check leave-one-out"),
        Column("value", pl.Float64, "mean or largest over rollouts; null where no rollout was fit for the check", nullable=True),
        Column("low", pl.Float64, "lower end of a mean's 95 % bootstrap interval over rollouts; null for a largest value", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("n", pl.Int32, "rollouts behind the number"),
    ),
)
STORED_VALUES = Table(
    "stored_values",
    "what `ospo store export` writes: values by the hash of what they hang on (docs/store.md)",
    ("book", "key", "part"),
    (
        Column("book", pl.String, "fingerprint of retriever, catalogue, settings and metrics, hexadecimal"),
        Column("retriever", pl.String, "its name"),
        Column("documents", pl.Int32, "products of the catalogue"),
        Column("key", pl.String, "hash of pool, judgments and text, hexadecimal"),
        Column("part", pl.String, "metric, as in score_coalitions.metric"),
        Column("value", pl.Float64, "the metric"),
        Column("products", pl.List(pl.Int32), "first retrieved products (store.products), as indices into the doc_ids in ascending order"),
    ),
)

AUDIT_CURVES = Table(
    "audit_curves",
    "mean value while the segments of the audited rollouts leave (deletion) or enter (insertion), largest share first",
    ("estimator", "curve", "part"),
    (
        Column("estimator", pl.String, "as in attribute.estimator; random orders is the control"),
        Column("curve", pl.String, "deletion or insertion"),
        Column("part", pl.Float64, "part of the segments that has left or entered, 0 to 1"),
        Column("value", pl.Float64, "mean over rollouts; between segments by straight lines"),
        Column("n", pl.Int32, "rollouts behind the number"),
    ),
)

GRADIENT_AUDIT = Table(
    "gradient_audit",
    "what `ospo audit --gradients` measured: do two halves of a rollout group ask for the same step (docs/audit.md)",
    ("estimator", "rule", "measure"),
    (
        Column("estimator", pl.String, "as in attribute.estimator; any for a rule that reads no shares"),
        Column("rule", pl.String, "as in attribute.rule; uniform is GRPO"),
        Column("measure", pl.String, "agreement, agreement with GRPO, scaled error, error to exact, direction or silent"),
        Column("value", pl.Float64, "mean over prompts, or one number of all prompts; null where it is not defined", nullable=True),
        Column("low", pl.Float64, "lower end of its 95 % bootstrap interval over prompts", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("deviation", pl.Float64, "standard deviation over prompts; null for one number of all prompts", nullable=True),
        Column("over_uniform", pl.Float64, "minus that of rule uniform", nullable=True),
        Column("over_low", pl.Float64, "lower end of the difference's 95 % bootstrap interval, paired by prompt", nullable=True),
        Column("over_high", pl.Float64, "upper end", nullable=True),
        Column("p_value", pl.Float64, "of the paired sign-flip test, two-sided; null for one number of all prompts", nullable=True),
        Column("n", pl.Int32, "prompts behind the number"),
    ),
)

REWARD_COMPARISON = Table(
    "reward_comparison",
    "how two rewards of the same rollouts differ (`ospo compare-rewards`)",
    ("measure",),
    (
        Column("measure", pl.String, "what is compared"),
        Column("value", pl.Float64, "mean over the rollout groups that it is defined for; null where there is none", nullable=True),
        Column("low", pl.Float64, "lower end of the 95 % bootstrap interval over rollout groups", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("n", pl.Int32, "rollout groups behind the number"),
    ),
)
REWARD_COMPARISON_GROUPS = Table(
    "reward_comparison_groups",
    "the same, one row per rollout group; null where a measure is not defined, such as an order of equal rewards",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("rollouts", pl.Int32, "in the group"),
        Column("mean_a", pl.Float64, "mean reward under A"),
        Column("mean_b", pl.Float64, "mean reward under B"),
        Column("kendall", pl.Float64, "τ-b of the rewards", nullable=True),
        Column("spearman", pl.Float64, "rank correlation of the rewards", nullable=True),
        Column("best_changes", pl.Float64, "1 where no best answer under A is a best one under B, else 0", nullable=True),
        Column(
            "advantages_turned",
            pl.Float64,
            "part of the answers above the mean under one, below it under the other",
            nullable=True,
        ),
        Column("share_spearman", pl.Float64, "rank correlation of an answer's shares, mean over answers", nullable=True),
        Column("shares_turned", pl.Float64, "part of an answer's segments with shares of opposite signs, mean over answers", nullable=True),
        Column("best_segment_changes", pl.Float64, "part of the answers whose largest share is another segment's", nullable=True),
    ),
)
HEADROOM = Table(
    "headroom",
    "what there is to gain before training, per retriever (`ospo headroom`)",
    ("retriever", "system"),
    (
        Column("retriever", pl.String, "name of the retriever"),
        Column("metric", pl.String, "of the rankings"),
        Column("split", pl.String, "split of the prompts"),
        Column("system", pl.String, "raw query, best single edit of a kind, greedy edits, mean and best of the samples, ideal ranking"),
        Column("value", pl.Float64, "mean over prompts, 0 to 1"),
        Column("low", pl.Float64, "lower end of its 95 % bootstrap interval"),
        Column("high", pl.Float64, "upper end"),
        Column("gain", pl.Float64, "mean of the difference to the raw query, paired; null for the raw query", nullable=True),
        Column("gain_low", pl.Float64, "lower end of its interval", nullable=True),
        Column("gain_high", pl.Float64, "upper end", nullable=True),
        Column("p_value", pl.Float64, "of a two-sided sign-flip test of that difference", nullable=True),
        Column("improved", pl.Float64, "part of the prompts that do better than the raw query", nullable=True),
        Column("prompts", pl.Int32, "prompts behind the number"),
    ),
)
HEADROOM_QUERIES = Table(
    "headroom_queries",
    "the best query that was found for each prompt (`ospo headroom`)",
    ("retriever", "system", "prompt_id"),
    (
        Column("retriever", pl.String, "as in headroom"),
        Column("system", pl.String, "as in headroom"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("query", pl.String, "text that the retriever was given; empty where the system has no single one"),
        Column("value", pl.Float64, "metric of its ranking, 0 to 1"),
    ),
)
PLAN = Table(
    "plan",
    "what each stage is expected to take (`ospo plan`)",
    ("stage", "iteration"),
    (
        Column("stage", pl.String, "name of the command"),
        Column("iteration", pl.Int32, "from 1; 0 for stages that run once"),
        Column("units", pl.Int64, "how many"),
        Column("unit", pl.String, "of what: completions, distinct texts, steps, …"),
        Column("tokens", pl.Int64, "sampled or trained on; 0 where none are"),
        Column("seconds", pl.Float64, "expected on this machine, also where the stage is up to date"),
        Column("cpu_seconds", pl.Float64, "of all threads"),
        Column("bytes", pl.Int64, "expected to be written, shards in the cache included, DVC's own copies not"),
        Column("peak_bytes", pl.Int64, "largest memory of the process meanwhile"),
        Column("found", pl.Int64, "texts that the store of values is expected to hold; null: not known, or not looked up", nullable=True),
        Column("is_current", pl.Boolean, "whether the stage is up to date: `ospo run` or `dvc repro` would skip it"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        DOCUMENTS, PROMPTS, QRELS, POOLS, TEACHER_PAIRS, RAW_QUERY_VALUES, ROLLOUTS, SAMPLING_LOGPROBS, SEGMENTS, REWARDS,
        COALITION_VALUES, ATTRIBUTIONS, INTERACTIONS, TOKEN_ADVANTAGES, TARGETS, PREFERENCE_PAIRS, COMPLETIONS, RUN, QUERY_METRICS,
        AUDIT, AUDIT_CURVES, GRADIENT_AUDIT, STORED_VALUES,
        REWARD_COMPARISON, REWARD_COMPARISON_GROUPS, HEADROOM, HEADROOM_QUERIES, PLAN, KEPT_VALUES,
        LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY,
    )
}  # fmt: skip


def table_named(name: str) -> Table:
    """Return the declared table; raise with the list of names that exist."""
    if name not in TABLES:
        raise OspoError(name, "no such table", expected=", ".join(TABLES))
    return TABLES[name]


def reference() -> str:
    """Return the table reference in Markdown: docs/tables.md."""
    head = "# Tables\n\nKeys in bold. Made by `ospo tables > docs/tables.md` from the declarations.\n"
    return "\n".join([head, *(f"## `{table.name}`: {table.meaning}\n\n{column_reference(table)}" for table in TABLES.values())])


def column_reference(table: Table) -> str:
    """Return the columns of one table in Markdown, for docs/."""
    return "\n".join(_column_lines(table)) + "\n"


def _column_lines(table: Table) -> list[str]:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in table.columns:
        name = f"**{column.name}**" if column.name in table.key else column.name
        lines.append(f"| {name} | {column.dtype}{' or null' if column.nullable else ''} | {column.meaning.replace('|', '/')} |")
    if table.extra is not None:
        lines.append(f"| any other | {table.extra} | {table.extra_meaning} |")
    return lines
