"""Convolution and dense cells, fused with their activation as in MindSpore's QAT."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from qat.activations import RELU_BOUNDS, check_activation
from qat.cells.base import Cell, Param, Scope, Shape, check_counts, constant, he_uniform, pair
from qat.cells.window import check_window, output_size, window_padding
from qat.errors import QatError
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerConv2d,
    IntegerDense,
    IntegerLinear,
    IntegerTensor,
    Requantize,
)
from qat.numpy_ops import NUMPY_OPS
from qat.ops import EXACT_INTEGERS, Array, Kind, Ops, Padding, Pair, Tensor
from qat.quantizers import WeightCodes, WeightQuantizer
from qat.values import Value

BIAS_CODE_LIMIT = EXACT_INTEGERS / 2  #: bias codes stay below, so that float32 holds them and the sums


class LinearCell(Cell):
    """What a convolution and a dense layer share: y = activation(W x + b), in real numbers or in integers.

    In integers: acc = sum (x_q - z_x) (w_q - z_w) + b_q with b_q = rint(b / (s_x s_w)), of scale s_x s_w
    (docs/numerics.md).
    """

    out_channels: int
    has_bias: bool
    activation: str | None
    after_fake: bool
    weight_quantizer: WeightQuantizer | None

    weight_kind: ClassVar[Kind]

    @property
    def wants_fake_quant(self) -> bool:  # type: ignore[override]
        return self.after_fake

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        return self.activation in RELU_BOUNDS

    @property
    @abstractmethod
    def weight_shape(self) -> Shape:
        """Canonical, O first."""

    @abstractmethod
    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b."""

    @abstractmethod
    def with_weight_quantizer(self, quantizer: WeightQuantizer) -> LinearCell:
        """The same cell with a quantized weight."""

    @abstractmethod
    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        """The node of the integer graph, from the fields that all linear nodes have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weight_quantizer, (WeightQuantizer, type(None))):
            raise QatError(f"{type(self).__name__}: weight_quantizer is {self.weight_quantizer!r}, no WeightQuantizer")

    def params(self) -> dict[str, Param]:
        fan_in = math.prod(self.weight_shape[1:])
        params = {"weight": Param(self.weight_shape, self.weight_kind, he_uniform(fan_in))}
        if self.has_bias:
            params["bias"] = Param((self.out_channels,), "vector", constant(0.0))
        return params

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        ops, (x_shape,) = scope.ops, scope.input_shapes
        weight = scope.param("weight")
        bias = scope.param("bias") if self.has_bias else None
        relu = None if self.activation is None else RELU_BOUNDS[self.activation]
        quantizer = self.weight_quantizer
        if quantizer is None or scope.context.step < quantizer.quant_delay:
            return Value(self.apply(ops, x.real(ops), x_shape, weight, bias), relu=relu)
        if not x.codes:  # its input is not quantized (yet): the weight alone is, in real numbers
            codes = quantizer.quantize(ops, weight)
            weight = codes.centred * ops.on_output(codes.scale, weight)
            return Value(self.apply(ops, x.real(ops), x_shape, weight, bias), relu=relu)
        codes, bias_codes = self._quantize(ops, quantizer, weight, bias, x.scale)
        return Value(self.apply(ops, x.data, x_shape, codes.centred, bias_codes), x.scale * codes.scale, relu=relu)

    @staticmethod
    def _quantize(
        ops: Ops, quantizer: WeightQuantizer, weight: Tensor, bias: Tensor | None, x_scale: Tensor
    ) -> tuple[WeightCodes, Tensor | None]:
        """Weight and bias codes.

        The weight's scale is at least |b| / (s_x 2^23): in a channel whose weights are (nearly) all zero the bias would
        otherwise need a code that no int32, let alone a float32, can hold.
        """
        if bias is None:
            return quantizer.quantize(ops, weight), None
        floor = ops.abs(ops.stop_gradient(bias)) / (x_scale * BIAS_CODE_LIMIT)
        codes = quantizer.quantize(ops, weight, floor)
        return codes, ops.round_ste(bias / (x_scale * codes.scale))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Accumulator:
        (x,) = inputs
        if self.weight_quantizer is None or not isinstance(x, IntegerTensor):
            missing = "weight" if self.weight_quantizer is None else "input"
            raise QatError(
                f"{name}: its {missing} has no quantizer, so that it cannot be computed in integers; convert the network "
                "with convert_quant_network, and keep after_fake=True on the cells before it"
            )
        ops, outputs = NUMPY_OPS, self.out_channels
        weight = ops.from_numpy(params["weight"], self.weight_kind)
        bias = ops.from_numpy(params["bias"], "vector") if self.has_bias else None
        codes, bias_codes = self._quantize(
            ops, self.weight_quantizer, weight, bias, np.full(1, x.grid.scale, np.float32)
        )
        zero_point = np.zeros(outputs, np.int32)
        if codes.zero_point is not None:
            zero_point += codes.zero_point.astype(np.int32)
        scale = np.ascontiguousarray(np.broadcast_to(codes.scale, (outputs,)))
        raw = codes.centred.astype(np.int32) + zero_point.reshape((-1,) + (1,) * (weight.ndim - 1))
        dtype = np.int8 if self.weight_quantizer.symmetric else np.uint8

        def finish(requantize: Requantize, output: IntegerTensor) -> IntegerLinear:
            return self.integer_node(
                x.shape,
                name=name,
                inputs=(x,),
                output=output,
                weight=raw.astype(dtype),
                bias=np.zeros(outputs, np.int32) if bias_codes is None else bias_codes.astype(np.int32),
                weight_scale=scale,
                weight_zero_point=zero_point,
                requantize=requantize,
            )

        relu = None if self.activation is None else RELU_BOUNDS[self.activation]
        return Accumulator(finish, name, self.output_shape(x.shape), x.grid.scale * scale, relu)


@dataclass(frozen=True)
class Conv2dBnAct(LinearCell):
    """Convolution and activation in one cell; its quantized form keeps accumulators as integers.

    kernel_size, stride, dilation: one integer or (height, width). pad_mode: "same" (as TensorFlow pads), "valid" or
    "pad" with ``padding``, one number, (vertical, horizontal) or (top, bottom, left, right). group: number of groups of
    channels. activation: None, "relu" or "relu6". after_fake: let convert_quant_network put a fake quantizer after it.

    Parameters: weight (out, in / group, kh, kw), bias (out,) if has_bias. Input (in, H, W), output (out, H', W').
    """

    in_channels: int
    out_channels: int
    kernel_size: int | Pair
    stride: int | Pair = 1
    pad_mode: str = "same"
    padding: int | Pair | Padding = 0
    dilation: int | Pair = 1
    group: int = 1
    has_bias: bool = False
    activation: str | None = None
    after_fake: bool = True
    weight_quantizer: WeightQuantizer | None = None

    weight_kind = "conv_weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("Conv2dBnAct", in_channels=self.in_channels, out_channels=self.out_channels, group=self.group)
        check_activation(self.activation, "Conv2dBnAct")
        check_window("Conv2dBnAct", self.pad_mode, self.padding, *self._geometry)
        if self.in_channels % self.group or self.out_channels % self.group:
            raise QatError(
                f"Conv2dBnAct: group {self.group} divides {self.in_channels} input and {self.out_channels} output channels "
                "unevenly; both must be multiples of it"
            )

    @property
    def _geometry(self) -> tuple[Pair, Pair, Pair]:
        return (
            pair(self.kernel_size, "Conv2dBnAct: kernel_size"),
            pair(self.stride, "Conv2dBnAct: stride"),
            pair(self.dilation, "Conv2dBnAct: dilation"),
        )

    def _window(self, x_shape: Shape) -> dict[str, Any]:
        """stride, padding, dilation and group for an input of this shape."""
        kernel, stride, dilation = self._geometry
        explicit = check_window("Conv2dBnAct", self.pad_mode, self.padding, kernel, stride, dilation)
        padding = window_padding((x_shape[1], x_shape[2]), kernel, stride, dilation, self.pad_mode, explicit)
        return {"stride": stride, "padding": padding, "dilation": dilation, "group": self.group}

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels // self.group, *self._geometry[0])

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 3 or x[0] != self.in_channels:
            raise QatError(f"takes ({self.in_channels}, H, W) but gets {x}; change in_channels or the cell before it")
        kernel, stride, dilation = self._geometry
        size = output_size((x[1], x[2]), kernel, stride, dilation, self._window(x)["padding"])
        if min(size) < 1:
            raise QatError(f"its {kernel} kernel does not fit into its input {x}; use a smaller kernel or more padding")
        return (self.out_channels, *size)

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.conv2d(x, w, bias, **self._window(x_shape))

    def with_weight_quantizer(self, quantizer: WeightQuantizer) -> Conv2dBnAct:
        return replace(self, weight_quantizer=quantizer)

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerConv2d(**fields, **self._window(x_shape))


@dataclass(frozen=True)
class DenseBnAct(LinearCell):
    """Dense layer and activation in one cell.

    activation, after_fake: as in Conv2dBnAct. Parameters: weight (out, in), bias (out,) if has_bias. Input (in,),
    output (out,).
    """

    in_channels: int
    out_channels: int
    has_bias: bool = True
    activation: str | None = None
    after_fake: bool = True
    weight_quantizer: WeightQuantizer | None = None

    weight_kind = "dense_weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("DenseBnAct", in_channels=self.in_channels, out_channels=self.out_channels)
        check_activation(self.activation, "DenseBnAct")

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels)

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x != (self.in_channels,):
            raise QatError(
                f"takes ({self.in_channels},) but gets {x}; change in_channels, or put a Flatten before it if that is an "
                "image"
            )
        return (self.out_channels,)

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.dense(x, w, bias)

    def with_weight_quantizer(self, quantizer: WeightQuantizer) -> DenseBnAct:
        return replace(self, weight_quantizer=quantizer)

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerDense(**fields)
