"""Rows of table rollouts for tests: what a test does not say is as in any rollout."""

from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame


def sampled_row(rollout_id, prompt_id, completion, token_ids=(1,), **others):
    """Return a row; a name like 001:p:02 ends in the sample's index, each token's log-probability is -0.5, the completion stopped."""
    last = rollout_id.rpartition(":")[2]
    known = {
        "sample_index": int(last) if last.isdecimal() else 0, "prompt_token_ids": [1], "behavior_logprobs": [-0.5] * len(token_ids),
        "finish_reason": "stop",
    }  # fmt: skip
    return RolloutRow(rollout_id, prompt_id, completion=completion, token_ids=list(token_ids), **known | others)


def sampled_frame(*rows):
    """Return table rollouts of rows, or of the arguments that make them."""
    return rollouts_frame(row if isinstance(row, RolloutRow) else sampled_row(*row) for row in rows)
