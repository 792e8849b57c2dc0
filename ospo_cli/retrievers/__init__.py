"""Search engines behind one protocol; a new one is a module and a line in RETRIEVERS (name: module and class)."""

RETRIEVERS: dict[str, str] = {
    "bm25": "ospo_cli.retrievers.lexical.bm25:BM25",
    "rank-bm25": "ospo_cli.retrievers.lexical.rank_bm25:RankBM25",
    "bm25s": "ospo_cli.retrievers.lexical.bm25s:BM25S",
    "tfidf-char": "ospo_cli.retrievers.lexical.tfidf_char:CharacterTfidf",
    "lsa": "ospo_cli.retrievers.dense.lsa:LatentSemantic",
    "dense": "ospo_cli.retrievers.dense.retriever:Dense",
    "hybrid": "ospo_cli.retrievers.hybrid:Hybrid",
    "http": "ospo_cli.retrievers.http.engine:HttpEngine",
    "checker": "ospo_cli.retrievers.checker:Checker",
}
