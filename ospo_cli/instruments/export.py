"""Write an iteration's rollouts with their credit in a format that other trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ospo_cli import __version__
from ospo_cli.errors import TableError
from ospo_cli.exchange import credit_files
from ospo_cli.exchange.credit_format import credit_rows, header
from ospo_cli.layout import Layout
from ospo_cli.params.rollout import Rollout
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS


def execute(
    layout: Layout,
    rollout: Rollout,
    iteration: int | None,
    target: str,
    out: Path | None = None,
    folder: Path | None = None,
    keep_degenerate: bool = True,
) -> dict[str, Any]:
    """Read an iteration's tables, or those that `ospo attribute --rollouts` wrote; write one file; return its header and path."""
    ending = credit_files.suffix(target)
    if folder is None:
        assert iteration is not None
        made_by = {name: f"ospo {name} --iter {iteration}" for name in ("rollout", "score-coalitions", "attribute")}
        name = f"{iteration:03d}"
    else:
        made_by = dict.fromkeys(("rollout", "score-coalitions", "attribute"), "ospo attribute --rollouts FILE")
        name = folder.resolve().name

    def path_of(file: str) -> Path:
        return folder / file if folder is not None else layout.iteration(iteration or 0, file)

    prompts = placed.read(PROMPTS, layout)
    rollouts = parquet.read(path_of("rollouts.parquet"), ROLLOUTS, made_by=made_by["rollout"])
    rewards = parquet.read(path_of("rewards.parquet"), REWARDS, made_by=made_by["score-coalitions"])
    advantages = parquet.read(path_of("token_advantages.parquet"), TOKEN_ADVANTAGES, made_by=made_by["attribute"])
    credited = _credit_settings(path_of("attribute_metrics.json"), made_by["attribute"])
    # A foreign file does not say how it was sampled: null, never this project's own settings.
    sampling = {
        "iteration": iteration,
        "temperature": rollout.temperature if folder is None else None,
        "max_new_tokens": rollout.max_new_tokens if folder is None else None,
    }
    rows = credit_rows(rollouts, rewards, advantages, prompts, keep_degenerate)
    settings = sampling | credited | {"left_out_rollouts": rollouts.height - rows.height, "ospo_version": __version__}
    described = header(rows, settings)
    path = out if out is not None else layout.export(f"{name}.{ending}")
    credit_files.write(rows, described, path, target)
    return described | {"path": str(path)}


def _credit_settings(path: Path, made_by: str) -> dict[str, str]:
    """Return estimator and rule as attribute recorded them: params.yaml may have changed since."""
    content = files.read_json(path, made_by)
    try:
        return {name: str(content[name]) for name in ("estimator", "rule")}
    except KeyError as error:
        raise TableError(path, "does not name estimator and rule", found=f"no {error}", remedy=f"run `{made_by}` again") from None
