"""Sampling through somebody's server: what is drawn is what the server's policy draws; a fault is another attempt or an error."""

import dataclasses
import json

import pytest

from ospo_cli.errors import ParameterError, PolicyError
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.rollout import Server
from ospo_cli.params.whole import Params
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import read_policy
from ospo_cli.sampling.completions_server import ServerSampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.sampling.vllm_engine import request_seed
from ospo_cli.stages import rollout, update
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import copy_project, tiny_params, write_advantages, write_project
from tests.sampling import completions_server as faults

CAP = 8
SECRET = "Bearer s3cr3t-t0ken"


@pytest.fixture
def server(tiny_policy):
    with faults.running(tiny_policy) as server:
        yield server


def sampler(server, **changes):
    values = {"url": server.url, "model": "tiny", "concurrency": 2, "timeout_seconds": 60.0, "retries": 2, "backoff_seconds": 0.01}
    return ServerSampler(read_policy(server.sampler.policy.folder), Server(**{**values, **changes}))


def drawn(server, sampling=Sampling(), seed=3, **changes):  # noqa: B008  (frozen)
    made = sampler(server, **changes)
    prompts = [render_prompt(made.policy, "coat"), render_prompt(made.policy, "red boots for the office")]
    return made.sample(Request(prompts, [["a:0", "a:1", "a:2"], ["b:0"]], CAP, sampling, seed, 64))


def test_completions_and_log_probabilities_are_the_servers(server):
    found = drawn(server)
    policy = server.sampler.policy
    for message, names, rows in (("coat", ["a:0", "a:1", "a:2"], found[0]), ("red boots for the office", ["b:0"], found[1])):
        prompt = render_prompt(policy, message)
        asked = [Request([prompt], [["row"]], CAP, Sampling(), request_seed(3, name), 1) for name in names]
        assert rows == [server.sampler.sample(one)[0][0] for one in asked]


def test_a_request_holds_the_prompts_ids_a_seed_of_its_own_and_nothing_that_changes_the_distribution(server):
    drawn(server)
    asked = [request["asked"] for request in server.requests]
    assert {request["path"] for request in server.requests} == {"/v1/completions"}
    assert len({one["seed"] for one in asked}) == 4
    assert {len(one["prompt"]) for one in asked} == {
        len(render_prompt(server.sampler.policy, text)) for text in ("coat", "red boots for the office")
    }
    assert all((one["temperature"], one["top_p"], one["top_k"], one["min_p"], one["n"]) == (1.0, 1.0, -1, 0.0, 1) for one in asked)


def test_neither_concurrency_nor_the_order_of_the_answers_changes_a_row(server):
    expected = drawn(server, concurrency=1)
    server.faults = [faults.slow(0.2)]
    assert drawn(server, concurrency=4) == expected


@pytest.mark.parametrize(
    ("fault", "timeout_seconds"),
    [
        (faults.status(429, Retry_After="0"), 60.0),
        (faults.status(500), 60.0),
        (faults.status(503), 60.0),
        (faults.cut, 60.0),
        (faults.no_json, 60.0),
        (faults.slow(30), 1.0),
    ],
    ids=["429", "500", "503", "cut", "no JSON", "slow"],
)
def test_a_passing_fault_is_another_attempt_and_changes_no_row(server, fault, timeout_seconds):
    expected = drawn(server)
    server.faults = [fault, fault]
    assert drawn(server, concurrency=1, timeout_seconds=timeout_seconds) == expected


def test_a_lasting_fault_is_an_error_that_names_the_rollout_and_the_remedy(server):
    server.faults = [faults.status(500, "out of memory")] * 3
    with pytest.raises(PolicyError, match=r"request 0 \(a:0\) after 3 attempts.*out of memory.*rollout\.server\.retries"):
        drawn(server, concurrency=1)


def test_a_server_that_hangs_is_an_error_within_the_time_out(server):
    server.faults = [faults.slow(30)]
    with pytest.raises(PolicyError, match=r"a:0.*no answer within 0.2 s"):
        drawn(server, concurrency=1, timeout_seconds=0.2, retries=0)


