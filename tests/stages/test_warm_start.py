import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import MissingInputError, ParameterError, PolicyError, SourceError, TableError
from ospo_cli.layout import Layout
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.policies.opening import load_policy
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_teacher import judged_answers, whole_words
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.sampling import held_out
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.sampler import Request
from ospo_cli.stages import rollout, warm_start
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.prepared import DOCUMENTS, PROMPTS, QRELS, TEACHER_PAIRS
from ospo_cli.text.composition import served
from ospo_cli.training import supervised
from ospo_cli.training.dev_looks import looker
from ospo_cli.training.training_state import Training
from tests.policies.tiny import folder_bytes, tiny_params, write_prepared, write_tiny_policy


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    layout = write_prepared(tmp_path_factory.mktemp("warm") / "project")
    return layout, warm_start.execute(layout, tiny_params(warm_start={"steps": 60}))


def test_the_loss_falls_and_the_metrics_lie_in_the_policy_folder(started):
    layout, metrics = started
    written = json.loads((layout.policy(0) / "warm_start_metrics.json").read_text())
    assert metrics["last_loss"] < 0.3 * metrics["first_loss"]
    assert written == metrics
    assert len(metrics["curves"]["loss"]) == 60


def test_the_policy_answers_in_tags_after_its_warm_start(started):
    layout, _ = started
    metrics = rollout.execute(layout, tiny_params(rollout={"max_new_tokens": 30}), 1)
    assert metrics["answer_tags_share"] > 0.7


def test_two_runs_give_equal_bytes(tmp_path):
    folders = []
    for name in "ab":
        layout = write_prepared(tmp_path / name)
        warm_start.execute(layout, tiny_params())
        folders.append(folder_bytes(layout.policy(0)))
    assert folders[0] == folders[1]


