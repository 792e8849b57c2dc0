"""Section warm_start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class WarmStart:
    """Supervised start of the policy."""

    teacher: Literal["source", "judgments", "catalogue", "file", "none"] = parameter(
        "source",
        "pairs: source (made by prepare-data), judgments (made here), catalogue (made here from phrases of its texts, and train queries), "
        "file, or none (copy the base)",
    )
    pairs_file: str = parameter("", "Parquet of prompt_id and completion (teacher: file)")
    steps: int = parameter(900, "optimiser steps", minimum=0, when="teacher: source, judgments, catalogue or file")
    max_epochs: float = parameter(
        0.0,
        "stop after this many passes over the pairs if that is fewer steps; 0 is no limit",
        minimum=0,
        when="teacher: source, judgments, catalogue or file",
    )
    batch_size: int = parameter(32, "pairs per step", minimum=1, when="teacher: source, judgments, catalogue or file")
    learning_rate: float = parameter(3e-3, "peak of AdamW's learning rate", minimum=0, when="teacher: source, judgments, catalogue or file")
    schedule: Literal["cosine", "linear", "constant"] = parameter(
        "cosine",
        "fall of the learning rate after its rise: cosine, linear or constant",
        when="teacher: source, judgments, catalogue or file",
    )
    warmup_steps: int = parameter(
        20, "steps over which the learning rate rises", minimum=0, when="teacher: source, judgments, catalogue or file"
    )
    weight_decay: float = parameter(0.0, "AdamW's weight decay", minimum=0, when="teacher: source, judgments, catalogue or file")
    max_gradient_norm: float = parameter(
        1.0, "gradient clipping; 0 never clips", minimum=0, when="teacher: source, judgments, catalogue or file"
    )
    look_every: int = parameter(
        0,
        "steps between looks at 64 dev prompts (value of greedy answers, of 8 samples, of the best of them); 0 never looks",
        minimum=0,
        when="teacher: source, judgments, catalogue or file",
    )
    patience: int = parameter(
        0, "stop where so many looks in a row have not raised the best of 8; 0 takes all steps", minimum=0, when="look_every not 0"
    )
    title_characters: int = parameter(
        45, "longest title or entry in an answer, in whole words (teacher: judgments)", minimum=1, when="teacher: judgments"
    )
    title_fields: list[str] = parameter(
        [], "text fields whose first entries, split at commas, follow the title (teacher: judgments)", when="teacher: judgments"
    )
    value_tolerance: float = parameter(
        0.05,
        "loss of the metric accepted for naming a document that is relevant to more prompts (teacher: judgments)",
        minimum=0,
        when="teacher: judgments",
    )

    def check(self, where: str) -> None:
        """Raise ParameterError where a file of pairs is named and not read."""
        if self.pairs_file and self.teacher != "file":
            raise ParameterError(
                f"{where}.pairs_file", f"has no effect: teacher {self.teacher} does not read it", found=self.pairs_file,
                expected="teacher: file, or no file",
            )  # fmt: skip
        if self.patience and not self.look_every:
            raise ParameterError(
                f"{where}.patience", "has no looks to wait for", found=self.patience, expected=f"{where}.look_every above 0"
            )
