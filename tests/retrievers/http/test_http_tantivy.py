"""A search engine that nobody here wrote (tantivy) behind `_msearch`, as the reward of a project."""

import importlib.util

import numpy as np
import pytest

from ospo_cli.params.retrieval import Http, Retrieval
from ospo_cli.retrievers.base import Catalogue, best_first
from ospo_cli.retrievers.opening import build
from ospo_cli.text.words import words
from tests.retrievers.catalogues import documents, random_queries, random_titles, retriever
from tests.retrievers.http import msearch_server

COUNT = 150
TABLE = documents(random_titles(81, COUNT))
QUERIES = list(dict.fromkeys(random_queries(82, 40)))


class Tantivy:
    """An index of tantivy behind the method that the server calls."""

    def __init__(self, catalogue):
        import tantivy

        builder = tantivy.SchemaBuilder()
        builder.add_text_field("sku", stored=True, tokenizer_name="raw")
        builder.add_text_field("body")
        self.schema = builder.build()
        self.index, self.catalogue = tantivy.Index(self.schema), catalogue
        writer = self.index.writer(heap_size=15_000_000, num_threads=1)
        for doc_id, text in zip(catalogue.doc_ids, catalogue.texts, strict=True):
            writer.add_document(tantivy.Document(sku=[doc_id], body=[text]))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()

    def rank(self, queries, pools, k):
        import tantivy

        searcher = self.index.searcher()
        rankings = []
        for query, pool in zip(queries, pools, strict=True):
            terms = [tantivy.Query.term_query(self.schema, "body", word) for word in sorted(set(words(query)))]
            asked = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
            hits = searcher.search(asked, COUNT).hits
            found = {self.catalogue.index_of[searcher.doc(address)["sku"][0]]: score for score, address in hits}
            kept = [document for document in found if pool is None or document in pool]
            rankings.append(best_first(np.array(kept, dtype=np.int64), np.array([found[document] for document in kept]), k))
        return rankings


@pytest.mark.skipif(importlib.util.find_spec("tantivy") is None, reason="pip install tantivy: another engine to compare with")
def test_rankings_are_tantivys_and_near_those_of_bm25(tmp_path):
    catalogue = Catalogue.from_documents(TABLE)
    engine = Tantivy(catalogue)
    bm25 = retriever("bm25", TABLE, tmp_path)
    with msearch_server.running(engine, catalogue.doc_ids) as server:
        http = build("http", TABLE, Retrieval(http=Http(url=server.url, version="1", variables={"index": "shop"})), tmp_path)
        for pools in ([None] * len(QUERIES), [np.arange(0, COUNT, 2)] * len(QUERIES)):
            found = http.rank(QUERIES, pools, 10)
            expected = engine.rank(QUERIES, pools, 10)
            assert [ranking.documents.tolist() for ranking in found] == [ranking.documents.tolist() for ranking in expected]
            ours = bm25.rank(QUERIES, pools, 10)
            shared = [len(set(a.documents) & set(b.documents)) / max(1, len(b.documents)) for a, b in zip(found, ours, strict=True)]
            assert np.mean(shared) > 0.8
