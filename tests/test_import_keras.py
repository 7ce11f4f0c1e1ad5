"""Keras models and files of them, imported: equal floats, and what is refused."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401  (has to be imported before tensorflow)
from calibrations import calibrate

import qat
from qat.imports.fuse import Imported, fuse
from qat.vocabulary.ops import Array

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from qat.imports.sources.keras_model import open_file, open_model  # noqa: E402  (needs keras)

layers, ops = keras.layers, keras.ops
ROUNDING = 1e-5  #: relative: float sums of another order; a wrong parameter makes 1e-3 or more


def filled(model: Any) -> Any:
    """The model with other numbers than those of the initializers, the running statistics too."""
    rng = np.random.default_rng(7)
    for each in model.weights:
        if "seed" in each.path:
            continue
        if each.path.endswith("variance"):
            each.assign(rng.uniform(0.5, 2.0, each.shape))
        else:
            each.assign(rng.normal(0.4 if "gamma" in each.path else 0.0, 0.4, each.shape))
    return model


def samples_of(opened: Any, count: int = 3) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    specs = opened.program.inputs.values()
    return tuple(rng.normal(0.0, 2.0, (count, *spec.shape)).astype(np.float32) for spec in specs)


def differences(opened: Any, imported: Imported, samples: tuple[Array, ...]) -> dict[str, float]:
    """Of each output, relative to its largest number: what the model's own layers compute, and the graph in NumPy."""
    backend = qat.backend("torch")
    given = backend.predict(backend.lower(imported.graph, imported.params), samples)
    given = given if isinstance(given, tuple) else (given,)
    values = [imported.values[name] for name in imported.graph.outputs]
    wanted = opened.trace(samples, values)
    assert all(wanted[value].shape == x.shape for value, x in zip(values, given, strict=True))
    return {
        value: float(np.abs(wanted[value] - x).max() / np.abs(wanted[value]).max())
        for value, x in zip(values, given, strict=True)
    }


def assert_equal(model: Any, **options: Any) -> tuple[Any, Imported]:
    """Import a model, with its program's traces of inner values checked as well, and compare the outputs."""
    opened = open_model(filled(model), **options)
    imported = fuse(opened.program)
    samples = samples_of(opened)
    found = differences(opened, imported, samples)
    assert max(found.values()) < ROUNDING, found
    return opened, imported


def cells(imported: Imported) -> dict[str, str]:
    return {node.name: type(node.cell).__name__ for node in imported.graph.nodes}


def refused(build: Callable[[], Any], *words: str, **options: Any) -> str:
    """The message, on one line, of a model that cannot be imported; it holds these words."""
    with pytest.raises(qat.QatError) as caught:
        fuse(open_model(build(), **options).program)
    text = str(caught.value)
    assert "\n" not in text
    assert not [word for word in words if word not in text], text
    return text


# -- networks that are imported ---------------------------------------------------------------------------------------


def branched() -> Any:
    """Convolutions of every kind, joined; a flatten whose order of columns matters."""
    x = keras.Input((10, 12, 3), name="image")
    y = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    y = layers.BatchNormalization(epsilon=0.01, center=False, name="stem_bn")(y)
    y = layers.ReLU(6.0, name="stem_relu")(y)
    a = layers.DepthwiseConv2D((3, 1), padding="same", depth_multiplier=2, activation="tanh", name="depth")(y)
    b = layers.SeparableConv2D(12, 3, padding="same", depth_multiplier=2, activation="relu", name="separable")(y)
    c = layers.Conv2D(12, 3, padding="same", dilation_rate=2, groups=3, name="grouped")(y)
    c = layers.LeakyReLU(negative_slope=0.1, name="leaky")(c)
    y = layers.Add(name="sum")([a, b, c])
    y = layers.Concatenate(axis=3, name="joined")([y, layers.BatchNormalization(scale=False, name="alone")(a), c])
    y = layers.MaxPooling2D(2, padding="same", name="largest")(y)
    y = layers.AveragePooling2D((2, 3), name="averages")(layers.ZeroPadding2D(((1, 0), (0, 2)), name="zeros")(y))
    y = layers.Flatten(name="flat")(layers.SpatialDropout2D(0.3, name="drop")(y))
    return keras.Model(x, layers.Dense(5, activation="softmax", name="classes")(y), name="branched")


