"""A click log becomes judgments: whose relevance is known, whose days part train from test, and whose faults are named."""

import re

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.stats import spearmanr

from ospo_cli.errors import OspoError
from ospo_cli.params import whole
from ospo_cli.params.prepare_data import Clicks, PrepareData
from ospo_cli.sources.base import MORE_QUERIES
from ospo_cli.stages.prepare_data import prepare
from tests.sources.own_data import PRODUCTS, read, write

PRODUCTS_PER_QUERY = 6


def simulated(queries=40, sessions=300, seed=0):
    """Return (products, log, true attraction by query and product) of a shop whose ranking has habits of its own."""
    draw = np.random.default_rng(seed)
    products = [f"p{index}" for index in range(PRODUCTS_PER_QUERY)]
    truth = draw.beta(1, 3, size=(queries, PRODUCTS_PER_QUERY))
    rows = []
    for query in range(queries):
        habit = draw.normal(size=PRODUCTS_PER_QUERY)
        for session in range(sessions):
            order = np.argsort(-(habit + draw.normal(size=PRODUCTS_PER_QUERY)))
            clicks = draw.random(PRODUCTS_PER_QUERY) < truth[query][order] / (1.0 + np.arange(PRODUCTS_PER_QUERY))
            day = f"2026-01-{1 + 30 * session // sessions:02d}"
            rows += [
                (f"query {query}", products[item], place + 1, int(click), day)
                for place, (item, click) in enumerate(zip(order, clicks, strict=True))
            ]
    log = pl.DataFrame(rows, schema=["query", "product_id", "position", "clicked", "day"], orient="row")
    return pl.DataFrame({"product_id": products, "title": products}), log, truth


@pytest.fixture(scope="module")
def shop_with_clicks(tmp_path_factory):
    """Folder, log and truth of a simulated shop."""
    folder = tmp_path_factory.mktemp("clicks")
    products, log, truth = simulated()
    write(folder / "products.csv", products)
    write(folder / "clicks.parquet", log)
    return folder, log, truth


def rank_correlation(data, truth):
    found = []
    for query, values in enumerate(truth):
        own = data.qrels.filter(prompt_id=f"query {query}").sort("doc_id")
        found.append(spearmanr(own["relevance"], values[[int(name[1:]) for name in own["doc_id"]]]).statistic)
    return np.nanmean(found)


def test_judgments_order_products_as_their_true_attraction_and_better_than_the_plain_rate(shop_with_clicks):
    folder, _, truth = shop_with_clicks
    model = rank_correlation(read(folder, "clicks", clicks=Clicks(levels=20)), truth)
    plain = rank_correlation(read(folder, "clicks", clicks=Clicks(levels=20, model="click-rate")), truth)
    assert model > 0.7
    assert model > plain + 0.02


def test_train_queries_are_judged_by_the_days_before_the_first_test_day_alone(shop_with_clicks, tmp_path):
    folder, log, _ = shop_with_clicks
    first = read(folder, "clicks")
    assert "days before 2026-01-25" in first.card["notes"][0]
    write(tmp_path / "products.csv", pl.read_csv(folder / "products.csv"))
    write(tmp_path / "clicks.parquet", log.with_columns(clicked=pl.when(pl.col("day") >= "2026-01-25").then(0).otherwise("clicked")))
    silent = read(tmp_path, "clicks")
    train = first.prompts.filter(split="train")
    assert train.height > 20
    assert silent.qrels.join(train, on="prompt_id", how="semi").equals(first.qrels.join(train, on="prompt_id", how="semi"))
    others = silent.qrels.join(train, on="prompt_id", how="anti")
    assert others.height > 20
    assert others["relevance"].sum() == 0


def test_a_longer_log_moves_no_query_to_another_split(shop_with_clicks, tmp_path):
    folder, log, _ = shop_with_clicks
    write(tmp_path / "products.csv", pl.read_csv(folder / "products.csv"))
    write(tmp_path / "clicks.parquet", pl.concat([log, log.with_columns(query=pl.lit("new ") + pl.col("query"))]))
    both = read(folder, "clicks").prompts.join(read(tmp_path, "clicks").prompts, on="prompt_id")
    assert both.height == 40
    assert both["split"].equals(both["split_right"].alias("split"))


