"""Lengths within a training: steps, epochs, or a share of it.

    900      steps
    2ep      epochs, 0.5ep too
    10%      a share of the training's steps

Graphs and recipes count steps. The flags of commands take any of the three, which becomes steps as soon as it is known how many
images there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qat.data import Dataset
from qat.errors import QatError, shortened
from qat.tables import counted
from qat.training.recipe import Recipe

FORM = re.compile(r"(\d{1,12})(\.\d{1,12})?(ep|%)?")
ADVICE = "give steps as 900, epochs as 2ep, or a share of the training as 10%"


@dataclass(frozen=True)
class Span:
    """How long a training is.

    Args:
        epoch: the steps of an epoch.
        epochs: how many there are.

    >>> from qat.training.lengths import Span
    >>> Span(937, epochs=10).steps
    9370
    """

    epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """The steps of all epochs."""
        return self.epoch * self.epochs

    def __str__(self) -> str:
        return f"{counted(self.steps, 'step')}, {counted(self.epochs, 'epoch')} of {self.epoch}"


def span_of(dataset: Dataset, recipe: Recipe) -> Span:
    """How long a training on a data set is. Raises QatError where an epoch has no step."""
    images = len(dataset.train) - recipe.validation
    if recipe.validation and (images < 1 or dataset.train.groups is not None):  # groups are held back whole
        images = len(dataset.held_back(recipe.validation, recipe.seed).train)
    return Span(steps_of_epoch(images, recipe.batch_size, dataset.source), recipe.epochs)


def steps_of_epoch(images: int, batch_size: int, source: str) -> int:
    """How many whole batches the training images give. Raises QatError where they give none."""
    if images < batch_size:
        raise QatError(
            f"batch_size {batch_size} is larger than the {counted(images, 'training image')} of {source}; use a smaller one"
        )
    return images // batch_size


@dataclass(frozen=True)
class Length:
    """A length as it was written.

    Args:
        text: "900", "2ep" or "10%".
        most: the most steps that it stands for; None, the default: any number.

    Raises:
        QatError: for a text of another form, a part of a step, and more than 100%.

    >>> from qat.training.lengths import Length, Span
    >>> [Length(text).within(Span(40, epochs=5)) for text in ("900", "2ep", "10%")]
    [900, 80, 20]
    >>> Length("10%", most=900).within(Span(937, epochs=10))
    900
    """

    text: str
    most: int | None = None

    def __post_init__(self) -> None:
        amount, unit = self._parts
        if not unit and amount != int(amount):
            raise QatError(f"{self.text} is no number of steps; {ADVICE}")
        if unit == "%" and amount > 100:
            raise QatError(f"{self.text} is more than the training; {ADVICE}")

    def __str__(self) -> str:
        return self.text if self.most is None else f"{self.text}, at most {counted(self.most, 'step')}"

    @property
    def _parts(self) -> tuple[float, str]:
        found = FORM.fullmatch(self.text)
        if found is None:
            raise QatError(f"{shortened(self.text)} is no length; {ADVICE}")
        return float(found[1] + (found[2] or "")), found[3] or ""

    def within(self, span: Span | None, name: str = "length", *, least: int = 0) -> int:
        """The steps that it stands for, rounded down.

        Args:
            span: the training; None where there is none.
            name: of what has this length, for the message.
            least: what a small share is at least, unless it is 0; 0 by default.

        Returns:
            A number of steps.

        Raises:
            QatError: where it depends on a training, but there is none.
        """
        amount, unit = self._parts
        if not unit:
            return int(amount)
        if span is None:
            raise QatError(
                f"{name}: {self.text} depends on the length of a training, but nothing is trained here; give steps"
            )
        steps = max(int(amount * span.epoch if unit == "ep" else amount * span.steps / 100), least * (amount > 0))
        return steps if self.most is None else min(steps, self.most)