def test_a_run_cut_off_between_steps_resumes_to_equal_bytes(tmp_path, monkeypatch):
    through, layout = write_prepared(tmp_path / "through"), write_prepared(tmp_path / "cut")
    warm_start.execute(through, tiny_params())
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    real, calls = Training.step, []

    def cut_off(self, rate):
        calls.append(rate)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, rate)

    monkeypatch.setattr(Training, "step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        warm_start.execute(layout, tiny_params())
    left = [path.name for path in layout.policy(0).parent.iterdir()]
    warm_start.execute(layout, tiny_params())
    assert (left, len(calls)) == ([], 6 + 3)
    assert folder_bytes(layout.policy(0)) == folder_bytes(through.policy(0))


def test_without_teacher_a_pretrained_folder_is_copied(tmp_path):
    layout = write_prepared(tmp_path)
    base = write_tiny_policy(tmp_path / "pretrained")
    warm_start.execute(layout, tiny_params(policy={"base": "pretrained"}, warm_start={"teacher": "none"}))
    copied = folder_bytes(layout.policy(0))
    assert {name: copied.get(name) for name in folder_bytes(base)} == folder_bytes(base)


def test_a_pretrained_folder_under_an_adapter_stays_as_it_is(tmp_path):
    layout = write_prepared(tmp_path)
    base = write_tiny_policy(tmp_path / "pretrained")
    before = folder_bytes(base)
    metrics = warm_start.execute(layout, tiny_params(policy={"base": "pretrained", "lora_rank": 4}))
    assert folder_bytes(base) == before
    assert metrics["trained_weights"] < 20_000
    assert rollout.execute(layout, tiny_params(), 1)["rollouts"] == 24


def test_a_missing_base_names_the_command_that_fetches_it(tmp_path):
    layout = write_prepared(tmp_path)
    with pytest.raises(PolicyError, match="ospo fetch-policy smollm2-135m"):
        warm_start.execute(layout, tiny_params(policy={"base": "data/pretrained/smollm2-135m"}))


def test_pairs_come_from_a_file_of_the_users(tmp_path):
    layout = write_prepared(tmp_path)
    pl.DataFrame({"prompt_id": ["p00", "p00", "p03"], "completion": ["<answer>a</answer>"] * 3}).write_parquet(tmp_path / "mine.parquet")
    settings = {"teacher": "file", "pairs_file": "mine.parquet"}
    metrics = warm_start.execute(layout, tiny_params(warm_start=settings))
    assert (metrics["pairs"], metrics["prompts"]) == (3, 2)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"prompt_id": ["p99"], "completion": ["x"]}, "prompts that do not exist"),
        ({"prompt_id": ["p15"], "completion": ["x"]}, "held-out prompts would leak"),
        ({"prompt_id": ["p00"]}, "column completion is missing"),
        ({"prompt_id": ["p00"], "completion": [3]}, "column completion has the wrong type"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused(tmp_path, frame, message):
    layout = write_prepared(tmp_path)
    pl.DataFrame(frame).write_parquet(tmp_path / "mine.parquet")
    with pytest.raises(TableError, match=message):
        warm_start.execute(layout, tiny_params(warm_start={"teacher": "file", "pairs_file": "mine.parquet"}))
    assert not layout.policy(0).exists()


def test_missing_pairs_and_prompts_are_named(tmp_path):
    layout = write_prepared(tmp_path)
    with pytest.raises(ParameterError, match="pairs_file"):
        warm_start.execute(layout, tiny_params(warm_start={"teacher": "file"}))
    with pytest.raises(MissingInputError, match="ospo prepare-data"):
        warm_start.execute(Layout(tmp_path / "empty"), tiny_params())


def test_a_source_without_pairs_says_what_to_set(tmp_path):
    layout = write_prepared(tmp_path)
    parquet.write(TEACHER_PAIRS.empty(), layout.prepared("teacher_pairs.parquet"), TEACHER_PAIRS)
    with pytest.raises(TableError, match=r"warm_start.teacher"):
        warm_start.execute(layout, tiny_params())


class WordOverlap:
    """A reward that counts the words of the composed text that the wanted text has."""

    def __init__(self, wanted, composition="append"):
        self.wanted, self.composition = wanted, composition

    def compose(self, prompt_id, text):
        return f"{prompt_id} {text}"

    def values(self, prompt_ids, queries):
        return np.array([len(set(query.split()) & set(self.wanted.split())) / 4 for query in queries])


def answers_for(titles, wanted, also_relevant=(), query="query", composition="append", prompt="", **settings):
    schema = {**DOCUMENTS.schema, "year": pl.String}
    documents = pl.DataFrame([(f"d{i}", title, "", f"{1990 + i} (est.), x") for i, title in enumerate(titles)], schema=schema, orient="row")
    judged = [("p", f"d{i}", 1.0) for i in range(len(titles))] + [("other", f"d{i}", 1.0) for i in also_relevant]
    qrels = pl.DataFrame(judged, schema=QRELS.schema, orient="row")
    prompts = pl.DataFrame([("p", "train", query, [], prompt or query)], schema=PROMPTS.schema, orient="row")
    return judged_answers(prompts, documents, qrels, WordOverlap(wanted, composition), tiny_params(warm_start=settings).warm_start)[
        "completion"
    ].to_list()


def test_the_teacher_names_the_title_that_earns_most():
    assert answers_for(["the red coat", "the two towers", "boots"], "the two towers") == ["<answer>the two towers</answer>"]


def test_how_many_titles_are_scored_is_said_before_the_first_is_and_parts_change_no_answer(monkeypatch, capsys):
    asked = ["the red coat", "the two towers", "boots"], "the two towers"
    whole, real = answers_for(*asked), WordOverlap.values
    capsys.readouterr()
    said = []
    monkeypatch.setattr(WordOverlap, "values", lambda own, *given: said.append(capsys.readouterr().err) or real(own, *given), raising=True)
    monkeypatch.setattr("ospo_cli.rewards.judged_teacher._AT_ONCE", 2)
    assert answers_for(*asked) == whole
    assert (len(said), said[0]) == (3, "warm-start: 3 titles of relevant products are scored, to name to each query one that helps\n")
    assert said[-1].startswith("warm-start: 3/3 titles scored")


def test_of_titles_that_earn_the_same_the_shorter_is_named():
    assert answers_for(["towers of the world", "towers"], "towers") == ["<answer>towers</answer>"]


@pytest.mark.parametrize(("composition", "answer"), [("append", ""), ("replace", "wool coat/ b")])
def test_a_query_that_no_title_helps_by_more_than_the_tolerance_is_left_as_typed(composition, answer, capsys):
    asked, query = (["wool coat red", "boots"], "wool coat red b"), "wool <coat/>  b"  # .75 and .5
    assert answers_for(*asked, query=query, composition=composition, value_tolerance=0.25) == [f"<answer>{answer}</answer>"]
    assert "warm-start: 1 of 1 queries are left as typed" in capsys.readouterr().err
    assert answers_for(*asked, query=query, composition=composition, value_tolerance=0.2) == ["<answer>wool coat red</answer>"]
    assert "left as typed" not in capsys.readouterr().err


@pytest.mark.parametrize(("prompt", "answer"), [("search: wool coat b", "wool coat b"), ("search: Wool Coat B", "Wool Coat B")])
def test_where_the_query_is_the_answer_it_is_in_the_spelling_that_the_policy_sees(prompt, answer):
    found = answers_for(["boots"], "wool coat", query="Wool Coat B", composition="replace", prompt=prompt, value_tolerance=0.5)
    assert found == [f"<answer>{answer}</answer>"]


def test_titles_are_cut_to_whole_words():
    assert answers_for(["the lord of the rings"], "the lord", title_characters=13) == ["<answer>the lord of</answer>"]


def test_a_document_relevant_to_more_prompts_is_named_where_little_is_lost():
    titles, wanted = ["red wool coat", "red coat"], "red wool coat"
    assert answers_for(titles, wanted, also_relevant=[1], value_tolerance=0.3) == ["<answer>red coat</answer>"]
    assert answers_for(titles, wanted, also_relevant=[1], value_tolerance=0.2) == ["<answer>red wool coat</answer>"]


def test_first_entries_of_further_fields_follow_the_title_without_brackets():
    assert answers_for(["boots", "coat"], "coat, 1991", title_fields=["year"]) == ["<answer>coat, 1991</answer>"]


@pytest.mark.parametrize("fields", [["title"], ["doc_id"], ["genres", "genres"]])
def test_a_field_that_is_there_already_is_refused(fields):
    with pytest.raises(ParameterError, match="title_fields: cannot follow the title"):
        answers_for(["The Dark Knight"], ["The Dark Knight"], title_fields=fields)


def test_an_unknown_field_lists_the_fields():
    with pytest.raises(ParameterError, match=r"found director, expected title, category, year"):
        answers_for(["boots"], "boots", title_fields=["director"])


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [("a bc", 4, "a bc"), ("a bc", 3, "a"), ("abcd", 3, ""), ("  a \n b ", 9, "a b"), ("</answer>x", 20, "/answer x"), ("", 5, "")],
)
def test_whole_words_fit_the_limit(text, limit, expected):
    assert whole_words(text, limit) == expected