def sequential() -> Any:
    """Preprocessing and augmentation layers, and pooling with a dense layer behind it."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 64, offset=-0.5),
            layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1.0, 2.0]),
            layers.RandomFlip(),
            layers.RandomRotation(0.1),
            layers.GaussianNoise(0.5),
            layers.Conv2D(4, 3, activation=keras.activations.hard_swish),
            layers.Activation("sigmoid"),
            layers.Dense(6, activation=layers.ReLU()),  # at each pixel
            layers.GlobalMaxPooling2D(),
            layers.Dropout(0.5),
            layers.ActivityRegularization(l2=0.1),
            layers.Dense(3),
            layers.BatchNormalization(),
        ],
        name="sequential",
    )


def channels_first() -> Any:
    first = {"data_format": "channels_first"}
    x = keras.Input(
        (3, 9, 7)
    )  # no width is a number of channels: Keras 3.15 on TensorFlow adds a bias to the wrong axis there
    y = layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3, strides=2, padding="same", **first)(x))
    y = layers.Concatenate(axis=1)([y, layers.DepthwiseConv2D(3, padding="same", **first)(y)])
    y = layers.Average()([y, layers.Conv2D(12, 1, **first)(y)])
    y = layers.AveragePooling2D(2, **first)(layers.ZeroPadding2D(1, **first)(y))
    a = layers.Dense(5)(layers.Flatten(**first)(y))  # in the order of channels last, as Keras has it
    b = layers.Dense(5)(layers.Reshape((-1,))(y))  # in its own
    c = layers.Dense(5)(layers.GlobalAveragePooling2D(**first)(y))
    return keras.Model(x, layers.Add()([a, b, c]), name="channels_first")


def along_one_axis() -> Any:
    x = keras.Input((16, 4))
    y = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    y = layers.SeparableConv1D(8, 3, strides=2, padding="same")(y)
    y = layers.MaxPooling1D(2)(layers.BatchNormalization()(layers.DepthwiseConv1D(3)(y)))
    y = layers.ZeroPadding1D(1)(layers.Dense(5)(y))
    y = layers.Conv1D(6, 2)(y)
    out = layers.Dense(3)(layers.Flatten()(y)), layers.Dense(2)(layers.GlobalAveragePooling1D()(y))
    return keras.Model(x, out, name="one_axis")


def nested() -> Any:
    """As transfer learning has it: a base that is called on an input, in inference mode."""
    inner = keras.Input((12, 12, 3))
    y = layers.Conv2D(4, 3, padding="same", name="Conv1")(inner)
    y = keras.Sequential([layers.Conv2D(4, 1, name="inner"), layers.BatchNormalization(name="norm")], name="block")(y)
    base = keras.Model(inner, layers.ReLU(name="relu")(y), name="base")
    x = keras.Input((12, 12, 3))
    y = layers.GlobalAveragePooling2D(name="pool")(base(layers.Rescaling(1 / 127.5, -1.0)(x), training=False))
    return keras.Model(x, layers.Dense(2, name="head")(layers.Dropout(0.2)(y)), name="transfer")


def with_operations() -> Any:
    """keras.ops, and Python's operators."""
    x = keras.Input((8, 8, 4))
    y = ops.relu(layers.Conv2D(4, 3, padding="same", name="first")(x) * 2.0 - 0.25)
    z = layers.Conv2D(4, 3, padding="same", name="second")(1.0 - y)
    y = ops.concatenate([ops.add(y, z), ops.hard_swish(z) / 3.0], axis=-1)
    y = ops.average_pool(ops.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), 2)
    y = ops.multiply(np.linspace(0.5, 1.5, 8, dtype=np.float32), y)
    y = ops.leaky_relu(layers.Conv2D(4, 1, name="third")(y), negative_slope=0.3)
    y = layers.Dropout(0.5)(ops.mean(y, axis=[1, 2]), training=True)  # not so in evaluation
    return keras.Model(x, layers.Dense(3, name="last")(y), name="operations")


