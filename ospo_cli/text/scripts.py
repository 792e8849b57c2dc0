"""Letters of scripts whose words no blank ends (and of Hangul), by Unicode's script and line breaking properties.

Python's `unicodedata` knows neither property. A test compares this table with another package's, code point by code point.
"""

from __future__ import annotations

import unicodedata
from functools import cache


def _letters(ranges: str) -> str:
    # The inside of a class of a regular expression.
    return "".join("-".join(chr(int(code, 16)) for code in part.split("-")) for part in ranges.split())


# Letters and letter numbers of the script. With them those of script Common that are written among them alone (〆, ー, 〱).
HAN = _letters(
    "3005-3007 3021-3029 3038-303C 3400-4DBF 4E00-9FFF F900-FA6D FA70-FAD9 16FE3 16FF2-16FF6 20000-2A6DF 2A700-2B81E 2B820-2CEAD "
    "2CEB0-2EBE0 2EBF0-2EE5D 2F800-2FA1D 30000-3134A 31350-33479"
)
HIRAGANA = _letters("3031-3035 3041-3096 309D-309F 1B001-1B11F 1B123 1B132 1B150-1B152")
KATAKANA = _letters(
    "30A1-30FA 30FC-30FF 31F0-31FF FF66-FF9F 1AFF0-1AFF3 1AFF5-1AFFB 1AFFD-1AFFE 1B000 1B120-1B122 1B124-1B128 1B155 1B164-1B168"
)
HANGUL = _letters("1100-11FF 3131-318E A960-A97C AC00-D7A3 D7B0-D7C6 D7CB-D7FB FFA0-FFBE FFC2-FFC7 FFCA-FFCF FFD2-FFD7 FFDA-FFDC")
# Letters of line breaking class SA (complex context): Thai, Lao, Khmer, Myanmar, Tai Le, New Tai Lue, Tai Tham, Tai Viet, Ahom.
SOUTH_EAST_ASIAN = _letters(
    "E01-E30 E32-E33 E40-E46 E81-E82 E84 E86-E8A E8C-EA3 EA5 EA7-EB0 EB2-EB3 EBD EC0-EC4 EC6 EDC-EDF 1000-102A 103F 1050-1055 105A-105D "
    "1061 1065-1066 106E-1070 1075-1081 108E 1780-17B3 17D7 17DC 1950-196D 1970-1974 1980-19AB 19B0-19C9 1A20-1A54 1AA7 A9E0-A9E4 "
    "A9E6-A9EF A9FA-A9FE AA60-AA76 AA7A AA7E-AAAF AAB1 AAB5-AAB6 AAB9-AABD AAC0 AAC2 AADB-AADD 11700-1171A 11740-11746"
)
EAST_ASIAN = HAN + HIRAGANA + KATAKANA + HANGUL


@cache
def marks() -> str:
    """Return the combining marks (general categories Mn and Mc), as the inside of a class of a regular expression."""
    codes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))  # the second: variation selectors of Han
    return "".join(chr(code) for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc"))
