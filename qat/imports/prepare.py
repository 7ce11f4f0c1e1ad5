"""From a network of a framework to a quantized one in the same framework, trained in its user's own loop, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qat import hints
from qat.analysis.calibration import calibrate
from qat.analysis.choosing import NEAREST
from qat.analysis.rounding import LearnedRounding
from qat.data.foreign import is_array
from qat.data.gathering import first_of
from qat.deploy.interfaces import OwnLayout, TrainingBackend
from qat.errors import QatError, shortened
from qat.graph import Graph, Network, Params
from qat.imports.compare import TOLERANCE
from qat.imports.entry import Inputs
from qat.imports.imported import Imported
from qat.imports.model import holder_of, import_model, source_of
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.track_oscillations import track_oscillations
from qat.registry import backend as backend_named
from qat.registry import backend_names, backend_of, evaluation_ops
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint
from qat.training.origin import Origin, origin_of, taken
from qat.training.oscillations import Oscillations
from qat.vocabulary.arrays import as_arrays
from qat.vocabulary.ops import Array

KEPT = 64  #: samples that a prepared model remembers, to verify exported files on
#: Weights and biases are those of the module, to be trained and put back into it, unless something else is asked for.
AS_THEY_ARE: dict[str, Any] = {"equalize": False, "rounding": NEAREST, "bias_correction": False}
OURS = (Network, Graph, Imported, Checkpoint)  #: what is of no framework
#: What only ``calibrate`` takes of the settings.
OF_CALIBRATION = {"method", "percentile", "bias_correction", "equalize", "rounding", "batch_size", "ops"}


def prepare(
    module: Any,
    example: Any = None,
    calibration_images: Any = None,
    *,
    backend: str | None = None,
    device_target: str | None = None,
    task: Task | None = None,
    inputs: Inputs = None,
    input_shape: Sequence[int] | None = None,
    outputs: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
    name: str | None = None,
    oscillations: Oscillations | None = None,
    **settings: Any,
) -> Any:
    """Make a quantized model, to be trained in a loop of your own, of a network of your framework.

    The network is imported (``qat.import_model``), quantized with the ranges that its activations have on your images
    (``qat.calibrate``, which chooses what ``settings`` do not say, but gives no layer a bias unasked), and made a model of the
    framework again (``lower``). In training mode it computes with fake-quantized numbers and has gradients; in evaluation mode
    it computes the integers of deployment. Your own module stays as it is.

    Args:
        module: A ``torch.nn.Module`` in evaluation mode, a ``keras.Model``, a ``mindspore.nn.Cell``, a file that
            ``qat.import_model`` reads, what that function returned, a ``qat.Network`` or graph (with fresh parameters), or a
            float ``qat.Checkpoint``.
        example: What a torch module or a MindSpore cell takes, a tensor or array, or a tuple of them. None, the default: the
            first of ``calibration_images``, where the module has one input.
        calibration_images: What the prepared model takes, to find ranges on: an array or tensor (N, ...), a tuple of them for
            several inputs, or batches of such, with or without labels, as a DataLoader or a tf.data.Dataset gives; of batches
            the first 512 samples are taken. By default none: training finds the ranges, and has to take at least one step.
        backend: The framework of the prepared model, "torch", "keras" or "mindspore"; by default that of the module.
        device_target: "CPU", "GPU" or "Ascend"; by default that of the module, else the best that there is.
        task: What the network is for; by default a classification.
        inputs: As ``qat.import_model`` has it: ``qat.Input`` with mean and std where the model is to take raw pixels.
        input_shape: As ``qat.import_model`` has it.
        outputs: As ``qat.import_model`` has it.
        tolerance: As ``qat.import_model`` has it.
        name: Of the network; by default that of its class or file.
        oscillations: Count the weights whose codes oscillate in training; ``qat.callback`` or ``qat.QuantSchedule`` freezes
            them. By default none of it.
        **settings: Those of ``qat.calibrate`` and ``qat.convert_quant_network``, as ``method``, ``num_bits``,
            ``weight_quantizer``, or ``arithmetic="fixed"`` for processors that compute with integers alone. Where ``equalize``,
            ``rounding`` and ``bias_correction`` are not given, weights and biases stay those of your module.

    Returns:
        A ``torch.nn.Module``, ``keras.Model`` or ``mindspore.nn.Cell``. A Keras model takes channels last, as Keras does, the
        others (N, C, H, W).

    Raises:
        QatError: The network cannot be imported or quantized, or the images are not what it takes.

    >>> import numpy as np, torch, qat
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> images = torch.randn(32, 1, 8, 8)
    >>> model = qat.prepare(module.eval(), images[:2], images)
    >>> loss = torch.nn.functional.cross_entropy(model.train()(images), torch.arange(32) % 10)
    >>> loss.backward()  # your own loop
    >>> qat.export(model, "net.onnx").passed
    True
    """
    chosen = _backend(module, backend)
    _check_names(settings)
    if example is not None and calibration_images is None:
        _check_example(example, module)
    if example is None and input_shape is None and calibration_images is not None and _needs_example(module):
        example = first_of(calibration_images)
    imported, task = _imported(
        module, example, task, inputs=inputs, input_shape=input_shape, outputs=outputs, tolerance=tolerance, name=name
    )
    graph = imported.graph
    if calibration_images is None:
        if alone := sorted(OF_CALIBRATION & settings.keys()):
            raise QatError(
                f"{graph.name}: {alone[0]} says how ranges are found on images, and there are none; give calibration_images, "
                "or leave it out: then training finds the ranges"
            )
        quantized = convert_quant_network(graph, **settings)
        checkpoint = Checkpoint(quantized, quantized.initial_params() | imported.params)
        images: tuple[Array, ...] = ()
    else:
        images = taken(chosen, calibration_images, graph, "calibration_images", own=True).images
        if imported.opened is not None:
            imported.compare(as_arrays(images), tolerance=tolerance)
        ops = evaluation_ops(chosen.NAME, device_target)
        if isinstance(rounding := settings.get("rounding"), LearnedRounding) and rounding.backend is None:
            settings["rounding"] = replace(rounding, backend=chosen.NAME)
        checkpoint = calibrate(graph, imported.params, as_arrays(images), **({"ops": ops} | AS_THEY_ARE | settings))
    if oscillations is not None:
        tracked, params = track_oscillations(checkpoint.graph, checkpoint.params, oscillations.tracker)
        checkpoint = replace(checkpoint, graph=tracked, params=params)
    holder = holder_of(module)
    own = holder.device_target(module) if holder is not None and device_target is None else device_target
    model = chosen.lower(
        checkpoint.graph, checkpoint.params, device_target=own if own in chosen.devices() else device_target
    )
    if isinstance(chosen, OwnLayout):
        chosen.to_own_layout(model)
    trained = holder_of(model)
    if holder is not None and trained is not None:
        trained.freeze(model, _frozen(imported, checkpoint.graph, holder, module))
    kept = tuple(x[:KEPT].copy() for x in images)
    vars(model)["_origin"] = Origin(graph, task, kept, *_placed(imported, module), checkpoint.history, oscillations)
    return model


def export_params(model: Any, module: Any) -> None:
    """Put the trained float parameters of a prepared model back into a module of its user.

    Weights, biases and batch normalisations go to where the import found them, by the names of the source, in its layouts: an
    import that is put back changes no bit. Ranges of activations have no place there.

    Args:
        model: What ``qat.prepare`` returned, trained since or not.
        module: The module that it was made of, or another one of the same architecture: a ``torch.nn.Module``, a
            ``keras.Model`` or a ``mindspore.nn.Cell``. It is changed.

    Raises:
        QatError: The module has no such arrays, or a parameter that was computed of several arrays was trained, or is to go
            into another module than it came from; then nothing is changed.

    >>> import torch, qat
    >>> module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()
    >>> model = qat.prepare(module, torch.randn(2, 1, 4, 4))
    >>> before = module[1].weight.clone()
    >>> qat.export_params(model, module)
    >>> torch.equal(module[1].weight, before)
    True
    """
    backend, origin = backend_of(model), origin_of(model)
    holder = holder_of(module)
    if holder is None:
        raise QatError(f"export_params: {shortened(module)} holds no parameters; give the module that was prepared")
    if not (origin.sources or origin.unplaced):
        raise QatError(
            f"export_params: {model.graph.name} was not prepared from a module of a framework, so that its parameters have no "
            "names in one; give qat.prepare that module itself, or take the arrays of qat.backend(...).read(model)"
        )
    params = backend.read(model)
    changed = [name for name in params if name not in origin.sources and _trained(origin, name, params)]
    if changed:
        raise QatError(
            f"export_params: {model.graph.name}: {_listed(changed)} changed, and the import made them of several arrays of the "
            "module or of none; qat.backend(...).read(model) has all parameters as they are now"
        )
    own = holder.arrays(module)
    other = [name for name, array in origin.joined.items() if not np.array_equal(own.get(name), array)]
    if other:
        raise QatError(
            f"export_params: {type(module).__name__} has another {_listed(other)} than the module that was prepared, of whose "
            f"the import computed {_listed([*origin.unplaced])}, which cannot be put back; give the module that was prepared"
        )
    found: Params = {}
    for name, (source, number) in origin.sources.items():
        shape = np.shape(own.get(source, ()))
        if source not in own or np.size(own[source]) != params[name].size:
            has = f"a {source!r} of shape {shape}" if source in own else f"no {source!r}"
            raise QatError(
                f"export_params: {type(module).__name__} has {has}, but {name!r} {params[name].shape} was imported "
                "from one of its size; give a module of the same architecture"
            )
        found[source] = list(holder.layouts(origin.graph, name, params[name], shape))[number]
    holder.write(module, found)


def _backend(module: Any, name: str | None) -> TrainingBackend:
    """The backend of that name, or of the framework that a module is of."""
    own = name or ("" if isinstance(module, OURS) else source_of(module).framework)
    if not own:
        *others, last = map(repr, backend_names())
        what = str(module) if isinstance(module, (str, Path)) else f"a {type(module).__name__}"
        raise QatError(
            f"prepare: {what} is of no framework; say which one is to train it: backend={', '.join(others)} or {last}"
        )
    return backend_named(own)


def _check_names(settings: Mapping[str, Any]) -> None:
    """Raise QatError for a setting that there is not."""
    takers = (prepare, calibrate, convert_quant_network)
    known = [
        name
        for function in takers
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for name in settings:
        if name not in known:
            raise QatError(
                f"prepare: has no setting {name}{hints.perhaps(name, known, hints.FLAGS)}; give those of qat.calibrate and "
                "qat.convert_quant_network"
            )


def _needs_example(module: Any) -> bool:
    """Whether it is read by running it."""
    return not isinstance(module, (*OURS, str, Path)) and source_of(module).by_example


def _check_example(example: Any, module: Any) -> None:
    """Raise QatError where it looks like samples to find ranges on, which nobody would do then."""
    batches = hasattr(example, "__iter__") and not is_array(example) and not isinstance(example, (tuple, list, str))
    read_alone = not isinstance(module, (*OURS, str, Path)) and not source_of(module).by_example
    if batches or read_alone:
        raise QatError(
            f"prepare: a {type(example).__name__} stands where the example of a {type(module).__name__} does, "
            f"{'which needs none' if read_alone else 'what its forward takes once'}; samples to find ranges on are "
            "calibration_images="
        )


def _imported(module: Any, example: Any, task: Task | None, **options: Any) -> tuple[Imported, Task]:
    """The float network, and what it is for."""
    if isinstance(module, Checkpoint):
        if module.graph.is_quantized:
            raise QatError(
                f"{module.graph.name}: is quantized already; prepare the float network that it was made from"
            )
        return Imported(module.graph, module.params), task or module.task
    if isinstance(module, (Network, Graph)):
        graph = module if isinstance(module, Graph) else module.graph()
        return Imported(graph, graph.initial_params(seed=0)), task or Classification()
    if isinstance(module, Imported):
        return module, task or Classification()
    return import_model(module, example, **options), task or Classification()


def _placed(imported: Imported, module: Any) -> tuple[dict[str, tuple[str, int]], Params, Params]:
    """What ``Origin`` says of sources. An array has its place where it is that of the module in some layout, to the bit."""
    holder = holder_of(module)
    if holder is None:
        return {}, {}, {}
    own = holder.arrays(module)
    found: dict[str, tuple[str, int]] = {}
    for name, source in imported.sources.items():
        array = own.get(source)
        if array is None or array.size != imported.params[name].size:
            continue
        layouts = enumerate(holder.layouts(imported.graph, name, imported.params[name], array.shape))
        number = next((number for number, each in layouts if np.array_equal(each, array)), None)
        if number is not None:
            found[name] = source, number
    unplaced = {name: array for name, array in imported.params.items() if name not in found}
    if all((array == 0).all() or (array == 1).all() for array in unplaced.values()):
        return found, unplaced, {}
    used = {source for source, _ in found.values()}
    return found, unplaced, {name: array.copy() for name, array in own.items() if name not in used}


def _frozen(imported: Imported, graph: Graph, holder: Any, module: Any) -> list[str]:
    """The parameters of a quantized graph that the module's owner does not train; quantizers have their own, which are trained.
    One that was computed of several arrays, or of none, goes with those of its cell, and where it is alone, with the module.
    """
    still = holder.frozen(module)
    everything = holder.arrays(module).keys() <= still
    trainable = [
        name
        for name, param in graph.params.items()
        if param.trainable and (name in imported.graph.params or _is_bias(name))
    ]
    known = {name: imported.sources[name] in still for name in trainable if name in imported.sources}
    of_cells: dict[str, list[bool]] = {}
    for name, is_frozen in known.items():
        of_cells.setdefault(name.rpartition(".")[0], []).append(is_frozen)
    return [name for name in trainable if known.get(name, all(of_cells.get(name.rpartition(".")[0], [everything])))]


def _trained(origin: Origin, name: str, params: Params) -> bool:
    """Whether a parameter that has no place in the module is another than it was: the import's own, or one that quantization
    brought along and that is no range.
    """
    if name in origin.unplaced:
        return not np.array_equal(origin.unplaced[name], params[name])
    return name in origin.graph.params or _is_bias(name)


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
