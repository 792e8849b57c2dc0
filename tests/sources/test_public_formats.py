"""Sources esci, hm, wands and beir: what their published files mean, on rows made here and on small files in the original schemas."""

import polars as pl
import pytest

from ospo_cli.errors import OspoError, ParameterError, SourceError
from tests.sources.own_data import ABSENT, SHARED, lines, read, write

EXAMPLES, PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"


def esci_rows():
    rows = [
        (0, "  mug ", 1, "A", "us", "E", 1, "train"),
        (1, "  mug ", 1, "B", "us", "S", 1, "train"),
        (2, "  mug ", 1, "C", "us", "C", 1, "train"),
        (3, "coat", 2, "C", "us", "I", 1, "test"),
        (4, "coat", 2, "A", "us", "E", 1, "test"),
        (5, "taza", 3, "A", "es", "E", 1, "train"),
        (6, "lamp", 4, "B", "us", "E", 0, "train"),
    ]
    names = ["example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split"]
    return pl.DataFrame(rows, schema=names, orient="row")


def esci_products():
    return pl.DataFrame(
        {
            "product_id": ["A", "B", "C", "A"],
            "product_title": ["Red mug", "Blue <mug", None, "Taza roja"],
            "product_description": ["<p>Fine &amp; <b>red</b><br/>5 < 7</p><!-- no --><script>x()</script>", None, "", "t"],
            "product_bullet_point": ["one\ntwo", None, None, None],
            "product_brand": ["Acme", None, None, None],
            "product_color": ["Red", None, None, None],
            "product_locale": ["us", "us", "us", "es"],
            "__index_level_0__": [0, 1, 2, 3],
        }
    )


def official(folder, examples=None, products=None):
    write(folder / EXAMPLES, esci_rows() if examples is None else examples)
    write(folder / PRODUCTS, esci_products() if products is None else products)
    return folder


def joined(folder):
    """The same rows as tasksource/esci publishes them: one file per split, labels as words, surplus rows."""
    words = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
    rows = (
        esci_rows()
        .join(esci_products().drop("__index_level_0__"), on=["product_id", "product_locale"])
        .with_columns(pl.col("esci_label").replace(words), product_text=pl.lit("x"))
    )
    for split in ("train", "test"):
        part = rows.filter(pl.col("split") == split).drop("split")
        write(folder / f"{split}-00000-of-00001.parquet", pl.concat([part, part.head(1)]))
    return folder


def table(frame, *columns):
    return sorted(frame.select(*columns).rows())


def test_esci_keeps_one_locale_and_the_small_version(tmp_path):
    data = read(official(tmp_path), "esci")
    assert table(data.prompts, "prompt_id", "split", "query") == [("1", "train", "mug"), ("2", "test", "coat")]
    assert data.documents["doc_id"].to_list() == ["A", "B", "C"]
    assert table(data.qrels, "prompt_id", "doc_id", "relevance") == [
        ("1", "A", 1.0),
        ("1", "B", 0.1),
        ("1", "C", 0.01),
        ("2", "A", 1.0),
        ("2", "C", 0.0),
    ]


def test_esci_reads_the_large_version_another_locale_and_other_gains_when_asked(tmp_path):
    official(tmp_path)
    assert read(tmp_path, "esci", small_version=False).prompts.height == 3
    assert read(tmp_path, "esci", locale="es").documents["title"].to_list() == ["Taza roja"]
    found = read(tmp_path, "esci", gains={"S": 0.5})
    assert found.qrels.filter(pl.col("doc_id") == "B")["relevance"].to_list() == [0.5]
    us, all_rows = esci_rows().filter(pl.col("product_locale") == "us").height, esci_rows().height
    assert found.card["notes"] == [
        f"prepare_data.locale: us: {us} of {all_rows} rows of judgments",
        "prepare_data.gains: label S stands for 0.5 in 1 judgments",
    ]


def test_esci_descriptions_lose_their_markup_and_nothing_else(tmp_path):
    documents = read(official(tmp_path), "esci").documents
    assert documents["description"].to_list() == ["Fine & red 5 < 7", "", ""]
    assert documents["title"].to_list() == ["Red mug", "Blue <mug", ""]
    assert "__index_level_0__" not in documents.columns