def test_the_teacher_from_judgments_runs_on_prepared_tables(tmp_path):
    layout = write_prepared(tmp_path)
    metrics = warm_start.execute(layout, tiny_params(warm_start={"teacher": "judgments"}))
    assert metrics["pairs"] == 14


@pytest.mark.parametrize(
    ("pairs", "max_epochs", "steps"), [(1000, 0.0, 50), (1000, 10.0, 50), (39, 10.0, 12), (3, 10.0, 10), (1000, 0.001, 1), (0, 10.0, 0)]
)
def test_the_warm_start_stops_after_so_many_epochs_where_that_is_earlier(pairs, max_epochs, steps):
    settings = tiny_params(warm_start={"steps": 50, "batch_size": 32, "max_epochs": max_epochs}).warm_start
    assert warm_start.planned_steps(pairs, settings) == steps


def test_batches_take_every_pair_once_per_epoch_and_put_like_widths_together():
    widths = np.random.default_rng(0).integers(5, 90, 256).tolist()
    plan = supervised.batches(widths, 8, 64, seed=0)
    spread = np.mean([np.ptp(np.asarray(widths)[batch]) for batch in plan])
    assert sorted(np.concatenate(plan[:32]).tolist()) == sorted(np.concatenate(plan[32:]).tolist()) == list(range(256))
    assert not np.array_equal(plan[0], plan[32])
    assert spread < 0.25 * np.ptp(widths)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_the_learning_rate_rises_then_falls_as_asked(schedule, middle):
    settings = WarmStart(steps=101, learning_rate=1.0, schedule=schedule, warmup_steps=1)
    rates = [supervised.learning_rate_at(step, settings) for step in range(101)]
    assert rates[0] == 0.5
    assert max(rates) == 1.0
    assert rates[51] == pytest.approx(middle)


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path, monkeypatch):
    layout = write_prepared(tmp_path)
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("ospo_cli.training.training_state.Checkpoint.remove", lambda self: None)
    warm_start.execute(layout, tiny_params())
    first = folder_bytes(layout.policy(0))
    shutil.rmtree(layout.policy(0))
    warm_start.execute(layout, tiny_params(warm_start={"learning_rate": 1e-4}))
    assert folder_bytes(layout.policy(0))["model.safetensors"] != first["model.safetensors"]


