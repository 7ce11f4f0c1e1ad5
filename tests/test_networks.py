"""The networks: published counts, and their whole path in brief."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from frameworks import HERE, but_long

import qat
import qat.networks
from qat.analysis.metrics import total_macs
from qat.integer import IntegerLinear, trace_codes
from qat.networks import NETWORKS, Autoencoder, create
from qat.tasks import Classification, OutputTask, Segmentation, Several, Task
from qat.training.forward import Forward
from qat.training.losses import mean_squared_error
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import as_arrays
from qat.vocabulary.numpy_ops import NUMPY_OPS


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("lenet", 61_684),  # MindSpore's tutorial
        ("mnist_cnn", 16_842),  # Himax's example for the WE-I Plus
        ("resnet8", 78_666 - 480),  # MLPerf Tiny counts the running statistics too
        ("resnet20", 272_474),  # He et al. say 0.27 M
        ("lenet_3x3", 60_074),  # its document's reference network
        ("compact_digits", 1_194 + 8 + 8 + 16 + 16 + 16 + 16),  # with the gammas of its batch normalisations
        ("compact_separable", 2_370),
        ("compact_residual", 6_802),
        ("ds_cnn", 24_908 - 1_152),  # MLPerf Tiny, as above
        ("mobilenet", 221_794 - 5_472),
        ("autoencoder", 269_992 - 2_064),
        ("mobilenet_v3", 2_542_856 - 990 * 1_025),  # torchvision counts those of 1,000 outputs
        (
            "svhn_cnn",
            13_552 + 2 * (3 + 16 + 16 + 24 + 42 + 64) + 10,
        ),  # the document's weights, batch norms and output biases
    ],
)
def test_published_parameter_counts(name: str, weights: int) -> None:
    assert create(name).graph().count_trainable() == weights


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("lenet_3x3", 205_960 - 6 * 26 * 26 - 16 * 11 * 11),  # its document counts the convolutions' biases
        ("resnet8", 12_501_632),  # MLPerf Tiny: 12.5 M
        ("ds_cnn", 2_656_768),  # 2.7 M
        ("mobilenet", 7_489_664),  # 7.5 M
        ("autoencoder", 264_192),  # 0.26 M
    ],
)
def test_published_products(name: str, products: int) -> None:
    assert total_macs(create(name).graph()) == products


@pytest.mark.parametrize("backend_name", but_long(HERE, lambda name: name == "mindspore"))
def test_an_autoencoder_learns_its_input_by_its_squared_error(backend_name: str) -> None:
    """The gradient is that of the formula, and a quantized one is trained by it too."""
    backend, network = qat.backend(backend_name), Autoencoder(features=12)
    graph = qat.convert_quant_network(network)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (16, 12), np.uint8)
    grid = network.inputs.grid
    targets = ((pixels.astype(np.float32) - grid.zero_point) * grid.scale).astype(np.float32)
    model = backend.lower(network.graph())
    before = backend.read(model)
    loss = backend.make_step(model, Optimizer(momentum=0.0), mean_squared_error)(pixels, targets, 1.0)
    after = backend.read(model)
    bias = "reconstruction.bias"
    tensors = {name: NUMPY_OPS.from_numpy(before[name], param.kind) for name, param in network.graph().params.items()}
    (real,), _ = Forward(network.graph(), NUMPY_OPS)(tensors, (pixels.astype(np.float32),), training=True, phase=0)
    assert loss == pytest.approx(np.mean((real - targets) ** 2), rel=1e-5)
    # Sums of 16 float32 numbers.
    expected = 2 * (real - targets).sum(axis=0) / real.size
    np.testing.assert_allclose(before[bias] - after[bias], expected, rtol=0, atol=1e-5)
    step = backend.make_step(backend.lower(graph), Optimizer(), mean_squared_error)
    losses = [step(pixels, targets, 0.05) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_mnist_cnn_has_the_products_and_the_input_of_its_document() -> None:
    graph = qat.convert_quant_network(create("mnist_cnn"))
    integers = qat.to_integer(graph, graph.observed_params())
    linear = [node for node in integers.nodes if isinstance(node, IntegerLinear)]
    places = [int(np.prod(node.output.shape[1:])) for node in linear]
    assert sum(count * node.weight.size for count, node in zip(places, linear, strict=True)) == 203_552
    assert integers.input.grid.zero_point == 128  # the code of a pixel is pixel - 128


#: The networks whose compiled passes a backend takes many seconds for, and whose cells others have too.
LONG = {
    "torch": {"segmenter", "unet"},  # at 64 x 64
    "keras": {
        "ds_cnn",
        "mobilenet",
        "mobilenet_v3",
        "resnet20",
        "cnn",
        "segmenter",
        "unet",
        "detector",
        "vision_transformer",
    },
    "mindspore": set(NETWORKS) - {"compact_digits", "lenet", "lenet_bn", "lenet_gtc", "mnist_cnn"},
}
#: Those whose first steps take a backend minutes. Their cells are trained there in other tests, they as a whole are not.
LONGEST = {"mindspore": {"detector", "mobilenet_v3", "unet", "vision_transformer"}}
PAIRS = but_long(
    [(backend, name) for backend, name in product(HERE, sorted(NETWORKS)) if name not in LONGEST.get(backend, ())],
    lambda backend, name: name in LONG.get(backend, ()),
)


@pytest.mark.parametrize(("backend_name", "name"), PAIRS)
def test_every_network_is_quantized_trained_exported_and_equal(backend_name: str, name: str, tmp_path: Path) -> None:
    backend, onnx = qat.backend(backend_name), qat.target("ONNX")
    graph = qat.convert_quant_network(create(name), quant_delay=2)
    (spec,) = graph.input_specs
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, *spec.shape)).astype(spec.dtype)
    shapes = [graph.shapes[output] for output in graph.outputs]
    tasks = [Segmentation() if shape[1:] else Classification() for shape in shapes]
    parts = tuple(OutputTask(*each) for each in zip(graph.outputs, tasks, strict=True))
    task: Task = Several(parts) if len(parts) > 1 else tasks[0]
    step = backend.make_step(backend.lower(graph), Optimizer(), task.loss)
    for _ in range(5):
        labels = as_arrays(tuple(generator.integers(0, classes, (8, *places)) for classes, *places in shapes))
        assert np.isfinite(step(images, task.targets(graph, images, labels), 0.01))
    integers = qat.to_integer(graph, backend.read(step.model))
    onnx.export(integers, tmp_path / "net.onnx")
    tensors = [node.output for node in integers.nodes]
    reference = trace_codes(integers, images, [tensor.name for tensor in tensors])
    by_backend = backend.trace(step.model, images, tensors)
    by_onnx = onnx.trace(tmp_path / "net.onnx", images, tensors)
    assert len(by_onnx) == len(tensors) - (spec.dtype == "uint8")  # pixels are codes already
    for tensor in tensors[1:]:
        np.testing.assert_array_equal(
            by_backend[tensor.name], reference[tensor.name], err_msg=f"{backend_name}, {tensor.name}"
        )
        np.testing.assert_array_equal(by_onnx[tensor.name], reference[tensor.name], err_msg=f"ONNX, {tensor.name}")


# -- a user's own, by --network ---------------------------------------------------------------------------------------

OWN = """
import helper
import json, qat
class Net(qat.Network):
    inputs = qat.Input((1, 4, 4))
    def construct(self, x):
        return qat.Flatten()(x)
