"""A search server of somebody else's: rankings are the server's, a fault is an error or another attempt, never a value."""

import json
import threading
import time

import numpy as np
import pytest

from ospo_cli.errors import OspoError, ParameterError, RetrievalError
from ospo_cli.params.retrieval import Http, Retrieval
from ospo_cli.params.whole import Params
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.retrievers.http import template as http_template
from ospo_cli.retrievers.opening import build
from ospo_cli.rewards.judged_reward import JudgedReward
from tests.retrievers.catalogues import documents, random_queries, random_titles, retriever
from tests.retrievers.http import msearch_server
from tests.rewards.test_judged_reward import pools, prompts, qrels

COUNT = 80
TABLE = documents(random_titles(51, COUNT))
QUERIES = list(dict.fromkeys(random_queries(52, 40)))
SECRET = "Bearer s3cr3t-t0ken"


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return retriever("bm25", TABLE, tmp_path_factory.mktemp("bm25"))


@pytest.fixture
def server(bm25):
    with msearch_server.running(bm25, Catalogue.from_documents(TABLE).doc_ids) as running:
        yield running


def settings(server, **changes):
    given = {
        "url": server.url,
        "version": "1",
        "variables": {"index": "products", "fields": "title^2,category"},
        "queries_per_request": 8,
        "retries": 2,
        "backoff_seconds": 0.01,
        "timeout_seconds": 60.0,
    }
    return Retrieval(http=Http(**{**given, **changes}))


def engine(server, tmp_path, **changes):
    return build("http", TABLE, settings(server, **changes), tmp_path)


def listed(rankings):
    return [(ranking.documents.tolist(), ranking.scores.tolist()) for ranking in rankings]


@pytest.mark.parametrize("pool", [None, np.arange(0, COUNT, 3)])
@pytest.mark.parametrize("k", [0, 7])
def test_rankings_are_the_servers(server, bm25, tmp_path, pool, k):
    asked = [pool] * len(QUERIES)
    assert listed(engine(server, tmp_path).rank(QUERIES, asked, k)) == listed(bm25.rank(QUERIES, asked, k))


def test_each_distinct_query_is_sent_once_in_batches_and_in_their_order(server, bm25, tmp_path):
    found = engine(server, tmp_path, concurrency=1).rank(QUERIES * 2, [None] * 2 * len(QUERIES), 5)
    assert server.queries() == QUERIES
    assert max(len(request["asked"]) for request in server.requests) == 8
    assert listed(found) == listed(bm25.rank(QUERIES * 2, [None] * 2 * len(QUERIES), 5))


def test_a_request_says_what_the_template_and_the_variables_say(server, tmp_path):
    engine(server, tmp_path).rank(['red "coat" {k}'], [np.array([3, 1])], 5)
    request = server.requests[0]
    assert request["path"] == "/products/_msearch"
    assert request["headers"]["Content-Type"] == "application/x-ndjson"
    assert request["asked"] == [{"query": 'red "coat" {k}', "fields": ["title^2", "category"], "k": 2, "pool": ["d001", "d003"]}]


def test_what_was_prepared_is_not_asked_again_and_changes_no_ranking(server, bm25, tmp_path):
    http = engine(server, tmp_path)
    http.prepare(QUERIES, [None] * len(QUERIES), 5)
    sent = len(server.requests)
    assert listed(http.rank(QUERIES[3:9], [None] * 6, 5)) == listed(bm25.rank(QUERIES[3:9], [None] * 6, 5))
    assert len(server.requests) == sent


def test_values_under_the_server_are_those_under_its_engine(server, tmp_path):
    queries = {f"p{index}": query for index, query in enumerate(QUERIES[:6])}
    tables = (
        TABLE,
        prompts(**queries),
        qrels(*[(name, f"d{7 * index:03d}", 1.0) for index, name in enumerate(queries)]),
        pools(*[(name, f"d{place:03d}") for name in queries for place in range(0, COUNT, 1 + 0)]),
    )
    values = Params(retrieval=settings(server))
    ids, texts = list(queries) * 4, (QUERIES * 2)[: len(queries) * 4]
    found, expected = (JudgedReward(tables, values, retriever=name, cache=tmp_path).values(ids, texts) for name in ("http", "bm25"))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("query", ["", "  ", "?!,"])
