"""Importing .tflite files: each operator, weights that are stored as other numbers, sizes, names, and messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from frameworks import but_long

import qat
from qat.imports.sources.tflite_file import open_file

ROUNDING = 2e-6  #: as in test_import_onnx.py: float sums of other orders differ by less, a wrong parameter by more
RNG = np.random.default_rng(0)
Type, Op, Options = schema.TensorType, schema.BuiltinOperator, schema.BuiltinOptions
TYPES = {"float32": Type.FLOAT32, "float16": Type.FLOAT16, "int8": Type.INT8, "int32": Type.INT32, "uint8": Type.UINT8}
SAME, VALID = 0, 1
SMALL = (1, 9, 8, 3)  #: what most networks here take


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


class File:
    """Gathers what a .tflite file holds. ``x`` is what it takes."""

    def __init__(
        self, shape: tuple[int, ...] = SMALL, dtype: str = "float32", name: str = "x", signature: Any = None
    ) -> None:
        self.tensors: list[Any] = []
        self.buffers = [schema.BufferT(data=b"")]
        self.operators: list[Any] = []
        self.codes: list[tuple[int, str | None]] = []
        self.x = self.tensor(shape, dtype, name)
        self.tensors[self.x].shapeSignature = None if signature is None else np.array(signature, np.int32)

    def tensor(self, shape: Any, dtype: str = "float32", name: str = "", quantization: Any = None) -> int:
        self.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32), type=TYPES[dtype], name=name or None, quantization=quantization
            )
        )
        return len(self.tensors) - 1

    def constant(self, array: Any, name: str = "", scale: Any = None, axis: int = 0) -> int:
        """scale: of codes, one or one for each entry along the axis."""
        array = np.asarray(array)
        found = None
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.zeros(len(scales), np.int64)
            found = schema.QuantizationParametersT(scale=scales, zeroPoint=zeros, quantizedDimension=axis)
        index = self.tensor(array.shape, array.dtype.name, name, found)
        self.tensors[index].buffer = len(self.buffers)
        self.buffers.append(schema.BufferT(data=array.tobytes()))
        return index

    def op(
        self,
        kind: int,
        inputs: list[int],
        shape: Any,
        options: Any = None,
        name: str = "",
        dtype: str = "float32",
        code: Any = None,
    ) -> int:
        """An operator; returns what it gives."""
        if (kind, code) not in self.codes:
            self.codes.append((kind, code))
        output = self.tensor(shape, dtype, name or f"v{len(self.operators)}")
        table = type(options).__name__.removesuffix("T") if options is not None else "NONE"
        self.operators.append(
            schema.OperatorT(
                opcodeIndex=self.codes.index((kind, code)),
                inputs=np.array(inputs, np.int32),
                outputs=np.array([output], np.int32),
                builtinOptionsType=getattr(Options, table),
                builtinOptions=options,
            )
        )
        return output

    def conv(self, x: int, shape: Any, weight: Any = None, bias: Any = None, name: str = "", **options: Any) -> int:
        """weight, bias: arrays, or the tensors that hold them."""
        weight = numbers(4, 3, 3, 3) if weight is None else weight
        weight = self.constant(weight, f"{name}/Conv2D" if name else "") if isinstance(weight, np.ndarray) else weight
        outputs = int(self.tensors[weight].shape[0])
        bias = self.constant(numbers(outputs)) if bias is None else bias
        given = {"padding": VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1} | options
        return self.op(Op.CONV_2D, [x, weight, bias], shape, schema.Conv2DOptionsT(**given), name)

    def model(self, *outputs: int, signature: str = "") -> Any:
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(kind, 127), builtinCode=kind, version=1, customCode=code)
            for kind, code in self.codes
        ]
        graph = schema.SubGraphT(
            tensors=self.tensors,
            inputs=np.array([self.x], np.int32),
            outputs=np.array(outputs, np.int32),
            operators=self.operators,
        )
        signatures = []
        if signature:
            entry = schema.TensorMapT(name=signature, tensorIndex=self.x)
            signatures = [
                schema.SignatureDefT(inputs=[entry], outputs=[], signatureKey="serving_default", subgraphIndex=0)
            ]
        return schema.ModelT(
            version=3, operatorCodes=codes, subgraphs=[graph], buffers=self.buffers, signatureDefs=signatures
        )

    def write(self, path: Path, *outputs: int, signature: str = "") -> Path:
        return write(path, self.model(*outputs, signature=signature))


def write(path: Path, model: Any) -> Path:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def cells(found: Any) -> list[str]:
    return [type(node.cell).__name__ for node in found.graph.nodes[1:]]


def pool(kernel: tuple[int, int], stride: tuple[int, int], padding: int) -> Any:
    return schema.Pool2DOptionsT(
        padding=padding, filterHeight=kernel[0], filterWidth=kernel[1], strideH=stride[0], strideW=stride[1]
    )


I32 = np.int32
CONV = (1, 7, 6, 4)  #: what a plain convolution gives


def conv_same(f: File) -> int:
    return f.conv(f.x, (1, 5, 4, 4), padding=SAME, strideH=2, strideW=2, fusedActivationFunction=3)


def conv_dilated(f: File) -> int:
    return f.conv(f.x, (1, 5, 6, 4), dilationHFactor=2, fusedActivationFunction=1)


def conv_of_groups(f: File) -> int:
    return f.conv(f.x, (1, 7, 6, 6), numbers(6, 3, 3, 1))


def depthwise(f: File) -> int:
    options = schema.DepthwiseConv2DOptionsT(
        padding=SAME, strideH=1, strideW=1, depthMultiplier=2, dilationHFactor=1, dilationWFactor=1
    )
    inputs = [f.x, f.constant(numbers(1, 3, 3, 6)), f.constant(numbers(6))]
    return f.op(Op.DEPTHWISE_CONV_2D, inputs, (1, 9, 8, 6), options)


def padded(f: File) -> int:
    widths = f.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]], I32))
    return f.conv(f.op(Op.PAD, [f.x, widths], (1, 12, 9, 3), schema.PadOptionsT()), (1, 10, 7, 4))


def flat(f: File, given: int = -1, shape: tuple[int, ...] = CONV) -> int:
    size = int(np.prod(shape))
    sizes = f.constant(np.array([-1, size], I32))
    return f.op(
        Op.RESHAPE,
        [f.conv(f.x, CONV) if given < 0 else given, sizes],
        (1, size),
        schema.ReshapeOptionsT(newShape=[-1, size]),
    )


def dense_options(**options: Any) -> Any:
    return schema.FullyConnectedOptionsT(**options)


def dense(f: File) -> int:
    return f.op(
        Op.FULLY_CONNECTED, [flat(f), f.constant(numbers(5, 168)), f.constant(numbers(5))], (1, 5), dense_options()
    )


def dense_of_an_image(f: File) -> int:
    inputs = [f.conv(f.x, CONV), f.constant(numbers(5, 168)), -1]
    return f.op(Op.FULLY_CONNECTED, inputs, (1, 5), dense_options(fusedActivationFunction=1))


def dense_at_each_place(f: File) -> int:
    inputs = [f.conv(f.x, CONV), f.constant(numbers(5, 4)), f.constant(numbers(5))]
    return f.op(Op.FULLY_CONNECTED, inputs, (1, 7, 6, 5), dense_options(keepNumDims=True))


def computed_sizes(f: File) -> int:
    """As Keras writes a Flatten: SHAPE, STRIDED_SLICE, PACK, RESHAPE."""
    x = f.conv(f.x, CONV)
    sizes = f.op(Op.SHAPE, [x], (4,), schema.ShapeOptionsT(outType=Type.INT32), dtype="int32")
    ends = [f.constant(np.array([place], I32)) for place in (0, 1, 1)]
    first = f.op(Op.STRIDED_SLICE, [sizes, *ends], (), schema.StridedSliceOptionsT(shrinkAxisMask=1), dtype="int32")
    rest = f.constant(np.array(-1, I32))
    packed = f.op(Op.PACK, [first, rest], (2,), schema.PackOptionsT(valuesCount=2), dtype="int32")
    x = f.op(Op.RESHAPE, [x, packed], (1, 168), schema.ReshapeOptionsT())
    return f.op(Op.FULLY_CONNECTED, [x, f.constant(numbers(5, 168)), -1], (1, 5), dense_options())


def reshapes(f: File) -> int:
    """To a vector and back, as Keras' MobileNet does it."""
    x = f.op(Op.MEAN, [f.x, f.constant(np.array([1, 2], I32))], (1, 1, 1, 3), schema.ReducerOptionsT(keepDims=True))
    x = f.op(Op.SQUEEZE, [x], (1, 3), schema.SqueezeOptionsT(squeezeDims=[1, 2]))
    x = f.op(Op.RESHAPE, [x, f.constant(np.array([-1, 1, 1, 3], I32))], (1, 1, 1, 3), schema.ReshapeOptionsT())
    return flat(f, f.conv(x, (1, 1, 1, 2), numbers(2, 1, 1, 3)), (1, 1, 1, 2))


