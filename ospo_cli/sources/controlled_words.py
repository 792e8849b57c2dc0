"""Words of source controlled: what a traveller writes, and what the checker looks for (never a word of the traveller's)."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """Something a traveller plans: what must be packed for it (`partner` only counts with `core`), and how it is said in a brief.

    `companion` is packed with it unless the brief forbids its kind. In `partner` either of two things is enough where " or " stands.
    """

    core: str
    partner: str
    companion: str
    kind: str
    said: tuple[str, str, str]


# Kind of thing -> how a brief forbids it.
KINDS: dict[str, tuple[str, str, str]] = {
    "flame": ("no fire", "fire ban", "nothing that burns"),
    "glass": ("no glass", "nothing breakable", "nothing fragile"),
    "sharp": ("hand luggage", "nothing sharp", "cabin bag"),
    "nuts": ("nut allergy", "no nuts", "nut free"),
    "noise": ("quiet place", "nothing loud", "no noise"),
    "power": ("no electricity", "nothing to plug in", "off grid"),
}
BRIEFLY = ("keep it short", "travelling light", "small bag")
OPENERS = ("packing for", "what to bring for", "a list for", "weekend with")

PLANS: dict[str, Plan] = {
    "camping": Plan("tent", "pegs or ropes", "candle", "flame", ("sleeping outdoors", "wild nights", "under the stars")),
    "grill": Plan("tongs", "charcoal", "lighter", "flame", ("barbecue", "a cookout", "grilling")),
    "kitchen": Plan("pot", "ladle or spoon", "stove", "flame", ("cooking", "hot meals", "making dinner")),
    "birthday": Plan("cake", "ribbon", "matches", "flame", ("birthday", "turning forty", "a celebration")),
    "picnic": Plan("blanket", "basket or hamper", "jar", "glass", ("picnic", "lunch outside", "eating on the grass")),
    "wine": Plan("cheese", "crackers", "bottle", "glass", ("wine evening", "tasting", "a toast at sunset")),
    "wedding": Plan("suit", "loafers or pumps", "mirror", "glass", ("wedding", "marriage", "getting married")),
    "painting": Plan("brushes", "canvas", "vase", "glass", ("painting", "art class", "still life")),
    "shaving": Plan("comb", "soap or gel", "razor", "sharp", ("looking tidy", "grooming", "a clean face")),
    "sewing": Plan("thread", "buttons", "scissors", "sharp", ("mending clothes", "sewing", "repairs")),
    "fishing": Plan("rod", "bait or hooks", "knife", "sharp", ("fishing", "catching trout", "angling")),
    "fruit": Plan("apples", "napkins", "peeler", "sharp", ("healthy snacks", "vitamins", "fresh produce")),
    "hiking": Plan("boots", "map or compass", "peanuts", "nuts", ("hiking", "long walks", "mountain trails")),
    "breakfast": Plan("oats", "milk", "almonds", "nuts", ("breakfast", "early mornings", "first meal")),
    "skiing": Plan("skis", "goggles or visor", "marzipan", "nuts", ("skiing", "snow", "the slopes")),
    "cycling": Plan("helmet", "pump", "muesli", "nuts", ("cycling", "bike tour", "two wheels")),
    "football": Plan("jersey", "cleats or studs", "whistle", "noise", ("football", "soccer", "a match")),
    "beach": Plan("towel", "sunscreen", "radio", "noise", ("beach", "seaside", "lying in the sun")),
    "dancing": Plan("skirt", "sandals or heels", "speaker", "noise", ("dancing", "a party", "going out")),
    "music": Plan("guitar", "songbook", "drum", "noise", ("singing", "making music", "jamming")),
    "work": Plan("notebook", "pens or pencils", "laptop", "power", ("working", "office days", "writing")),
    "reading": Plan("novel", "bookmark", "lamp", "power", ("reading", "quiet hours", "long stories")),
    "tea": Plan("mug", "teabags or leaves", "kettle", "power", ("tea", "hot drinks", "afternoon brew")),
    "swimming": Plan("swimsuit", "flippers", "hairdryer", "power", ("swimming", "pool", "diving")),
}

# Packed out of habit, asked for by nobody.
HABITS = ("socks", "tissues", "sunglasses", "umbrella", "keys", "gum", "scarf", "pillow")
