"""What single prompts gained and lost."""

from __future__ import annotations

from typing import Any

import polars as pl


def wins_and_losses(
    values: pl.DataFrame, completions: pl.DataFrame, prompts: pl.DataFrame, final: str, base: str, shown: int
) -> dict[str, Any]:
    """Return the prompts with the largest gains and losses of the final policy over another system, greedy decoding.

    Args:
        values: prompt_id, system, metric_value of one retriever and metric; raw-query, policy-000 and the final policy.
        completions: table completions.
        prompts: table prompts.
        final: system name of the final policy.
        base: what it is compared with: raw-query or policy-000.
        shown: most rows of each list.
    """
    wide = values.pivot("system", index="prompt_id", values="metric_value")
    answers = completions.filter((pl.col("system") == final) & (pl.col("decoding") == "greedy")).select("prompt_id", answer="query")
    rows = wide.join(answers, on="prompt_id").join(prompts.select("prompt_id", "query"), on="prompt_id")
    rows = rows.select(
        "prompt_id", "query", "answer", raw="raw-query", warm="policy-000", final=final, difference=pl.col(final) - pl.col(base)
    )  # fmt: skip
    better, worse = rows.filter(pl.col("difference") > 1e-12), rows.filter(pl.col("difference") < -1e-12)
    return {
        "base": base,
        "better": better.height,
        "equal": rows.height - better.height - worse.height,
        "worse": worse.height,
        "wins": better.sort("difference", "prompt_id", descending=[True, False]).head(shown).to_dicts(),
        "losses": worse.sort("difference", "prompt_id").head(shown).to_dicts(),
    }
