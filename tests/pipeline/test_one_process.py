"""`ospo run` keeps policy, reward and prompts from stage to stage: the same bytes as stage by stage, loaded once, and nothing stale."""

import shutil
from collections import Counter

import pytest
import torch

from ospo_cli.executors import kept
from ospo_cli.graph import nodes, runner
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.policies import opening
from ospo_cli.retrievers.lexical.inverted_index import index_folder
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.opening import open_reward
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import QRELS
from tests.pipeline import miniature

ITERATED = ("rollout", "segment", "score-coalitions", "attribute", "update")
CHANGES = {
    "train": {"iterations": 3},
    "update": {"groups_per_step": 3, "reference_groups": 2},
    "evaluate": miniature.SMALL["evaluate"] | {"every": 3},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A project whose iterations one process has run, another whose stages were run one by one, and what the first loaded."""
    by_hand, together = (tmp_path_factory.mktemp(name) / "project" for name in ("by_hand", "together"))
    return run_both(by_hand, together, miniature.make(by_hand, **CHANGES))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, both):
    """The same of a project that trains an adapter over the other one's warm-started policy."""
    by_hand, together = (tmp_path_factory.mktemp(name) / "project" for name in ("by_hand", "together"))
    policy = {"base": "data/pretrained/small", "lora_rank": 4, "lora_alpha": 8.0, "threads": 1}
    changes = CHANGES | {"train": {"iterations": 2}, "warm_start": {"teacher": "none"}}
    params = miniature.make(by_hand, **changes, policy=policy)
    shutil.copytree(both[0] / "data/policies/000", by_hand / "data/pretrained/small")
    return run_both(by_hand, together, params)


def run_both(by_hand, together, params):
    for wanted in nodes.plan(params)[:2]:
        runner.execute(wanted, Layout(by_hand), params)
    shutil.copytree(by_hand, together)
    for wanted in nodes.plan(params)[2:]:
        runner.execute(wanted, Layout(by_hand), params)
    loads = Counter()
    with pytest.MonkeyPatch.context() as patch:
        load, make, read = opening.load_policy, JudgedReward.__init__, placed.read
        stage = ""

        def executed(wanted, *rest, _execute=runner.execute):
            nonlocal stage
            stage = wanted.label
            return _execute(wanted, *rest)

        def loaded(folder, *given, **named):
            loads[stage, "policy", folder.name] += 1
            return load(folder, *given, **named)

        def made(reward, *given, **named):
            loads[stage, "reward", ""] += 1
            make(reward, *given, **named)

        def read_table(table, *rest):
            loads[stage, "table", table.name] += 1
            return read(table, *rest)

        patch.setattr(runner, "execute", executed)
        patch.setattr(opening, "load_policy", loaded)
        patch.setattr(JudgedReward, "__init__", made)
        patch.setattr(placed, "read", read_table)
        runner.run(Layout(together), params)
    return by_hand, together, loads


def files_of(project, *patterns):
    data = project / "data"
    return {str(path.relative_to(data)): path.read_bytes() for pattern in patterns for path in sorted(data.glob(pattern))}


@pytest.mark.parametrize(("made", "weights"), [("both", "003/model"), ("adapters", "002/adapter_model")])
def test_every_table_and_policy_has_the_bytes_of_stages_run_one_by_one(made, weights, request):
    by_hand, together, _ = request.getfixturevalue(made)
    found, expected = (miniature.tables(project) for project in (together, by_hand))
    assert len(expected) > 30
    assert found == expected
    outputs = ("policies/*/*", "iterations/*/update_steps.json", "evaluation/summary.json", "evaluation/curves.json")
    found, expected = (files_of(project, *outputs) for project in (together, by_hand))
    assert {f"policies/{weights}.safetensors", "policies/002/optimizer.safetensors", "evaluation/curves.json"} <= set(expected)
    assert found == expected


def test_an_adapter_and_its_base_are_loaded_once_in_all_iterations(adapters):
    _, _, loads = adapters
    iterated = Counter({key: count for key, count in loads.items() if key[0].partition("@")[0] in ITERATED and key[1] == "policy"})
    assert iterated == {("rollout@1", "policy", "000"): 1}  # as a reference its weights are put into the model that trains


def test_a_policy_is_loaded_once_and_index_and_prompts_once_in_all_iterations(both):
    _, _, loads = both
    iterated = Counter()
    for (stage, kind, name), count in loads.items():
        if stage.partition("@")[0] in ITERATED and (kind != "table" or name in ("documents", "prompts", "qrels", "pools")):
            iterated[stage, kind, name] += count
    prepared = {("score-coalitions@1", "table", name): 1 for name in ("documents", "prompts", "qrels", "pools")}
    # Policy 000 is moved by the first update and asked for again as a reference; every other policy is handed on.
    assert iterated == {
        ("rollout@1", "policy", "000"): 1,
        ("rollout@1", "table", "prompts"): 1,
        ("score-coalitions@1", "reward", ""): 1,
        ("update@2", "policy", "000"): 1,
        **prepared,
    }
    assert not kept.is_on()


@pytest.fixture
def copied(both, tmp_path):
    """A copy of the project that has run, and its parameters."""
    shutil.copytree(both[1], tmp_path / "project")
    return Layout(tmp_path / "project"), whole.load(both[1] / "params.yaml")


def test_the_policy_that_update_hands_on_is_the_one_in_the_folder(copied):
    layout, params = copied
    with kept.between_stages():
        runner.execute(nodes.node("update", 3, params), layout, params)
        handed = kept.take("policy", opening._origin(layout.policy(3)))
    read = opening.load_policy(layout.policy(3), 1)
    weights, expected = handed.model.state_dict(), read.model.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert all(weight.grad is None for weight in handed.model.parameters())
    for name in ("folder", "end_token_id", "context_length", "content_hash", "device", "adapter_card", "further_end_ids"):
        assert getattr(handed, name) == getattr(read, name), name
    assert (handed.vocabulary_size, handed.unspelled, handed.declared) == (read.vocabulary_size, read.unspelled, read.declared)
    assert handed.tokenizer.name_or_path == read.tokenizer.name_or_path
    assert handed.model.training == read.model.training
    assert handed.model.model.is_recomputed == read.model.model.is_recomputed


def test_a_policy_that_was_changed_between_stages_is_read_anew(copied):
    layout, _ = copied
    folder = layout.policy(2)
    with kept.between_stages():
        first = opening.open_policy(folder, 1)
        assert opening.open_policy(folder, 1) is first
        shutil.copyfile(layout.policy(1) / "model.safetensors", folder / "model.safetensors")
        second = opening.open_policy(folder, 1)
    assert second is not first
    expected = opening.load_policy(layout.policy(1), 1).model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in second.model.state_dict().items())


