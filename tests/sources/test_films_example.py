"""The example of films: needs made by rule, judged by the same rule read another way."""

import runpy
import sqlite3
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "docs" / "examples" / "films.py"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    random = np.random.default_rng(0)
    names = [f"{first} {last}" for first in ("Ana", "Bo", "Cy") for last in ("Dahl", "Ek", "Falk", "Gade")]
    path = tmp_path_factory.mktemp("films") / "movies.db"
    with sqlite3.connect(path) as connection:
        connection.execute('create table omdb (ID, Title, Year, Genre, Director, "Cast", Language, Country, Oscars)')
        for number in range(120):
            genres, cast = random.permutation(["Drama", "Comedy", "War"])[:2], random.permutation(names)[:4]
            country = str(random.choice(["France", "Japan", "Peru"]))
            director = "" if number == 7 else str(random.choice(names))
            row = (number, f"Film {number}", 1950 + number % 60, ", ".join(genres), director, ", ".join(cast), "French", country, 0)
            connection.execute("insert into omdb values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    table = EXAMPLE["films"](path)
    return table, *EXAMPLE["needs"](table, 60, 1)


def test_films_without_one_of_the_attributes_are_left_out(made):
    table, _, _ = made
    assert table.height == 119
    assert "7" not in table["product_id"].to_list()


def fits(film, query):
    """Read a query's words one after the other."""
    genre = {"moving": "Drama", "funny": "Comedy", "soldiers": "War"}
    country = {"french": "France", "japanese": "Japan"}
    tokens = query.split()
    right = []
    for place, token in enumerate(tokens):
        behind = tokens[place + 1] if place + 1 < len(tokens) else ""
        right += [genre[token] in film["genre"].split(", ")] if token in genre else []
        right += [country[token] in film["country"].split(", ")] if token in country else []
        right += [any(name.endswith(f" {behind}") for name in film["cast"].split(", "))] if token == "with" else []
        right += [film["director"].endswith(f" {behind}")] if token == "by" else []
        right += [film["year"][:3] == tokens[place + 2][:3]] if token == "from" else []
    return len(right) >= 3 and all(right)


def test_what_is_judged_relevant_has_all_that_the_need_states_and_what_fits_in_full_names_is_judged(made):
    table, queries, judged = made
    film_of, wanted = {row["product_id"]: row for row in table.to_dicts()}, dict(judged.group_by("query_id").agg("product_id").iter_rows())
    assert queries.height == 60
    assert queries["query"].n_unique() == 60
    for query_id, query in queries.iter_rows():
        assert all(fits(film_of[product_id], query) for product_id in wanted[query_id])
        assert len(wanted[query_id]) <= 20
        if " with " not in query and " by " not in query:  # last names fit others of that name too
            assert {product_id for product_id, film in film_of.items() if fits(film, query)} == set(wanted[query_id])
    assert not any(first in query.split() for query in queries["query"] for first in ("Ana", "Bo", "Cy"))


def test_equal_seeds_give_equal_needs(made):
    table, queries, judged = made
    again = EXAMPLE["needs"](table, 60, 1)
    assert queries.equals(again[0])
    assert judged.equals(again[1])
    assert not queries.equals(EXAMPLE["needs"](table, 60, 2)[0])