def test_the_source_gives_what_prepare_data_takes_and_equal_logs_equal_tables(shop_with_clicks, tmp_path):
    folder, log, _ = shop_with_clicks
    data = read(folder, "clicks")
    settings = PrepareData(source="clicks", path=str(folder))
    prepared = prepare(data, settings, 0)
    assert set(prepared.prompts["split"]) == {"train", "dev", "test"}
    write(tmp_path / "products.csv", pl.read_csv(folder / "products.csv"))
    write(tmp_path / "clicks.parquet", log.sample(fraction=1.0, shuffle=True, seed=1))
    other = read(tmp_path, "clicks")
    assert other.qrels.equals(data.qrels)
    assert other.prompts.equals(data.prompts)


def small(folder, **changes):
    """Write a log of one query over the products of PRODUCTS, without days."""
    write(folder / "products.csv", PRODUCTS)
    log = {
        "query": ["Warm  coat"] * 20 + ["warm coat "] * 30 + ["WARM COAT"] * 10,
        "product_id": ["007", "12"] * 30,
        "position": [1, 2, 2, 1] * 15,
        "clicked": [1, 0] * 30,
    }
    write(folder / "clicks.csv", log | changes)
    return folder


def test_spellings_of_a_query_are_one_and_shown_as_most_often_written(tmp_path):
    data = read(small(tmp_path), "clicks")
    assert data.prompts.select("prompt_id", "query").rows() == [("warm coat", "warm coat")]
    assert dict(data.qrels.select("doc_id", "relevance").rows()) == {"007": 4.0, "12": 0.0}
    assert "no column day" in data.card["notes"][0]


def test_the_policy_sees_one_spelling_and_the_engine_the_one_that_is_written_most_often(tmp_path):
    folder = small(tmp_path, query=["WARM  Coat"] * 40 + ["warm coat"] * 20)
    settings = PrepareData(source="clicks", path=str(folder), prompt_template="find {query}")
    (prompt,) = prepare(read(folder, "clicks"), settings, 0).prompts.select("prompt_id", "query", "prompt").rows()
    assert prompt == ("warm coat", "WARM Coat", "find warm coat")


def test_rare_and_unknown_products_are_left_out_and_counted(tmp_path):
    folder = small(tmp_path, product_id=["007"] * 51 + ["12"] * 5 + ["gone"] * 4)
    data = read(folder, "clicks")
    assert data.qrels["doc_id"].to_list() == ["007"]
    assert data.card["counts"]["impressions of products that are not in the catalogue"] == 4
    assert [count for reason, count in data.card["counts"].items() if "too rarely" in reason] == [1]