def test_a_policy_that_trains_is_kept_for_nobody_and_a_large_one_not_at_all(copied, monkeypatch):
    layout, _ = copied
    folder = layout.policy(2)
    with kept.between_stages():
        first = opening.open_policy(folder, 1)
        trained = opening.open_policy(folder, 1, trainable=True)
        assert trained is first
        assert all(weight.requires_grad for weight in trained.model.parameters())
        other = opening.open_policy(folder, 1)
        assert other is not trained
        assert not any(weight.requires_grad for weight in other.model.parameters())
        monkeypatch.setattr(opening, "MOST_KEPT_BYTES", 1000)
        assert opening.open_policy(folder, 1) is not opening.open_policy(folder, 1)
    assert opening.open_policy(folder, 1) is not opening.open_policy(folder, 1)


def test_no_more_than_two_policies_are_kept(copied):
    layout, _ = copied
    with kept.between_stages():
        opened = [opening.open_policy(layout.policy(number), 1) for number in (0, 1, 2)]
        assert opening.open_policy(layout.policy(2), 1) is opened[2]
        assert opening.open_policy(layout.policy(1), 1) is opened[1]
        assert opening.open_policy(layout.policy(0), 1) is not opened[0]


def test_a_reward_is_made_anew_where_a_table_has_changed_or_its_index_was_written_to(copied):
    layout, params = copied
    with kept.between_stages():
        first = open_reward(layout, params)
        first.tally.asked = 7
        again = open_reward(layout, params)
        assert again.retriever is first.retriever
        assert again.tally.asked == 0
        placed.write(placed.read(QRELS, layout).head(-1), QRELS, layout)
        other = open_reward(layout, params)
        assert other.retriever is not first.retriever
        index = index_folder(layout.cache, other.retriever.fingerprint) / "weights.npy"
        index.write_bytes(index.read_bytes())
        assert open_reward(layout, params).retriever is not other.retriever


def test_the_reward_under_a_further_retriever_is_made_anew(copied):
    layout, params = copied
    with kept.between_stages():
        assert open_reward(layout, params, retriever="lsa").retriever is not open_reward(layout, params, retriever="lsa").retriever