def padded() -> Any:
    """Zeros around numbers that may be negative, before a max pooling, and at the end: no other layer takes them."""
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 3, name="conv")(layers.ZeroPadding2D(1)(layers.ZeroPadding2D(((0, 1), (1, 0)))(x)))
    y = layers.MaxPooling2D(3, 2, name="largest")(layers.ZeroPadding2D(1, name="around")(y))
    return keras.Model(x, layers.ZeroPadding2D(((1, 2), (0, 1)), name="end")(y), name="padded")


def spelled_out() -> Any:
    """Activations in several operations of keras.ops."""
    x = keras.Input((5, 5, 3))
    y = layers.Conv2D(4, 1, name="hswish")(x)
    y = layers.Conv2D(4, 1, name="tanh")(y * ops.minimum(ops.maximum(y + 3.0, 0.0), 6.0) / 6.0)
    y = layers.Conv2D(4, 1, name="sigmoid")(1.0 - 2.0 / (ops.exp(2.0 * y) + 1.0))
    return keras.Model(x, ops.reciprocal(1.0 + ops.exp(-y)), name="spelled_out")


def reshaped() -> Any:
    """An input that is given its axes, and a vector that becomes an image of one pixel and a vector again."""
    x = keras.Input((60,))
    y = layers.Conv2D(4, 3, name="conv")(layers.Reshape((10, 6, 1), name="spectrum")(x))
    y = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(y))
    y = layers.Conv2D(5, 1, name="pixel")(y)
    return keras.Model(x, layers.Dense(3, name="last")(layers.Reshape((5,))(y)), name="reshaped")


def of_two() -> Any:
    a, b = keras.Input((6, 6, 2), name="left"), keras.Input((6, 6, 2), name="right")
    y = layers.Add()([layers.Conv2D(3, 3)(a), layers.Conv2D(3, 3)(b)])
    return keras.Model({"left": a, "right": b}, [y, layers.Dense(2)(layers.Flatten()(y))], name="two")


def normalised() -> Any:
    """Over the channels, the rows, and all numbers."""
    x = keras.Input((6, 5, 3))
    y = layers.LayerNormalization(epsilon=0.01)(layers.Conv2D(4, 3, name="first")(x))
    y = layers.LayerNormalization(axis=1, center=False)(layers.RMSNormalization()(y))
    return keras.Model(x, layers.LayerNormalization(scale=False)(layers.Flatten()(y)), name="normalised")


@pytest.mark.parametrize(
    "build",
    [
        normalised,
        branched,
        sequential,
        channels_first,
        along_one_axis,
        nested,
        with_operations,
        padded,
        spelled_out,
        reshaped,
        of_two,
    ],
)
def test_floats_are_equal(build: Callable[[], Any]) -> None:
    assert_equal(build())


def moves() -> Any:
    """Layers that move numbers, and products."""
    x = keras.Input((6, 8, 4), name="image")
    y = layers.Permute((2, 1, 3), name="turned")(x)
    y = layers.UpSampling2D((1, 2), name="up")(layers.Cropping2D(((1, 0), (0, 2)), name="crop")(y))
    gate = layers.Dense(4, activation="sigmoid", name="gate")(
        layers.GlobalAveragePooling2D(keepdims=True, name="mean")(y)
    )
    y = layers.Multiply(name="gated")([y, gate])
    y = layers.Maximum(name="larger")([layers.Subtract(name="less")([y, gate]), y])
    y = layers.PReLU(shared_axes=[1, 2], name="slopes")(y)
    y = layers.UpSampling2D((1, 2), interpolation="bilinear", name="finer")(y)
    y = layers.Conv2DTranspose(4, (2, 3), (3, 2), padding="same", activation="relu", name="larger_same")(y)
    y = layers.Conv2DTranspose(4, 3, 2, use_bias=False, name="larger_valid")(y)
    y = layers.AveragePooling2D(3, 2, padding="same", name="averages")(y)
    y = layers.Softmax(axis=2, name="shares")(y)
    y = layers.Reshape((-1, 2, 2), name="shaped")(y)
    y = layers.Reshape((-1, 4), name="series")(layers.Activation("silu", name="silu")(y))
    y = layers.Conv1D(5, 3, padding="causal", activation="gelu", name="along")(y)
    return keras.Model(x, layers.GlobalMaxPooling1D(name="largest")(y), name="moves")


