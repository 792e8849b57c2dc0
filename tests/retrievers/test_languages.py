"""Products in many languages are found by every engine that ranks here, and folding of case is the same in all of them."""

import numpy as np
import pytest

from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.dense import encoders
from ospo_cli.rewards.remembered import normalised
from ospo_cli.text import words as pipeline
from tests.retrievers.catalogues import LEXICAL, LOCAL, documents, retriever

# Language: five products; a query, and which of them it means.
SHOPS = {
    "English": (["red wool coat", "blue desk lamp", "leather wallet", "running shoes", "green scarf"], "Wallet, LEATHER", 2),
    "German": (["Wintermäntel für Mädchen", "Schreibtischlampe", "Größe 39 Straßenschuhe", "Gürtel", "Schal grün"], "STRASSENSCHUHE", 2),
    "French": (["manteau d'été", "lampe de bureau", "crème brûlée", "chaussures à lacets", "écharpe"], "Creme Brulee", 2),
    "Turkish": (["kış montu", "masa lambası", "ışıklı ayakkabı", "deri cüzdan", "yeşil atkı"], "IŞIKLI AYAKKABI", 2),
    "Japanese": (["赤いウールコート", "青いデスクランプ", "本革の財布メンズ", "防水スマホケース", "緑のマフラー"], "財布", 2),
    "Japanese, half width": (["赤いコート", "青いランプ", "ガラスのコップ", "防水ケース", "緑のマフラー"], "ｺｯﾌﾟ", 2),
    "Chinese": (["红色羊毛大衣", "蓝色台灯", "无线蓝牙耳机iPhone15", "真皮钱包", "绿色围巾"], "蓝牙耳机", 2),
    "Korean": (["빨간울코트", "파란책상램프", "방수블루투스이어폰", "가죽지갑", "초록목도리"], "블루투스 이어폰", 2),
    "Thai": (["เสื้อโค้ทขนสัตว์สีแดง", "โคมไฟตั้งโต๊ะ", "รองเท้าวิ่งผู้ชาย", "กระเป๋าสตางค์หนัง", "ผ้าพันคอสีเขียว"], "รองเท้าวิ่ง", 2),
    "Khmer": (["អាវធំពណ៌ក្រហម", "ចង្កៀងតុ", "ស្បែកជើងរត់", "កាបូបលុយ", "កន្សែង"], "ស្បែកជើង", 2),
    "Arabic": (["معطف أحمر", "مصباح مكتب", "كِتَاب جميل", "محفظة جلدية", "وشاح أخضر"], "كتاب", 2),
    "Hindi": (["लाल ऊनी कोट", "मेज़ का दीपक", "हिन्दी की किताब", "चमड़े का बटुआ", "हरा दुपट्टा"], "हिन्दी किताब", 2),
}
folding = {"Turkish": "turkish"}


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("language", SHOPS)
def test_the_product_that_is_meant_is_first(name, language, tmp_path):
    titles, query, meant = SHOPS[language]
    engine = retriever(name, documents(titles), tmp_path, folding=folding.get(language, "standard"))
    assert engine.rank([query], [None], 5)[0].documents[0] == meant


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("language", SHOPS)
def test_every_product_is_the_first_for_its_own_title(name, language, tmp_path):
    titles = SHOPS[language][0]
    engine = retriever(name, documents(titles), tmp_path, folding=folding.get(language, "standard"))
    assert [ranking.documents[0] for ranking in engine.rank(titles, [None] * 5, 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", LEXICAL)
def test_folding_decides_what_a_capital_i_finds(name, tmp_path):
    table = documents(["ışık", "isik", "lamba", "masa", "kitap"])
    found = [retriever(name, table, tmp_path, folding=each).rank(["IŞIK"], [None], 1)[0].documents[0] for each in ("standard", "turkish")]
    assert found == [1, 0]


@pytest.mark.parametrize("name", LOCAL)
def test_another_folding_or_pipeline_is_another_engine(name, tmp_path, monkeypatch):
    table = documents(["red coat", "blue lamp", "green scarf"])
    prints = [retriever(name, table, tmp_path, folding=each).fingerprint for each in ("standard", "turkish")]
    monkeypatch.setattr(pipeline, "VERSION", "words-next")
    prints.append(retriever(name, table, tmp_path).fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize("folded", ["standard", "turkish"])
def test_the_encoder_without_a_model_reads_words_as_it_is_told(folded, tmp_path):
    encoder = encoders.load(Retrieval().dense, tmp_path, folded)
    capital, small = encoder.encode(["IŞIK", "ışık"], "query")
    assert np.array_equal(capital, small) == (folded == "turkish")


def test_texts_that_an_engine_reads_alike_are_kept_as_one(tmp_path):
    table = documents(["ışık", "isik", "lamba"])
    standard, turkish = (retriever("bm25", table, tmp_path, folding=each) for each in ("standard", "turkish"))
    assert normalised(standard, ["IŞIK", "isik", "ışık"]) == ["isik", "isik", "ısık"]
    assert normalised(turkish, ["IŞIK", "isik", "ışık"]) == ["ısık", "isik", "ısık"]