def joined(f: File) -> int:
    x = f.conv(f.x, CONV)
    y = f.op(Op.LEAKY_RELU, [x], CONV, schema.LeakyReluOptionsT(alpha=0.2))
    x = f.op(Op.ADD, [x, y], CONV, schema.AddOptionsT(fusedActivationFunction=1))
    return f.op(Op.CONCATENATION, [x, y], (1, 7, 6, 8), schema.ConcatenationOptionsT(axis=-1))


def constants(f: File) -> int:
    x = f.op(Op.SUB, [f.conv(f.x, CONV), f.constant(numbers(4))], CONV, schema.SubOptionsT())
    x = f.op(Op.DIV, [x, f.constant(np.float32([0.5, 2, 3, 4]))], CONV, schema.DivOptionsT())
    x = f.op(Op.MUL, [f.constant(np.float32(0.3)), x], CONV, schema.MulOptionsT())
    return f.op(Op.SUB, [f.constant(numbers(1, 1, 1, 4)), x], CONV, schema.SubOptionsT(fusedActivationFunction=1))


def maxima(f: File) -> int:
    x = f.op(Op.MAX_POOL_2D, [f.x], (1, 5, 4, 3), pool((2, 3), (2, 2), SAME))
    return f.op(Op.AVERAGE_POOL_2D, [x], (1, 2, 2, 3), pool((2, 2), (2, 2), VALID))


