"""ESCI's Japanese part from its published files to credit: products are found, answers have several players, shares add up."""

import dataclasses
import json

import polars as pl
import pytest

from ospo_cli.instruments import headroom
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.stages import attribute, prepare_data, score_coalitions, score_queries, segment
from ospo_cli.tables import placed
from ospo_cli.tables.rollout import ROLLOUTS
from tests.params.deletion import by_deletion
from tests.retrievers.catalogues import LOCAL
from tests.sources.test_public_formats import EXAMPLES, PRODUCTS, write
from tests.stages.test_score_then_attribute import VOCABULARY, with_ids
from tests.tables.sampled import sampled_frame
from tests.text.byte_level import pieces

# Product: title, brand, colour. Query: text, the product that it means, split.
SHOP = {
    "A": ("防水スマホケース iPhone15対応", "アンカー", "黒"),
    "B": ("革の財布 メンズ 二つ折り", "工房", "茶色"),
    "C": ("女性用ウールコート 冬", "丸井", "赤い"),
    "D": ("ﾜｲﾔﾚｽ ｲﾔﾎﾝ bluetooth5.3", "ソニー", "白"),
    "E": ("水筒 ステンレス 500ml", "象印", "青い"),
}
QUERIES = [
    ("スマホケース 防水", "A", "train"),
    ("財布 メンズ", "B", "train"),
    ("ウールコート", "C", "test"),
    ("ワイヤレスイヤホン", "D", "train"),
    ("ステンレス水筒", "E", "test"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A prepared project of the small shop, and its parameters."""
    root = tmp_path_factory.mktemp("shop")
    examples = [
        (place * 10 + number, query, place, product, "jp", label, 1, split)
        for place, (query, meant, split) in enumerate(QUERIES)
        for number, (product, label) in enumerate([(meant, "E"), *[(other, "I") for other in SHOP if other != meant]])
    ]
    names = ["example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split"]
    write(root / "esci" / EXAMPLES, pl.DataFrame(examples, schema=names, orient="row"))
    texts = ["product_title", "product_brand", "product_color", "product_description", "product_bullet_point"]
    products = [(product, *own, None, None, "jp") for product, own in SHOP.items()]
    write(
        root / "esci" / PRODUCTS,
        pl.DataFrame(products, schema=["product_id", *texts, "product_locale"], orient="row", infer_schema_length=None).cast(
            dict.fromkeys(texts, pl.String)
        ),
    )
    settings = dataclasses.replace(Params().prepare_data, source="esci", path="esci", locale="jp", pool="catalogue", dev_share=0.3)
    params = dataclasses.replace(by_deletion(), prepare_data=settings)
    prepare_data.execute(Layout(root), params)
    return Layout(root), params


def test_every_query_shares_a_word_with_a_product_and_the_grammar_is_said_to_be_english(project):
    card = json.loads(project[0].prepared("card.json").read_text())
    assert card["text"]["queries that share no word with a candidate"] == "a tenth or less"
    assert card["text"]["queries in scripts without blanks"] == 5
    assert [warning.partition(" are in a script")[0] for warning in card["warnings"]] == ["5 of 5 queries"]


@pytest.mark.parametrize("name", LOCAL)
def test_every_query_ranks_its_product_first(project, name):
    layout, params = project
    tables = read_prepared(layout)
    values = score_queries.score_queries(tables.prompts, JudgedReward(tables, params, retriever=name))
    assert values["value"].to_list() == [1.0] * 5


def test_headroom_knows_japanese_words_and_warns_of_nothing(project, capsys):
    layout, params = project
    table, _ = headroom.execute(layout, params, headroom.Request(split="test", retrievers=("bm25",)))
    assert table.filter(pl.col("system") == "raw query")["value"].to_list() == [1.0]
    assert "retrieves nothing" not in capsys.readouterr().err


def test_answers_have_several_players_whose_shares_add_up(project):
    layout, params = project
    answers = ["防水スマホケース", "黒い革の財布", "財布、メンズ", "赤い女性用ウールコート", "ワイヤレスイヤホンbluetooth5.3", "水筒"]
    prompts = read_prepared(layout).prompts.filter(pl.col("split") != "test")["prompt_id"].to_list()
    rows = [
        (f"001:{prompt}:{sample:02d}", prompt, f"<answer>{answer}</answer>") for prompt in prompts for sample, answer in enumerate(answers)
    ]
    rollouts = with_ids(sampled_frame(*rows))
    placed.write(rollouts, ROLLOUTS, layout, 1)
    segments, metrics = segment.segment(rollouts, params.segment)
    assert (metrics["other_script_share"], metrics["fallback_share"]) == (1.0, 0.0)
    assert segments.group_by("rollout_id", maintain_order=True).len()["len"].to_list() == [2, 3, 2, 3, 2, 1] * len(prompts)
    rewards, values, _ = score_coalitions.score_coalitions(rollouts, segments, JudgedReward(read_prepared(layout), params), params)
    assert rewards["retrieval"].n_unique() > 1
    credit = attribute.attribute(attribute.Scored(rollouts, segments, rewards, values), pieces(VOCABULARY).pieces, params)
    shares = credit.attributions.group_by("rollout_id").agg(pl.col("share").sum()).join(rewards, on="rollout_id")
    grand = values.filter(~pl.col("coalition").str.contains("0") & (pl.col("coalition") != "")).select("rollout_id", "coalition_value")
    empty = values.filter(~pl.col("coalition").str.contains("1")).select("rollout_id", pl.col("coalition_value").alias("nothing"))
    sums = shares.join(grand, on="rollout_id").join(empty, on="rollout_id", how="left").with_columns(pl.col("nothing").fill_null(0.0))
    assert sums.height == shares.height > 0
    assert (sums["share"] - (sums["coalition_value"] - sums["nothing"])).abs().max() < 1e-9
