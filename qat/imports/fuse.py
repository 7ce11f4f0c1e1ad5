"""From plain operations to a graph of fused cells, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qat.cells import Input
from qat.imports import make_elementwise, make_linear, make_moves, make_pools, make_products, make_recurrent
from qat.imports.fusion import Fusion
from qat.imports.imported import Imported
from qat.imports.program import Operation, Program, RefusedError
from qat.imports.repeated import once
from qat.imports.rewritten import rewritten
from qat.imports.spelled_layer_norms import layer_norms_recognised
from qat.imports.spelled_norms import lengths_recognised
from qat.imports.spelled_out import recognised

REST = ("identity", "dropout")  #: kinds that compute nothing in evaluation
Maker = Callable[[Fusion, Operation], None]


def fuse(program: Program, inputs: Sequence[Input] = ()) -> Imported:
    """Make cells of plain operations.

    - A convolution or dense layer takes what follows it alone: a bias, a constant factor, a batch normalisation, an
      activation. After anything else a batch normalisation is a cell of its own, with an activation; so is an addition.
    - Zeros around an image go into what takes it: a convolution, an average pooling, and a max pooling of numbers that are not
      negative. Before anything else a padding is a cell.
    - Reshapes and transpositions that follow one another are one move, of any number of axes in between.
    - A constant that no cell takes is a cell of its own; of a vector, part of the next layer.
    - A layer that is used twice is one cell with two nodes. What computes nothing, or was computed before, is gone.

    Args:
        program: of a front end, channels first.
        inputs: what each input takes (``qat.imports.entry``); by default real numbers.

    Returns:
        The network.

    Raises:
        QatError: operations that no cell computes; all of them are named.
    """
    cells = inputs or [Input(spec.shape, dtype="float32") for spec in program.inputs.values()]
    plain = layer_norms_recognised(lengths_recognised(once(program.without(REST).needed())))
    fusion = Fusion(rewritten(recognised(plain)), cells)
    return fusion.result(lambda each: MAKERS[each.kind](fusion, each))


def _length(fusion: Fusion, each: Operation) -> None:
    raise RefusedError(each, "a length of vectors that are not divided by it")


def _unknown(fusion: Fusion, each: Operation) -> None:
    raise RefusedError(each, str(each.attributes["of" if each.kind == "unknown" else "function"]))


MAKERS: Mapping[str, Maker] = {
    **make_linear.MAKERS,
    **make_elementwise.MAKERS,
    **make_pools.MAKERS,
    **make_products.MAKERS,
    **make_moves.MAKERS,
    **make_recurrent.MAKERS,
    "length": _length,
    "elementwise": _unknown,
    "unknown": _unknown,
}
