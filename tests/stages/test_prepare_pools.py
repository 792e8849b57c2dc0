"""prepare-data: pools of candidates hold every target, and others of the kinds that were asked for."""

import polars as pl
import pytest

from ospo_cli.errors import SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources.pools import sampled_pools
from ospo_cli.stages.prepare_data import prepare
from ospo_cli.tables.prepared import QRELS
from tests.stages.source_data import data


def test_a_pool_holds_the_judged_documents_and_as_many_of_each_kind_as_asked():
    inputs = data(["alpha"], documents=300, judged=[("q0000", "d000", 1.0), ("q0000", "d007", 0.0)])
    pool = prepare(inputs, PrepareData(pool_related=6, pool_same_category=20, pool_random=10), 0).pools
    documents = inputs.documents.join(pool, on="doc_id")
    assert {"d000", "d007"} <= set(documents["doc_id"])
    assert documents.height == 2 + 6 + 20 + 10
    assert documents.filter(pl.col("category") == "c0").height >= 20


def test_related_documents_are_those_that_share_the_anchors_rarest_words():
    titles = ["solar lantern", "solar lantern mini", "solar panel", "garden lantern", *[f"plain mug {number}" for number in range(50)]]
    documents = pl.DataFrame(
        {"doc_id": [f"d{number:02d}" for number in range(len(titles))], "title": titles, "category": [""] * len(titles)}
    )
    qrels = pl.DataFrame([("q", "d00", 1.0)], schema=QRELS.schema, orient="row")
    pools, counts = sampled_pools(documents, qrels, PrepareData(pool_related=3, pool_same_category=0, pool_random=0), 0)
    assert sorted(pools["doc_id"]) == ["d00", "d01", "d02", "d03"]
    assert counts == {
        "prompts filled up for want of related documents": 0,
        "prompts filled up for want of documents of the same category": 0,
    }


@pytest.mark.parametrize(
    "titles",
    [
        ["防水スマホケース", "耐衝撃スマホケース黒", "スマホ", "防水時計", *[f"青い湯呑み{number}" for number in range(50)]],
        ["รองเท้าวิ่งผู้ชาย", "รองเท้าวิ่ง", "รองเท้าผู้หญิง", "เสื้อผู้ชาย", *[f"โคมไฟ {number}" for number in range(50)]],
    ],
)
def test_related_documents_are_found_in_scripts_without_blanks(titles):
    documents = pl.DataFrame(
        {"doc_id": [f"d{number:02d}" for number in range(len(titles))], "title": titles, "category": [""] * len(titles)}
    )
    qrels = pl.DataFrame([("q", "d00", 1.0)], schema=QRELS.schema, orient="row")
    pools, counts = sampled_pools(documents, qrels, PrepareData(pool_related=3, pool_same_category=0, pool_random=0), 0)
    assert sorted(pools["doc_id"]) == ["d00", "d01", "d02", "d03"]
    assert counts["prompts filled up for want of related documents"] == 0


def test_places_that_run_out_are_filled_at_random_and_counted():
    inputs = data(["alpha", "beta"], documents=60)
    prepared = prepare(inputs, PrepareData(pool_related=0, pool_same_category=30, pool_random=5), 0)
    assert prepared.pools.group_by("prompt_id").len()["len"].to_list() == [36, 36]
    assert prepared.card["pools"]["prompts filled up for want of documents of the same category"] == 2


def test_a_small_catalogue_gives_pools_of_all_of_it_each_document_once():
    pools = prepare(data(["alpha"], documents=7), PrepareData(), 0).pools
    assert sorted(pools["doc_id"]) == [f"d{number:03d}" for number in range(7)]


def test_a_catalogue_pool_is_a_table_without_rows():
    assert prepare(data(["alpha"]), PrepareData(pool="catalogue"), 0).pools.height == 0


def test_a_documents_barred_from_a_pool_are_not_in_it():
    barred = pl.DataFrame({"prompt_id": ["q0000"], "doc_id": ["d003"]})
    pools = prepare(data(["alpha"], documents=7, excluded=barred), PrepareData(), 0).pools
    assert sorted(pools["doc_id"]) == ["d000", "d001", "d002", "d004", "d005", "d006"]


def test_the_sources_own_pools_are_kept_and_must_hold_every_target():
    pools = pl.DataFrame({"prompt_id": ["q0000", "q0000"], "doc_id": ["d000", "d005"]})
    assert prepare(data(["alpha"], pools=pools), PrepareData(), 0).pools.equals(pools)
    with pytest.raises(
        SourceError, match=r"pools of query q0000: a relevant product is missing from the pool: found product d000 \(1 such\)"
    ):
        prepare(data(["alpha"], pools=pools.tail(1)), PrepareData(), 0)
    with pytest.raises(SourceError, match=r"a candidate is not in the catalogue: found product nothing"):
        prepare(data(["alpha"], pools=pools.with_columns(doc_id=pl.lit("nothing"))), PrepareData(), 0)
