"""The reward of a project: what its parameters name, over its prepared tables."""

from __future__ import annotations

from ospo_cli.layout import Layout
from ospo_cli.own_code import rewards as own_reward
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import Prepared, read_prepared
from ospo_cli.rewards.store.folder import Store


def open_reward(layout: Layout, params: Sections, tables: Prepared | None = None, retriever: str | None = None) -> JudgedReward:
    """Return the reward that the parameters name, over the prepared tables; under another retriever where one is named."""
    settings = params.score_coalitions
    own = own_reward.load(settings.own_reward, list(settings.own_weights), layout.root) if settings.own_reward else None
    # One call per coalition is a cost that somebody wants to see: nothing is looked up then.
    store = Store(layout.store) if settings.calls == "batched" else None
    tables = tables if tables is not None else read_prepared(layout)
    return JudgedReward(tables, params, retriever=retriever, cache=layout.cache, store=store, own_reward=own)