def test_a_refused_request_is_not_tried_again(server):
    server.faults = [faults.status(400, "no such model")]
    with pytest.raises(PolicyError, match=r"the server refuses the request: found HTTP 400 .*no such model"):
        drawn(server, concurrency=1)
    seeds = [request["asked"]["seed"] for request in server.requests]
    assert len(seeds) == len(set(seeds))


def choice_without(*names):
    def change(answer):
        choice = {name: value for name, value in answer["choices"][0].items() if name not in names}
        return answer | {"choices": [choice]}

    return change


def choice_with(**values):
    return lambda answer: answer | {"choices": [answer["choices"][0] | {name: make(answer["choices"][0]) for name, make in values.items()}]}


def logprobs_with(make):
    return choice_with(logprobs=lambda choice: choice["logprobs"] | {"token_logprobs": make(choice["logprobs"]["token_logprobs"])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (choice_without("token_ids"), r"rollout a:0: the server returns no token ids, so that it cannot be used"),
        (choice_without("logprobs"), r"rollout a:0: the server returns no log-probabilities of the sampled tokens"),
        (choice_with(logprobs=lambda choice: None), r"the server returns no log-probabilities"),
        (lambda answer: answer | {"choices": answer["choices"] * 2}, r"rollout a:0: number of choices in the answer: found 2, expected 1"),
        (lambda answer: answer | {"choices": []}, r"found 0, expected 1"),
        (lambda answer: {"error": "busy"}, r"number of choices.*busy"),
        (lambda answer: [1], r"number of choices"),
        (logprobs_with(lambda values: [None, *values[1:]]), r"rollout a:0: log-probability of the sampled token at position 0: found none"),
        (logprobs_with(lambda values: [float("nan"), *values[1:]]), r"position 0: found nan, expected a finite number"),
        (logprobs_with(lambda values: [-9999.0, *values[1:]]), r"position 0: found -9999.0"),
        (logprobs_with(lambda values: [0.5, *values[1:]]), r"position 0: found 0.5"),
        (logprobs_with(lambda values: values[1:]), r"log-probabilities of the sampled tokens: found \d, expected \d, one per token id"),
        (choice_with(token_ids=lambda choice: [100_000, *choice["token_ids"][1:]]), r"token id outside the policy's vocabulary"),
        (choice_with(token_ids=lambda choice: "abc"), r"the answer holds no token ids"),
        (choice_with(token_ids=lambda choice: []), r"number of token ids: found 0"),
        (choice_with(finish_reason=lambda choice: "abort"), r"the completion was broken off: found finish reason abort"),
        (choice_with(token_ids=lambda choice: [5], finish_reason=lambda choice: "stop"), r"leaves the end token out"),
        (choice_with(token_ids=lambda choice: [5], finish_reason=lambda choice: "length"), r"the completion was cut off early"),
        (choice_with(token_ids=lambda choice: [1, 1], finish_reason=lambda choice: "stop"), r"goes on behind its end token"),
    ],
)
def test_an_answer_that_is_no_completion_of_the_policy_is_refused_by_name(server, change, message):
    server.change = change
    with pytest.raises(PolicyError, match=message):
        drawn(server, concurrency=1)


def as_llama_cpp(answer):
    choice = answer["choices"][0]
    pairs = zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
    content = [{"id": token, "token": "…", "logprob": value, "top_logprobs": []} for token, value in pairs]
    return answer | {"choices": [{"text": "", "finish_reason": choice["finish_reason"], "logprobs": {"content": content}}]}


def as_tokens_of_ids(answer):
    choice = answer["choices"][0]
    logprobs = choice["logprobs"] | {"tokens": [f"token_id:{token}" for token in choice["token_ids"]]}
    return choice_without("token_ids")(answer | {"choices": [choice | {"logprobs": logprobs}]})


@pytest.mark.parametrize("change", [as_llama_cpp, as_tokens_of_ids])
def test_other_ways_to_return_ids_and_log_probabilities_are_read(server, change):
    expected = drawn(server)
    server.change = change
    assert drawn(server) == expected


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(top_k=5), Sampling(top_p=0.9)])
def test_temperature_and_cuts_are_refused_since_the_protocol_leaves_their_log_probabilities_open(server, sampling):
    with pytest.raises(ParameterError, match=r"rollout.sampler: openai: the protocol leaves open"):
        drawn(server, sampling)
    assert server.requests == []


