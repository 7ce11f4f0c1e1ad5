"""What classes are called, where several places may say it: a flag, the data, a checkpoint, an exported file."""

from __future__ import annotations

from collections.abc import Sequence


def class_names(numbers: int | Sequence[str], *known: Sequence[str]) -> list[str]:
    """The first names that are as many as the classes; else their numbers.

    Args:
        numbers: how many classes there are, or what they are called where no names fit.
        known: names in the order of the labels, from the place that counts first to the one that counts last; a place that says
            nothing gives none.

    Returns:
        A name for each class.

    >>> from qat.data.class_names import class_names
    >>> class_names(2, (), ("cat", "dog"))
    ['cat', 'dog']
    >>> class_names(3, ("cat", "dog"))
    ['0', '1', '2']
    """
    own = [str(number) for number in range(numbers)] if isinstance(numbers, int) else list(numbers)
    return next((list(names) for names in known if len(names) == len(own)), own)
