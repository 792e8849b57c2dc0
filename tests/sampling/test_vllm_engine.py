"""The engine's process: one that hangs, crashes, is absent or answers nonsense is an error that says so. What vLLM itself does: tests/vllm."""

import dataclasses
import importlib.util
import time
from pathlib import Path

import pytest

from ospo_cli.errors import ParameterError, PolicyError
from ospo_cli.params.rollout import Vllm
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.sampling import vllm_engine
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.sampling.vllm_engine import VllmSampler, engine_arguments, request_seed
from ospo_cli.stages import rollout
from tests.policies.tiny import tiny_params, write_project

# Speaks the worker's lines; draws token 5 up to the cap.
ANSWERS = """
import json, sys, time, os
print(json.dumps({"version": "0.32.9"}), flush=True) if sys.stdin.readline() else None
for line in sys.stdin:
    asked = json.loads(line)
    %s
    if "sample" in asked:
        cap = asked["settings"]["max_tokens"]
        rows = [[[5] * cap, [-1.0] * cap, "length"] for _ in asked["sample"]]
        %s
        print(json.dumps({"rows": rows}), flush=True)
    else:
        print(json.dumps({"logprobs": [[-2.0] * len(ids) for _, ids in asked["score"]]}), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    def write(before="", rows=""):
        path = tmp_path / "worker.py"
        path.write_text(ANSWERS % (before, rows) if "\n" not in before else before)
        return path

    return write


def engine(folder, path, **settings):
    return VllmSampler(read_policy(folder), Vllm(**{"timeout_seconds": 300.0, "start_seconds": 300.0, **settings}), 64, 1, path)


def drawn(made, sampling=Sampling(), cap=4):  # noqa: B008  (frozen)
    try:
        return made.sample(Request([[3, 4]], [["001:p:00", "001:p:01"]], cap, sampling, 7, 64))
    finally:
        made.close()


def test_rows_are_the_workers_and_text_is_that_of_their_ids(tiny_folder, worker):
    found = drawn(engine(tiny_folder, worker()))
    policy = read_policy(tiny_folder)
    assert [(row.token_ids, row.logprobs, row.finish_reason, row.text) for row in found[0]] == [
        ([5] * 4, [-1.0] * 4, "length", policy.pieces.text([5] * 4))
    ] * 2


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [(Sampling(), (-1.0, -1.0, -1.0)), (Sampling(0.7), (-1.0, -1.0, -2.0)), (Sampling(top_k=4), (-2.0, -1.0, -2.0))],
)
def test_each_column_holds_the_pass_that_gives_it(tiny_folder, worker, sampling, expected):
    row = drawn(engine(tiny_folder, worker()), sampling)[0][0]
    assert (row.logprobs[0], row.sampled_logprobs[0], row.policy_logprobs[0]) == expected


def test_temperature_with_cuts_is_refused_before_the_engine_starts(tiny_folder, tmp_path):
    with pytest.raises(ParameterError, match=r"not the tempered policy's without cuts: found temperature 0.7 with top_k 5"):
        drawn(engine(tiny_folder, tmp_path / "none.py"), Sampling(0.7, top_k=5))


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(top_k=5)])
def test_an_adapter_is_drawn_from_at_temperature_1_without_cuts_alone(tiny_policy, sampling):
    adapter = dataclasses.replace(tiny_policy, adapter_card={"kind": "adapter"})
    with pytest.raises(ParameterError, match=r"vllm cannot score the rows of an adapter"):
        VllmSampler.check(sampling, adapter)
    assert VllmSampler.check(Sampling(), adapter) is None


@pytest.mark.parametrize("place", ["the start", "2 completions from 001:p:00 on"])
def test_an_engine_that_hangs_is_ended_and_named(tiny_folder, worker, place):
    path = worker("import time\ntime.sleep(600)\n") if place == "the start" else worker("time.sleep(600)")
    began = time.monotonic()
    with pytest.raises(
        PolicyError, match=rf"the engine hangs: no answer to {place} within \d+(\.\d)? s, so it was ended.*_seconds.*finished shards"
    ):
        drawn(engine(tiny_folder, path, **({"start_seconds": 0.3} if place == "the start" else {"timeout_seconds": 0.3})))
    assert time.monotonic() - began < 300


def test_what_the_engine_started_ends_with_it(tiny_folder, worker, tmp_path):
    note = tmp_path / "pid"
    start = f"import subprocess; open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    with pytest.raises(PolicyError, match="hangs"):
        drawn(engine(tiny_folder, worker(start), timeout_seconds=3.0))
    state = Path(f"/proc/{note.read_text()}/stat")
    end = time.monotonic() + 60
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_crash_is_an_error_with_exit_status_and_last_words(tiny_folder, worker):
    with pytest.raises(PolicyError, match=r"the engine failed at 2 completions from 001:p:00 on.*found exit status 9, cannot allocate"):
        drawn(engine(tiny_folder, worker("sys.stderr.write('cannot allocate'); sys.stderr.flush(); os._exit(9)")))


def test_after_a_crash_the_next_call_starts_another_engine(tiny_folder, worker):
    made = engine(tiny_folder, worker("os._exit(9)"))
    with pytest.raises(PolicyError, match=r"exit status 9"):
        made.sample(Request([[3, 4]], [["001:p:00"]], 4, Sampling(), 7, 64))
    made.worker = worker()
    assert drawn(made)[0][0].token_ids == [5] * 4


def test_an_engines_own_error_is_shown(tiny_folder, worker):
    with pytest.raises(PolicyError, match=r"found ValueError: no room"):
        drawn(engine(tiny_folder, worker("print(json.dumps({'error': 'ValueError: no room'}), flush=True); sys.exit()")))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("rows[1][1][2] = float('nan')", r"rollout 001:p:01: log-probability of the sampled token at position 2: found nan"),
        ("rows[1][1] = None", r"rollout 001:p:01: log-probabilities of the sampled tokens: found none"),
        ("rows[0][0][0] = 10**6", r"rollout 001:p:00: token id outside"),
        ("rows[0][2] = 'abort'", r"rollout 001:p:00: the completion was broken off"),
        ("rows = rows[:1]", r"the engine's answer to 2 completions from 001:p:00 on is none"),
        ("print('noise', flush=True)", r"a line that is no JSON: noise"),
    ],
)
def test_an_answer_that_is_no_completion_is_an_error_that_names_the_rollout(tiny_folder, worker, rows, message):
    with pytest.raises(PolicyError, match=message):
        drawn(engine(tiny_folder, worker(rows=rows)))


def test_an_absent_vllm_is_one_line_with_the_remedy(tiny_folder, worker):
    # The real worker under an interpreter without site-packages.
    path = worker(f"import os, sys\nos.execv(sys.executable, [sys.executable, '-S', '-E', {vllm_engine_worker()!r}])\n")
    with pytest.raises(
        PolicyError,
        match=r"rollout.sampler: vllm: the package is not installed here.*pip install '\.\[vllm\]'.*, or name.*OSPO_VLLM_PYTHON",
    ) as caught:
        drawn(engine(tiny_folder, path))
    assert len(str(caught.value).splitlines()) == 1


def vllm_engine_worker():
    return str(importlib.util.find_spec("ospo_cli.sampling.vllm_worker").origin)


def test_an_interpreter_that_is_none_is_an_error(tiny_folder, worker, monkeypatch):
    monkeypatch.setenv(vllm_engine.PYTHON, "/no/such/python")
    with pytest.raises(PolicyError, match=r"the interpreter in OSPO_VLLM_PYTHON cannot be run"):
        drawn(engine(tiny_folder, worker()))


def test_another_version_is_noted_and_the_tested_one_is_not(tiny_folder, worker, capsys):
    drawn(engine(tiny_folder, worker()))
    quiet = capsys.readouterr().err
    path = worker()
    path.write_text(path.read_text().replace("0.32.9", "0.41.0"))
    drawn(engine(tiny_folder, path))
    assert (quiet, "version 0.41.0 was not tested" in capsys.readouterr().err) == ("", True)


def test_seeds_depend_on_seed_and_rollout_and_fit_31_bits():
    seeds = {request_seed(seed, f"001:p:{index:02d}") for seed in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1), (4, 8), (8, 8), (17, 32), (512, 512)])
def test_the_engine_has_room_for_the_adapters_rank(tmp_path, rank, expected):
    assert engine_arguments(tmp_path, Vllm(), 64, rank)["max_lora_rank"] == expected


def test_a_rank_beyond_the_engines_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"policy.lora_rank: too large for vllm: found 513"):
        engine_arguments(tmp_path, Vllm(), 64, 513)


def test_a_policy_read_without_weights_asks_the_same_prompts(tiny_folder, tiny_policy):
    light = read_policy(tiny_folder)
    assert light.model is None
    assert render_prompt(light, "red coat") == render_prompt(tiny_policy, "red coat")
    full = load_policy(tiny_folder, 1)
    fields = ("end_token_id", "pad_token_id", "context_length", "content_hash", "is_adapter")
    assert [getattr(light, name) for name in fields] == [getattr(full, name) for name in fields]


def test_finished_shards_stay_when_the_engine_crashes_and_the_next_call_goes_on(tmp_path, worker, monkeypatch):
    layout = write_project(tmp_path / "p")
    params = tiny_params(rollout={"sampler": "vllm"})
    params = dataclasses.replace(params, rollout=dataclasses.replace(params.rollout, vllm=Vllm(timeout_seconds=300.0)))
    made = []

    class Counting(VllmSampler):
        def __init__(self, *arguments):
            super().__init__(*arguments, worker=path)

        def sample(self, request):
            made.append(len(request.prompts))
            return super().sample(request)

    monkeypatch.setattr(vllm_engine, "VllmSampler", Counting)
    path = worker("count = globals().get('count', 0) + 1; count < 2 or os._exit(3)")
    with pytest.raises(PolicyError, match="exit status 3"):
        rollout.execute(layout, params, 1)
    assert not layout.iteration(1, "rollouts.parquet").exists()
    path = worker()
    rollout.execute(layout, params, 1)
    assert made == [2, 2, 2, 2]
