"""Keras 3 over TensorFlow: a graph as a keras.Model, and how it is trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from qat.backends.keras.ops import AXES, DEVICES, ExactOps, KerasOps, Tensor, seed
from qat.backends.keras.setup import keras, tf
from qat.backends.keras.workers import jointly, means_over_workers, training_ops
from qat.cells.base import Param, Shape
from qat.deploy.inference import (
    Deployment,
    params_to_lower,
    params_to_write,
    predict,
    predict_codes,
    real_outputs,
    trace,
)
from qat.errors import QatError
from qat.graph import Graph, Network, Node, Params, as_graph
from qat.integer import Evaluator, IntegerGraph
from qat.training.devices import choose_device
from qat.training.forward import Forward
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer, check_state
from qat.training.workers import TF_CONFIG, training_worker
from qat.vocabulary.arrays import Arrays, as_tuple, check_pixels, empty_batch, wrong_shape
from qat.vocabulary.ops import Array, Kind

__all__ = [
    "NAME",
    "KerasOps",
    "LoweredNetwork",
    "devices",
    "lower",
    "make_step",
    "predict",
    "predict_codes",
    "read",
    "runtime",
    "seed",
    "trace",
    "write",
]

NAME = "keras"  #: under which ``qat.backend`` knows it


#: What tf.ensure_shape says: the sizes found, and those wanted.
ENSURED = re.compile(r"[Ss]hape of tensor \S+ \[([\d,?]*)\] is not compatible with expected shape \[([\d,?]*)\]")
#: What the two assertions in ``_ensured`` say.
EMPTY = re.compile(r"the batch is empty|size\[0\] == 0 \(got 1\)")


class CellLayer(keras.layers.Layer):
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
class LoweredNetwork(keras.Model):
    """A graph as a keras.Model, trainable by ``compile`` and ``fit`` or by any loop over a GradientTape.

    Weights are named as in the graph ("conv1.weight"), one layer holds those of one cell. Called with raw pixels, uint8 and
    nothing else, **(N, C, H, W)** as everywhere in this project, whatever Keras's image_data_format, it returns real outputs
    (logits). A network with several inputs or outputs takes or returns a tuple.

    With ``training=True`` each call is one step of the quant_delay. Otherwise a quantized network computes the integers of
    deployment, and no gradient flows; ``evaluate``, ``predict`` and the validation of ``fit`` derive them anew from the
    parameters. A tf.function of your own keeps the integers of the time when it was traced.
    """

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0, device: str = DEVICES["CPU"]) -> None:
        super().__init__(name=graph.name.replace("/", "_"), dtype="float32")
        self.graph, self.device = graph, device
        self.ops = training_ops()
        self._pass = Forward(graph, self.ops)
        self._deployment = Deployment(graph, ExactOps(device))
        self._phase: int | None = None  #: that is being traced, where that is known
        self._evaluated: dict[str, Evaluator] = {}
        first_uses: dict[str, Node] = {}
        for node in graph.nodes:
            first_uses.setdefault(node.cell_name, node)
        with tf.device(device):
            self.cells = [self._layer(node, params) for node in first_uses.values()]
            self._step = self.add_weight((), _initializer(step), name="step", dtype="int64", trainable=False)
        self.built = True

    def _layer(self, node: Node, params: Mapping[str, Array]) -> CellLayer:
        """A layer of a class that is called as the cell's."""
        layer_class = type(type(node.cell).__name__, (CellLayer,), {})
        own = {f"{node.cell_name}.{local}": param for local, param in node.cell.params().items()}
        arrays = {name: self.ops.from_numpy(params[name], param.kind).numpy() for name, param in own.items()}
        return layer_class(node.cell_name, self.graph.shapes[node.name], own, arrays)

    @property
    def tensors(self) -> dict[str, keras.Variable]:
        """Parameters and state by full name."""
        return {variable.name.replace("@", "/"): variable for cell in self.cells for variable in cell.variables}

    @property
    def step(self) -> int:
        """Training steps done, which the quant_delay counts."""
        return int(self._step.numpy())

    @step.setter
    def step(self, value: int) -> None:
        self._step.assign(value)

    def get_config(self) -> dict[str, Any]:
        """What Keras keeps beside the weights, so that the model is saved, loaded and copied as any."""
        return {"graph": self.graph.to_json(), "device": self.device}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> LoweredNetwork:
        """The inverse of ``get_config``, with fresh parameters."""
        graph = Graph.from_json(config["graph"])
        return cls(graph, graph.initial_params(), device=config["device"])

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As keras.Model's. Raises QatError unless the inputs are pixels of this network."""
        # Not in ``call``, where Keras would wrap the message.
        shapes = self.graph.input_shapes
        check_pixels(as_tuple(inputs), shapes, object, self.graph.name)
        if tf.inside_function():
            inputs = _single(tuple(map(_ensured, as_tuple(inputs), shapes)))
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        try:
            return self._outputs(inputs, training)
        except QatError as error:
            error._keras_call_info_injected = True  # Keras adds its lines to errors that have no such mark
            raise

    def _outputs(self, inputs: Any, training: bool) -> Any:
        inputs = as_tuple(inputs)
        if not training:
            return _single(self._real(inputs))
        if self._phase is not None or not tf.inside_function():
            outputs = self.run(inputs, self._pass.phase(self.step) if self._phase is None else self._phase)
        else:  # traced once for all steps to come
            starts = self.graph.phase_starts
            branches = [partial(self.run, inputs, phase) for phase in starts]
            number = tf.searchsorted(tf.constant(starts, tf.int64), self._step.value[None], side="right")[0] - 1
            outputs = tf.switch_case(number, branches)
        return _single(tuple(_transposed(y, (0, 3, 1, 2)) for y in outputs))

    def run(self, inputs: tuple[Tensor, ...], phase: int) -> tuple[Tensor, ...]:
        """One training pass over raw pixels in the form of that phase: real outputs; it updates the state and ``step``."""
        return self._updating(partial(self._pass, training=True, phase=phase), inputs)

    def terms(self, inputs: tuple[Tensor, ...], targets: Any, phase: int, loss: Loss | Objective) -> dict[str, Tensor]:
        """One training step's terms (see ``step_terms``); it updates the state and ``step``."""
        return self._updating(partial(step_terms, self._pass, loss, targets=targets, phase=phase), inputs)

    def _updating(self, compute: Callable[..., tuple[Any, dict[str, Tensor]]], inputs: tuple[Tensor, ...]) -> Any:
        """What ``compute(params, pixels)`` gives beside the new values of state, which are set."""
        with tf.device(self.device):
            tensors = self.tensors
            values = {name: tf.convert_to_tensor(variable) for name, variable in tensors.items()}
            found, updates = compute(values, inputs=_pixels(inputs))
            for name, value in updates.items():
                tensors[name].assign(value)
            self._step.assign_add(1)
        return found

    def _real(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Real outputs of evaluation, NCHW."""
        with tf.device(self.device):
            if self.graph.is_quantized:
                evaluator = self.evaluator()
                outputs = real_outputs(evaluator.graph, evaluator(*_pixels(inputs)))
            else:
                values = {name: tf.convert_to_tensor(variable) for name, variable in self.tensors.items()}
                outputs, _ = self._pass(values, _pixels(inputs), training=False, phase=0)
        return tuple(_transposed(y, (0, 3, 1, 2)) for y in outputs)

    def evaluator(self) -> Evaluator:
        """The integers of deployment, derived in NumPy from the parameters as they are now."""
        with tf.init_scope(), tf.device(self.device):  # values, also while a function is traced
            return self._deployment.evaluator(read(self))

    def integers(self) -> IntegerGraph:
        """The integers of deployment (see ``qat.deploy.inference``)."""
        return self.evaluator().graph

    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, canonical, of raw pixels (see ``qat.deploy.inference``)."""
        return tuple(y.numpy() for y in self._real(tuple(map(tf.constant, pixels))))

    def infer_codes(self, pixels: tuple[Array, ...]) -> dict[str, Array]:
        """Centred codes of every node of ``integers()``, canonical (see ``qat.deploy.inference``)."""
        with tf.device(self.device):
            codes = self.evaluator()(*_pixels(tuple(map(tf.constant, pixels))))
        return {name: self.ops.to_numpy(tensor, "activation") for name, tensor in codes.items()}

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
        if isinstance(x, (np.ndarray, tf.Tensor, tuple, list)):
            check_pixels(as_tuple(x), self.graph.input_shapes, object, self.graph.name)
        try:
            return function(x, *args, **kwargs)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            found, empty = ENSURED.search(str(error)), EMPTY.search(str(error))
            if found is None and empty is None:
                raise
        if found is None:
            raise empty_batch(self.graph.name)
        sizes, wanted = ([int(n) for n in sizes.split(",") if n != "?"] for sizes in found.groups())
        raise wrong_shape(self.graph.name, tuple(wanted), tuple(sizes))

    # Keras traces each of these functions once. A new phase and new integers are new functions.

    def make_train_function(self, force: bool = False) -> None:
        """As keras.Model's: one function for each phase."""
        if self.train_function is not None and not force:
            return
        make, made = partial(super().make_train_function, force=True), {}

        def train_function(iterator: Any) -> Any:
            # Several steps in one execution may be of several phases: then ``call`` chooses.
            phase = self._pass.phase(self.step) if self.steps_per_execution == 1 else None
            if phase not in made:
                make()
                made[phase] = self.train_function
                self.train_function = train_function
            self._phase = phase
            try:
                return made[phase](iterator)
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
        evaluator = self.evaluator()
        before, self._evaluated[function] = self._evaluated.get(function), evaluator
        return before is not evaluator


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A keras.Model of a network.

    params: canonical arrays (default: fresh ones). device_target: one of ``devices()`` (default: the first). step: training
    steps done so far.
    """
    if keras.backend.backend() != "tensorflow":
        raise QatError(f"Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow")
    graph = as_graph(network)
    params = params_to_lower(graph, params)
    return LoweredNetwork(graph, params, step, DEVICES[choose_device(device_target, devices(), "keras")])


def read(model: LoweredNetwork) -> Params:
    """The parameters and state of a lowered network, canonical NumPy arrays by full name."""
    kinds = model.graph.params
    return {name: model.ops.to_numpy(variable, kinds[name].kind) for name, variable in model.tensors.items()}


def write(model: LoweredNetwork, params: Mapping[str, Array]) -> None:
    """Set some parameters or state of a lowered network, canonical arrays by full name."""
    kinds, variables, arrays = model.graph.params, model.tensors, params_to_write(model.graph, params)
    with tf.device(model.device):
        for name, array in arrays.items():
            variables[name].assign(model.ops.from_numpy(array, kinds[name].kind))


def devices() -> list[str]:
    """The device targets that TensorFlow can use here, the best first."""
    return ["GPU", "CPU"] if tf.config.list_physical_devices("GPU") else ["CPU"]


def runtime() -> str:
    """What the passes run in, with its version."""
    return f"Keras {keras.__version__} over TensorFlow {tf.__version__}"


class Step:
    """One training step of a lowered network: ``step(x, y, lr)`` returns the loss before the update.

    It runs in a tf.function, traced once for each phase. loss: written over the vocabulary. compile: with XLA.
    Started with TF_CONFIG, each worker is given the joint batch and takes its share of it; the loss is the joint one.
    """

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        self.model, self.loss, self._decay = model, loss, optimizer.weight_decay
        self._worker = training_worker(TF_CONFIG, "keras", compile=compile)
        self._terms: dict[str, Tensor] = {}
        self.optimizer = (
            keras.optimizers.SGD(0.0, momentum=optimizer.momentum)
            if optimizer.name == "momentum"
            else keras.optimizers.Adam(0.0, epsilon=1e-8, amsgrad=optimizer.name == "amsgrad")
        )
        with tf.device(model.device):
            self.optimizer.build(model.trainable_variables)
        self._functions: dict[int, Callable[..., Tensor]] = {}
        self._compile = partial(tf.function, autograph=False, jit_compile=compile or None)

    def _run(self, x: tuple[Tensor, ...], y: Any, lr: Tensor, *, phase: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and this worker's terms."""
        variables = self.model.trainable_variables
        compute = partial(self._gradients, phase=phase)
        if self._worker.count > 1:
            loss, gradients, terms = jointly(compute, x, y)
        else:
            loss, gradients, terms = compute(x, y)
        if self._decay:  # Keras's own weight_decay is another: decoupled from the gradient
            pairs = zip(gradients, variables, strict=True)
            gradients = [g + self._decay * v.value if len(v.shape) > 1 else g for g, v in pairs]
        self.optimizer.learning_rate = lr
        self.optimizer.apply(gradients, variables)
        return loss, terms

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

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """x: raw pixels (N, C, H, W), a tuple of them where the network has several inputs. y: integer labels (N,), or a
        tuple of them and further targets.
        """
        check_pixels(as_tuple(x), self.model.graph.input_shapes, np.ndarray, self.model.graph.name)
        phase = self.model._pass.phase(self.model.step)
        if phase not in self._functions:
            self._functions[phase] = self._compile(partial(self._run, phase=phase))
        with tf.device(self.model.device):
            targets = _single(tuple(map(tf.constant, as_tuple(self._worker.share(y)))))
            pixels = tuple(map(tf.constant, as_tuple(self._worker.share(x))))
            loss, self._terms = self._functions[phase](pixels, targets, tf.constant(lr, tf.float32))
        return float(loss)

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss (see ``step_terms``)."""
        return {name: tensor.numpy() for name, tensor in self._terms.items()}

    def _slots(self) -> dict[str, tuple[keras.Variable, Kind]]:
        """The optimizer's variables by "<parameter>.<name of the state>"."""
        slots: dict[str, tuple[keras.Variable, Kind]] = {"optimizer.iterations": (self.optimizer.iterations, "scalar")}
        for name, parameter in self.model.tensors.items():
            if not parameter.trainable:
                continue
            prefix = parameter.path.replace("/", "_") + "_"
            for variable in self.optimizer.variables:
                if variable.name.startswith(prefix):
                    slot = variable.name.removeprefix(prefix)
                    slots[f"{name}.{slot}"] = variable, self.model.graph.params[name].kind
        return slots

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers; the figures themselves where there is one."""
        if self._worker.count == 1:
            return list(figures)
        (means,) = jointly(means_over_workers, [tf.constant(figures, tf.float32)])
        return [float(mean) for mean in means]

    def state(self) -> dict[str, Array]:
        """The optimizer's state, canonical, by "<parameter>.<name of the state>"."""
        return {name: self.model.ops.to_numpy(variable, kind) for name, (variable, kind) in self._slots().items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``."""
        slots = self._slots()
        check_state(state, self.state())
        for name, array in state.items():
            variable, kind = slots[name]
            variable.assign(array if kind == "scalar" else self.model.ops.from_numpy(array, kind))


def make_step(
    model: LoweredNetwork, optimizer: Optimizer, loss: Loss | Objective = cross_entropy, *, compile: bool = False
) -> Step:
    """One training step with the framework's own optimizer."""
    return Step(model, optimizer, loss, compile=compile)


def _single(tensors: tuple[Tensor, ...]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def _ensured(x: Tensor, shape: Shape) -> Tensor:
    """Pixels whose sizes, as far as they are not known while a function is traced, are looked at where it runs."""
    x = tf.ensure_shape(x, (None, *shape))
    if x.shape[0] is not None:
        return x
    # XLA leaves assertions out, but refuses a slice beyond the end; without XLA a slice that nobody reads is left out.
    first = tf.slice(x, [0] * x.shape.rank, [1, *shape])
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(x)[0], "the batch is empty"), first]):
        return tf.identity(x)


def _transposed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tf.transpose(x, axes) if len(x.shape) == 4 else x


def _pixels(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Raw canonical pixels as float32 in this backend's layout."""
    return tuple(_transposed(tf.cast(x, tf.float32), AXES["activation"]) for x in inputs)