def test_the_key_is_sent_and_shown_nowhere(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    server.faults = [lambda handler, answer: faults.send(handler, f"wrong key {SECRET}", 401)]
    with pytest.raises(PolicyError) as caught:
        drawn(server, authorization="MY_KEY", concurrency=1)
    assert server.requests[0]["headers"]["Authorization"] == SECRET
    assert "s3cr3t" not in str(caught.value)


def test_a_key_that_is_not_set_is_an_error_before_any_request(server):
    with pytest.raises(ParameterError, match=r"rollout.server.authorization: the environment variable is not set: found NO_SUCH_KEY"):
        drawn(server, authorization="NO_SUCH_KEY")


def project(server, **changes):
    values = {"url": server.url, "model": "tiny", "concurrency": 2, "timeout_seconds": 60.0, "retries": 0, "backoff_seconds": 0.01}
    params = tiny_params(rollout={"sampler": "openai"})
    section = dataclasses.replace(params.rollout, server=Server(**{**values, **changes}))
    return dataclasses.replace(params, rollout=section)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("server"))


def test_rollouts_of_a_server_that_holds_the_policy_go_through_an_update(server, layout, tmp_path):
    layout = copy_project(layout, tmp_path / "p")
    params = project(server)
    metrics = rollout.execute(layout, params, 1)
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    assert metrics["rollouts"] == rollouts.height == len(server.requests) == 24
    write_advantages(layout, 1)
    assert update.execute(layout, params, 1)["logprob_mismatch"] < 1e-4


def test_a_server_that_holds_another_policy_is_found_by_the_update(server, layout, tmp_path):
    layout = copy_project(layout, tmp_path / "p")
    params = project(server)
    server.sampler.policy.model.lm_head.weight.data.mul_(1.1)
    try:
        rollout.execute(layout, params, 1)
    finally:
        server.sampler.policy.model.lm_head.weight.data.div_(1.1)
    write_advantages(layout, 1)
    with pytest.raises(PolicyError, match=r"max_logprob_mismatch"):
        update.execute(layout, params, 1)


def test_finished_shards_stay_when_the_server_fails_and_are_not_asked_for_again(server, layout, tmp_path):
    layout = copy_project(layout, tmp_path / "p")
    params = project(server, concurrency=1)
    server.faults = [faults.send] * 8 + [faults.status(500)]
    with pytest.raises(PolicyError, match=r"the same command again; what was done is kept"):
        rollout.execute(layout, params, 1)
    assert not layout.iteration(1, "rollouts.parquet").exists()
    asked = len(server.requests)
    rollout.execute(layout, params, 1)
    assert len(server.requests) - asked == 16
    whole = layout.iteration(1, "rollouts.parquet").read_bytes()
    other = copy_project(layout, tmp_path / "q")
    rollout.execute(other, params, 1)
    assert other.iteration(1, "rollouts.parquet").read_bytes() == whole


def test_shards_of_one_sampler_are_not_those_of_another(server, layout, tmp_path):
    layout = copy_project(layout, tmp_path / "p")
    rollout.execute(layout, tiny_params(), 1)
    rollout.execute(layout, project(server), 1)
    assert len(server.requests) == 24


@pytest.mark.parametrize("name", ["url", "model"])
def test_a_server_without_address_or_name_is_refused_when_the_parameters_are_read(name):
    content = whole.to_mapping(Params())
    content["rollout"] |= {"sampler": "openai"}
    content["rollout"]["server"] |= {"url": "http://localhost:1", "model": "m"} | {name: ""}
    with pytest.raises(ParameterError, match=rf"rollout.server.{name}: is empty"):
        whole.from_mapping(json.loads(json.dumps(content)))


def test_a_layout_without_policy_names_the_command_that_makes_it(server, tmp_path):
    layout = copy_project(write_project(tmp_path / "a"), tmp_path / "b")
    with pytest.raises(PolicyError, match=r"run `ospo update --iter 1`"):
        rollout.execute(Layout(layout.root), project(server), 2)