def test_the_joined_variant_gives_the_same_prompts_and_judgments(tmp_path):
    left, right = read(official(tmp_path / "a"), "esci"), read(joined(tmp_path / "b"), "esci")
    assert table(left.prompts, "prompt_id", "split", "query") == table(right.prompts, "prompt_id", "split", "query")
    assert table(left.qrels, pl.all()) == table(right.qrels, pl.all())
    assert table(left.documents, pl.all()) == table(right.documents, pl.all())


ESCI_BROKEN = {
    "unknown label": (
        lambda: {"examples": esci_rows().with_columns(esci_label=pl.lit("X"))},
        r"query_id 1, product_id A, column esci_label: unknown value: found X",
    ),
    "no split": (lambda: {"examples": esci_rows().drop("split")}, r"column split is missing"),
    "product twice": (lambda: {"products": pl.concat([esci_products(), esci_products()])}, r"column product_id: duplicate id: found A"),
    "title of the wrong type": (
        lambda: {"products": esci_products().with_columns(product_title=pl.lit(1))},
        r"column product_title: wrong type",
    ),
    "two labels": (
        lambda: {"examples": esci_rows().with_columns(product_id=pl.lit("A"))},
        r"two judgments of one pair disagree: found query 1, product A",
    ),
    "two splits": (
        lambda: {"examples": esci_rows().with_columns(query_id=pl.lit(1), query=pl.lit("mug"))},
        r"query_id 1: one query has two texts or splits",
    ),
}


@pytest.mark.parametrize("case", ESCI_BROKEN)
def test_broken_esci_files_are_named(tmp_path, case):
    change, message = ESCI_BROKEN[case]
    with pytest.raises(SourceError, match=message):
        read(official(tmp_path, **change()), "esci")


def test_an_esci_folder_without_its_locale_or_its_files_says_what_to_get(tmp_path):
    with pytest.raises(SourceError, match=r"no judgments of this locale: found jp, expected es \(\d+\), us \(\d+\)"):
        read(official(tmp_path / "a"), "esci", locale="jp")
    large = esci_rows().with_columns(small_version=pl.lit(0))
    with pytest.raises(SourceError, match=r"no judgment of locale us is of the small version.*small_version: false"):
        read(official(tmp_path / "c", examples=large), "esci")
    (tmp_path / "b").mkdir()
    with pytest.raises(SourceError, match=r"examples is missing: found an empty folder.*https://github\.com/amazon-science/esci-data"):
        read(tmp_path / "b", "esci")


NAMES = ["Slim jeans", "Wide jeans", "Soft top", "Soft top", "Belt", "Scarf", "Hat", "Dress"]
TYPES = ["Trousers", "Trousers", "Top", "Top", "Belt", "Scarf", "Hat/beanie", "Unknown"]


def article(number):
    return f"0{100000000 + number}"


def hm(folder, transactions=None, articles=None):
    other = ["graphical_appearance_name", "perceived_colour_value_name", "department_name", "section_name", "garment_group_name"]
    columns = {
        "article_id": [article(number) for number in range(8)],
        "prod_name": NAMES,
        "product_type_name": TYPES,
        "product_group_name": ["Garment"] * 8,
        "colour_group_name": ["Black", "Blue", "Red", "White", "Black", "Grey", "Grey", "Green"],
        "index_group_name": ["Ladieswear"] * 8,
        "detail_desc": ["fine"] * 7 + [None],
        **{name: ["x"] * 8 for name in other},
    }
    write(folder / "articles.csv", articles if articles is not None else columns)
    write(folder / "customers.csv", {"customer_id": ["c1", "c2", "c3", "c4"]})
    bought = transactions or [
        ("2020-01-01", "c1", 0), ("2020-01-02", "c1", 2), ("2020-01-02", "c1", 1), ("2020-01-03", "c1", 0), ("2020-02-01", "c1", 3), ("2020-02-01", "c1", 4), ("2020-02-02", "c1", 5),
        ("2020-01-05", "c2", 6), ("2020-02-03", "c2", 7), ("2020-02-03", "c3", 0), ("2020-01-01", "c4", 2), ("2020-02-07", "c4", 3),
    ]  # fmt: skip
    rows = [(day, customer, article(number), 0.1, 2) for day, customer, number in bought]
    write(
        folder / "transactions_train.csv",
        pl.DataFrame(rows, schema=["t_dat", "customer_id", "article_id", "price", "sales_channel_id"], orient="row"),
    )
    return folder