"""


@pytest.mark.parametrize("module", ["mine", "package.mine"])
def test_a_file_of_the_working_directory_stands_in_for_no_library(module: str, tmp_path: Path) -> None:
    """The user's module is found there, and what it imports from there; no later import is."""
    folder = tmp_path / "package" if "." in module else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("")
    for library in ("json", "sqlite3", "onnx", "numpy", "not_installed_at_all"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit('a file of the working directory was run')")
    program = f"""
import importlib.util, sys
from qat.cli import main
before = list(sys.path)
assert main(["summary", "--network", "{module}:Net"]) == 0
assert sys.path == before
import sqlite3, onnx
assert importlib.util.find_spec("not_installed_at_all") is None
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, tmp_path / "elsewhere" / "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "statistics:Net",
            r"statistics is .*statistics\.py, which has no 'Net'; if another file is meant, rename that",
        ),
        ("builtins:Net", r"builtins is a part of Python, which has no 'Net'"),
        (".mine:Net", "cannot be imported"),
        (":Net", "cannot be imported"),
        ("statistics:mean", r"is no qat\.Network"),
    ],
)
def test_a_module_without_the_network_is_named(name: str, message: str) -> None:
    before = list(sys.path)
    with pytest.raises(qat.QatError, match=message):
        create(name)
    assert sys.path == before


#: What networks are made of; not networks that a command could train.
PARTS = {
    "Attention",
    "BasicBlock",
    "Bottleneck",
    "CausalSeparable",
    "ConvBlock",
    "Dense",
    "DepthwiseSeparable",
    "InvertedResidual",
    "PooledStage",
    "ResNet",
    "SplitStage",
    "SqueezeExcitation",
    "TransformerBlock",
    "Twice",
}


def test_every_network_of_the_package_has_a_name() -> None:
    """With it, it is among those that are quantized, trained, exported and compared."""
    modules = [
        importlib.import_module(f"qat.networks.{each.name}") for each in pkgutil.iter_modules(qat.networks.__path__)
    ]
    classes = {
        name
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, qat.Network) and value.__module__ == module.__name__
    }
    public = {name for name in classes if not name.startswith("_")}
    assert sorted(public - PARTS - {cls.__name__ for cls in NETWORKS.values()}) == [], "not in NETWORKS"
    assert public >= PARTS