def average_same(f: File) -> int:
    """With a size that needs no padding."""
    return f.op(
        Op.AVERAGE_POOL_2D, [f.op(Op.RELU, [f.conv(f.x, CONV)], CONV)], (1, 7, 3, 4), pool((1, 2), (1, 2), SAME)
    )


def mean(f: File) -> int:
    return f.op(Op.MEAN, [f.x, f.constant(np.array([-2, 1], I32))], (1, 3), schema.ReducerOptionsT(keepDims=False))


def after_a_flatten(f: File) -> int:
    """Each number of a row has its own constant: they are put in the order of channels first."""
    x = f.op(Op.MUL, [flat(f), f.constant(numbers(168))], (1, 168), schema.MulOptionsT())
    return f.op(Op.FULLY_CONNECTED, [x, f.constant(numbers(5, 168)), -1], (1, 5), dense_options())


def softmax(f: File) -> int:
    return f.op(Op.SOFTMAX, [dense(f)], (1, 5), schema.SoftmaxOptionsT(beta=1.0))


def dense_after_tanh(f: File) -> int:
    """What follows a flatten keeps its order, up to the dense layer."""
    x = f.op(Op.TANH, [flat(f)], (1, 168))
    return f.op(Op.FULLY_CONNECTED, [x, f.constant(numbers(5, 168)), -1], (1, 5), dense_options())


def functions(f: File) -> int:
    x = f.x
    for kind in (Op.RELU6, Op.TANH, Op.HARD_SWISH, Op.LOGISTIC):
        options = schema.HardSwishOptionsT() if kind == Op.HARD_SWISH else None
        x = f.op(kind, [f.conv(x, SMALL, numbers(3, 1, 1, 3))], SMALL, options)
    return x


def transposed(f: File) -> int:
    order, back = (f.constant(np.array(axes, I32)) for axes in ((0, 3, 1, 2), (0, 2, 3, 1)))
    x = f.op(Op.TRANSPOSE, [f.conv(f.x, CONV), order], (1, 4, 7, 6), schema.TransposeOptionsT())
    x = f.op(Op.ADD, [x, f.constant(numbers(4, 1, 1))], (1, 4, 7, 6), schema.AddOptionsT())
    return f.op(Op.TRANSPOSE, [x, back], CONV, schema.TransposeOptionsT())


def half(f: File) -> int:
    weight = f.op(
        Op.DEQUANTIZE, [f.constant(numbers(4, 3, 3, 3).astype(np.float16))], (4, 3, 3, 3), schema.DequantizeOptionsT()
    )
    return f.conv(f.x, CONV, weight)


