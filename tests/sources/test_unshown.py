"""What is guessed of products that were never shown: by the words that clicked titles share, and nothing where they share none."""

import polars as pl

from ospo_cli.params.prepare_data import Clicks
from ospo_cli.sources import unshown
from ospo_cli.sources.unshown import guessed
from ospo_cli.tables.prepared import DOCUMENTS
from ospo_cli.tables.title_words import title_texts
from tests.sources.own_data import read, write

TITLES = ["Swim Shorts red"] * 3 + ["Swim Shorts blue"] * 2 + ["Swim Shorts green"] * 2 + ["Swim Goggles"] * 3 + ["Wool Coat"] * 600


def shop(titles=TITLES):
    rows = [(f"d{row:03d}", title, "") for row, title in enumerate(titles)]
    return pl.DataFrame(rows, schema=DOCUMENTS.schema, orient="row")


def judged(grades, key="badehose"):
    rows = [(key, f"d{row:03d}", float(grade)) for row, grade in grades.items()]
    return pl.DataFrame(rows, schema={"key": pl.String, "doc_id": pl.String, "relevance": pl.Float64}, orient="row")


def of(grades, titles=TITLES):
    documents = shop(titles)
    return {doc_id: grade for _, doc_id, grade in guessed(judged(grades), documents, title_texts(documents)).iter_rows()}


REST = ["d001", "d002", "d004", "d006"]  # shorts that a log of three does not show


def test_unshown_products_with_the_words_of_the_clicked_titles_get_their_mean_grade_rounded_down():
    assert of({0: 4, 3: 4, 5: 4}) == dict.fromkeys(REST, 3.0)  # twelve of four, one of which is at 0
    assert of({0: 4, 3: 4, 5: 4, 6: 0}) == dict.fromkeys(REST[:3], 2.0)
    assert of({0: 4, 3: 4, 5: 4, 10: 0, 11: 0}) == dict.fromkeys(REST, 3.0)


def test_nothing_is_guessed_where_too_few_were_clicked_or_share_nothing_or_were_liked():
    assert of({0: 4, 3: 4}) == {}
    assert of({0: 4, 7: 4, 10: 4, 11: 4}) == {}
    assert of({0: 1, 3: 1, 5: 1}) == {}  # three of four is less than a grade


def test_nothing_is_guessed_for_a_query_for_much_of_the_catalogue(monkeypatch):
    monkeypatch.setattr(unshown, "MOST", 6)
    assert of({0: 4, 3: 4, 5: 4}) == {}
    monkeypatch.setattr(unshown, "MOST", 7)
    assert len(of({0: 4, 3: 4, 5: 4})) == 4


def test_the_source_adds_guesses_where_asked_and_counts_them(tmp_path):
    write(tmp_path / "products.csv", {"product_id": [f"d{row:03d}" for row in range(len(TITLES))], "title": TITLES})
    shown = ["d000", "d003", "d005", "d010"]
    log = {"query": ["badehose"] * 80, "product_id": shown * 20, "position": [1, 2, 3, 4] * 20, "clicked": [1, 1, 1, 0] * 20}
    write(tmp_path / "clicks.csv", log)
    plain, more = read(tmp_path, "clicks"), read(tmp_path, "clicks", clicks=Clicks(unshown="shared-words"))
    extra = more.qrels.join(plain.qrels, on=["prompt_id", "doc_id"], how="anti")
    assert sorted(extra["doc_id"]) == REST
    assert extra["relevance"].unique().to_list() == [3.0]
    assert more.qrels.height == plain.qrels.height + 4
    (said,) = [note for note in more.card["notes"] if "guesses" in note]
    assert "further 4 judgments of 1 queries are guesses" in said
    assert not [note for note in plain.card["notes"] if "guesses" in note]
