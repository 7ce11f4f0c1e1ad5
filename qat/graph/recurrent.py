"""GRU and LSTM: blocks of cells that all steps share, unrolled over the steps of a series (C, L), or one step alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from qat.cells.arithmetic import Mul
from qat.cells.base import check_counts
from qat.cells.dense import DenseBnAct
from qat.cells.elementwise import Activation, Add
from qat.cells.rearrange import Stack
from qat.cells.recurrence import OneGrid, ZeroState
from qat.cells.shape import Flatten
from qat.cells.tracing import Traced
from qat.errors import QatError, shortened
from qat.graph.graph import Params
from qat.graph.network import Network
from qat.vocabulary.ops import Array


class Recurrent(Network):
    """What GRU and LSTM share: a series (C, L) becomes L steps, each of which computes with the same cells.

    Args:
        in_channels: features of each step.
        units: features of the state.
        return_sequences: give the states of all steps, (units, L); else the last one, (units,).
        reverse: go from the last step to the first; the states stay in the order of the steps.
        bias: whether both dense cells of each gate have a bias.
    """

    recurrent = True
    #: The gates' order in the weights of each framework.
    gates: ClassVar[Mapping[str, str]] = {}
    #: How many states it carries.
    states: ClassVar[int] = 1

    def __init__(self, in_channels: int, units: int, return_sequences: bool, reverse: bool, bias: bool) -> None:
        check_counts(type(self).__name__, in_channels=in_channels, units=units)
        self.in_channels, self.units = in_channels, units
        self.return_sequences, self.reverse, self.bias = return_sequences, reverse, bias
        self.start = [ZeroState(units) for _ in range(self.states)]
        self.carry = [OneGrid() for _ in range(self.states)]
        self.ih = {gate: DenseBnAct(in_channels, units, has_bias=bias) for gate in sorted(self.gates["torch"])}
        self.hh = {gate: DenseBnAct(units, units, has_bias=bias) for gate in sorted(self.gates["torch"])}
        self.add = {gate: Add() for gate in sorted(self.gates["torch"])}

    def _next(self, x: Traced, *state: Traced) -> tuple[Traced, ...]:
        """The states after a step, by cells alone."""
        raise NotImplementedError

    def step(self, x: Traced, *state: Traced) -> tuple[Traced, ...]:
        """One step: the new states, which have the grids of the old ones.

        Args:
            x: (C,), the features of the step.
            state: the states before it, (units,) each: h of a GRU, h and c of an LSTM.

        Returns:
            The states after it, in the same order.

        Raises:
            QatError: for another number of states.
        """
        if len(state) != self.states:
            raise QatError(
                f"{type(self).__name__}: a step takes {self.states} state{'s' * (self.states > 1)}, but gets {len(state)}"
            )
        found = self._next(x, *state)
        return tuple(carry(new, old) for carry, new, old in zip(self.carry, found, state, strict=True))

    def unroll(self, x: Traced, *state: Traced) -> list[tuple[Traced, ...]]:
        """The states after each step of a series, in the order of the steps.

        Args:
            x: (C, L).
            state: those before the first step; none: zeros.
        """
        if len(x.shape) != 2:
            raise QatError(
                f"{type(self).__name__}: takes a series (C, L), but {x.name} is {x.shape}; reshape or transpose it before"
            )
        steps = range(x.shape[1])
        found = []
        for place in reversed(steps) if self.reverse else steps:
            features = Flatten()(x[:, :, place : place + 1])
            state = state or tuple(start(features) for start in self.start)
            state = self.step(features, *state)
            found.append(state)
        return found[::-1] if self.reverse else found

    def construct(self, x: Traced, *state: Traced) -> Traced:
        """The states h of all steps, or the last one computed."""
        found = [h for h, *_ in self.unroll(x, *state)]
        if self.return_sequences:
            return Stack(axis=1)(*found)
        return found[0 if self.reverse else -1]

    def params_of(
        self,
        name: str,
        input_weight: Array,
        state_weight: Array,
        input_bias: Array | None = None,
        state_bias: Array | None = None,
        *,
        layout: str = "torch",
    ) -> Params:
        """Parameters of this block from those of another framework, where all gates are in one array.

        Args:
            name: of the block in its network, as "gru".
            input_weight: (gates x units, C), as PyTorch's weight_ih_l0 and one direction of ONNX's W; Keras's kernel is its
                transpose.
            state_weight: likewise weight_hh_l0, R, the recurrent kernel.
            input_bias: (gates x units,), as bias_ih_l0; None: zeros. Where Keras has one bias, it is this one.
            state_bias: likewise; None: zeros.
            layout: "torch" (gates r, z, n; i, f, g, o), "keras" (z, r, n; i, f, g, o) or "onnx" (z, r, n; i, o, f, g).

        Returns:
            float32 by full name.

        Raises:
            QatError: for another layout, and for shapes that do not fit.
        """
        if layout not in self.gates:
            raise QatError(
                f"{name}: layout {shortened(layout)} is unknown; use one of {', '.join(map(repr, self.gates))}"
            )
        order, params = self.gates[layout], Params()
        given = {
            "ih": (input_weight, input_bias, self.in_channels),
            "hh": (state_weight, state_bias, self.units),
        }
        for part, (weight, bias, inputs) in given.items():
            if bias is not None and not self.bias:
                raise QatError(f"{name}: has bias=False, but a bias is given; make it with bias=True")
            weight = np.asarray(weight).T if layout == "keras" else np.asarray(weight)
            rows = len(order) * self.units
            bias = np.zeros(rows) if bias is None else np.asarray(bias)
            if weight.shape != (rows, inputs) or bias.shape != (rows,):
                raise QatError(
                    f"{name}: {part} gets a weight {weight.shape} and a bias {bias.shape}, but needs {(rows, inputs)} and "
                    f"{(rows,)} in the order of {layout}; they belong to another layer"
                )
            for place, gate in enumerate(order):
                own = slice(place * self.units, (place + 1) * self.units)
                params[f"{name}.{part}.{gate}.weight"] = np.ascontiguousarray(weight[own], np.float32)
                if self.bias:
                    params[f"{name}.{part}.{gate}.bias"] = bias[own].astype(np.float32)
        return params


class GRU(Recurrent):
    """Gated recurrent units over the steps of a series (C, L), as PyTorch's ``nn.GRU`` (Cho et al., arXiv 1406.1078):

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = z h + (1 - z) n

    It is a block of cells that all steps share. Quantized, gates are tables of codes, and each number has one grid in all
    steps, so that ``step``, with the state as an input and an output, computes the same codes (docs/recurrent.md).

    Args:
        in_channels: features of each step.
        units: features of the state.
        return_sequences: give the states of all steps, (units, L); default False: the last one, (units,).
        reverse: go from the last step to the first. Default: False.
        reset_after: as above, and in Keras by default; False: n = tanh(W_in x + b_in + W_hn (r h) + b_hn). Default: True.
        bias: whether there are biases. Default: True.

    Example:
        >>> import qat
        >>> class Rows(qat.Network):
        ...     inputs = qat.Input((8, 5))
        ...     def __init__(self) -> None:
        ...         self.gru = qat.GRU(8, 16)
        ...     def construct(self, x):
        ...         return self.gru(x)
        >>> graph = Rows().graph()
        >>> graph.shapes[graph.outputs[0]], sum(node.cell_name == "gru.hh.r" for node in graph.nodes)
        ((16,), 5)
    """

    gates = {"torch": "rzn", "keras": "zrn", "onnx": "zrn"}  # noqa: RUF012

    def __init__(
        self,
        in_channels: int,
        units: int,
        *,
        return_sequences: bool = False,
        reverse: bool = False,
        reset_after: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, units, return_sequences, reverse, bias)
        self.reset_after = reset_after
        self.r, self.z, self.n = Activation("sigmoid"), Activation("sigmoid"), Activation("tanh")
        self.reset, self.rest = Mul(), Activation("linear", -1.0, 1.0)
        self.kept, self.taken, self.h = Mul(), Mul(), Add()

    def _next(self, x: Traced, *state: Traced) -> tuple[Traced, ...]:
        (h,) = state
        r = self.r(self.add["r"](self.ih["r"](x), self.hh["r"](h)))
        z = self.z(self.add["z"](self.ih["z"](x), self.hh["z"](h)))
        of_state = self.reset(r, self.hh["n"](h)) if self.reset_after else self.hh["n"](self.reset(r, h))
        n = self.n(self.add["n"](self.ih["n"](x), of_state))
        return (self.h(self.kept(z, h), self.taken(self.rest(z), n)),)


class LSTM(Recurrent):
    """Long short-term memory over the steps of a series (C, L), as PyTorch's ``nn.LSTM`` and Keras's LSTM:

        i, f, o = sigmoid(W_i x + b_i + W_h h + b_h), each with weights of its own
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f c + i g
        h' = o tanh(c')

    As ``GRU``; h and c have a grid each. ``step`` takes and gives both.

    Args:
        in_channels: features of each step.
        units: features of the state.
        return_sequences: give the states h of all steps, (units, L); default False: the last one, (units,).
        reverse: go from the last step to the first. Default: False.
        bias: whether there are biases. Default: True.

    Example:
        >>> import qat
        >>> sorted(qat.LSTM(8, 16).ih)
        ['f', 'g', 'i', 'o']
    """

    gates = {"torch": "ifgo", "keras": "ifgo", "onnx": "iofg"}  # noqa: RUF012
    states = 2

    def __init__(
        self,
        in_channels: int,
        units: int,
        *,
        return_sequences: bool = False,
        reverse: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, units, return_sequences, reverse, bias)
        self.i, self.f, self.o = Activation("sigmoid"), Activation("sigmoid"), Activation("sigmoid")
        self.g, self.squash = Activation("tanh"), Activation("tanh")
        self.kept, self.taken, self.c, self.h = Mul(), Mul(), Add(), Mul()

    def _next(self, x: Traced, *state: Traced) -> tuple[Traced, ...]:
        h, c = state
        i, f, g, o = (
            function(self.add[gate](self.ih[gate](x), self.hh[gate](h)))
            for gate, function in zip("ifgo", (self.i, self.f, self.g, self.o), strict=True)
        )
        c = self.c(self.kept(f, c), self.taken(i, g))
        return (self.h(o, self.squash(c)), c)