def several(f: File, kind: int, inputs: list[int], shapes: list[Any], options: Any) -> list[int]:
    """An operator that gives several values."""
    first = f.op(kind, inputs, shapes[0], options)
    rest = [f.tensor(shape, name=f"{kind}.{place}") for place, shape in enumerate(shapes[1:], 1)]
    f.operators[-1].outputs = np.array([first, *rest], np.int32)
    return [first, *rest]


def gated(f: File) -> int:
    x = f.conv(f.x, CONV)
    y = f.op(Op.MEAN, [x, f.constant(np.array([1, 2], I32))], (1, 1, 1, 4), schema.ReducerOptionsT(keepDims=True))
    y = f.op(Op.MUL, [x, f.op(Op.LOGISTIC, [y], (1, 1, 1, 4))], CONV, schema.MulOptionsT())
    y = f.op(Op.SUB, [y, x], CONV, schema.SubOptionsT(fusedActivationFunction=1))
    return f.op(Op.MAXIMUM, [y, x], CONV, schema.MaximumMinimumOptionsT())


def more_functions(f: File) -> int:
    x = f.op(Op.MINIMUM, [f.x, f.constant(np.float32(0.7))], SMALL, schema.MaximumMinimumOptionsT())
    x = f.op(Op.RELU_N1_TO_1, [x], SMALL)
    x = f.op(Op.PRELU, [x, f.constant(numbers(1, 1, 3))], SMALL)
    x = f.op(Op.ELU, [x], SMALL)
    return f.op(Op.ABS, [x], SMALL, schema.AbsOptionsT())


def halves(f: File) -> int:
    a, b = several(
        f,
        Op.SPLIT,
        [f.constant(np.array(3, I32)), f.conv(f.x, CONV)],
        [(1, 7, 6, 2)] * 2,
        schema.SplitOptionsT(numSplits=2),
    )
    sizes, axis = f.constant(np.array([3, -1], I32)), f.constant(np.array(1, I32))
    x = f.op(Op.ADD, [a, b], (1, 7, 6, 2), schema.AddOptionsT())
    c, d = several(f, Op.SPLIT_V, [x, sizes, axis], [(1, 3, 6, 2), (1, 4, 6, 2)], schema.SplitVOptionsT(numSplits=2))
    return f.op(Op.CONCATENATION, [d, c], (1, 7, 6, 2), schema.ConcatenationOptionsT(axis=1))


def rows(f: File) -> int:
    """Images apart and together again, in another order."""
    shapes = [(1, 8, 3)] * 9
    parts = several(f, Op.UNPACK, [f.x], shapes, schema.UnpackOptionsT(num=9, axis=1))
    x = f.op(Op.PACK, [parts[4], parts[1]], (1, 8, 2, 3), schema.PackOptionsT(valuesCount=2, axis=2))
    return f.conv(x, (1, 8, 2, 4), numbers(4, 1, 1, 3))


def slices(f: File) -> int:
    bounds = [f.constant(np.array(each, I32)) for each in ([0, 1, 0, 0], [0, -1, 3, 1], [1, 2, 1, 1])]
    options = schema.StridedSliceOptionsT(beginMask=5, endMask=1, shrinkAxisMask=0)
    x = f.op(Op.STRIDED_SLICE, [f.x, *bounds], (1, 4, 3, 1), options)
    begin, size = f.constant(np.array([0, 1, 0, 0], I32)), f.constant(np.array([-1, 2, -1, 1], I32))
    return f.op(Op.SLICE, [x, begin, size], (1, 2, 3, 1), schema.SliceOptionsT())


def a_column(f: File) -> int:
    bounds = [f.constant(np.array(each, I32)) for each in ([0, 0, -2, 0], [0, 0, -1, 2], [1, 1, 1, 1])]
    options = schema.StridedSliceOptionsT(beginMask=3, endMask=3, shrinkAxisMask=4)
    return f.op(Op.STRIDED_SLICE, [f.x, *bounds], (1, 9, 2), options)


