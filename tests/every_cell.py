"""One example of every cell class, a small network around it, and what each target does with it.

``python tests/every_cell.py`` prints the tables of docs/cells.md.
"""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import qat
import qat.cells
from qat.deploy.arithmetics import default_arithmetic
from qat.integer import evaluate
from qat.registry import TARGETS
from qat.vocabulary.arrays import as_tuple

Array = npt.NDArray[Any]
F = np.float32

IMAGE = (4, 6, 6)  #: what the examples take, or as many features as it has channels
EXAMPLES: dict[type[qat.Cell], qat.Cell] = {
    type(cell): cell
    for cell in (
        qat.Input(IMAGE, mean=0.5, std=0.25),
        qat.Conv2dBnAct(4, 6, 3, pad_mode="valid", has_bias=True),
        qat.DenseBnAct(4, 5),
        qat.ConvTranspose2dBnAct(4, 6, 3, stride=2, has_bias=True),
        qat.BatchNorm(4),
        qat.Activation("tanh"),
        qat.Add(),
        qat.PReLU(4),
        qat.LayerNorm(4),
        qat.RMSNorm(4),
        qat.GroupNorm(4, 2),
        qat.Mul(),
        qat.Sub(),
        qat.MatMul(transpose_b=True),
        qat.Maximum(),
        qat.Minimum(),
        qat.AvgPool2d(2),
        qat.GlobalAvgPool2d(),
        qat.MaxPool2d(2),
        qat.AdaptiveAvgPool2d((3, 4)),
        qat.GlobalMaxPool1d(),
        qat.GlobalMaxPool2d(),
        qat.Mean((1,)),
        qat.Max((1, 2)),
        qat.Conv1dBnAct(4, 6, 3, pad_mode="valid", has_bias=True),
        qat.AvgPool1d(2),
        qat.GlobalAvgPool1d(),
        qat.MaxPool1d(2),
        qat.Concat(),
        qat.Dropout(0.5),
        qat.Slice(0, 1, 3),
        qat.Pad((1, 2), value=0.5),
        qat.Upsample(2),
        qat.UpsampleBilinear(2),
        qat.Reshape((9, 4, -1)),
        qat.Transpose((1, 2, 0)),
        qat.Stack(),
        qat.ZeroState(4),
        qat.OneGrid(),
        qat.ChannelShuffle(2),
        qat.PixelShuffle(2),
        qat.PixelUnshuffle(2),
        qat.Flatten(),
        qat.ConstantChannel(0.5),
        qat.Normalize((0.5, 1.0, 2.0, -1.5), (0.1, -0.2, 0.0, 0.3)),
        qat.Softmax(),
        qat.FakeQuant(qat.ActivationQuantizer()),
        qat.Dequantize(),
    )
}
SERIES = (qat.Conv1dBnAct, qat.AvgPool1d, qat.GlobalAvgPool1d, qat.GlobalMaxPool1d, qat.MaxPool1d)  #: what takes series
ROWS = (qat.DenseBnAct, qat.Stack, qat.ZeroState)  #: what takes features, not images


def cell_classes() -> list[type[qat.Cell]]:
    """Every cell class of the package, in the order of their names."""
    for module in pkgutil.iter_modules(qat.cells.__path__):
        importlib.import_module(f"qat.cells.{module.name}")

    def below(base: type[qat.Cell]) -> Iterator[type[qat.Cell]]:
        for cls in base.__subclasses__():
            yield cls
            yield from below(cls)

    found = {cls for cls in below(qat.Cell) if cls.__module__.startswith("qat.cells.") and not cls.is_abstract}
    return sorted(found, key=lambda cls: cls.__name__)


def missing(known: Any) -> list[str]:
    """The names of the cell classes that are not among these."""
    return [cls.__name__ for cls in cell_classes() if cls not in known]


def inputs_of(cell: qat.Cell) -> int:
    """How many an example takes: three where it takes any number."""
    return 3 if cell.arity is None else cell.arity


def input_shapes(cell: qat.Cell) -> tuple[tuple[int, ...], ...]:
    """Of what an example takes."""
    return (IMAGE[:1] if isinstance(cell, ROWS) else entry_shape(cell),) * inputs_of(cell)


