"""Section segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import parameter
from ospo_cli.text.levels import LEVELS, LEVELS_WITH_PHRASES, UNIONS


@dataclass(frozen=True)
class Segment:
    """Players of the game."""

    level: str = parameter("phrase", "what a segment is", choices=LEVELS)
    window: int = parameter(3, "words per segment (level: window)", minimum=1, when="level: window")
    unions: Literal["auto", "sentence", "clause", "phrase", "none"] = parameter(
        "auto",
        "unions of neighbouring segments, for the Owen value: sentence, clause, phrase (over words), none, or auto "
        "(words: phrase; phrases: sentence where there are several, else clause; sentences and windows: none)",
    )
    segmenter: Literal["rules", "spacy"] = parameter(
        "rules", "how phrases are found (level: phrase or word): rules, or spacy (noun chunks; extra [spacy])"
    )
    own_segmenter: str = parameter(
        "",
        "function of your own that cuts answers, in place of level and segmenter: FILE.py:FUNCTION (relative to params.yaml), "
        "MODULE:FUNCTION, or the name of an entry point in group ospo.segmenters; it is run (docs/own-code.md)",
    )
    spacy_model: str = parameter("en_core_web_sm", "installed model package; never downloaded (segmenter: spacy)", when="segmenter: spacy")
    coverage: Literal["full", "partial"] = parameter(
        "full", "full: every letter and digit of an answer must lie in a segment; partial: some may lie in none"
    )
    max_segments: int = parameter(0, "most segments of an answer, the rest is merged into the last one; 0 is no limit", minimum=0)

    def check(self, where: str) -> None:
        """Raise ParameterError where parameters of this section contradict each other; `where` names the section."""
        level = "phrase" if self.own_segmenter else self.level
        if self.unions not in UNIONS[level]:
            expected = ", ".join(UNIONS[level])
            raise ParameterError(f"{where}.unions", f"no unions of level {level}", found=self.unions, expected=expected)
        if self.segmenter == "spacy" and self.level not in LEVELS_WITH_PHRASES:
            raise ParameterError(
                f"{where}.segmenter",
                "finds phrases, which the level does not use",
                found=f"spacy with level {self.level}",
                expected=f"rules, or level {' or '.join(LEVELS_WITH_PHRASES)}",
            )