def test_hm_history_is_what_was_bought_before_the_cut_off_and_the_target_comes_after(tmp_path):
    data = read(hm(tmp_path), "hm")
    prompts = {row["prompt_id"]: row for row in data.prompts.to_dicts()}
    assert sorted(prompts) == ["c1", "c2"]  # c3 has no history; c4 buys only another colour of what is in the history
    assert prompts["c1"]["history"] == ["Soft top (top, red)", "Wide jeans (trousers, blue)", "Slim jeans (trousers, black)"]
    assert table(data.qrels, pl.all()) == [("c1", article(4), 1.0), ("c2", article(7), 1.0)]
    assert data.card["counts"] == {
        "customers without a purchase before the cut-off": 1,
        "customers whose next purchases are all in their history": 1,
    }


def test_hm_query_names_the_kind_of_the_target_and_never_its_name(tmp_path):
    prompts = read(hm(tmp_path), "hm").prompts.sort("prompt_id")
    assert prompts["query"].to_list() == ["ladieswear belt", "ladieswear garment"]


def test_hm_history_is_as_long_as_asked_and_the_cut_off_can_be_set(tmp_path):
    data = read(hm(tmp_path), "hm", history_length=1, cut_off_date="2020-01-03")
    prompts = {row["prompt_id"]: row for row in data.prompts.to_dicts()}
    assert prompts["c1"]["history"] == ["Wide jeans (trousers, blue)"]
    assert table(data.qrels.filter(pl.col("prompt_id") == "c1"), "doc_id") == [(article(0),)]


def test_hm_article_ids_without_their_leading_zero_are_refused(tmp_path):
    hm(tmp_path)
    frame = pl.read_csv(tmp_path / "articles.csv")
    with pytest.raises(SourceError, match=r"row 1, column article_id: not ten digits: found 100000000.*leading zeros were lost"):
        read(hm(tmp_path, articles=frame), "hm")


@pytest.mark.parametrize(
    ("transactions", "settings", "kind", "message"),
    [
        ([("2020-01-01", "c1", 0), ("soon", "c1", 1)], {}, SourceError, r"column t_dat: is no date: found soon"),
        ([("2020-01-01", "c1", 0), ("2020-02-01", "c1", 99)], {}, SourceError, r"a purchase of an unknown article: found 0100000099"),
        ([("2020-01-01", "c9", 0), ("2020-02-01", "c9", 1)], {}, SourceError, r"customers\.csv: a customer is missing: found c9"),
        ([("2020-02-01", "c1", 0), ("2020-02-01", "c1", 1)], {}, SourceError, r"no customer bought before and after the cut-off date"),
        (None, {"cut_off_date": "2030-01-01"}, ParameterError, r"cut_off_date: out of range: found 2030-01-01, expected after 2020-01-01"),
        (None, {"cut_off_date": "1 May"}, ParameterError, r"cut_off_date: is no date"),
    ],
)
def test_broken_hm_files_and_dates_are_named(tmp_path, transactions, settings, kind, message):
    with pytest.raises(kind, match=message):
        read(hm(tmp_path, transactions), "hm", **settings)


def wands(folder, labels=("Exact", "Partial", "Irrelevant")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "product.csv").write_text(
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\trating_count\n"
        '1\t60" table\tTables\tFurniture / Tables\t"a ""fine"" <b>table</b>"\tcolor:red|legs:4\t5\n2\tlamp\t\t\t\t\t\n3\trug\tRugs\tRugs\tsoft\ta:b\t1.0\n'
    )
    (folder / "query.csv").write_text("query_id\tquery\tquery_class\n0\tred table\tTables\n")
    (folder / "label.csv").write_text(
        "id\tquery_id\tproduct_id\tlabel\n" + "".join(f"{n}\t0\t{n + 1}\t{label}\n" for n, label in enumerate(labels))
    )
    return folder


