"""Networks that come with the package: quantized checkpoints, small ones that were trained here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from qat import hints
from qat.errors import QatError
from qat.integer import evaluate
from qat.passes.to_integer import to_integer
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import ArraySpec, as_arrays, as_tuple
from qat.vocabulary.ops import Array
from qat.zoo.entries import ENTRIES
from qat.zoo.entry import Entry
from qat.zoo.row import Row

FOLDER = Path(__file__).parent / "files"
WIDTH = "8/8"  #: of the checkpoints that are kept
SAMPLES = 64  #: random ones, on which a kept network is certified where nobody gives better ones


def names() -> list[str]:
    """The networks of the zoo.

    Returns:
        Their names, in the order of docs/zoo.md.

    >>> import qat
    >>> qat.zoo.names()[:2]
    ['mnist_cnn', 'lenet5']
    """
    return list(ENTRIES)


def entry_of(name: str) -> Entry:
    """The declaration of a network.

    Args:
        name: one of ``names()``.

    Returns:
        The declaration.

    Raises:
        QatError: there is none of that name.

    >>> import qat
    >>> qat.zoo.entry_of("lenet")
    Traceback (most recent call last):
        ...
    qat.errors.QatError: network of the zoo 'lenet' is unknown...
    """
    if name not in ENTRIES:
        raise QatError(hints.unknown("network of the zoo", name, names()))
    return ENTRIES[name]


def is_kept(name: str) -> bool:
    """Whether the package holds a network's checkpoint.

    Args:
        name: one of ``names()``.

    Returns:
        True where it does.

    >>> import qat
    >>> qat.zoo.is_kept("mnist_cnn"), qat.zoo.is_kept("ic01")
    (True, False)
    """
    return _path(name).is_file()


def figures_of(name: str) -> Row | None:
    """What was measured of a network, as docs/zoo.md has it.

    Args:
        name: one of ``names()``.

    Returns:
        Its row; None where it has not been measured.
    """
    path = FOLDER / f"{entry_of(name).name}.json"
    return Row.load(path) if path.is_file() else None


def load(name: str) -> Checkpoint:
    """A quantized network that comes with the package: 8 bits for weights and activations.

    Args:
        name: one of ``names()``.

    Returns:
        Its checkpoint: export it, evaluate it, or train it further.

    Raises:
        QatError: there is no such network, or it is none of those that the package holds; or its integers are not those that
            were measured.

    >>> import qat
    >>> checkpoint = qat.zoo.load("mnist_cnn")
    >>> checkpoint
    Checkpoint of MnistCnn, quantized, step 0, 16,842 parameters
    """
    entry = entry_of(name)
    if not is_kept(name):
        held = ", ".join(each for each in names() if is_kept(each))
        raise QatError(
            f"{entry.name}: does not come with the package, which holds {held}; 'qat zoo make {entry.name} --out FOLDER' makes "
            "it from its source"
        )
    checkpoint = Checkpoint.load(_path(name))
    row = figures_of(name)
    if row is None or codes_digest(checkpoint) != row.widths[WIDTH].codes:
        raise QatError(
            f"{_path(name)}: its integers are not those whose figures 'qat help zoo' shows; the package is damaged, install it "
            "again"
        )
    return checkpoint


def random_samples(spec: ArraySpec, count: int = SAMPLES) -> Array:
    """Samples of what a network takes: half of them any codes, half of them patches of one code, which saturate more of the
    sums; or normally distributed real numbers. They are the same each time.

    Args:
        spec: of the input.
        count: how many.

    Returns:
        (count, ...), of the input's type.
    """
    rng = np.random.default_rng(0)
    shape = (count, *spec.shape)
    if spec.dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    limits = np.iinfo(spec.dtype)
    found: Array = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(spec.dtype)
    for number in range(0, count, 2):
        flat = found[number].reshape(-1)
        flat[:] = np.sort(flat)[rng.integers(0, flat.size, 8)].repeat(-(-flat.size // 8))[: flat.size]
    return found


def codes_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the output codes that a network's integers give for ``random_samples``.

    Args:
        checkpoint: of a quantized network.

    Returns:
        In hexadecimal. Two networks with the same digest compute the same on these samples.
    """
    graph = to_integer(checkpoint.graph, checkpoint.params)
    samples = as_arrays(tuple(random_samples(spec) for spec in checkpoint.graph.input_specs))
    codes = as_tuple(evaluate(graph, samples))
    return hashlib.sha256(b"".join(np.ascontiguousarray(x, np.dtype("<i4")).tobytes() for x in codes)).hexdigest()


def _path(name: str) -> Path:
    return FOLDER / f"{name}.ckpt"