def test_a_query_without_a_letter_or_digit_is_not_sent_and_finds_nothing(server, tmp_path, query):
    assert engine(server, tmp_path).rank([query], [None], 5)[0].documents.tolist() == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("fault", "timeout_seconds"),
    [
        (msearch_server.status(500), 60.0),
        (msearch_server.status(503, "<html>busy</html>"), 60.0),
        (msearch_server.status(429), 60.0),
        (msearch_server.slow, 1.0),
        (msearch_server.dripping, 1.0),
        (msearch_server.cut_at_once, 60.0),
        (msearch_server.cut_within, 60.0),
        (msearch_server.instead(json.dumps({"responses": [{"error": {"type": "rejected"}, "status": 429}] * 8})), 60.0),
    ],
)
def test_a_fault_that_passes_is_tried_again_and_leaves_no_trace(server, bm25, tmp_path, fault, timeout_seconds):
    server.faults = [fault, fault]
    found = engine(server, tmp_path, timeout_seconds=timeout_seconds, concurrency=1).rank(QUERIES[:8], [None] * 8, 5)
    assert listed(found) == listed(bm25.rank(QUERIES[:8], [None] * 8, 5))
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "message", "timeout_seconds"),
    [
        (msearch_server.status(500, "out of memory"), r"no answer to request 0 after 3 attempts: found HTTP 500 .*out of memory", 60.0),
        (msearch_server.status(429), "no answer to request 0 after 3 attempts: found HTTP 429", 60.0),
        (msearch_server.slow, "after 3 attempts: found no answer within 0.4 s", 0.4),
        (msearch_server.cut_at_once, "after 3 attempts: found RemoteProtocolError Server disconnected", 60.0),
        (msearch_server.cut_within, r"after 3 attempts: found RemoteProtocolError peer closed .*received \d+ bytes, expected \d+", 60.0),
    ],
)
def test_a_fault_that_stays_stops_the_work_and_says_so(server, tmp_path, fault, message, timeout_seconds):
    server.faults = [fault] * 3
    with pytest.raises(RetrievalError, match=rf"{server.url}.*{message}.*run the same command again"):
        engine(server, tmp_path, timeout_seconds=timeout_seconds, concurrency=1).rank(QUERIES, [None] * len(QUERIES), 5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (msearch_server.status(400, "no such index"), "refuses the request: found HTTP 400 .*no such index"),
        (msearch_server.status(302, Location="http://elsewhere/"), "refuses the request: found HTTP 302 .*to http://elsewhere/"),
        (msearch_server.instead("<html>"), r"query 0 \(.*\): the answer is not JSON: found <html>"),
        (msearch_server.instead(""), "the answer is not JSON: found nothing"),
        (msearch_server.instead("[" * 100_000), "the answer is not JSON"),
        (msearch_server.instead("{}"), "no answer per query at responses"),
        (msearch_server.instead('{"error": {"type": "index_not_found_exception"}}'), "reports an error.*index_not_found"),
        (
            msearch_server.instead('{"responses": [{"hits": {"hits": []}}]}'),
            "no answer per query at responses: found 1 answers, expected 8",
        ),
    ],
)
def test_a_fault_that_cannot_pass_is_an_error_at_once(server, tmp_path, fault, message):
    server.faults = [fault]
    with pytest.raises(RetrievalError, match=message):
        engine(server, tmp_path, concurrency=1).rank(QUERIES[:8], [None] * 8, 5)
    assert len(server.requests) == 1


def hit(doc_id="d001", score=1.0):
    return {"_id": doc_id, "_score": score}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"hits": {"hits": [hit("d999")]}}, "an id is not in the catalogue: found d999"),
        ({"hits": {"hits": [hit(), hit()]}}, "an id occurs twice in an answer: found d001"),
        ({"hits": {"hits": [hit(score=float("nan"))]}}, "no finite score at _score"),
        ({"hits": {"hits": [hit(score=None)]}}, "no finite score at _score"),
        ({"hits": {"hits": [hit(score=True)]}}, "no finite score at _score"),
        ({"hits": {"hits": [hit(score=0.0)]}}, "a score that is not above 0: found 0.0"),
        ({"hits": {"hits": [hit(doc_id=None)]}}, "has no id at _id"),
        ({"hits": {"hits": [hit(f"d{index:03d}") for index in range(6)]}}, "more results than were asked for: found 6, expected at most 5"),
        ({"hits": {"hits": "none"}}, "no list of results at hits.hits: found str"),
        ({"hits": {}}, "no list of results at hits.hits"),
        ([], "no list of results at hits.hits"),
        ({"timed_out": True, "hits": {"hits": []}}, "the answer is not whole: found timed_out = true, expected false"),
        ({"_shards": {"failed": 2}, "hits": {"hits": []}}, "the answer is not whole: found _shards.failed = 2"),
        ({"error": {"reason": "parse"}, "status": 400}, "reports an error.*parse"),
    ],
)
def test_an_answer_that_is_wrong_names_server_query_and_what_was_found(server, tmp_path, answer, message):
    def change(reply):
        reply["responses"][2] = answer
        return reply

    server.change = change
    with pytest.raises(RetrievalError, match=rf"{server.url}, query 2 \('{QUERIES[2]}'\).*{message}"):
        engine(server, tmp_path, concurrency=1).rank(QUERIES[:8], [None] * 8, 5)


