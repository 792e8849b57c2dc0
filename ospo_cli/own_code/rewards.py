"""A reward that a user wrote: a Python function of their own, named by them in score_coalitions.own_reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.errors import CreditError
from ospo_cli.own_code.loading import REMEDY, REWARD, OwnCode, load_function


@dataclass(frozen=True)
class OwnReward:
    """The function, and the parts that it has to give."""

    code: OwnCode
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """As the user named it."""
        return self.code.name

    @property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of its source file, its name and its parts."""
        return self.code.fingerprint(*self.parts)

    def measure(self, text: str, prompt_id: str, ranking: Sequence[tuple[str, float]]) -> tuple[float, ...]:
        """Return the parts of a text, in the order of `parts`, each checked.

        Args:
            text: what is scored: a whole answer or the text of a coalition.
            prompt_id: whose.
            ranking: (doc_id, score) of the first documents that the retriever found, best first.

        Raises:
            CreditError: the function fails, gives other parts, or a part that is no number from -1 to 1.
        """
        where = f"own_reward {self.name}, prompt {prompt_id}, text {text[:60]!r}"
        found = self.code.run(where, self.code.value, text, prompt_id, list(ranking))
        expected = ", ".join(self.parts)
        if not isinstance(found, Mapping):
            raise CreditError(where, "gives no parts by name", found=type(found).__name__, expected=f"a dict of {expected}", remedy=REMEDY)
        odd = [f"no {name}" for name in self.parts if name not in found] + [str(name) for name in found if name not in self.parts]
        if odd:
            raise CreditError(where, "gives other parts than score_coalitions.own_weights names", found=odd[0], expected=expected)
        return tuple(_number(f"{where}: part {name}", found[name]) for name in self.parts)


def load(name: str, parts: Sequence[str], root: Path) -> OwnReward:
    """Return the function of that name; `root` is the folder that files are relative to.

    Raises:
        CreditError: there is no such file, module, entry point or function, or it cannot be run.
    """
    return OwnReward(load_function(REWARD, name, root), tuple(parts))


def _number(where: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, (str, bytes)) or not -1.0 <= number <= 1.0:
        raise CreditError(where, "is no number from -1 to 1", found=repr(value), expected="-1 to 1; weights scale it", remedy=REMEDY)
    return number + 0.0  # no minus zero