def shuffled(f: File) -> int:
    """The channels of groups in turn, as ShuffleNet has them, with channels last."""
    sizes, back = f.constant(np.array([-1, 7, 6, 2, 2], I32)), f.constant(np.array([-1, 7, 6, 4], I32))
    x = f.op(Op.RESHAPE, [f.conv(f.x, CONV), sizes], (1, 7, 6, 2, 2), schema.ReshapeOptionsT())
    order = f.constant(np.array([0, 1, 2, 4, 3], I32))
    x = f.op(Op.TRANSPOSE, [x, order], (1, 7, 6, 2, 2), schema.TransposeOptionsT())
    return f.conv(f.op(Op.RESHAPE, [x, back], CONV, schema.ReshapeOptionsT()), CONV, numbers(4, 1, 1, 4))


def blocks(f: File) -> int:
    x = f.conv(f.x, (1, 8, 6, 4), numbers(4, 2, 3, 3))
    x = f.op(Op.DEPTH_TO_SPACE, [x], (1, 16, 12, 1), schema.DepthToSpaceOptionsT(blockSize=2))
    x = f.op(Op.RELU, [x], (1, 16, 12, 1))
    return f.op(Op.SPACE_TO_DEPTH, [x], (1, 4, 3, 16), schema.SpaceToDepthOptionsT(blockSize=4))


def nearest(f: File) -> int:
    size = f.constant(np.array([18, 24], I32))
    return f.op(
        Op.RESIZE_NEAREST_NEIGHBOR,
        [f.x, size],
        (1, 18, 24, 3),
        schema.ResizeNearestNeighborOptionsT(halfPixelCenters=True),
    )


def interpolated(f: File) -> int:
    size = f.constant(np.array([18, 24], I32))
    options = schema.ResizeBilinearOptionsT(halfPixelCenters=True)
    x = f.op(Op.RESIZE_BILINEAR, [f.x, size], (1, 18, 24, 3), options)
    size = f.constant(np.array([36, 24], I32))
    return f.op(Op.RESIZE_BILINEAR, [x, size], (1, 36, 24, 3), schema.ResizeBilinearOptionsT(alignCorners=True))


def transposed_convolutions(f: File) -> int:
    """With both paddings; of the first the kernel is smaller than the stride, the second has no bias."""
    x, shapes = f.x, ((1, 27, 16, 3), (1, 55, 34, 4))
    for shape, padding, weight in zip(shapes, (SAME, VALID), (numbers(3, 2, 3, 3), numbers(4, 3, 4, 3)), strict=True):
        stride = (3, 2) if padding == SAME else (2, 2)
        options = schema.TransposeConvOptionsT(padding=padding, strideH=stride[0], strideW=stride[1])
        bias = [f.constant(numbers(3))] if padding == SAME else []
        inputs = [f.constant(np.array(shape, I32)), f.constant(weight), x, *bias]
        x = f.op(Op.TRANSPOSE_CONV, inputs, shape, options)
    return x


def mirrored(f: File) -> int:
    widths = f.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]], I32))
    return f.op(Op.MIRROR_PAD, [f.x, widths], (1, 12, 9, 3), schema.MirrorPadOptionsT(mode=0))


def reshaped(f: File) -> int:
    """With channels last (1, 72, 3), which is (C, L) then with what were pixels as channels."""
    return f.op(Op.RESHAPE, [f.x, f.constant(np.array([1, 72, 3], I32))], (1, 72, 3), schema.ReshapeOptionsT())


def mean_of_channels(f: File) -> int:
    return f.op(Op.MEAN, [f.x, f.constant(np.array([3], I32))], (1, 9, 8), schema.ReducerOptionsT())


def largest_of_rows(f: File) -> int:
    return f.op(Op.REDUCE_MAX, [f.x, f.constant(np.array([1], I32))], (1, 8, 3), schema.ReducerOptionsT())


def average_padded(f: File) -> int:
    return f.op(Op.AVERAGE_POOL_2D, [f.x], (1, 9, 8, 3), pool((3, 3), (1, 1), SAME))


def places(f: File) -> int:
    return f.op(Op.ADD, [f.x, f.constant(numbers(1, 9, 8, 3))], SMALL, schema.AddOptionsT())


def a_row_goes_on(f: File) -> int:
    """A flattened image joins another row."""
    x = f.op(Op.TANH, [flat(f)], (1, 168))
    return f.op(Op.CONCATENATION, [x, dense(f)], (1, 173), schema.ConcatenationOptionsT(axis=1))