def test_an_id_outside_the_pool_is_an_error(server, tmp_path):
    server.change = lambda reply: {"responses": [{"hits": {"hits": [hit("d005")]}}]}
    with pytest.raises(RetrievalError, match="an id is not in the prompt's pool: found d005"):
        engine(server, tmp_path).rank(["w1"], [np.array([1, 2])], 5)


def test_the_time_out_is_of_the_whole_answer_and_not_of_each_part(server, tmp_path):
    server.faults = [msearch_server.dripping]
    search, began = engine(server, tmp_path, timeout_seconds=0.4, retries=0, concurrency=1), time.monotonic()
    with pytest.raises(RetrievalError, match=r"found no answer within 0\.4 s"):
        search.rank(QUERIES[:1], [None], 5)
    assert time.monotonic() - began < 10


def test_the_pause_that_the_server_asks_for_is_kept(server, tmp_path):
    server.faults = [msearch_server.status(429, Retry_After="0.4")]
    engine(server, tmp_path, concurrency=1).rank(QUERIES[:3], [None] * 3, 5)
    assert server.requests[1]["seconds"] - server.requests[0]["seconds"] >= 0.4


def test_a_pause_of_hours_is_an_error_and_no_wait(server, tmp_path):
    server.faults = [msearch_server.status(503, Retry_After="7200")]
    with pytest.raises(RetrievalError, match=r"after 1 attempts.*asks for a pause of 7200 s"):
        engine(server, tmp_path).rank(QUERIES[:3], [None] * 3, 5)


def test_attempts_wait_twice_as_long_each_time(server, tmp_path):
    server.faults = [msearch_server.status(500)] * 3
    engine(server, tmp_path, retries=3, backoff_seconds=0.1).rank(QUERIES[:1], [None], 5)
    moments = [request["seconds"] for request in server.requests]
    assert (np.diff(moments) >= [0.1, 0.2, 0.4]).all()


def test_no_more_requests_begin_per_second_than_allowed(server, tmp_path):
    http, began = engine(server, tmp_path, requests_per_second=20.0, queries_per_request=4), time.monotonic()
    http.rank(QUERIES[:32], [None] * 32, 5)
    assert len(server.requests) == 8
    assert time.monotonic() - began >= 7 / 20


def test_requests_are_under_way_at_once(server, tmp_path):
    all_came = threading.Barrier(4, timeout=60)

    def together(handler, text):
        all_came.wait()
        msearch_server.send(handler, text)

    server.faults = [together] * 4
    engine(server, tmp_path, concurrency=4, queries_per_request=2, retries=0).rank(QUERIES[:8], [None] * 8, 5)
    assert len(server.requests) == 4


def test_a_connection_that_the_server_closed_in_between_is_no_failed_attempt(server, bm25, tmp_path):
    http = engine(server, tmp_path, retries=0, concurrency=1)

    def answered_then_cut(handler, text):
        msearch_server.send(handler, text)
        handler.close_connection = True  # without having said so

    server.faults = [answered_then_cut]
    http.rank(QUERIES[:3], [None] * 3, 5)
    time.sleep(0.1)
    assert listed(http.rank(QUERIES[3:6], [None] * 3, 5)) == listed(bm25.rank(QUERIES[3:6], [None] * 3, 5))