def sparse(folder, queries=600, days=20):
    """Write a log in which query i of 600 is typed 1 + 4000/(i + 40) times, a product with one click and one without each time."""
    typed = [1 + 4000 // (query + 40) for query in range(queries)]
    rows = [
        (f"query {query}", product, place, int(product == "007"), f"2026-01-{1 + (view + query) % days:02d}")
        for query, count in enumerate(typed) for view in range(count) for place, product in enumerate(("007", "12"), 1)
    ]  # fmt: skip
    write(folder / "products.csv", PRODUCTS)
    write(folder / "clicks.parquet", pl.DataFrame(rows, schema=["query", "product_id", "position", "clicked", "day"], orient="row"))
    return folder


SHARES = {"dev_share": 0.3, "test_share": 0.3}


def test_queries_of_the_log_are_counted_and_a_setting_that_is_named_gives_what_it_says(tmp_path):
    card = read(sparse(tmp_path), "clicks", **SHARES).card
    (said,) = [note for note in card["notes"] if "queries in the log" in note]
    asked, judged, train, dev, test, rare = map(int, re.findall(r"\d+", said)[:6])
    assert (asked, train + dev + test, asked - judged) == (600, judged, rare)
    assert dev < 64 > test
    assert any(f"warning: {dev} dev and {test} test queries are few" in note for note in card["notes"])
    name, value, *numbers = re.search(
        r"set prepare_data\.clicks\.(\w+): (\S+) \((\d+) train, (\d+) dev, (\d+) test\)", card[MORE_QUERIES]
    ).groups()
    again = read(tmp_path, "clicks", clicks=Clicks(**{name: yaml.safe_load(value)}), **SHARES)
    found = dict(again.prompts["split"].value_counts().iter_rows())
    assert [found[split] for split in ("train", "dev", "test")] == list(map(int, numbers))
    assert min(map(int, numbers[1:])) > 64
    assert again.card[MORE_QUERIES] == ""


def test_times_count_as_the_day_that_is_written_and_what_is_named_is_a_day_that_can_be_pasted(tmp_path):
    folder = sparse(tmp_path)
    by_day = read(folder, "clicks", **SHARES)
    log = pl.read_parquet(folder / "clicks.parquet")
    hour = (pl.int_range(pl.len()) % 24).cast(pl.String).str.zfill(2)
    for written in (pl.col("day") + "T" + hour + ":39:41+01:00", (pl.col("day") + " " + hour + ":00").str.to_datetime("%Y-%m-%d %H:%M")):
        log.with_columns(written.alias("day")).write_parquet(folder / "clicks.parquet")
        by_time = read(folder, "clicks", **SHARES)
        assert by_time.qrels.equals(by_day.qrels)
        assert by_time.card[MORE_QUERIES] == by_day.card[MORE_QUERIES]
    named = re.search(r'clicks\.(first_test_day: "[^"]+")', by_time.card[MORE_QUERIES])[1]
    values = whole.to_mapping(whole.Params())
    values["prepare_data"]["clicks"] |= yaml.safe_load(named)
    assert whole.from_mapping(values).prepare_data.clicks.first_test_day in named


FAULTS = {
    "position": ([None, "0", "top"], "is no place in a list"),
    "clicked": (["yes", None], "is neither true nor false"),
    "product_id": ([""], "is empty"),
    "day": ([None, "13/01/2026"], "is no date"),
}


def test_a_broken_row_in_a_thousand_is_left_out_and_counted_and_more_are_an_error_with_their_number(shop_with_clicks, tmp_path):
    folder, log, _ = shop_with_clicks
    sound = read(folder, "clicks")
    write(tmp_path / "products.csv", pl.read_csv(folder / "products.csv"))
    broken = log.select(pl.all().cast(pl.String)).rows()
    names, at = log.columns, 7
    for column, (values, _) in FAULTS.items():
        for value in values:
            broken.insert(
                at,
                tuple(
                    value if name == column else "query 1" if name == "query" else old for name, old in zip(names, broken[0], strict=True)
                ),
            )
            at += 11
    broken.insert(at, ("query 1", "p0", None, None, None))  # a line that was cut short
    write(tmp_path / "clicks.csv", pl.DataFrame(broken, schema=names, orient="row"))
    data = read(tmp_path, "clicks")
    assert data.qrels.equals(sound.qrels)
    said = {reason: count for reason, count in data.card["counts"].items() if reason.startswith("rows whose")}
    assert said == {
        "rows whose position is no place in a list (the first is row 8: nothing)": 4,
        "rows whose clicked is neither true nor false (the first is row 41: yes)": 2,
        "rows whose product_id is empty (the first is row 63: nothing)": 1,
        "rows whose day is no date (the first is row 74: nothing)": 2,
    }
    few = [row for row in broken if row[2] and row[2].isdigit() and int(row[2])][:5000] + [("query 1", "p0", "0", "1", "2026-01-01")] * 6
    write(tmp_path / "clicks.csv", pl.DataFrame(few, schema=names, orient="row"))
    with pytest.raises(OspoError, match=r"row 5001, column position: is no place in a list: found 0 \(6 such of 5,006 rows\)"):
        read(tmp_path, "clicks")
    # Three of each of two kinds are six too.
    sound_rows = log.select(pl.all().cast(pl.String)).rows()[:5000]
    few = sound_rows + [("query 1", "p0", "0", "1", "2026-01-01"), ("query 1", "p0", "1", "yes", "2026-01-01")] * 3
    write(tmp_path / "clicks.csv", pl.DataFrame(few, schema=names, orient="row"))
    with pytest.raises(OspoError, match=r"row 5001, column position: is no place in a list: found 0 \(3 such of 5,006 rows\)"):
        read(tmp_path, "clicks")


def test_grades_are_counted_and_warned_of_where_one_holds_most(shop_with_clicks, tmp_path):
    folder, _, _ = shop_with_clicks
    (said,) = [note for note in read(folder, "clicks").card["notes"] if "judgments by grade" in note]
    counts = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) of", said)]
    assert len(counts) == 5
    assert sum(counts) == read(folder, "clicks").qrels.height
    smoothed = read(folder, "clicks", clicks=Clicks(prior_impressions=300)).card["notes"]
    assert any("of the judgments above 0 have grade 4" in note for note in smoothed)
    assert not any("of the judgments above 0 have grade" in note for note in read(folder, "clicks").card["notes"])