def moves_of_operations() -> Any:
    """Operations that take parts, join them, and compute over axes."""
    ops = keras.ops
    x = keras.Input((6, 8, 4), name="image")
    a, b = ops.split(x, 2, axis=-1)
    y = a * ops.sigmoid(b) - ops.maximum(a, b)
    c, d = ops.split(y, [2], axis=1)
    y = ops.concatenate([d, c], axis=1)
    y = ops.pad(y, ((0, 0), (1, 1), (0, 2), (0, 0)), mode="reflect")
    y = y[:, 1:, ::2] + ops.mean(y[:, 1:, ::2], axis=3, keepdims=True)
    rows = ops.max(y, axis=1)
    last = ops.expand_dims(y[:, -1, :, 0], -1)
    y = ops.transpose(rows * last, (0, 2, 1))
    return keras.Model(x, [ops.mean(y, axis=2), ops.stack([ops.mean(y, axis=1), y[:, 0]], axis=1)], name="operations")


def test_moves_of_layers_and_operations_are_cells() -> None:
    _, imported = assert_equal(moves())
    found = cells(imported)
    assert {"UpsampleBilinear", "ConvTranspose2dBnAct"} <= set(found.values())
    assert {"Transpose", "Slice", "Upsample", "Mul", "Sub", "Maximum", "PReLU", "AvgPool2d", "Softmax"} <= set(
        found.values()
    )
    _, imported = assert_equal(moves_of_operations())
    assert {"Slice", "Mul", "Maximum", "Concat", "Pad", "Stack"} <= set(cells(imported).values())


def test_a_wrong_parameter_makes_a_difference() -> None:
    opened, imported = assert_equal(branched())
    samples = samples_of(opened)
    for name in ("stem.moving_variance", "grouped.bias", "alone.beta", "classes.weight"):
        changed = imported.params | {name: imported.params[name] * np.float32(1.02)}
        wrong = replace(imported, params=changed)
        assert max(differences(opened, wrong, samples).values()) > 10 * ROUNDING, name


def test_names_and_sources_are_those_of_the_layers() -> None:
    opened, imported = assert_equal(branched())
    assert cells(imported) | {"stem": "Conv2dBnAct", "largest": "MaxPool2d", "flat": "Flatten"} == cells(imported)
    assert imported.sources["stem.moving_mean"] == "stem_bn/moving_mean"
    assert imported.graph.nodes[0].cell.shape == (3, 10, 12)
    program = opened.program
    assert {each.name for each in program.operations if each.kind == "conv2d"} == {
        *("stem", "depth", "grouped"),
        *("separable/depthwise", "separable/pointwise"),
    }
    inner = opened.trace(samples_of(opened), ["stem_relu", "joined"])
    assert {name: x.shape[1:] for name, x in inner.items()} == {"stem_relu": (6, 5, 6), "joined": (36, 5, 6)}


def test_zeros_that_may_be_the_largest_are_a_layer() -> None:
    _, imported = assert_equal(padded())
    kinds = {
        "input": "Input",
        "conv": "Conv2dBnAct",
        "around": "Pad",
        "largest": "MaxPool2d",
        "end": "Pad",
    }
    assert cells(imported) == kinds


def test_spelled_out_activations_are_in_their_cells() -> None:
    _, imported = assert_equal(spelled_out())
    _, *nodes = imported.graph.nodes
    assert {node.name: node.cell.activation for node in nodes} == {name: name for name in ("hswish", "tanh", "sigmoid")}


def test_models_within_a_model_give_paths() -> None:
    _, imported = assert_equal(nested())
    assert {"base/Conv1", "base/block/inner", "head"} <= set(cells(imported))
    assert not any("norm" in name for name in cells(imported))  # in base/block/inner