def test_the_secret_is_sent_and_stands_in_no_error_fingerprint_or_representation(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_SEARCH_KEY", SECRET)
    http = engine(server, tmp_path, authorization="SHOP_SEARCH_KEY", concurrency=1)
    http.rank(QUERIES[:1], [None], 5)
    assert server.requests[0]["headers"]["Authorization"] == SECRET
    monkeypatch.setenv("SHOP_SEARCH_KEY", "Bearer another-one")
    assert engine(server, tmp_path, authorization="SHOP_SEARCH_KEY").fingerprint == http.fingerprint
    for echo in (msearch_server.status(401, f"bad key {SECRET}"), msearch_server.instead(f"no: {SECRET.split()[1]}")):
        server.faults = [echo]
        with pytest.raises(RetrievalError) as caught:
            http.rank(QUERIES[1:2], [None], 5)
        assert "s3cr3t" not in str(caught.value)
        assert "***" in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_a_secret_that_is_not_set_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SHOP_SEARCH_KEY", raising=False)
    with pytest.raises(ParameterError, match="environment variable is not set: found SHOP_SEARCH_KEY"):
        engine(server, tmp_path, authorization="SHOP_SEARCH_KEY")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:pass1234@host/", "holds credentials"),
        ("http://host/?api_key=pass1234", "holds a query string"),
        ("ftp://host/", "is no URL"),
        ("", "is no URL: found nothing"),
        ("http://host:port/", "is no URL"),
    ],
)
def test_a_url_with_secrets_or_none_is_refused_without_being_repeated(server, tmp_path, url, message):
    with pytest.raises(ParameterError, match=message) as caught:
        engine(server, tmp_path, url=url)
    assert "pass1234" not in str(caught.value)


def test_the_version_must_be_named_and_enters_the_fingerprint(server, tmp_path):
    with pytest.raises(ParameterError, match=r"retrieval.http.version: is empty.*change the name whenever the index changes"):
        engine(server, tmp_path, version="")
    assert engine(server, tmp_path).fingerprint != engine(server, tmp_path, version="2").fingerprint
    assert engine(server, tmp_path).fingerprint == engine(server, tmp_path, concurrency=1, timeout_seconds=1.0).fingerprint


def test_more_results_than_the_depth_are_an_error_and_all_is_the_depth(server, tmp_path):
    http = engine(server, tmp_path, depth=6)
    with pytest.raises(RetrievalError, match="more results than it may give: found 7, expected at most 6"):
        http.rank(["w1"], [None], 7)
    http.rank(["w1"], [None], 0)
    assert server.requests[0]["asked"][0]["k"] == 6


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        RetrievalError, match=r"http://127.0.0.1:9.*no answer to request 0 after 1 attempts: found ConnectError .*Connection refused"
    ):
        build(
            "http",
            TABLE,
            Retrieval(http=Http(url="http://127.0.0.1:9", version="1", variables={"index": "x"}, retries=0)),
            tmp_path,
        ).rank(["w1"], [None], 5)


VARIABLES = {
    "elasticsearch": {"index": "shop"},
    "solr": {"index": "shop", "fields": "title"},
    "vespa": {"index": "shop"},
    "meilisearch": {"index": "shop"},
    "typesense": {"index": "shop", "fields": "title"},
}
ANSWERS = {
    "elasticsearch": {"hits": {"hits": [{"_id": "b", "_score": 2.5}, {"_id": "a", "_score": 1.0}]}},
    "solr": {"responseHeader": {"status": 0}, "response": {"docs": [{"id": "b", "score": 2.5}, {"id": "a", "score": 1.0}]}},
    "vespa": {
        "root": {
            "fields": {"totalCount": 2},
            "coverage": {"full": True},
            "children": [{"fields": {"doc_id": "b"}, "relevance": 2.5}, {"fields": {"doc_id": "a"}, "relevance": 1.0}],
        }
    },
    "meilisearch": {"hits": [{"id": "b"}, {"id": "a"}]},
    "typesense": {"hits": [{"document": {"id": "b"}}, {"document": {"id": "a"}}], "found": 2},
}


@pytest.mark.parametrize("name", http_template.READY)
def test_a_ready_template_reads_its_servers_answer(name, tmp_path):
    template = http_template.load(name, VARIABLES[name], tmp_path)
    assert [doc_id for doc_id, _ in http_template.results(template, ANSWERS[name], 5)] == ["b", "a"]


