"""`ospo serve` in process: every query is answered, in time, by its rewrite or by itself."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from ospo_cli.errors import OspoError
from ospo_cli.instruments.serve import command
from ospo_cli.instruments.serve.application import Service
from ospo_cli.instruments.serve.batching import REMEMBERED_CHARACTERS, Batcher, Pace
from ospo_cli.instruments.serve.metrics import Histogram, Metrics
from ospo_cli.instruments.serve.settings import Settings
from ospo_cli.retrievers.base import NOTHING
from ospo_cli.rewriting.rewriter import Asked, Rewrite, Rewriter
from tests.rewriting.scripted import SETUP
from tests.rewriting.test_rewriter import HOSTILE


class Answering:
    """Stands in for a rewriter: upper-case answers, held back or failing for queries that say so, and notes of what was asked."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, asked):
        self.batches.append([one.query for one in asked])
        queries = " ".join(one.query for one in asked)
        assert "fail" not in queries, "fail"
        self.go.wait(60 * ("held" in queries))
        return [Rewrite(one.query, one.query.upper(), one.query.upper(), "rewritten", -0.5, 0.25) for one in asked]


@pytest.fixture
def answering():
    return Answering()


@pytest.fixture
def opened(answering):
    """A function: settings -> client of a running service."""
    clients, threads = [], []

    def open_client(answer=answering, base_url="http://localhost", **settings):
        threads.append(ThreadPoolExecutor(1))
        service = Service(answer, ("0123abcd", "012", "the best on dev"), Settings(**{"deadline_seconds": 60.0, **settings}), threads[-1])
        clients.append(TestClient(service.application(), base_url=base_url))
        clients[-1].__enter__()
        return clients[-1]

    yield open_client
    answering.go.set()
    for client in clients:
        client.__exit__(None, None, None)
    for thread in threads:
        thread.shutdown()


def post(client, content, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post("/rewrite", content=body, headers={"Content-Type": "application/json", **headers})


def until(holds):
    """Wait until something holds."""
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def counted(client, name):
    """Return the samples of a metric by their labels."""
    lines = client.get("/metrics").text.splitlines()
    return {line[len(name) : line.rindex(" ")]: float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line)}


def test_one_query_and_many_are_answered_in_their_order(opened):
    client = opened()
    assert post(client, {"query": "red coat"}).json() == {
        "query": "red coat", "rewrite": "RED COAT", "engine_query": "RED COAT", "is_used": True, "why": "rewritten",
        "mean_logprob": -0.5, "probability": 0.25,
    }  # fmt: skip
    many = post(client, {"queries": ["a", {"query": "b", "history": ["x"]}, "a"]}).json()["rewrites"]
    assert [one["engine_query"] for one in many] == ["A", "B", "A"]
    assert post(client, {"queries": []}).json() == {"rewrites": []}


def test_a_real_policy_answers_hostile_queries_as_ospo_rewrite_does(opened, tiny_policy):
    rewriter = Rewriter(tiny_policy, SETUP)
    client = opened(rewriter.rewrite, deadline_seconds=60.0)
    found = post(client, {"queries": HOSTILE}).json()["rewrites"]
    expected = rewriter.rewrite([Asked(query) for query in HOSTILE])
    assert [(one["query"], one["engine_query"], one["why"]) for one in found] == [(e.query, e.engine_query, e.why) for e in expected]


def test_a_query_that_takes_too_long_comes_back_raw_before_it_is_rewritten_and_is_known_afterwards(opened, answering):
    client = opened(deadline_seconds=0.1)
    first = post(client, {"query": "held coat"}).json()
    assert (first["engine_query"], first["why"], first["is_used"]) == ("held coat", "deadline", False)
    answering.go.set()
    # Asked again before the batch ends, the query would have a new deadline and come in time.
    until(lambda: counted(client, "ospo_late_rewrites_total") == {"": 1})
    assert post(client, {"query": "held coat"}).json()["engine_query"] == "HELD COAT"
    assert answering.batches == [["held coat"]]


def test_beyond_the_queue_queries_come_back_raw_at_once(opened):
    client = opened(queue=3, batch=1, deadline_seconds=0.2)
    queries = [f"held {index}" for index in range(9)]
    found = post(client, {"queries": queries}).json()["rewrites"]
    assert [one["engine_query"] for one in found] == queries
    assert [one["why"] for one in found] == ["deadline"] * 3 + ["overload"] * 6
    assert counted(client, "ospo_queries_total") == {'{why="deadline"}': 3, '{why="overload"}': 6}


def test_what_is_late_when_its_turn_comes_is_not_worked_on(opened, answering):
    client = opened(batch=1, deadline_seconds=0.1)
    post(client, {"queries": ["held a", "b", "c"]})
    assert client.get("/health").json() == {
        "status": "ok", "waiting": 2, "policy": "0123abcd", "name": "012", "chosen": "the best on dev"
    }  # fmt: skip
    answering.go.set()
    until(lambda: client.get("/health").json()["waiting"] == 0)
    assert answering.batches == [["held a"]]
    until(lambda: post(client, {"query": "d"}).json()["why"] == "rewritten")


