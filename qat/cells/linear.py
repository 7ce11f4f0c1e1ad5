"""What convolution, dense layer and batch normalisation share, fused with their activation as in MindSpore's QAT."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

from qat.cells.base import Cell, Param, Quantized, Scope, Shape, constant, he_uniform
from qat.cells.bias_floor import bias_floor
from qat.cells.input_normalization import InputNormalization
from qat.cells.normalization import (
    SMALLEST_FACTOR,
    batch_norm_params,
    channel_statistics,
    follow_statistics,
    running_affine,
    running_sigma,
)
from qat.cells.oscillation import OscillationTracker
from qat.cells.pruner import MagnitudePruner
from qat.cells.weight_codes import MASK, OF_QUANTIZER, follow, of_quantizer, weight_codes, with_bias
from qat.errors import QatError
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerLinear,
    IntegerTensor,
    Pending,
    Requantize,
    smallest_type,
)
from qat.quantizers import SMALLEST_SCALE, BaseWeightQuantizer, WeightCodes
from qat.vocabulary.activations import NON_NEGATIVE, RELU_BOUNDS, TABLES, apply_table, check_activation
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Kind, Ops, Tensor
from qat.vocabulary.serial import check_steps
from qat.vocabulary.values import Value

BN_FOLDS = ("two_conv", "one_conv", None)
NEVER = 10_000_000  #: a step that training does not reach; MindSpore's default of freeze_bn


class LinearCell(Cell, ABC, abstract=True):
    """What convolution, dense layer and batch normalisation share: y = activation(BN(W x + b)), real or in integers.

    In integers: acc = sum (x_q - z_x) (w_q - z_w) + b_q with b_q = rint(b / (s_x s_w)), of scale s_x s_w
    (docs/numerics.md). Batch normalisation is folded into w and b; how training sees that, ``bn_fold`` says:

    "two_conv": w gamma / sigma_run is quantized. Until step freeze_bn a first convolution gives the batch's statistics,
        and the second one's result is multiplied by sigma_run / sigma_batch; from then on the running ones are used
        (Krishnamoorthi, arXiv 1806.08342, section 3.2.2).
    "one_conv": w gamma / sigma_run is quantized, and the result, divided by gamma / sigma_run, is normalised anew.
    None: w itself is quantized and the result normalised; deployment multiplies gamma / sigma into the scale.
    """

    out_channels: int
    has_bias: bool
    has_bn: bool
    momentum: float
    eps: float
    activation: str | None
    alpha: float | None
    after_fake: bool
    weight_quantizer: BaseWeightQuantizer | None
    bn_fold: str | None
    freeze_bn: int
    pruner: MagnitudePruner | None
    input_normalization: InputNormalization | None = None
    tracker: OscillationTracker | None = None

    weight_kind: ClassVar[Kind]

    output_numbers = "computed"
    random = False

    @property
    def wants_fake_quant(self) -> bool:
        return self.after_fake

    @property
    def wants_quantizer(self) -> bool:
        return True

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """By its activation."""
        return self.activation in NON_NEGATIVE

    @property
    @abstractmethod
    def weight_shape(self) -> Shape:
        """Canonical, O first."""

    @property
    def stored_shape(self) -> Shape:
        """Of the weight as parameters hold it."""
        return self.weight_shape

    @property
    def _quantized_shape(self) -> Shape:
        """Of the weight as it is quantized: over all channels that the input has."""
        shape, further = self.weight_shape, self.input_normalization.further if self.input_normalization else 0
        return (shape[0], shape[1] + further, *shape[2:])

    def outputs_first(self, ops: Ops, weight: Tensor) -> Tensor:
        """The weight, or a mask of it, of ``weight_shape``, as all that follows takes it."""
        return weight

    def as_stored(self, weight: Array) -> Array:
        """The inverse of ``outputs_first``."""
        return weight

    @abstractmethod
    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b."""

    def input_rows(self, x: Array, x_shape: Shape, places: int) -> Array | None:
        """The numbers that its outputs are weighted sums of; None: the cell does not say.

        Args:
            x: real numbers, (N, ...).
            x_shape: of one sample.
            places: of a sample, how many are taken about at most, evenly chosen.

        Returns:
            (groups, N times places, inputs): the inputs of a group in the order of the weight's axes behind the first one.
        """
        return None

    @abstractmethod
    def quantized(self, quantizer: BaseWeightQuantizer, bn_fold: str | None, freeze_bn: int) -> LinearCell:
        """The same cell with a quantized weight."""

    @abstractmethod
    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        """The node of the integer graph, from the fields that all linear nodes have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_activation(self.activation, owner)
        check_steps(self, "freeze_bn")
        if self.bn_fold not in BN_FOLDS:
            raise QatError(f"{owner}: bn_fold is {self.bn_fold!r}; use one of {', '.join(map(repr, BN_FOLDS))}")
        quantizer = self.weight_quantizer
        refusal = quantizer and self.has_bn and quantizer.refuses_batch_norm(folded=self.bn_fold is not None)
        if refusal:
            other = "bn_fold=False" if self.bn_fold else "batch normalisation folded into the weights, or none"
            raise QatError(f"{owner}: a {type(quantizer).__name__} needs {other}: {refusal}")
        if not 0.0 <= self.momentum <= 1.0 or not self.eps > 0.0:
            raise QatError(f"{owner}: momentum {self.momentum!r} must lie within 0..1 and eps {self.eps!r} above 0")

    def float_params(self) -> dict[str, Param]:
        fan_in = math.prod(self.weight_shape[1:])
        params = {"weight": Param(self.stored_shape, self.weight_kind, he_uniform(fan_in))}
        if self.pruner is not None:
            params[MASK] = Param(self.stored_shape, self.weight_kind, constant(1.0), trainable=False)
        if self.has_bias:
            params["bias"] = Param((self.out_channels,), "vector", constant(0.0))
        if self.has_bn:
            params |= batch_norm_params(self.out_channels)
        return params

    def quantizer_params(self) -> dict[str, Param]:
        quantizer = self.weight_quantizer
        own = {} if quantizer is None else quantizer.params(self.weight_shape)
        if self.tracker is not None:
            own |= self.tracker.params(self._quantized_shape, self.weight_kind)
        return {f"{OF_QUANTIZER}{name}": param for name, param in own.items()}

    @property
    def deployed_weights(self) -> int:
        """The number of its weights, those over the further channel of a normalised input among them."""
        count, normalization = math.prod(self.weight_shape), self.input_normalization
        if normalization is None:
            return count
        return count // normalization.channels * (normalization.channels + normalization.further)

    def deployed_parameters(self) -> int:
        """Weights, and a bias for each output where there is a bias, a batch normalisation or a shift of the input."""
        normalization = self.input_normalization
        has_bias = self.has_bias or self.has_bn or (normalization is not None and normalization.has_bias)
        return self.deployed_weights + has_bias * self.out_channels

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        kept: Array = array[outputs]
        return kept

    def _complete(self, ops: Ops, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters with whatever of weight and bias is fixed instead of trained, over the numbers that enter."""
        if self.pruner is not None:
            params = params | {"weight": params["weight"] * params[MASK]}
            params = params | {MASK: self._mask(ops, params[MASK])}
        params = params | {"weight": self.outputs_first(ops, params["weight"])}
        normalization = self.input_normalization
        if normalization is None:
            return params
        weight, shape = params["weight"], self.weight_shape
        bias = normalization.bias(ops, weight, params.get("bias"), shape)
        return params | {"weight": normalization.weight(ops, weight, shape)} | ({} if bias is None else {"bias": bias})

    def numpy_params(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """The same, of canonical arrays by local name, for NUMPY_OPS."""
        own = {local: NUMPY_OPS.from_numpy(params[local], param.kind) for local, param in self.params().items()}
        return self._complete(NUMPY_OPS, own)

    def _mask(self, ops: Ops, mask: Tensor) -> Tensor:
        """A pruner's mask of the weight that is quantized."""
        mask = self.outputs_first(ops, mask)
        return mask if self.input_normalization is None else self.input_normalization.mask(ops, mask)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        ops, phase, quantizer = scope.ops, scope.context.phase, self.weight_quantizer
        params = self._complete(ops, scope.params())
        weight, bias = params["weight"], params.get("bias")
        relu = RELU_BOUNDS.get(self.activation or "")
        learning = scope.context.training and phase < self.freeze_bn  # the batch's own statistics normalise it
        if learning and self.has_bn:
            self._check_statistics(scope, x.data)
        if quantizer is None or not scope.quantizes(quantizer):
            y = Value(self.apply(ops, x.real(ops), scope.input_shapes[0], weight, bias), relu=relu)
            y = self._normalised(scope, params, y, learning) if self.has_bn else y
            if self.activation in TABLES:  # convert_quant_network makes a cell of its own of it
                return Value(apply_table(ops, self.activation, y.data, {"alpha": self.alpha}))
            return y
        if not self.has_bn:
            return self._product(scope, quantizer, x, weight, bias, relu)
        if self.bn_fold is None:
            return self._normalised(scope, params, self._product(scope, quantizer, x, weight, bias, relu), learning)
        factor, shift = running_affine(ops, params, self.eps)
        folded = weight * ops.on_output(factor, weight)
        if not learning:
            return self._product(scope, quantizer, x, folded, shift, relu)
        product = self._product(scope, quantizer, x, folded, None, relu)
        if self.bn_fold == "two_conv":
            return Value(self._corrected(scope, params, x, product), relu=relu, step=product.scale)
        return self._renormalised(scope, params, factor, product)

    def _check_statistics(self, scope: Scope, x: Tensor) -> None:
        """Raise QatError where the batch has one number a channel."""
        shape = self.output_shape(*scope.input_shapes)
        if math.prod(shape[1:]) == 1:
            scope.ops.refuse_single(
                x,
                f"{scope.prefix[:-1]}: its batch normalisation would be trained with a single number for each channel, a "
                f"batch of 1 with outputs {shape}, which has no variance; use larger batches, leave a last one of 1 out, or "
                "freeze the statistics (freeze_bn)",
            )

    def _product(
        self,
        scope: Scope,
        quantizer: BaseWeightQuantizer,
        x: Value,
        weight: Tensor,
        bias: Tensor | None,
        relu: float | None = None,
    ) -> Value:
        """W x + b with a quantized weight, and in integers where x is codes."""
        ops, x_shape = scope.ops, scope.input_shapes[0]
        own = scope.params()
        if self.pruner is not None:
            own[MASK] = self._mask(ops, own[MASK])
        own = of_quantizer(own)
        training = scope.context.training
        if not (training and quantizer.observes_once) or scope.context.phase == quantizer.quant_delay:
            for name, value in quantizer.observe(ops, weight, own).items():
                own[name] = value
                if training:
                    scope.update(f"{OF_QUANTIZER}{name}", value)
        scope.note("weight", Quantized(quantizer, weight, own, self.deployed_weights))
        if not x.codes:  # its input is not quantized (yet): the weight alone is, in real numbers
            codes = weight_codes(ops, quantizer, weight, None, own)
            follow(scope, self.tracker, codes)
            weight = codes.centred * ops.on_output(codes.scale, weight)
            return Value(self.apply(ops, x.real(ops), x_shape, weight, bias), relu=relu)
        codes, bias_codes = with_bias(ops, quantizer, weight, bias, x.scale, own)
        follow(scope, self.tracker, codes)
        return Value(self.apply(ops, x.data, x_shape, codes.centred, bias_codes), x.scale * codes.scale, relu=relu)

    def _normalised(self, scope: Scope, params: Mapping[str, Tensor], y: Value, learning: bool) -> Value:
        """Ordinary batch normalisation of W x + b, before a ReLU that y still waits for."""
        ops = scope.ops
        step = None
        if not learning or scope.context.arithmetic == "fixed":
            without_bias = {name: value for name, value in params.items() if name != "bias"}  # y has it already
            factor, shift = running_affine(ops, without_bias, self.eps)
            step = None if y.scale is None else self._deployed_step(ops, params, y.scale * ops.abs(factor))
        if not learning:
            real = replace(y, relu=None).real(ops)
            real = real * ops.on_channel(factor, real) + ops.on_channel(shift, real)
            return Value(real, relu=y.relu, step=step)
        normalized = ops.normalized(y.data, y.scale, params["gamma"], params["beta"], self.eps)
        follow_statistics(scope, self.momentum, normalized.mean, normalized.variance)
        return Value.of(normalized, relu=y.relu, step=step)

    def _deployed_step(self, ops: Ops, params: Mapping[str, Tensor], step: Tensor) -> Tensor:
        """The step of an accumulator, (C,), raised as ``_deployed`` raises the scale, so that it is not 0 where gamma is."""
        assert self.weight_quantizer is not None
        _, shift = running_affine(ops, params, self.eps)
        floor = ops.maximum(bias_floor(ops, shift, 1.0, self.weight_quantizer.num_bits), SMALLEST_SCALE)
        return ops.maximum(ops.stop_gradient(step), floor)

    def _corrected(self, scope: Scope, params: Mapping[str, Tensor], x: Value, product: Value) -> Tensor:
        """ "two_conv": a product with weights folded by the running statistics, brought to those of the batch."""
        ops, bias = scope.ops, params.get("bias")
        y = replace(product, relu=None).real(ops)
        first = self.apply(ops, x.real(ops), scope.input_shapes[0], params["weight"], bias)
        mean, variance = channel_statistics(ops, first)
        follow_statistics(scope, self.momentum, mean, variance)
        sigma = ops.sqrt(variance + self.eps)
        centre = mean if bias is None else mean - bias
        shift = params["beta"] - centre * params["gamma"] / sigma
        return y * ops.on_channel(running_sigma(ops, params, self.eps) / sigma, y) + ops.on_channel(shift, y)

    def _renormalised(self, scope: Scope, params: Mapping[str, Tensor], factor: Tensor, y: Value) -> Value:
        """ "one_conv": the batch normalisation of y / f, f = gamma / sigma_run, where y has the folded weights.

        gamma (y / f - mean(y / f)) / sqrt(var(y / f) + eps) is the same with |gamma| and |f|. Where f is dead, y is 0, and
        divided by 1. A bias cancels.
        """
        ops = scope.ops
        alive = ops.abs(ops.stop_gradient(factor)) > SMALLEST_FACTOR
        divisor = ops.where(alive, ops.abs(factor), ops.stop_gradient(factor) * 0.0 + 1.0)
        scale = ops.reciprocal(divisor) if y.scale is None else y.scale / divisor
        normalized = ops.normalized(y.data, scale, ops.abs(params["gamma"]), params["beta"], self.eps)
        mean = ops.where(factor < 0.0, -normalized.mean, normalized.mean)
        mean = mean + params["bias"] if "bias" in params else mean
        follow_statistics(
            scope,
            self.momentum,
            ops.where(alive, ops.stop_gradient(mean), params["moving_mean"]),
            ops.where(alive, normalized.variance, params["moving_variance"]),
        )
        return Value.of(normalized, relu=y.relu, step=y.scale)

    def coded(self, own: Mapping[str, Array], x_scale: Array) -> tuple[Array, Array | None, WeightCodes, Array | None]:
        """Weight and bias as deployment quantizes them, and their codes, of ``numpy_params``; x_scale: (1,), the input's."""
        ops, quantizer = NUMPY_OPS, cast(BaseWeightQuantizer, self.weight_quantizer)
        weight, bias = own["weight"], own.get("bias")
        if self.has_bn:
            factor, bias = running_affine(ops, own, self.eps)
            weight = weight if self.bn_fold is None else weight * ops.on_output(factor, weight)
        of_own = of_quantizer(own)
        of_own |= quantizer.observe(ops, weight, of_own)
        if self.has_bn and self.bn_fold is None:
            return weight, bias, weight_codes(ops, quantizer, weight, None, of_own), None
        return weight, bias, *with_bias(ops, quantizer, weight, bias, x_scale, of_own)

    def _deployed(self, own: Mapping[str, Array], x_scale: Array) -> tuple[WeightCodes, Array | None]:
        """Weight and bias codes with everything folded in, by the running statistics; ``own`` for NUMPY_OPS."""
        _, shift, codes, bias_codes = self.coded(own, x_scale)
        if not self.has_bn or self.bn_fold is not None:
            return codes, bias_codes
        # w was quantized by itself: |factor| goes into its scale, and the sign into its codes.
        (centred, scale, zero_point), quantizer = codes, cast(BaseWeightQuantizer, self.weight_quantizer)
        ops, (factor, _) = NUMPY_OPS, running_affine(NUMPY_OPS, own, self.eps)
        floor = np.maximum(bias_floor(ops, shift, x_scale, quantizer.num_bits), np.float32(SMALLEST_SCALE))
        product = scale * np.abs(factor)
        scale = np.maximum(product, floor)
        # Where the scale had to be raised to the floor, the codes shrink by as much.
        centred = np.rint(centred * ops.on_output(np.sign(factor) * (product / scale), centred))
        if zero_point is not None:
            mirrored = float(quantizer.qmin + quantizer.qmax) - zero_point
            zero_point = np.where(factor < 0, mirrored, zero_point)
        return WeightCodes(centred, scale, zero_point), np.rint(shift / (x_scale * scale))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
        (x,) = inputs
        quantizer = self.weight_quantizer
        if quantizer is None or not isinstance(x, IntegerTensor):
            missing = "weight" if quantizer is None else "input"
            raise QatError(
                f"{name}: its {missing} has no quantizer, so that it cannot be computed in integers; convert the network "
                "with convert_quant_network, and keep after_fake=True on the cells before it"
            )
        outputs, own = self.out_channels, self.numpy_params(params)
        with np.errstate(over="ignore", invalid="ignore"):
            codes, bias_codes = self._deployed(own, np.full(1, x.grid.scale, np.float32))
        if not np.isfinite(codes.scale).all():
            largest = max(float(np.abs(array).max()) for array in own.values())
            raise QatError(
                f"{name}: its biases reach {largest:g} where its input's codes have scale {x.grid.scale:g}, and no float32 "
                "weight scale is large enough for both; they are far too large, or the activation before it is dead"
            )
        zero_point = np.zeros(outputs, np.int32)
        if codes.zero_point is not None:
            zero_point += codes.zero_point.astype(np.int32)
        scale = np.array(np.broadcast_to(codes.scale, (outputs,)))
        raw = codes.centred.astype(np.int32) + NUMPY_OPS.on_output(zero_point, codes.centred)
        dtype = smallest_type(int(raw.min()), int(raw.max()), signed=codes.zero_point is None)

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

        relu = RELU_BOUNDS.get(self.activation or "")
        return Accumulator(finish, name, self.output_shape(x.shape), x.grid.scale * scale, relu)


@dataclass(frozen=True)
class Channels:
    """The fields that a cell with a trained weight begins with."""

    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class WeightedCell(LinearCell, Channels, abstract=True):
    """A linear cell with a trained weight; the fields are described in Conv2dBnAct.

    A dataclass has the fields of its bases before its own. A subclass with further fields between ``out_channels`` and
    ``has_bias`` takes them from a second base, as Conv2dBnAct does, so that positional arguments keep their order.
    """

    has_bias: bool = False
    has_bn: bool = False
    momentum: float = 0.9
    eps: float = 1e-5
    activation: str | None = None
    alpha: float | None = None
    after_fake: bool = True
    weight_quantizer: BaseWeightQuantizer | None = None
    bn_fold: str | None = None
    freeze_bn: int = NEVER
    pruner: MagnitudePruner | None = None
    input_normalization: InputNormalization | None = None
    tracker: OscillationTracker | None = None

    def quantized(self, quantizer: BaseWeightQuantizer, bn_fold: str | None, freeze_bn: int) -> WeightedCell:
        return replace(self, weight_quantizer=quantizer, bn_fold=bn_fold, freeze_bn=freeze_bn, tracker=None)
