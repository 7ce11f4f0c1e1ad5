"""Keras 3 over TensorFlow: a graph as a keras.Model, and how it is trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from qat.backends.common import Lowered, TrainingStep, to_lower
from qat.backends.common import predict as predict
from qat.backends.common import predict_codes as predict_codes
from qat.backends.common import read as read
from qat.backends.common import trace as trace
from qat.backends.common import write as write
from qat.backends.keras.callback import callback as callback
from qat.backends.keras.layout import canonical as canonical
from qat.backends.keras.layout import ensured, from_layout, spec_in_layout, targets_in_layout, to_layout
from qat.backends.keras.layout import own_spec as own_spec
from qat.backends.keras.ops import DEVICES, ExactOps, Tensor
from qat.backends.keras.ops import KerasOps as KerasOps
from qat.backends.keras.ops import devices as devices
from qat.backends.keras.ops import evaluation_ops as evaluation_ops
from qat.backends.keras.ops import seed as seed
from qat.backends.keras.setup import keras, tf
from qat.backends.keras.workers import jointly, means_over_workers, training_ops
from qat.cells.base import Param, Shape
from qat.errors import QatError
from qat.graph import Graph, Network, Node
from qat.integer import Evaluator
from qat.training.forward import single
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer
from qat.training.workers import TF_CONFIG
from qat.vocabulary.arrays import ArraySpec, as_tuple, check_samples, empty_batch, wrong_shape
from qat.vocabulary.ops import Array

NAME = "keras"  #: under which ``qat.backend`` knows it


#: What tf.ensure_shape says: the sizes found, and those wanted.
ENSURED = re.compile(r"[Ss]hape of tensor \S+ \[([\d,?]*)\] is not compatible with expected shape \[([\d,?]*)\]")
#: What the two assertions in ``ensured`` say.
EMPTY = re.compile(r"the batch is empty|size\[0\] == 0 \(got 1\)")


#: What ``fit`` and its like take that is not a generator or a dataset.
ARRAYS: Any = (np.ndarray, tf.Tensor, tuple, list)


class CellLayer(keras.layers.Layer):  # type: ignore[misc]
    """The parameters of one cell, by their full names; ``summary`` shows the cell's class and output."""

    def __init__(self, name: str, shape: Shape, params: Mapping[str, Param], arrays: Mapping[str, Array]) -> None:
        super().__init__(name=_without_slash(name), dtype="float32")
        self._shape = (None, *shape)
        for full_name, param in params.items():
            array = arrays[full_name]
            self.add_weight(array.shape, _initializer(array), name=_without_slash(full_name), trainable=param.trainable)
        self.build(self._shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(None, C, H, W) or (None, F), as all of this project counts axes."""
        return self._shape


def _without_slash(name: str) -> str:
    """As Keras takes it; ``tensors`` gives the slash back, since no name has an @."""
    return name.replace("/", "@")


def _initializer(array: Any) -> Callable[..., Any]:
    return lambda shape, dtype=None: array


@keras.saving.register_keras_serializable("qat")
class LoweredNetwork(Lowered, keras.Model):  # type: ignore[misc]
    """A graph as a keras.Model, trainable by ``compile`` and ``fit`` or by any loop over a GradientTape.

    Weights are named as in the graph ("conv1.weight"), one layer holds those of one cell. Called with what the network takes
    and nothing else, **(N, C, H, W)** as everywhere in this project, whatever Keras's image_data_format, it returns real
    outputs (logits). With ``own_layout``, as ``qat.prepare`` sets it, that is (N, H, W, C) wherever Keras calls it, as for
    other Keras models. A network with several inputs or outputs takes or returns a tuple.

    With ``training=True`` each call is one step of the quant_delay. Otherwise a quantized network computes the integers of
    deployment, and no gradient flows; ``evaluate``, ``predict`` and the validation of ``fit`` derive them anew from the
    parameters. A tf.function of your own keeps the integers of the time when it was traced.
    """

    train_function: Any

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0, device: str = DEVICES["CPU"]) -> None:
        super().__init__(name=graph.name.replace("/", "_"), dtype="float32")
        self.graph, self.device = graph, device
        self._compute_with(training_ops(), ExactOps(device))
        self._phase: int | None = None  #: that is being traced, where that is known
        self._evaluators: dict[str, Evaluator] = {}  #: by the function that was traced with it
        first_uses: dict[str, Node] = {}
        for node in graph.nodes:
            first_uses.setdefault(node.cell_name, node)
        with tf.device(device):
            self.cells = [self._layer(node, params) for node in first_uses.values()]
            self._step = self.add_weight((), _initializer(step), name="step", dtype="int64", trainable=False)
        self.built = True

    def _layer(self, node: Node, params: Mapping[str, Array]) -> CellLayer:
        """A layer of a class that is called as the cell's."""
        layer_class: Any = type(type(node.cell).__name__, (CellLayer,), {})
        own = {f"{node.cell_name}.{local}": param for local, param in node.cell.params().items()}
        arrays = {name: self._ops.from_numpy(params[name], param.kind).numpy() for name, param in own.items()}
        layer: CellLayer = layer_class(node.cell_name, self.graph.shapes[node.name], own, arrays)
        return layer

    @property
    def tensors(self) -> dict[str, keras.Variable]:
        """Parameters and state by full name."""
        return {variable.name.replace("@", "/"): variable for cell in self.cells for variable in cell.variables}

    @property
    def _specs(self) -> list[ArraySpec]:
        """What it takes where Keras calls it."""
        specs = self.graph.input_specs
        return [spec_in_layout(spec) for spec in specs] if self.own_layout else [*specs]

    @property
    def step(self) -> int:
        """Training steps done, which the quant_delay counts."""
        return int(self._step.numpy())

    @step.setter
    def step(self, value: int) -> None:
        self._step.assign(value)

    def get_config(self) -> dict[str, Any]:
        """What Keras keeps beside the weights, so that the model is saved, loaded and copied as any."""
        return {"graph": self.graph.to_json(), "device": self.device, "own_layout": self.own_layout}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> LoweredNetwork:
        """The inverse of ``get_config``, with fresh parameters."""
        graph = Graph.from_json(config["graph"])
        model = cls(graph, graph.initial_params(), device=config["device"])
        model.own_layout = config.get("own_layout", False)  # files of earlier releases do not have it
        return model

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's. Raises QatError unless the inputs are pixels of this network."""
        # Not in ``call``, where Keras would wrap the message.
        specs = self._specs
        check_samples(as_tuple(inputs), specs, object, self.graph.name)
        if tf.inside_function():
            inputs = single(tuple(map(ensured, as_tuple(inputs), specs)))
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        try:
            return self._outputs(inputs, training)
        except QatError as error:
            vars(error)["_keras_call_info_injected"] = True  # Keras adds its lines to errors that have no such mark
            raise

    def _outputs(self, inputs: Any, training: bool) -> Any:
        inputs = as_tuple(inputs)
        if not training:
            own = self.own_layout
            return single(from_layout(self._evaluated(to_layout(inputs, own=own)), own=own))
        if self._phase is not None or not tf.inside_function():
            outputs = self.run(inputs, self._pass.phase(self.step) if self._phase is None else self._phase)
        else:  # traced once for all steps to come
            starts = self.graph.phase_starts
            branches = [partial(self.run, inputs, phase) for phase in starts]
            number = tf.searchsorted(tf.constant(starts, tf.int64), self._step.value[None], side="right")[0] - 1
            outputs = tf.switch_case(number, branches)
        return single(from_layout(outputs, own=self.own_layout))

    def run(self, inputs: tuple[Tensor, ...], phase: int) -> tuple[Tensor, ...]:
        """One training pass over samples in the form of that phase: real outputs; it updates the state and ``step``."""
        compute = partial(self._pass, training=True, phase=phase)
        outputs: tuple[Tensor, ...] = self._updating(compute, inputs, own=self.own_layout)
        return outputs

    def terms(self, inputs: tuple[Tensor, ...], targets: Any, phase: int, loss: Loss | Objective) -> dict[str, Tensor]:
        """One training step's terms (see ``step_terms``) of canonical samples; it updates the state and ``step``."""
        compute = partial(step_terms, self._pass, loss, targets=targets, phase=phase)
        terms: dict[str, Tensor] = self._updating(compute, inputs)
        return terms

    def _updating(
        self, compute: Callable[..., tuple[Any, dict[str, Tensor]]], inputs: Any, *, own: bool = False
    ) -> Any:
        """What ``compute(params, inputs=pixels)`` returns beside new values of state, to which the state is set."""
        with tf.device(self.device):
            found, updates = compute(self._values(), inputs=to_layout(inputs, own=own))
            self._assign(updates)
            self._step.assign_add(1)
        return found

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        variables = self.tensors
        with tf.device(self.device):
            for name, value in values.items():
                variables[name].assign(value)

    def _values(self) -> dict[str, Tensor]:
        return {name: tf.convert_to_tensor(variable) for name, variable in self.tensors.items()}

    def _evaluating(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = tf.device(self.device)
        return context

    def _evaluator(self) -> Evaluator:
        with tf.init_scope(), tf.device(self.device):  # values, also while a function is traced
            return super()._evaluator()

    # Keras traces a function anew for other sizes, but with sizes that it leaves open: so arrays are looked at before it is
    # called, and what else gives batches where it runs.

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's. Raises QatError unless the inputs are pixels of this network, as do the methods below."""
        return self._checked(super().fit, x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's."""
        return self._checked(super().evaluate, x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's."""
        return self._checked(super().predict, x, *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's."""
        return self._checked(super().train_on_batch, x, *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's."""
        return self._checked(super().test_on_batch, x, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """As keras.Model's."""
        return self._checked(super().predict_on_batch, x)

    def _checked(self, function: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
        """The function's result. Raises QatError where x, or what it gives, are no pixels of this network."""
        if isinstance(x, ARRAYS):
            check_samples(as_tuple(x), self._specs, object, self.graph.name)
        try:
            return function(x, *args, **kwargs)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            found, empty = ENSURED.search(str(error)), EMPTY.search(str(error))
            if found is None and empty is None:
                raise
        if found is None:
            raise empty_batch(self.graph.name)
        sizes, wanted = ([int(n) for n in sizes.split(",") if n != "?"] for sizes in found.groups())
        specs = self._specs
        spec = next((each for each in specs if list(each.shape) == wanted), specs[0])
        raise wrong_shape(self.graph.name, spec, tuple(sizes))

    # Keras traces each of these functions once. A new phase and new integers are new functions.

    def make_train_function(self, force: bool = False) -> None:
        """As keras.Model's: one function for each phase."""
        if self.train_function is not None and not force:
            return
        make, made = partial(super().make_train_function, force=True), {}

        def train_function(iterator: Any) -> Any:
            # Several steps in one execution may be of several phases: then ``call`` chooses.
            phase = self._pass.phase(self.step) if self.steps_per_execution == 1 else None
            key = self._pass, phase  # another pass, where ``follow`` was called
            if key not in made:
                make()
                made[key] = self.train_function
                self.train_function = train_function
            self._phase = phase
            try:
                return made[key](iterator)
            finally:
                self._phase = None

        self.train_function = train_function

    def make_test_function(self, force: bool = False) -> None:
        """As keras.Model's, with the integers of now."""
        super().make_test_function(force=self._outdated("test") or force)

    def make_predict_function(self, force: bool = False) -> None:
        """As keras.Model's, with the integers of now."""
        super().make_predict_function(force=self._outdated("predict") or force)

    def _outdated(self, function: str) -> bool:
        if not self.graph.is_quantized:
            return False
        evaluator = self._evaluator()
        before, self._evaluators[function] = self._evaluators.get(function), evaluator
        return before is not evaluator


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A keras.Model of a network; arguments as ``qat.deploy.interfaces.TrainingBackend.lower`` has them.

    Raises QatError where Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise QatError(f"Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow")
    graph, params, device = to_lower(network, params, device_target, devices(), NAME)
    return LoweredNetwork(graph, params, step, DEVICES[device])


def to_own_layout(model: LoweredNetwork) -> None:
    """Let a model take and give images as other Keras models do: channels last, where Keras is not set to the contrary."""
    model.own_layout = keras.config.image_data_format() == "channels_last"


def runtime() -> str:
    """The framework that computes, with its version."""
    return f"Keras {keras.__version__} over TensorFlow {tf.__version__}"


class Step(TrainingStep):
    """One training step with Keras's own optimizer: ``step(x, y, lr)`` returns the loss before the update.

    It runs in a tf.function, traced once for each phase.

    Args:
        model: what ``lower`` returned.
        optimizer: which one, and its settings.
        loss: written over the vocabulary.
        compile: compile the step with XLA.
    """

    model: LoweredNetwork

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        super().__init__(model, loss, NAME, TF_CONFIG, optimizer, compile=compile)
        self.optimizer = (
            keras.optimizers.SGD(0.0, momentum=optimizer.momentum)
            if optimizer.name == "momentum"
            else keras.optimizers.Adam(0.0, epsilon=1e-8, amsgrad=optimizer.name == "amsgrad")
        )
        with tf.device(model.device):
            self.optimizer.build(model.trainable_variables)
        self._functions: dict[tuple[str, int], Callable[..., Any]] = {}
        self._compile = partial(tf.function, autograph=False, jit_compile=compile or None)
        self._optimize_alone, self._mix = self._compile(self._optimize), self._compile(super()._mixed)

    def _run(self, x: tuple[Tensor, ...], y: Any, lr: Tensor, *, phase: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and this worker's terms."""
        loss, gradients, terms = self._joint_gradients(x, y, phase=phase)
        self._optimize(gradients, lr)
        return loss, terms

    def _optimize(self, gradients: Sequence[Tensor], lr: Tensor) -> None:
        variables, decay = self.model.trainable_variables, self._settings.weight_decay
        if self._settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._settings.clip_norm)
        if decay:  # Keras's own weight_decay is another: decoupled from the gradient
            pairs = zip(gradients, variables, strict=True)
            gradients = [g + decay * v.value if len(v.shape) > 1 else g for g, v in pairs]
        self.optimizer.learning_rate = lr
        self.optimizer.apply(gradients, variables)

    def _joint_gradients(self, x: tuple[Tensor, ...], y: Any, *, phase: int) -> Any:
        compute = partial(self._gradients, phase=phase)
        return jointly(compute, x, y) if self._worker.count > 1 else compute(x, y)

    def _gradients(
        self, x: tuple[Tensor, ...], y: Any, *, phase: int
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Loss and gradients, means over the workers, and this worker's terms."""
        with tf.GradientTape() as tape:
            terms = self.model.terms(x, y, phase, self.loss)
            loss = next(iter(terms.values()))
        values = [variable.value for variable in self.model.trainable_variables]
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        if self._worker.count > 1:
            loss, *gradients = means_over_workers([loss, *gradients])
        return loss, gradients, terms

    def _update(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...], lr: float
    ) -> tuple[float, Mapping[str, Tensor]]:
        loss, terms = self._called(self._run, pixels, targets, tf.constant(lr, tf.float32))
        return float(loss), terms

    def _gradient(self, pixels: tuple[Array, ...], targets: tuple[Array, ...]) -> Any:
        return self._called(self._joint_gradients, pixels, targets)

    def _called(self, function: Callable[..., Any], pixels: Any, targets: Any, *others: Tensor) -> Any:
        """What a function gives that is compiled once for each phase."""
        phase = self.model._pass.phase(self.model.step)
        key = function.__name__, phase
        if key not in self._functions:
            self._functions[key] = self._compile(partial(function, phase=phase))
        with tf.device(self.model.device):
            inputs = tuple(map(tf.constant, pixels))
            graph = self.model.graph
            wanted = targets_in_layout(targets, [graph.shapes[name] for name in graph.outputs])
            return self._functions[key](inputs, single(wanted), *others)

    def _apply(self, gradients: Sequence[Tensor], lr: float) -> None:
        with tf.device(self.model.device):
            self._optimize_alone(list(gradients), tf.constant(lr, tf.float32))

    def _mixed(self, averages: list[Tensor], values: list[Tensor], share: float) -> Any:
        return self._mix(averages, values, tf.constant(share, tf.float32))

    def _means(self, figures: Array) -> Array:
        (means,) = jointly(means_over_workers, [tf.constant(figures)])
        return self.model._ops.to_numpy(means, "vector")

    def _slots(self) -> dict[str, keras.Variable]:
        slots = {"optimizer.iterations": self.optimizer.iterations}
        for name, parameter in self.model.tensors.items():
            if not parameter.trainable:
                continue
            prefix = parameter.path.replace("/", "_") + "_"
            for variable in self.optimizer.variables:
                if variable.name.startswith(prefix):
                    slots[f"{name}.{variable.name.removeprefix(prefix)}"] = variable
        return slots

    def _set_slots(self, state: Mapping[str, Array]) -> None:
        slots, ops = self._slots(), self.model._ops
        for name, array in state.items():
            kind = self._kind(name)
            slots[name].assign(array if kind == "scalar" else ops.from_numpy(array, kind))


make_step = Step