def entry_shape(cell: qat.Cell) -> tuple[int, ...]:
    """Of the input of the network around an example."""
    return (IMAGE[0], IMAGE[1] * IMAGE[2]) if isinstance(cell, SERIES) else IMAGE


class Around(qat.Network):
    """Convolutions, the cell, and a convolution or dense layer after it."""

    def __init__(self, cell: qat.Cell) -> None:
        self.inputs = qat.Input(entry_shape(cell), mean=0.5, std=0.25)
        rows, kind = isinstance(cell, ROWS), qat.Conv1dBnAct if isinstance(cell, SERIES) else qat.Conv2dBnAct
        self.cell = cell
        self.before = tuple(
            kind(4, 4, 6 if rows else 1, pad_mode="valid", has_bias=True) for _ in range(max(inputs_of(cell), 1))
        )
        for index, conv in enumerate(self.before):
            setattr(self, f"before{index}", conv)
        self.shape = entry_shape(cell)
        if inputs_of(cell) and not isinstance(cell, qat.FakeQuant):
            self.shape = cell.output_shape(*input_shapes(cell))
        image = len(self.shape) == 3
        self.after = qat.Conv2dBnAct(self.shape[0], 3, 1) if image else qat.DenseBnAct(int(np.prod(self.shape)), 3)

    def construct(self, x):
        taken = [getattr(self, f"before{index}")(x) for index in range(len(self.before))]
        if isinstance(self.cell, ROWS):
            taken = [qat.Flatten()(each) for each in taken]
        if inputs_of(self.cell) and not isinstance(self.cell, qat.FakeQuant):  # those are in every quantized network
            taken = [self.cell(*taken)]
        if len(self.shape) == 2:
            taken = [qat.Flatten()(each) for each in taken]
        return self.after(*taken)


def quantized(cell: qat.Cell, **settings: Any) -> tuple[qat.Graph, dict[str, Array]]:
    """The quantized network around an example, and parameters with ranges as if images had been observed."""
    graph = qat.convert_quant_network(Around(cell), **settings)
    rng = np.random.default_rng(0)
    params = graph.observed_params()
    for name, array in params.items():
        if name.endswith((".bias", ".beta")):
            params[name] = rng.normal(0, 0.3, array.shape).astype(F)
    return graph, params


def outcome(cell: qat.Cell, name: str) -> str:
    """What a target does with an example: "computed", output codes equal to NumPy's, or "refused", naming the node."""
    target = qat.target(name)
    graph, params = quantized(cell, **({"profile": "ascend"} if name in ("ASCEND_ONNX", "AIR") else {}))
    integers = qat.to_integer(graph, params)
    pixels = np.random.default_rng(1).integers(0, 256, (3, *entry_shape(cell)), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{TARGETS[name].suffix}"
        try:
            target.export(integers, path)
        except qat.QatError as error:
            named = str(error).startswith(tuple(f"{node.name}:" for node in integers.nodes))
            return "refused" if named else f"an error that names no node: {error}"
        found = integers.output.grid.codes_of(as_tuple(target.predict(path, pixels))[0])
        arithmetic = default_arithmetic(target, path)
    (expected,) = as_tuple(evaluate(integers, pixels, arithmetic=arithmetic))
    np.testing.assert_array_equal(found, expected, err_msg=f"{type(cell).__name__}, {name}")
    return "computed"


def table(rows: list[list[str]]) -> str:
    """In Markdown; the first row is the header."""
    header, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others])


def facts_table() -> str:
    """What each cell states of itself."""
    rows = [["cell", "output numbers", "output channels", "never negative", "random", "inputs of one grid"]]
    for cls in cell_classes():
        cell: Any = EXAMPLES[cls]
        words = ["yes" if fact else "no" for fact in (cell.non_negative, cell.random)]
        one_grid = ("yes" if cell.one_grid else "no") if inputs_of(cell) > 1 else ""
        rows.append([cls.__name__, cell.output_numbers, cell.output_channels, *words, one_grid])
    return table(rows)


def targets_table() -> str:
    """What each target does with each cell."""
    return table(
        [["cell", *TARGETS]]
        + [[cls.__name__, *(outcome(EXAMPLES[cls], name) for name in TARGETS)] for cls in cell_classes()]
    )


if __name__ == "__main__":
    print(facts_table(), targets_table(), sep="\n\n")