def normalised(f: File) -> int:
    """A layer normalisation as TensorFlow's converter writes it."""
    axes, shape, one = f.constant(np.array([3], I32)), (1, 9, 8, 3), (1, 9, 8, 1)
    mean = f.op(Op.MEAN, [f.x, axes], one, schema.ReducerOptionsT(keepDims=True))
    squares = f.op(Op.SQUARED_DIFFERENCE, [f.x, mean], shape, schema.SquaredDifferenceOptionsT())
    variance = f.op(Op.MEAN, [squares, axes], one, schema.ReducerOptionsT(keepDims=True))
    x = f.op(Op.ADD, [variance, f.constant(np.float32(1e-3))], one, schema.AddOptionsT())
    factor = f.op(Op.MUL, [f.op(Op.RSQRT, [x], one), f.constant(numbers(3))], shape, schema.MulOptionsT())
    x = f.op(Op.MUL, [f.x, factor], shape, schema.MulOptionsT())
    y = f.op(Op.MUL, [mean, factor], shape, schema.MulOptionsT())
    y = f.op(Op.SUB, [f.constant(numbers(3)), y], shape, schema.SubOptionsT())
    return f.op(Op.ADD, [x, y], shape, schema.AddOptionsT())


def product(f: File) -> int:
    x = f.op(Op.BATCH_MATMUL, [f.x, f.x], (1, 9, 8, 8), schema.BatchMatMulOptionsT(adjY=True))
    x = f.op(Op.SOFTMAX, [x], (1, 9, 8, 8), schema.SoftmaxOptionsT(beta=1.0))
    return f.op(Op.BATCH_MATMUL, [x, f.x], SMALL, schema.BatchMatMulOptionsT())