@pytest.mark.parametrize("name", http_template.READY)
@pytest.mark.parametrize("query", ['"; drop', "{pool} {k}", "title:x OR *:*", "\ud800 \u202e", "a`]||[`"])
def test_a_hostile_query_is_data_in_every_ready_template(name, query, tmp_path):
    template = http_template.load(name, VARIABLES[name], tmp_path)
    path, body = template.path_and_body([(query, 5, ["a", "b"])])
    lines = [json.loads(line) for line in body.decode().splitlines()]
    held = [text for line in lines for text in http_template._strings(line)]
    assert held.count(query) == 1
    assert sum(query in text for text in held) == 1
    assert "shop" in path + body.decode()


@pytest.mark.parametrize(
    ("name", "doc_id"),
    [("solr", "a,b"), ("vespa", 'a" or true or "'), ("meilisearch", 'a", "b'), ("typesense", "a`, `b"), ("vespa", "a\\")],
)
def test_an_id_that_could_leave_its_filter_is_refused(name, doc_id, tmp_path):
    template = http_template.load(name, VARIABLES[name], tmp_path)
    with pytest.raises(RetrievalError, match="an id cannot be written into this server's filter"):
        template.path_and_body([("coat", 5, [doc_id])])


def test_vespas_answer_without_results_is_empty_only_where_it_counts_none(tmp_path):
    template = http_template.load("vespa", VARIABLES["vespa"], tmp_path)
    assert http_template.results(template, {"root": {"fields": {"totalCount": 0}}}, 5) == []
    with pytest.raises(ValueError, match=r"no list of results at root\.children"):
        http_template.results(template, {"root": {"fields": {"totalCount": 3}}}, 5)


def test_a_template_of_ones_own_is_a_file_and_may_ask_by_url_alone(server, tmp_path):
    own = {
        "method": "GET", "format": "url", "path": "/find", "request": "?q={query}&n={k}", "hits": "", "id": "", "score": "",
        "variables": {},
    }  # fmt: skip
    with pytest.raises(ParameterError, match="id: is empty"):
        http_template.parse(json.dumps(own), {}, "own.json")
    template = http_template.parse(json.dumps(own | {"id": "sku"}), {}, "own.json")
    assert template.path_and_body([("a&b=ü", 3, None)]) == ("/find?q=a%26b%3D%C3%BC&n=3", None)
    assert http_template.results(template, [{"sku": 7}, {"sku": "x"}], 3) == [("7", None), ("x", None)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request": {"q": "title:{query}"}}, r"request: \{query\} stands within a longer text"),
        ({"request": {"q": "{query}", "n": "{size}"}}, r"unknown placeholder: found \{size\}"),
        ({"request": {"q": "shoe"}}, r"a placeholder is missing: expected \{query\}"),
        ({"pooled_request": {"q": "{query}"}}, r"pooled_request: a placeholder is missing: expected \{pool\}"),
        ({"path": "/{query}"}, "path: unknown placeholder"),
        ({"batch": {"queries": []}}, "answers: is empty"),
        ({"batch": {"queries": []}, "answers": "results"}, r"batch: a placeholder is missing: expected \{requests\}"),
        ({"hit": "hits"}, "is no template: found hit"),
        ({"format": "xml"}, "unknown format or method"),
        ({"id": 3}, "id: wrong type"),
        ({"variables": {"index": None}}, "needs a variable: found no index"),
    ],
)
def test_a_template_that_cannot_work_is_refused_before_anything_is_sent(change, message):
    own = {"request": {"q": "{query}", "n": "{k}"}, "hits": "hits", "id": "id"}
    with pytest.raises(ParameterError, match=message):
        http_template.parse(json.dumps(own | change), {}, "own.json")


def test_an_unknown_variable_or_template_is_refused_with_what_exists(tmp_path):
    with pytest.raises(ParameterError, match="no such variable: found indx, expected index, fields"):
        http_template.load("elasticsearch", {"index": "x", "indx": "y"}, tmp_path)
    with pytest.raises(ParameterError, match="no such template: found elastic, expected elasticsearch, solr"):
        http_template.load("elastic", {}, tmp_path)
    with pytest.raises(OspoError, match="cannot be read"):
        http_template.load("mine.json", {}, tmp_path)


def test_typesense_is_told_that_more_than_fifty_queries_come_in_one_request(tmp_path):
    template = http_template.load("typesense", {"index": "shop", "fields": "title"}, tmp_path)
    path, body = template.path_and_body([("coat", 10, None)] * 64)
    allowed = int(path.partition("limit_multi_searches=")[2])
    assert len(json.loads(body)["searches"]) == 64 <= allowed
