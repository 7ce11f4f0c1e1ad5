"""The integer graph, and its evaluation."""

from qat.integer.add import IntegerAdd, IntegerSub, IntegerSum, Sum, sums_tie
from qat.integer.builder import IntegerBuilder, by_sign
from qat.integer.entry import Entering, IntegerInput
from qat.integer.evaluation import Evaluator, evaluate, trace_codes
from qat.integer.extremes import IntegerMaximum, IntegerMinimum
from qat.integer.float_layer import FloatLayer, IntegerQuantize, RealNumbers
from qat.integer.graph import IntegerGraph, require_integers
from qat.integer.grid import Grid, IntegerTensor, Requantize, Shape, smallest_type
from qat.integer.linear import EXACT_LONG, INT32_MAX, Accumulator, IntegerConv2d, IntegerDense, IntegerLinear
from qat.integer.matmul import IntegerMatMul, MatrixProduct
from qat.integer.means import IntegerMeans
from qat.integer.moves import (
    IntegerConcat,
    IntegerFlatten,
    IntegerMaxPool2d,
    IntegerPad,
    IntegerRearrange,
    code_of,
    with_constant,
)
from qat.integer.mul import IntegerMul, Product, products_tie
from qat.integer.node import Adjustments, IntegerNode, Pending, Staged, require_codes, require_one_grid
from qat.integer.norm import IntegerNorm, Norm
from qat.integer.pick import IntegerPick
from qat.integer.table import Function, IntegerChannelTable, IntegerSoftmax, IntegerTable

__all__ = [
    "EXACT_LONG",
    "INT32_MAX",
    "Accumulator",
    "Adjustments",
    "Entering",
    "Evaluator",
    "FloatLayer",
    "Function",
    "Grid",
    "IntegerAdd",
    "IntegerBuilder",
    "IntegerChannelTable",
    "IntegerConcat",
    "IntegerConv2d",
    "IntegerDense",
    "IntegerFlatten",
    "IntegerGraph",
    "IntegerInput",
    "IntegerLinear",
    "IntegerMatMul",
    "IntegerMaxPool2d",
    "IntegerMaximum",
    "IntegerMeans",
    "IntegerMinimum",
    "IntegerMul",
    "IntegerNode",
    "IntegerNorm",
    "IntegerPad",
    "IntegerPick",
    "IntegerQuantize",
    "IntegerRearrange",
    "IntegerSoftmax",
    "IntegerSub",
    "IntegerSum",
    "IntegerTable",
    "IntegerTensor",
    "MatrixProduct",
    "Norm",
    "Pending",
    "Product",
    "RealNumbers",
    "Requantize",
    "Shape",
    "Staged",
    "Sum",
    "by_sign",
    "code_of",
    "evaluate",
    "products_tie",
    "require_codes",
    "require_integers",
    "require_one_grid",
    "smallest_type",
    "sums_tie",
    "trace_codes",
    "with_constant",
]