def test_where_no_setting_gives_queries_enough_the_card_says_so(tmp_path):
    card = read(sparse(tmp_path, queries=100), "clicks", **SHARES).card
    assert card[MORE_QUERIES].startswith("no first_test_day and no minimum_impressions gives 71 of each: take a longer log")


def test_short_visits_and_clicks_without_a_purchase_do_not_count_where_asked(tmp_path):
    folder = small(tmp_path, clicked=[1, 1] * 30, dwell=[5.0, 60.0] * 30, purchased=[True, False] * 30)
    assert dict(read(folder, "clicks", clicks=Clicks(minimum_dwell=30)).qrels.select("doc_id", "relevance").rows()) == {
        "007": 0.0,
        "12": 4.0,
    }
    assert dict(read(folder, "clicks", clicks=Clicks(event="purchased")).qrels.select("doc_id", "relevance").rows()) == {
        "007": 4.0,
        "12": 0.0,
    }


def test_products_that_never_moved_are_warned_of(tmp_path):
    data = read(small(tmp_path, position=[1, 2] * 30), "clicks")
    assert any("hardly changed places" in note for note in data.card["notes"])


BROKEN = {
    "a position of 0": ({"position": [0] * 60}, {}, r"clicks\.csv: row 1, column position: is no place in a list: found 0"),
    "a position that is a word": (
        {"position": ["top"] * 60},
        {},
        r"row 1, column position: .*found top \(60 such of 60 rows\), expected a whole number from 1",
    ),
    "a click of 2": ({"clicked": [2] * 60}, {}, r"column clicked: .*found 2 \(60 such of 60 rows\), expected 0 or 1"),
    "a yes": (
        {"clicked": ["1", "0", "yes", "no"] * 15},
        {},
        r"row 3, column clicked: is neither true nor false: found yes \(30 such of 60 rows\), expected 0 or 1, true or false",
    ),
    "clicks alone": ({"clicked": [1] * 60}, {}, r"column clicked: no row has 0.*expected a row for each product that was shown"),
    "days first": (
        {"day": ["2026-01-01", "13/01/2026"] * 30},
        {},
        r"row 2, column day: is no date: found 13/01/2026 \(30 such of 60 rows\), expected YYYY-MM-DD",
    ),
    "no product id": (
        {"product_id": [""] * 60},
        {},
        r"column product_id: no id: found nothing \(60 such of 60 rows\), expected an id in every row",
    ),
    "nothing known": ({"product_id": ["x"] * 60}, {}, r"no product of any query is left to judge: found 60 impressions of products"),
    "purchases asked for": ({}, {"clicks": Clicks(event="purchased")}, r"column purchased is missing"),
    "a test day without days": ({}, {"clicks": Clicks(first_test_day="2026-01-01")}, r"first_test_day: the log has no column day"),
    "a test day after all": (
        {"day": ["2026-01-01", "2026-01-02"] * 30},
        {"clicks": Clicks(first_test_day="2027-01-01")},
        r"leaves no day on one side",
    ),
    "a test time": (
        {"day": ["2026-01-01", "2026-01-02"] * 30},
        {"clicks": Clicks(first_test_day="2026-01-02T07:39:41")},
        r"first_test_day: is no day: found 2026-01-02T07:39:41, expected a day in quotes",
    ),
    "one day": ({"day": ["2026-01-01"] * 60}, {}, r"leaves no day on one side"),
    "a column that is nowhere": ({}, {"columns": {"query": "search"}}, r"no file that may have it has a column search"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fault_of_the_log_is_one_line(tmp_path, case):
    changes, settings, message = BROKEN[case]
    with pytest.raises(OspoError, match=message) as caught:
        read(small(tmp_path, **changes), "clicks", **settings)
    assert "\n" not in str(caught.value)