def test_what_an_input_is_reshaped_to_is_the_input() -> None:
    opened, imported = assert_equal(reshaped())
    assert imported.graph.nodes[0].cell.shape == (1, 10, 6)
    assert opened.notes == ("input takes what spectrum makes of it, (1, 10, 6) channels first, instead of (60,)",)


def test_open_sizes_are_given() -> None:
    def build() -> Any:
        x = keras.Input((None, None, 3))
        y = layers.Conv2D(4, 3, strides=2)(x)
        inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 3)], name="inner")
        return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(inner(y))), name="any_size")

    opened, _ = assert_equal(build(), input_shape=(3, 11, 9))
    assert [each.shape for each in opened.program.inputs.values()] == [(3, 11, 9)]
    refused(build, "any_size: its input has shape (None, None, 3)", "give input_shape, (C, H, W)")
    refused(build, "takes samples of shape (None, None, 3)", "input_shape (4, 8, 8)", input_shape=(4, 8, 8))
    refused(build, "cannot take what that input_shape gives it", input_shape=(3, 2, 2))


def test_a_layer_of_two_calls_is_one_cell() -> None:
    def build(*, same: bool = False) -> Any:
        shared = layers.Conv2D(3, 3, padding="same", name="shared")
        x = keras.Input((6, 6, 3))
        y = layers.ReLU()(shared(x))
        z = shared(y)
        return keras.Model(x, layers.ReLU()(z) if same else z, name="shared_net")

    _, imported = assert_equal(build(same=True))
    assert len({node.cell_name for node in imported.graph.nodes if "shared" in node.name}) == 1
    assert sum("shared" in node.name for node in imported.graph.nodes) == 2
    refused(build, "a layer that shares shared/kernel with shared, but has another activation")


def test_constants_of_a_layer_are_no_parameters_that_are_shared() -> None:
    x = keras.Input((6, 6, 3))
    shift = layers.Rescaling(1.0, offset=0.5)
    first, second = (layers.Conv2D(3, 3, use_bias=False) for _ in range(2))
    assert_equal(keras.Model(x, shift(second(shift(first(x))))))


def test_the_momentum_of_a_normalisation_is_kept() -> None:
    x = keras.Input((6, 6, 3))
    _, imported = assert_equal(keras.Model(x, layers.BatchNormalization(momentum=0.97)(layers.Conv2D(4, 3)(x))))
    assert imported.graph.nodes[1].cell.momentum == 0.97


def test_a_constant_beside_values_is_refused() -> None:
    def build() -> Any:
        x = keras.Input((6, 6, 3), batch_size=1)
        return keras.Model(x, ops.concatenate([x, ops.zeros((1, 6, 6, 2))], -1))

    refused(build, "Concatenate with a constant")


# -- files ------------------------------------------------------------------------------------------------------------


