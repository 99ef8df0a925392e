"""A report says in plain sentences what its numbers decide; `verdict` makes them, and every format begins with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from profilers.report.numbers import SPACE

Topic = Literal["fit", "time", "quantized ANN", "input", "accuracy", "energy", "memory", "depends", "unknown"]


@dataclass(frozen=True)
class Sentence:
    """One thing that the numbers decide, or that they leave open, in words.

    `topic`: what it is about. `question`: which of the three questions that a reader comes with it answers, if any, and `short`
    the answer in a few words. `bad`: whether it keeps the network from what it is made for.
    """

    topic: Topic
    text: str
    question: str = ""
    short: str = ""
    bad: bool = False

    @property
    def answer(self) -> str:
        """The short answer as a sentence of its own, without the full stop."""
        return self.short[:1].upper() + self.short[1:]

    @property
    def paragraph(self) -> str:
        """All of it on one line for a terminal, its numbers with plain spaces."""
        text = f"{self.question} {self.answer}. {self.text}" if self.question else self.text
        return text.replace(SPACE, " ")

    @property
    def brief(self) -> str:
        """What a terminal shows of it, where a screen has to do: short answers, what is bad, chips and accuracy; else nothing."""
        if self.question:
            return f"{self.question} {self.answer}.".replace(SPACE, " ")
        return self.paragraph if self.bad or self.topic in ("fit", "accuracy") else ""


@dataclass(frozen=True)
class ReportOrigin:
    """A report came from this: `program` with its version, on this kind of `machine`, with these `seeds` by what they were for."""

    program: str
    machine: str
    seeds: Mapping[str, int]
