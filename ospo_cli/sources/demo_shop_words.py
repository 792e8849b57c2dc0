"""Words of the demo shop: what its catalogue says, and what its users say for the same thing (never a word of the catalogue)."""

from __future__ import annotations

ATTRIBUTES = ("type", "colour", "material", "brand", "fit", "pattern", "occasion", "season")
TASTE = ("colour", "material", "brand")  # never in the query: only past purchases show them
STATED = ("fit", "pattern", "occasion", "season")  # what a query may state, in the user's words

DEPARTMENT_OF_TYPE = {
    "sneakers": "Footwear",
    "loafers": "Footwear",
    "sandals": "Footwear",
    "boots": "Footwear",
    "parka": "Outerwear",
    "blazer": "Outerwear",
    "cardigan": "Knitwear",
    "pullover": "Knitwear",
    "blouse": "Tops",
    "shirt": "Tops",
    "trousers": "Bottoms",
    "skirt": "Bottoms",
    "dress": "Dresses",
    "tote": "Bags",
    "backpack": "Bags",
    "scarf": "Accessories",
}

# Catalogue word -> words of users. A query holds one of these, or (types alone, sometimes) the catalogue word itself.
BRANDS = (
    "Aldermoor", "Brindlewick", "Calverly", "Dunsworth", "Elmbrook", "Farrowgate", "Kestrelby", "Larkfen", "Mossvale", "Norrick",
)  # fmt: skip

USER_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "type": {
        "sneakers": ("kicks", "trainers"),
        "loafers": ("slipons", "moccasins"),
        "sandals": ("flipflops", "sliders"),
        "boots": ("wellies", "stompers"),
        "parka": ("anorak", "puffer"),
        "blazer": ("jacket", "sportcoat"),
        "cardigan": ("cardie", "woolly"),
        "pullover": ("jumper", "sweater"),
        "blouse": ("top", "tunic"),
        "shirt": ("buttonup", "button-down"),
        "trousers": ("pants", "slacks"),
        "skirt": ("mini", "kilt"),
        "dress": ("frock", "gown"),
        "tote": ("shopper", "handbag"),
        "backpack": ("rucksack", "knapsack"),
        "scarf": ("shawl", "neckwarmer"),
    },
    "colour": dict.fromkeys(("navy", "crimson", "ivory", "olive", "charcoal", "teal", "mustard", "lavender", "coral", "beige"), ()),
    "material": dict.fromkeys(("wool", "linen", "cotton", "leather", "corduroy", "silk", "suede", "velvet", "canvas", "fleece"), ()),
    "brand": dict.fromkeys(BRANDS, ()),
    "fit": {
        "slim": ("snug", "hugging"),
        "relaxed": ("roomy", "baggy"),
        "oversized": ("huge", "slouchy"),
        "cropped": ("short", "stubby"),
        "tailored": ("sharp", "neat"),
        "longline": ("long", "lengthy"),
    },
    "pattern": {
        "striped": ("liney", "stripy"),
        "gingham": ("checked", "picnicky"),
        "floral": ("flowery", "blossomy"),
        "paisley": ("swirly", "psychedelic"),
        "houndstooth": ("dogtooth", "jagged"),
        "polka": ("dotty", "spotty"),
        "geometric": ("angular", "zigzag"),
        "solid": ("simple", "unpatterned"),
    },
    "occasion": {
        "resort": ("the beach", "the seaside"),
        "bridal": ("a wedding", "the church"),
        "office": ("work", "my desk"),
        "hiking": ("the trails", "the mountains"),
        "evening": ("a date", "dinner"),
        "festival": ("a concert", "the rave"),
        "travel": ("a flight", "the holidays"),
        "sports": ("the gym", "training"),
        "lounge": ("the sofa", "lazing"),
        "commuting": ("the bus", "cycling"),
    },
    "season": {
        "spring": ("april", "easter"),
        "summer": ("july", "heatwaves"),
        "autumn": ("october", "halloween"),
        "winter": ("january", "snow"),
    },
}

OPENERS = ("i need", "looking for", "got any", "i want", "show me", "please find", "any ideas for", "hunting for")
JOINERS = ("for", "fit for", "to use for", "good for")
SEASON_JOINERS = ("in", "during", "ready for", "before")

# Catalogue filler that tells no product from another; the imperfect teacher has caught it.
PUFFERY = ("bestseller", "must have", "gift idea", "limited edition", "new arrival", "great value", "editor favourite", "low stock")
DETAILS = (
    "two pockets", "hidden zip", "brass buttons", "double stitching", "soft lining", "ribbed edges", "drawstring", "inner pouch",
    "contrast seams", "reinforced corners", "matching loop", "embossed logo",
)  # fmt: skip

# Attributes that `prepare_data.attributes` adds, so that answers have more to name. Their words are made up: two syllables, those of
# the catalogue end in "ine", those of users in "ish"; none is a word of the shop's other attributes.
FURTHER = (
    "collar", "sleeve", "hem", "lining", "closure", "pocket", "finish", "cuff",
    "strap", "heel", "trim", "stitch", "neckline", "weave", "wash", "clasp",
)  # fmt: skip
_FIRST = ("bar", "cor", "dal", "fen", "gor", "hal", "jun", "kel", "lom", "mar", "nol", "pel", "ron", "sil", "tor", "vem")
_SECOND = ("ab", "ed", "ik", "ol", "ut", "yr")
USER_WORDS |= {
    name: {f"{first}{second}ine": (f"{first}{second}ish",) for second in _SECOND} for name, first in zip(FURTHER, _FIRST, strict=True)
}