def keras_2_file(path: Path, classes: dict[str, dict[str, Any]], weights: dict[str, dict[str, Array]]) -> Path:
    """A chain of layers as Keras 2 saved it, in JSON and HDF5. classes: of each layer by name, its class and configuration."""
    chain, before = [], ""
    for name, fields in classes.items():
        config = {"name": name} | {key: value for key, value in fields.items() if key != "class_name"}
        inbound = [[[before, 0, 0, {}]]] if before else []
        chain.append({"class_name": fields["class_name"], "config": config, "name": name, "inbound_nodes": inbound})
        before = name
    first = next(iter(classes))
    model = {"name": "old", "layers": chain, "input_layers": [[first, 0, 0]], "output_layers": [[before, 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": model})
        file.attrs["keras_version"], file.attrs["backend"] = "2.4.0", "tensorflow"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in classes]
        for name in classes:
            arrays = {f"{name}/{local}:0": array for local, array in weights.get(name, {}).items()}
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [each.encode() for each in arrays]
            for each, array in arrays.items():
                layer.create_dataset(each, data=array)
    return path


OLD: dict[str, dict[str, Any]] = {
    "input_1": {"class_name": "InputLayer", "batch_input_shape": [None, 6, 6, 3], "dtype": "float32"},
    "depth": {
        "class_name": "DepthwiseConv2D",
        "kernel_size": [3, 3],
        "padding": "same",
        "groups": 1,  # Keras 3 does not know it here
        "depth_multiplier": 1,
        "use_bias": False,
    },
    "norm": {"class_name": "BatchNormalization", "axis": [3], "epsilon": 0.001},
    "relu": {"class_name": "Activation", "activation": "relu"},
    "flatten": {"class_name": "Flatten", "data_format": "channels_last"},
    "dense": {"class_name": "Dense", "units": 4, "activation": "softmax"},
}


def old_weights() -> dict[str, dict[str, Array]]:
    rng = np.random.default_rng(3)
    shapes = {"depth": {"depthwise_kernel": (3, 3, 3, 1)}, "dense": {"kernel": (108, 4), "bias": (4,)}}
    shapes["norm"] = {"gamma": (3,), "beta": (3,), "moving_mean": (3,), "moving_variance": (3,)}
    return {
        name: {local: rng.uniform(0.2, 1.0, shape).astype(np.float32) for local, shape in them.items()}
        for name, them in shapes.items()
    }


def old_file(path: Path, **changes: dict[str, Any]) -> Path:
    return keras_2_file(path, {name: fields | changes.get(name, {}) for name, fields in OLD.items()}, old_weights())


def refused_file(path: Path, *words: str) -> None:
    with pytest.raises(qat.QatError) as caught:
        open_file(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert not [word for word in words if word not in text], text


def test_a_file_of_keras_2(tmp_path: Path) -> None:
    opened = open_file(old_file(tmp_path / "old.h5"))
    imported = fuse(opened.program)
    assert imported.graph.name == "old"
    samples = samples_of(opened)
    assert max(differences(opened, imported, samples).values()) < ROUNDING
    np.testing.assert_array_equal(
        imported.params["depth.weight"][:, 0], old_weights()["depth"]["depthwise_kernel"][..., 0].transpose(2, 0, 1)
    )
    assert imported.params["depth.moving_mean"].tolist() == old_weights()["norm"]["moving_mean"].tolist()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_gives_what_the_model_gives(tmp_path: Path, suffix: str) -> None:
    model = filled(nested())
    model.save(tmp_path / f"net{suffix}")
    of_file, of_model = (
        fuse(each.program) for each in (open_file(tmp_path / f"net{suffix}", name="transfer"), open_model(model))
    )
    assert of_file.graph == of_model.graph
    assert all(np.array_equal(array, of_model.params[name]) for name, array in of_file.params.items())


def with_lambda() -> Any:
    x = keras.Input((4, 4, 2))
    y = layers.Lambda(lambda x: x * 2.0, name="double", output_shape=(4, 4, 2))(layers.Conv2D(2, 1)(x))
    return keras.Model(x, layers.UnitNormalization(name="turned")(y), name="coded")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    with_lambda().save(tmp_path / f"net{suffix}")
    refused_file(tmp_path / f"net{suffix}", "double (Lambda)", "nothing in a file is executed")


def test_all_unknown_layers_are_named() -> None:
    refused(with_lambda, "coded: has 2 operations", "Lambda: double", "UnitNormalization: turned")


@keras.saving.register_keras_serializable("mine")
class Gate(layers.Conv2D):  # type: ignore[misc]
    """A layer of the user's, known to Keras in this process."""

    def call(self, inputs: Any) -> Any:
        return super().call(inputs) + 1.0


def test_classes_of_the_users_are_named(tmp_path: Path) -> None:
    def build() -> Any:
        return keras.Sequential(
            [keras.Input((4, 4, 2)), Gate(2, 1, name="gate"), layers.UpSampling2D(interpolation="bicubic", name="up")]
        )

    refused(build, "Gate: gate", "UpSampling2D by bicubic: up")  # not as the Conv2D that it is derived from
    for suffix in (".keras", ".h5"):
        build().save(tmp_path / f"net{suffix}")
        refused_file(tmp_path / f"net{suffix}", "gate (", "Gate)", "not Keras's own")


def test_operations_are_kept_by_keras_files_alone(tmp_path: Path) -> None:
    model = filled(with_operations())
    model.save(tmp_path / "net.keras")
    assert len(open_file(tmp_path / "net.keras").program.operations) == len(open_model(model).program.operations)
    model.save(tmp_path / "net.h5")
    refused_file(tmp_path / "net.h5", "(HardSilu)", "save a model with them as .keras")


def test_keras_2_s_hard_sigmoid_is_another(tmp_path: Path) -> None:
    path = old_file(tmp_path / "old.h5", relu={"activation": "hard_sigmoid"})
    refused_file(path, "relu", "Keras 2's hard_sigmoid")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    nested().save(path)
    content = path.read_bytes()
    for part in (b"", content[:100], content[: len(content) // 2], content[:-1]):
        path.write_bytes(part)
        refused_file(path, "save it again")
    path.unlink()
    refused_file(path, "save it again")


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    nested().save_weights(tmp_path / "net.weights.h5")
    refused_file(tmp_path / "net.weights.h5", "weights alone")


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    other, path = old_file(tmp_path / "other.h5"), old_file(tmp_path / "net.h5")
    with h5py.File(path, "a") as file:
        del file["model_weights/dense"]
        file["model_weights/dense"] = h5py.ExternalLink(str(other), "model_weights/dense")
    refused_file(path, "'dense'", "link")
    path = old_file(tmp_path / "net2.h5")
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(path, "a") as file:
        del file["model_weights/dense/dense/bias:0"]
        file["model_weights/dense/dense"].create_dataset(
            "bias:0", (4,), "f4", external=[(str(tmp_path / "raw"), 0, 16)]
        )
    refused_file(path, "'bias:0'", "another file")


def test_a_file_declares_no_more_than_it_holds(tmp_path: Path) -> None:
    """A layer of a few bytes of JSON could ask for any memory."""
    path = old_file(tmp_path / "net.h5", dense={"units": 1 << 40})
    refused_file(path)
    path = tmp_path / "net.keras"
    nested().save(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["config.json"] = re.sub(rb'"units": \d+', b'"units": 1099511627776', entries["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    refused_file(path)


# -- models that are refused ------------------------------------------------------------------------------------------


class Subclass(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


class Overridden(keras.Sequential):  # type: ignore[misc]
    def call(self, *args: Any, **options: Any) -> Any:
        return super().call(*args, **options) * 2.0


def in_float16() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="mixed_float16", name="half")], name="coarse")


def mixed_formats() -> Any:
    x = keras.Input((4, 4, 4))
    return keras.Model(x, layers.Conv2D(2, 1, data_format="channels_first", name="other")(layers.Conv2D(4, 1)(x)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Subclass(name="mine"),
            ("mine: is of the class Subclass", "does not record", "keras.Model(x, model.call(x))"),
        ),
        (lambda: Overridden([keras.Input((4,)), layers.Dense(2)], name="mine"), ("a call of its own", "keras.Model(")),
        (lambda: keras.Sequential([layers.Dense(2)], name="mine"), ("mine: is a Sequential model that is not built",)),
        (in_float16, ("coarse: half computes in float16", "set_dtype_policy('float32')")),
        (mixed_formats, ("Conv2D with data_format channels_first in a network of the other: other",)),
    ],
)
def test_models_that_cannot_be_read(build: Callable[[], Any], words: tuple[str, ...]) -> None:
    refused(build, *words)


# -- to the end -------------------------------------------------------------------------------------------------------


def test_the_integers_of_an_imported_network_are_equal() -> None:
    """From Keras to deployed integers: 0 codes differ between NumPy and the training backend."""
    imported = qat.import_model(filled(nested()))
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 12, 12), np.uint8)
    quantized = calibrate(imported.graph, imported.params, images)
    deployed = qat.to_integer(quantized.graph, quantized.params)
    backend = qat.backend("keras")
    codes = backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)
    np.testing.assert_array_equal(qat.evaluate(deployed, images), codes)