@pytest.mark.parametrize("completion", ["", "  "])
def test_an_empty_completion_of_ones_own_pairs_is_refused(tmp_path, completion):
    layout = write_prepared(tmp_path)
    pl.DataFrame({"prompt_id": ["p00", "p01"], "completion": ["<answer>a</answer>", completion]}).write_parquet(tmp_path / "pairs.parquet")
    values = tiny_params(warm_start={"teacher": "file", "pairs_file": "pairs.parquet"})
    with pytest.raises(TableError, match=r"pairs\.parquet: column completion: is empty: found 1 such, the first of prompt p01"):
        warm_start.execute(layout, values)


def with_dev(root):
    """Write a project whose last two prompts are dev prompts."""
    layout = write_prepared(root)
    prompts = placed.read(PROMPTS, layout).with_columns(split=pl.col("split").replace("test", "dev"))
    placed.write(prompts, PROMPTS, layout)
    return layout


LOOKING = {"steps": 9, "look_every": 4}


def test_looks_are_those_of_the_policies_that_shorter_warm_starts_write(tmp_path, capsys):
    layout, params = with_dev(tmp_path / "whole"), tiny_params(warm_start={**LOOKING, "schedule": "constant"})
    metrics = warm_start.execute(layout, params)
    assert [look["step"] for look in metrics["looks"]] == [4, 8, 9]
    assert "warm-start: step 4, greedy 0." in capsys.readouterr().err
    reward = JudgedReward(read_prepared(layout), params)
    dev = placed.read(PROMPTS, layout).filter(split="dev").sort("prompt_id")
    for look in metrics["looks"]:
        shorter = with_dev(tmp_path / f"{look['step']:.0f}")
        warm_start.execute(shorter, tiny_params(warm_start={"steps": int(look["step"]), "schedule": "constant"}))
        sampler = Sampler(load_policy(shorter.policy(0), 1))
        asked = held_out.rendered(sampler, dev, params.rollout)
        names = [[f"warm start:{name}:{index}" for index in range(9)] for name in dev["prompt_id"]]
        groups = sampler.sample(Request.of(params.rollout, params.train.seed, asked, names), greedy_rows=1)
        values = [
            [reward.values([name], [served(query, row.text, "replace").query])[0] for row in group]
            for (name, query), group in zip(dev.select("prompt_id", "query").iter_rows(), groups, strict=True)
        ]
        assert look["greedy"] == pytest.approx(np.mean([row[0] for row in values]))
        assert look["sampled"] == pytest.approx(np.mean([row[1:] for row in values]))
        assert look["best_of_8"] == pytest.approx(np.mean([max(row[1:]) for row in values]))


