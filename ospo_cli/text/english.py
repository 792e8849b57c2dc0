"""Word lists of the phrase rules: English function words, units, and pairs that a preposition does not cut."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LIMIT_WORDS = _words("under below over above less more than up to between around about within max maximum min minimum least most")

# A phrase starts before these, where the one before it has a content word.
BOUNDARY_WORDS = _words(
    """
    and or but nor plus & with without for from by in on at to into onto under over below above between within against during before
    after through around about near per as like than via no not non except excluding including featuring containing a an the this that
    these those my your his her its our their some any which who whose where when while because so if i we you he she they it less more
    up
    """
)
FUNCTION_WORDS = (
    BOUNDARY_WORDS
    | LIMIT_WORDS
    | _words("of is are was were be been being am do does did has have had will would can could should may might must")
)

UNITS = _words(
    """
    inch inches cm mm m meter meters metre metres ft foot feet yd yard yards km mile miles gb tb mb kb ghz mhz hz w watt watts kw v volt
    volts mah ah amp amps kg g gram grams mg lb lbs pound pounds oz ounce ounces ml l liter liters litre litres qt quart quarts gal gallon
    gallons pack packs count ct pc pcs piece pieces pair pairs year years yr yrs month months week weeks day days hour hours minute
    minutes dollar dollars usd eur euro euros gbp percent % degree degrees bit core cores fps dpi mp megapixel megapixels tier ply shelf
    drawer drawers door doors seat seats
    """
)
MEASURED_WORDS = _words(
    "ram memory ssd hdd storage battery screen display monitor long wide tall high deep thick old warranty resolution diameter capacity"
)

# A number glued to one of these (21mm, 1tb, 250cc, 12v) is a measure too.
GLUED_UNITS = UNITS - _words("bit core tier ply door seat foot feet") | _words("cc pk")
# With a number behind it, a measure: `size 12`, `usb 2.0`.
NUMBERED_WORDS = _words("size sizes age ages usb hdmi bluetooth version volume season episode chapter grade letter")
# They belong to the model before them: `iphone 15 pro max`.
MODEL_SUFFIXES = _words("pro max plus mini ultra lite air xl xs xr se fe x s gen generation")
AUDIENCE = _words("women men womens mens ladies girls boys teens kids toddlers babies adults juniors")
# "for kids room" is about a room: children alone do not end a prepositional phrase.
ENDING_AUDIENCE = AUDIENCE - _words("kids toddlers babies womens mens")
_GLUED = """
    slip on, carry on, clip on, roll on, stick on, snap on, pull on, plug in, built in, walk in, made in, made from, made by, made with,
    lace up, pull over, push up, pop up, pull up, stand up, make up, fold up, zip up, roll up, touch up, wind up, such as, up to, less than,
    more than
"""


def _pairs(text: str) -> frozenset[tuple[str, str]]:
    return frozenset((first, second) for first, second in (pair.split() for pair in text.split(",")))


GLUED_PAIRS = _pairs(_GLUED)
# Pairs that stand behind a complete phrase, where they close a clause.
TRAILING_PAIRS = _pairs(
    "limited edition, special edition, extended edition, deluxe edition, anniversary edition, knee length, ankle length, floor length, "
    "full length, extra large, extra small, extra long, extra wide, full movie, full version, brand new"
)