def test_queries_that_come_while_a_batch_runs_are_the_next_batch(opened, answering):
    client = opened()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, client, {"query": "held"})
        until(lambda: answering.batches == [["held"]])
        rest = [pool.submit(post, client, {"query": f"q{index}"}) for index in range(8)]
        until(lambda: client.get("/health").json()["waiting"] == 8)
        answering.go.set()
        assert [one.result().json()["why"] for one in (first, *rest)] == ["rewritten"] * 9
    assert sorted(answering.batches[1]) == [f"q{index}" for index in range(8)]
    assert len(answering.batches) == 2


def test_equal_queries_under_way_are_rewritten_once_and_those_of_before_not_at_all(opened, answering):
    client = opened()
    assert {one["engine_query"] for one in post(client, {"queries": ["x"] * 9}).json()["rewrites"]} == {"X"}
    post(client, {"query": "x"})
    post(client, {"query": "x", "history": ["y"]})
    assert answering.batches == [["x"], ["x"]]
    assert counted(client, "ospo_cache_hits_total") == {"": 1}


def test_a_failure_of_the_policy_answers_the_raw_query_and_the_next_one_is_served(opened, capfd):
    client = opened()
    answer = post(client, {"query": "fail: my secret wish"})
    assert answer.status_code == 200
    assert (answer.json()["engine_query"], answer.json()["why"]) == ("fail: my secret wish", "error")
    assert post(client, {"query": "coat"}).json()["why"] == "rewritten"
    said = capfd.readouterr().err
    assert "AssertionError while 1 queries were rewritten" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        ([], 400),
        ({}, 400),
        ({"query": "a", "queries": []}, 400),
        ({"query": 3}, 400),
        ({"query": None}, 400),
        ({"query": "a", "history": "x"}, 200),
        ({"query": "a", "history": [3]}, 400),
        ({"query": "a", "history": {"b": 1}}, 400),
        ({"queries": "abc"}, 400),
        ({"queries": ["a", 3]}, 400),
        ({"queries": ["a"] * 65}, 400),
        ({"query": "a" * 300_000}, 413),
        (b'{"query": "\\ud800"}', 200),
    ],
)
def test_a_body_that_asks_nothing_is_refused_with_a_reason_and_the_service_goes_on(opened, body, status):
    client = opened()
    answer = post(client, body)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)
    assert post(client, {"query": "coat"}).json()["why"] == "rewritten"


def test_other_methods_paths_hosts_and_kinds_of_content_are_refused_by_json(opened):
    client = opened()
    plain = client.post("/rewrite", content=b'{"query": "a"}', headers={"Content-Type": "text/plain"})
    answers = [client.get("/rewrite"), client.get("/"), plain, opened(base_url="http://evil.example").get("/health")]
    assert [answer.status_code for answer in answers] == [405, 404, 415, 400]
    assert [list(answer.json()) for answer in answers] == [["error"]] * 4
    assert answers[0].headers["allow"] == "POST"
    assert opened(base_url="http://[::1]:8017").get("/health").status_code == 200


def test_too_many_queries_are_counted_and_the_option_is_named(opened):
    answer = post(opened(), {"queries": ["a"] * 65})
    assert (answer.status_code, answer.json()) == (400, {"error": "found 65 queries, expected at most 64 (--most)"})


def test_what_the_policy_is_not_asked_for_waits_for_nothing(opened, answering):
    client = opened(deadline_seconds=0.0, queue=1)
    found = post(client, {"queries": ["", "   ", "a" * 4097]}).json()["rewrites"]
    assert [(one["why"], one["engine_query"]) for one in found] == [("empty", ""), ("empty", ""), ("too long", "a" * 4097)]
    assert answering.batches == []


def test_before_it_listens_policy_and_engine_are_asked_and_the_pace_is_known(tiny_policy):
    rewriter, pace, asked = Rewriter(tiny_policy, SETUP), Pace(), []
    rewriter.engine = SimpleNamespace(rank=lambda texts, pools, depth: asked.append(texts) or [NOTHING] * len(texts))
    command.warm(rewriter, pace)
    assert ["a"] in asked
    assert pace.largest(1e-9, 64) == 1
    assert pace._weight > 1