CASES: dict[Any, list[str]] = {
    normalised: ["LayerNorm"],
    product: ["Transpose", "MatMul", "Softmax", "MatMul", "Transpose"],
    gated: ["Conv2dBnAct", "GlobalAvgPool2d", "Activation", "Mul", "Sub", "Activation", "Maximum"],
    more_functions: ["Activation", "Activation", "PReLU", "Activation", "Activation"],
    halves: ["Conv2dBnAct", "Slice", "Slice", "Add", "Slice", "Slice", "Concat"],
    rows: [*["Slice"] * 2, *["Reshape", "Transpose"] * 2, "Stack", "Transpose", "Conv2dBnAct"],
    slices: ["Slice", "Slice", "Slice", "Slice"],
    a_column: ["Slice", "Slice", "Reshape", "Transpose"],
    shuffled: ["Conv2dBnAct", "ChannelShuffle", "Conv2dBnAct"],
    blocks: ["Conv2dBnAct", "PixelShuffle", "Activation", "PixelUnshuffle"],
    nearest: ["Upsample"],
    interpolated: ["UpsampleBilinear", "UpsampleBilinear"],
    transposed_convolutions: ["ConvTranspose2dBnAct", "ConvTranspose2dBnAct"],
    mirrored: ["Pad"],
    reshaped: ["Reshape", "Transpose"],
    mean_of_channels: ["Reshape", "Transpose", "Reshape", "GlobalAvgPool2d", "Reshape"],
    largest_of_rows: ["Reshape", "Transpose", "Reshape", "MaxPool2d", "Reshape"],
    average_padded: ["AvgPool2d"],
    places: ["Reshape", "Normalize", "Reshape"],
    a_row_goes_on: [
        *("Conv2dBnAct", "Flatten", "Activation", "Conv2dBnAct", "Flatten", "DenseBnAct"),
        *("Reshape", "Transpose", "Flatten", "Concat"),
    ],
    conv_same: ["Conv2dBnAct"],
    conv_dilated: ["Conv2dBnAct"],
    conv_of_groups: ["Conv2dBnAct"],
    depthwise: ["Conv2dBnAct"],
    padded: ["Conv2dBnAct"],
    dense: ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    dense_of_an_image: ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    dense_at_each_place: ["Conv2dBnAct", "Conv2dBnAct"],
    computed_sizes: ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    reshapes: ["GlobalAvgPool2d", "Conv2dBnAct", "Flatten"],
    joined: ["Conv2dBnAct", "Activation", "Add", "Concat"],
    constants: ["Conv2dBnAct"],
    maxima: ["MaxPool2d", "AvgPool2d"],
    average_same: ["Conv2dBnAct", "AvgPool2d"],
    mean: ["GlobalAvgPool2d", "Flatten"],
    after_a_flatten: ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    softmax: ["Conv2dBnAct", "Flatten", "DenseBnAct", "Softmax"],
    dense_after_tanh: ["Conv2dBnAct", "Flatten", "Activation", "DenseBnAct"],
    functions: ["Conv2dBnAct"] * 4,
    transposed: ["Conv2dBnAct"],
    half: ["Conv2dBnAct"],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_an_operator_is_imported_and_computes_the_same(case: Any, tmp_path: Path) -> None:
    f = File()
    found = qat.import_model(f.write(tmp_path / "net.tflite", case(f)))
    assert cells(found) == CASES[case]
    assert found.difference is not None
    assert found.difference.relative < ROUNDING


@pytest.mark.parametrize("scale", [0.01, [0.01, 0.02, 0.005, 0.03]], ids=["per tensor", "per channel"])
def test_int8_weights_of_float_layers_are_real_numbers(scale: Any, tmp_path: Path) -> None:
    """Dynamic range quantization. What is compared is a copy of the file with these numbers: LiteRT quantizes nothing there."""
    codes = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    f = File()
    path = f.write(tmp_path / "net.tflite", f.conv(f.x, CONV, f.constant(codes, scale=scale)))
    found = qat.import_model(path)
    real = codes.astype(np.float32) * np.reshape(np.asarray(scale, np.float32), (-1, 1, 1, 1))
    assert np.array_equal(found.params["v0.weight"], real.transpose(0, 3, 1, 2))
    assert found.sources == {}, "none of the file's arrays is one of these"
    assert "int8 weights in 1 layer (dynamic range quantization)" in found.notes[0]
    assert found.difference is not None
    assert found.difference.relative < ROUNDING


def test_names_are_those_of_layers(tmp_path: Path) -> None:
    """TensorFlow joins those of all operations that it has fused; what Keras calls the model is left out."""
    f = File(name="serving_default_image:0")
    first = f.conv(
        f.x,
        CONV,
        name="model/relu/Relu;model/bn/FusedBatchNormV3;model/stem/BiasAdd;model/stem/Conv2D;model/other/Conv2D",
    )
    f.tensors[1].name = "model/stem/Conv2D"
    second = f.op(Op.ADD, [first, first], CONV, schema.AddOptionsT(), "model/relu_1/Relu;model/block/add/add")
    third = f.op(Op.TANH, [second], CONV, name="model/stem/Conv2D")
    path = f.write(tmp_path / "net.tflite", f.op(Op.LOGISTIC, [third], CONV, name="Identity"), signature="image")
    found = qat.import_model(path)
    assert [node.name for node in found.graph.nodes] == ["input", "stem", "block.add", "stem_2", "logistic"]
    assert list(open_file(path).program.inputs) == ["image"], "that of the signature"


def test_raw_pixels_are_taken_where_the_file_takes_them(tmp_path: Path) -> None:
    f = File(dtype="uint8")
    x = f.op(Op.CAST, [f.x], SMALL, schema.CastOptionsT(inDataType=Type.UINT8, outDataType=Type.FLOAT32))
    x = f.op(Op.MUL, [x, f.constant(np.float32(1 / 127.5))], SMALL, schema.MulOptionsT())
    x = f.op(Op.SUB, [x, f.constant(np.float32(1.0))], SMALL, schema.SubOptionsT())
    found = qat.import_model(f.write(tmp_path / "net.tflite", f.conv(x, CONV)))
    assert cells(found) == ["Conv2dBnAct"]
    assert found.graph.inputs[0].cell == qat.Input((3, 9, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert found.difference is not None
    assert found.difference.relative < ROUNDING


def test_sizes_have_to_be_known(tmp_path: Path) -> None:
    """LiteRT finds those within the network."""
    f = File((1, 1, 1, 3), signature=(-1, -1, -1, 3))
    path = f.write(tmp_path / "net.tflite", f.conv(f.x, (1, 1, 1, 4), padding=SAME))
    with pytest.raises(qat.QatError, match=r"sizes of its input 'x' open \(-1, -1, -1, 3\).*give input_shape"):
        qat.import_model(path)
    found = qat.import_model(path, input_shape=(3, 9, 8))
    assert found.graph.shapes["v0"] == (4, 9, 8)
    assert found.difference is not None
    assert found.difference.relative < ROUNDING
    with pytest.raises(qat.QatError, match=r"input_shape \(1, 9, 8\) does not fit"):
        qat.import_model(path, input_shape=(1, 9, 8))


# -- messages ---------------------------------------------------------------------------------------------------------


def resized(f: File) -> int:
    return f.op(
        Op.RESIZE_BILINEAR, [f.x, f.constant(np.array([18, 16], I32))], (1, 18, 16, 3), schema.ResizeBilinearOptionsT()
    )


def custom(f: File) -> int:
    return f.op(Op.CUSTOM, [f.x], SMALL, code="MaxUnpooling2D")


def sign(f: File) -> int:
    return f.conv(f.x, CONV, fusedActivationFunction=5)


def computed(f: File) -> int:
    return f.op(Op.FULLY_CONNECTED, [flat(f), flat(f), -1], (1, 1), dense_options())


def sharp(f: File) -> int:
    return f.op(Op.SOFTMAX, [flat(f)], (1, 168), schema.SoftmaxOptionsT(beta=2.0))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (resized, "1 operation .*RESIZE_BILINEAR that places pixels by their corners .*: v0"),
        (custom, r"MaxUnpooling2D \(a custom operation\)"),
        (sign, "CONV_2D with the activation 5"),
        (computed, "FULLY_CONNECTED whose weights are computed"),
        (sharp, "SOFTMAX with beta 2"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_what_no_cell_computes_is_named(case: Any, message: str, tmp_path: Path) -> None:
    f = File()
    path = f.write(tmp_path / "net.tflite", case(f))
    with pytest.raises(qat.QatError, match=message) as caught:
        qat.import_model(path)
    assert "outputs=" in str(caught.value)


def test_quantized_files_are_refused(tmp_path: Path) -> None:
    f = File(dtype="int8", name="codes")
    x = f.op(Op.DEQUANTIZE, [f.x], SMALL, schema.DequantizeOptionsT())
    with pytest.raises(
        qat.QatError, match="is a quantized file: 1 of its values are integers, first 'codes'; give the float one"
    ):
        qat.import_model(f.write(tmp_path / "net.tflite", f.conv(x, CONV)))


def test_an_output_in_another_order_is_refused(tmp_path: Path) -> None:
    f = File()
    with pytest.raises(qat.QatError, match="output 'v1' is an image that is flattened with channels last"):
        qat.import_model(f.write(tmp_path / "net.tflite", flat(f)))


def test_several_subgraphs_are_refused(tmp_path: Path) -> None:
    f = File()
    model = f.model(f.conv(f.x, CONV))
    model.subgraphs.append(model.subgraphs[0])
    with pytest.raises(qat.QatError, match="2 subgraphs, for control flow or several signatures"):
        qat.import_model(write(tmp_path / "net.tflite", model))


def test_a_batch_is_refused(tmp_path: Path) -> None:
    f = File((4, 9, 8, 3))
    with pytest.raises(qat.QatError, match=r"input 'x' has shape \(4, 9, 8, 3\), not one sample"):
        qat.import_model(f.write(tmp_path / "net.tflite", f.conv(f.x, (4, 7, 6, 4))))


def test_what_is_no_tflite_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"no flatbuffer")
    with pytest.raises(qat.QatError, match=r"is no \.tflite file"):
        qat.import_model(path)


# -- files of the converter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", but_long(["float", "float16", "dynamic"], lambda form: form != "float"))
def test_what_the_converter_of_keras_writes_is_imported(form: str, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    import keras

    layers = keras.layers
    x = image = keras.Input((12, 10, 3))
    x = layers.ReLU(6.0)(
        layers.BatchNormalization()(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    )
    x = layers.Activation("hard_swish")(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))
    y = layers.Conv2D(32, 1)(x)
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.Dense(10, activation="softmax")(layers.Dropout(0.1)(layers.Flatten()(x)))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, x))
    if form != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path = tmp_path / "net.tflite"
    path.write_bytes(converter.convert())
    found = qat.import_model(path)
    assert cells(found) == ["Conv2dBnAct"] * 3 + ["Add", "Concat", "Flatten", "DenseBnAct", "Softmax"]
    assert ("dynamic range" in "".join(found.notes)) == (form == "dynamic")
    assert found.difference is not None
    assert found.difference.relative < ROUNDING
