"""The reward of a project: what its parameters name, over its prepared tables."""

from __future__ import annotations

from ospo_cli.executors import kept
from ospo_cli.layout import Layout
from ospo_cli.own_code import rewards as own_reward
from ospo_cli.retrievers.base import CoalitionRetriever
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import PREPARED, Prepared, read_prepared
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables import files


def open_reward(layout: Layout, params: Sections, tables: Prepared | None = None, retriever: str | None = None) -> JudgedReward:
    """Return the reward that the parameters name, over the prepared tables; under another retriever where one is named.

    `ospo run` keeps it from stage to stage where it searches a lexical index and runs no code of a user's: other retrievers hold weights
    or connections.
    """
    settings = params.score_coalitions
    is_kept = kept.is_on() and tables is None and retriever is None and not settings.own_reward
    found: JudgedReward | None = kept.take("reward", _origin(layout, params)) if is_kept else None
    if found is None:
        own = own_reward.load(settings.own_reward, list(settings.own_weights), layout.root) if settings.own_reward else None
        # One call per coalition is a cost that somebody wants to see: nothing is looked up then.
        store = Store(layout.store) if settings.calls == "batched" else None
        tables = tables if tables is not None else read_prepared(layout)
        found = JudgedReward(tables, params, retriever=retriever, cache=layout.cache, store=store, own_reward=own)
    if is_kept and isinstance(found.retriever, CoalitionRetriever):
        kept.put("reward", _origin(layout, params), found)
    return found.afresh()


def _origin(layout: Layout, params: Sections) -> object:
    """Return all that a reward is made from: settings, prepared tables, and the state of the index's files, which it has open."""
    settings = params.score_coalitions
    chosen = (settings.retriever, settings.metric, settings.composition, settings.calls, params.retrieval, params.store, layout.store)
    tables = [path for table in PREPARED if (path := table.path(layout, 0)).is_file()]
    index = sorted(path for path in (layout.cache / "index").rglob("*") if path.is_file())
    return chosen, [(path, files.file_hash(path)) for path in tables], [(path, files.state_of(path)) for path in index]