def test_wands_is_tab_separated_and_its_labels_become_gains(tmp_path):
    data = read(wands(tmp_path), "wands")
    assert data.documents.row(0, named=True) == {
        "doc_id": "1", "title": '60" table', "category": "Tables", "description": 'a "fine" table', "features": "color:red; legs:4", "category_hierarchy": "Furniture / Tables",
    }  # fmt: skip
    assert data.qrels["relevance"].to_list() == [1.0, 0.5, 0.0]
    assert data.prompts["split"].to_list() == [None]


def test_an_unknown_wands_label_is_named(tmp_path):
    with pytest.raises(
        SourceError,
        match=r"label\.csv: row 2, column label: is no grade: found Fair, expected a number ≥ 0 or one of Exact, Partial, Irrelevant",
    ):
        read(wands(tmp_path, ("Exact", "Fair")), "wands")


def beir(folder, qrels=None):
    lines(
        folder / "corpus.jsonl",
        [
            {"_id": "d1", "title": "T", "text": "one"},
            {"_id": "d2", "title": "", "text": "two"},
            {"_id": "q1", "title": "", "text": "the query itself"},
        ],
    )
    lines(
        folder / "queries.jsonl",
        [{"_id": "q1", "text": "first", "metadata": {}}, {"_id": "q2", "text": "second"}, {"_id": "q3", "text": "never judged"}],
    )
    for split, rows in (qrels or {"train": "q1\td1\t2\nq1\tq1\t1\n", "test": "q2\td2\t1\n"}).items():
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def test_beir_queries_are_those_of_the_judgments_and_a_query_is_not_its_own_answer(tmp_path):
    data = read(beir(tmp_path), "beir")
    assert table(data.prompts, "prompt_id", "split", "query") == [("q1", "train", "first"), ("q2", "test", "second")]
    assert table(data.qrels, pl.all()) == [("q1", "d1", 2.0), ("q2", "d2", 1.0)]
    assert data.excluded.rows() == [("q1", "q1")]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ({"train": "q1\td1\t1\n", "test": "q1\td2\t1\n"}, r"one query is judged in two splits: found query q1 in train, test"),
        ({"test": "q9\td1\t1\n"}, r"a judged query has no text: found query q9"),
        ({"test": "q1\td1\tx\n"}, r"test\.tsv: row 1, column score: is no grade: found x"),
        ({"other": "q1\td1\t1\n"}, r"no judgments: expected train\.tsv, dev\.tsv or test\.tsv"),
    ],
)
def test_broken_beir_judgments_are_named(tmp_path, qrels, message):
    with pytest.raises(SourceError, match=message):
        read(beir(tmp_path, qrels), "beir")


@pytest.mark.parametrize("source", ["esci", "hm", "wands", "beir"])
def test_a_missing_folder_says_where_to_get_the_files(tmp_path, source):
    with pytest.raises(OspoError, match=r"no such folder.*https://"):
        read(tmp_path / "nowhere", source)


@pytest.mark.parametrize(
    ("source", "folder", "settings", "documents", "prompts", "judged"),
    [
        ("esci", "esci-mini/official-schema", {}, 216, 76, 91),
        ("esci", "esci-mini/official-schema", {"small_version": False}, 216, 201, 216),
        ("esci", "fixtures/tasksource-esci-schema", {"small_version": False}, 216, 201, 216),
        ("hm", "fixtures/hm-schema", {}, 300, 8, 8),
        ("wands", "fixtures/wands-schema", {}, 371, 12, 473),
        ("beir", "fixtures/beir-cranfield-mini", {}, 206, 30, 249),
    ],
)
@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_files_in_the_original_schemas_are_read_whole(source, folder, settings, documents, prompts, judged):
    data = read(SHARED / folder, source, **settings)
    assert (data.documents.height, data.prompts.height, data.qrels.height) == (documents, prompts, judged)