def test_looking_changes_no_weight(tmp_path):
    plain, looking = with_dev(tmp_path / "plain"), with_dev(tmp_path / "looking")
    warm_start.execute(plain, tiny_params(warm_start={"steps": 9}))
    warm_start.execute(looking, tiny_params(warm_start=LOOKING))
    assert (plain.policy(0) / "model.safetensors").read_bytes() == (looking.policy(0) / "model.safetensors").read_bytes()


def test_it_stops_where_the_best_of_8_no_longer_rises_also_after_a_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    values = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.9}
    params = tiny_params(warm_start={"steps": 6, "look_every": 1, "patience": 2})

    def run(layout, cut_at=0):
        seen = []

        def look(policy):
            seen.append(policy)
            if len(seen) == cut_at:
                raise KeyboardInterrupt
            return {"best_of_8": values[len(seen)]}

        monkeypatch.setattr(warm_start, "_looker", lambda *given: (look, ""))
        return warm_start.execute(layout, params)

    metrics = run(with_dev(tmp_path / "through"))
    assert (metrics["steps"], [look["step"] for look in metrics["looks"]]) == (4, [1, 2, 3, 4])
    assert "stopped after 4 of 6 steps: 2 looks without a better best of 8" in capsys.readouterr().err
    cut = with_dev(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run(cut, cut_at=4)
    values = {1: 0.5}
    assert run(cut) == metrics
    assert folder_bytes(cut.policy(0)) == folder_bytes(Layout(tmp_path / "through").policy(0))


def test_a_run_that_was_cut_off_goes_on_with_no_look_at_another_reward(tmp_path, monkeypatch):
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    layout, params, seen = with_dev(tmp_path), tiny_params(warm_start={"steps": 4, "look_every": 1}), []

    def look(policy):
        seen.append(policy)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {"best_of_8": float(len(seen))}

    monkeypatch.setattr(warm_start, "_looker", lambda *given: (look, "one reward"))
    with pytest.raises(KeyboardInterrupt):
        warm_start.execute(layout, params)
    monkeypatch.setattr(warm_start, "_looker", lambda *given: (look, "another"))
    assert [look["best_of_8"] for look in warm_start.execute(layout, params)["looks"]] == [4, 5, 6, 7]


def test_what_looks_depend_on_is_the_reward_the_sampling_and_the_prepared_tables(tmp_path):
    layout, params = with_dev(tmp_path), tiny_params()

    def known(**sections):
        changed = dataclasses.replace(params, **{name: dataclasses.replace(getattr(params, name), **own) for name, own in sections.items()})
        return looker(layout, changed, placed.read(PROMPTS, layout))[1]

    found = [known(), known(score_coalitions={"metric": "mrr"}), known(retrieval={"k1": 0.9}), known(rollout={"temperature": 0.7})]
    qrels = placed.read(QRELS, layout)
    placed.write(qrels.with_columns(relevance=pl.lit(0.5)), QRELS, layout)
    found.append(known())
    placed.write(qrels, QRELS, layout)
    assert len(set(found)) == 5
    assert known(warm_start={"steps": 7}) == found[0]


def test_looks_without_dev_prompts_and_patience_without_looks_are_refused(tmp_path):
    layout = write_prepared(tmp_path)
    with pytest.raises(SourceError, match=r"no prompt in split dev to look at.*warm_start\.look_every"):
        warm_start.execute(layout, tiny_params(warm_start=LOOKING))
    assert not layout.policy(0).exists()
    with pytest.raises(ParameterError, match=r"warm_start\.patience: has no looks.*look_every above 0"):
        WarmStart(patience=2).check("warm_start")