def test_with_a_token_only_who_shows_it_is_answered(opened):
    client = opened(token="s3cret", base_url="http://rewriter.example")
    answers = [post(client, {"query": "a"}, **headers) for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"})]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert post(client, {"query": "a"}, Authorization="Bearer s3cret").json()["why"] == "rewritten"
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/health").json()["status"] == "ok"


def test_metrics_are_prometheus_text_that_adds_up_and_holds_no_query(opened):
    client = opened()
    post(client, {"queries": ["a wish", "another"]})
    post(client, b"{")
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"\\\n]*"\})? [0-9.e+-]+|# (HELP|TYPE) [a-z_]+ .+')
    assert [line for line in answer.text.splitlines() if not sample.fullmatch(line)] == []
    assert "wish" not in answer.text
    assert counted(client, "ospo_requests_total") == {'{status="200"}': 1, '{status="400"}': 1}
    assert counted(client, "ospo_queries_total") == {'{why="rewritten"}': 2}
    assert counted(client, "ospo_request_seconds_count") == {"": 2}
    assert counted(client, "ospo_request_seconds_bucket")['{le="+Inf"}'] == 2


def test_a_histogram_counts_what_is_at_most_each_bound():
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 2, 3, 9):
        histogram.observe(value)
    buckets = ['x_bucket{le="1"} 2', 'x_bucket{le="2"} 3', 'x_bucket{le="4"} 4', 'x_bucket{le="+Inf"} 5']
    assert histogram.lines("x") == [*buckets, "x_sum 15.5", "x_count 5"]


def test_queries_are_written_to_the_log_only_where_that_is_asked_for_and_then_escaped(opened, capfd):
    post(opened(), {"query": "quiet\x1b[2J"})
    assert "quiet" not in capfd.readouterr().err
    post(opened(logs_queries=True), {"query": "loud\x1b[2J"})
    assert "rewritten: loud\\x1b[2J -> LOUD\\x1b[2J" in capfd.readouterr().err


def test_the_cache_forgets_what_was_asked_longest_ago_and_never_learns_long_queries(opened, answering):
    client = opened(cache=2)
    for query in ("a", "b", "a", "c", "a", "b", "l" * REMEMBERED_CHARACTERS, "l" * REMEMBERED_CHARACTERS, long := "l" * 513, long):
        post(client, {"query": query})
    asked = ["".join(batch)[:1] + str(len("".join(batch))) for batch in answering.batches]
    assert asked == ["a1", "b1", "c1", "b1", "l512", "l513", "l513"]


def test_who_waits_at_the_end_gets_the_raw_query_and_the_running_batch_is_finished(answering):
    async def run():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(answering, Settings(batch=1), Metrics("x", lambda: 0), thread, print)
            batcher.start()
            end = time.monotonic() + 60
            asked = [asyncio.create_task(batcher.rewrite(Asked(query), end)) for query in ("held", "b")]
            while not answering.batches:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.1, answering.go.set)
            await batcher.stop()
            late = await batcher.rewrite(Asked("c"), end)
            return [(await one).why for one in asked] + [late.why], batcher.is_alive

    assert asyncio.run(run()) == (["rewritten", "shutting down", "shutting down"], False)


def test_a_batch_is_as_large_as_half_a_deadline_allows():
    async def run(seconds_per_query):
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(lambda asked: [], Settings(deadline_seconds=0.2, batch=16), Metrics("x", lambda: 0), thread, print)
            batcher.pace.observe(4, 4 * seconds_per_query)
            tasks = [asyncio.create_task(batcher.rewrite(Asked(str(index)), time.monotonic() + 5)) for index in range(40)]
            batcher._work = asyncio.get_running_loop().create_future()
            await asyncio.sleep(0)
            size = len(batcher._next())
            for task in tasks:
                task.cancel()
            return size

    assert [asyncio.run(run(seconds)) for seconds in (0.0, 0.001, 0.02, 0.3)] == [16, 16, 5, 1]


def test_the_pace_is_that_of_a_line_through_batches_of_unlike_size():
    pace = Pace()
    for size in (1, 16, 3, 9, 16, 1, 5):
        pace.observe(size, 0.014 + 0.0016 * size)
    assert pace.largest(0.1, 1000) == pytest.approx((0.1 - 0.014) / 0.0016, abs=1.01)
    assert pace.largest(0.001, 1000) == 1


def test_the_pace_of_batches_of_one_size_is_their_mean_and_before_any_there_is_no_limit():
    pace = Pace()
    assert pace.largest(0.1, 64) == 64
    for _ in range(5):
        pace.observe(8, 0.08)
    assert pace.largest(0.1, 64) == 10


def test_beyond_this_machine_a_token_is_needed(tmp_path, monkeypatch):
    with pytest.raises(OspoError, match=r"--host 0\.0\.0\.0: is reached from other machines, and there is no token"):
        command.execute(tmp_path, "", 0, Settings(host="0.0.0.0"))
    monkeypatch.setenv(command.TOKEN, "two words")
    with pytest.raises(OspoError, match="cannot stand in a header"):
        command.token()


def test_without_its_packages_the_command_says_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OspoError, match=r"starlette is not installed; pip install '\.\[serve\]'"):
        command.execute(tmp_path, "", 0, Settings())
