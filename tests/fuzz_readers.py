"""Every reader there is: a good file of each kind, how it is damaged, and how it is read; and the process that reads.

A reader more is an entry of KINDS. Run as a script, this file is the reading process: the libraries may crash.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml
from fuzz_mutants import (
    Change,
    damaged,
    in_json,
    in_onnx,
    in_safetensors,
    in_sqlite,
    in_text,
    in_tflite,
    in_wire,
    in_zip,
)

import qat
from qat.cells.linear import NEVER
from qat.cli import Parser
from qat.data import Dataset, Preparation, Split, load
from qat.data.pictures import find_pictures, read_class_names, read_mask, read_picture
from qat.data.readers.arrays import dataset_of, read_npy
from qat.data.readers.cifar import read_batches
from qat.data.readers.idx import read_idx
from qat.data.readers.svhn import read_source_images, read_svhn
from qat.deploy.recipe import metadata_of
from qat.deploy.verify import Certificate, verify
from qat.errors import QatWarning
from qat.passes.quant_config import read_quant_config
from qat.reporting.gather import read_bench
from qat.scripts.common.tasks import read_weights
from qat.study import Study, Task
from qat.study.training import RESULT, read_result
from qat.training.forward import Forward
from qat.training.loop import train
from qat.training.native import params_from
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.zoo.kept import FOLDER
from qat.zoo.places import Places
from qat.zoo.row import ACCURACY, COST, Row, accuracy_rows, cost_rows
from qat.zoo.samples import photographs, words

MEMORY = 24 << 30  #: address space of the reading process: what asks for more gets an error, not the machine
GROWTH = 1 << 30  #: resident bytes that reading one file may take
#: Numbers of one image, over all nodes, beyond which a graph is a valid one too large to compute here.
LARGEST = 200_000
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 2, 6, 6), np.uint8)
LABELS = np.array([0, 3, 1])


@dataclass(frozen=True)
class Kind:
    """suffix: of its files. good: the content of a file that is read without complaint. read: as the commands do, checking what
    was read; returns a word about it. few, many: mutants each time, and in the sweep. fields, share: how it is damaged
    (``damaged``). beside: other files that it needs, whole. seal: makes its digest right again. module: that reads it.
    """

    suffix: str
    good: Callable[[], bytes]
    read: Callable[[Path], str | None]
    few: int
    many: int
    module: str
    fields: Change | None = None
    share: float = 0.6
    beside: Callable[[], Mapping[str, bytes]] = field(default=dict)
    seal: Callable[[Path], None] | None = None


# -- good files -------------------------------------------------------------------------------------------------------


class Small(qat.Network):
    """Most cells."""

    inputs = qat.Input((2, 6, 6), mean=0.5, std=0.25)

    def __init__(self, activation: str = "leaky_relu") -> None:
        self.conv = qat.Conv2dBnAct(2, 3, 3, has_bn=True, activation=activation)
        self.depthwise = qat.Conv2dBnAct(3, 3, (2, 1), pad_mode="pad", padding=(1, 0, 0, 0), group=3, has_bias=True)
        self.add = qat.Add("relu")
        self.concat = qat.Concat()
        self.largest = qat.MaxPool2d(2)
        self.mean = qat.AvgPool2d(2)
        self.drop = qat.Dropout(0.3)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(54, 4)

    def construct(self, x):
        x = self.conv(x)
        x = self.add(self.depthwise(x), x)
        return self.fc(self.flatten(self.drop(self.concat(self.largest(x), self.mean(x)))))


@cache
def checkpoint(profile: str = "default") -> qat.Checkpoint:
    settings: dict[str, Any] = {"profile": profile} if profile == "ascend" else {"num_bits": (8, 7), "freeze_bn": NEVER}
    graph = qat.convert_quant_network(Small("relu" if profile == "ascend" else "leaky_relu"), **settings)
    params = graph.observed_params(1)
    optimizer = {"fc.weight.momentum_buffer": np.ones((4, 54), np.float32)}
    return qat.Checkpoint(graph, params, 17, 2, optimizer, ({"lr": 0.1, "data": "digits"},))


class Tiny(qat.Network):
    """What is trained."""

    inputs = qat.Input((1, 2, 2))

    def __init__(self) -> None:
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4, 3)

    def construct(self, x):
        return self.fc(self.flatten(x))


@cache
def images() -> Dataset:
    rng = np.random.default_rng(2)
    split = Split(rng.integers(0, 256, (12, 1, 2, 2), np.uint8), np.arange(12) % 3)
    return Dataset("noise", "noise", split, split)


RECIPE = Recipe(
    epochs=3, batch_size=4, optimizer=Optimizer("amsgrad"), validation=4, keep_best=True, lr_schedule="plateau"
)


def trained(backend: str) -> bytes:
    """A checkpoint from the middle of a training."""
    graph = Tiny().graph()
    start = qat.Checkpoint(graph, graph.initial_params())
    with contextlib.redirect_stdout(io.StringIO()):
        return written(
            lambda path: train(qat.backend(backend), start, images(), RECIPE, stop_after=1).save(path), "x.ckpt"
        )


def written(write: Callable[[Path], object], name: str) -> bytes:
    """What a function writes into a file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def exported(file_format: str, name: str, profile: str = "default", **options: str) -> bytes:
    made, target = replace(checkpoint(profile), class_names=("a", "b", "c")), qat.target(file_format)
    integers = qat.to_integer(made.graph, made.params)

    def write(path: Path) -> None:
        target.export(integers, path, **options)
        target.write_metadata(path, metadata_of(path, target, made, integers.arithmetic))

    return written(write, name)


@cache
def c_files() -> tuple[bytes, bytes]:
    """The .c and the .h."""
    made = checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.c")
        target = qat.target("C")
        target.export(qat.to_integer(made.graph, made.params), path)
        target.write_metadata(path, metadata_of(path, target, made, "float"))
        return path.read_bytes(), path.with_suffix(".h").read_bytes()


def idx() -> bytes:
    return bytes((0, 0, 8, 3)) + struct.pack(">3I", 5, 4, 3) + np.random.default_rng(1).bytes(60)


def cifar() -> bytes:
    rng = np.random.default_rng(1)
    return b"".join(bytes((label,)) + rng.bytes(3072) for label in (3, 9, 0))


def mat() -> bytes:
    import scipy.io

    content = {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": np.array([[1], [10], [3]], np.uint8)}
    return written(lambda path: scipy.io.savemat(path, content, do_compression=True), "x.mat")


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def picture(file_format: str, mode: str = "RGB") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (9, 7, len(mode)), np.uint8)
    Image.fromarray(pixels.squeeze(), mode if mode != "L" else None).save(buffer, file_format)
    return buffer.getvalue()


def result() -> bytes:
    values = {str: "x", dict: {"model": "full", "fold": 0}, float: 0.5, int: 3, list: [], int | None: 0}
    return json.dumps({name: values[kind] for name, kind in RESULT.items()}).encode()


def outputs() -> bytes:
    return saved(outputs=np.zeros((5, 3), np.float32), labels=np.arange(5) % 3)


def study() -> bytes:
    def write(path: Path) -> None:
        with Study(path.parent) as made:
            made.add([Task("a", {"x": 1, "recipe": {"lr": 0.5}}), Task("b", {"y": [1]}, ("a",))])
            made.start("a")
            made._db.execute("PRAGMA journal_mode=DELETE")

    return written(write, "study.db")


def searched(trials: int, folder: Path) -> list[Any]:
    from qat.study.search import Search

    def objective(trial: Any) -> float:
        trial.set_user_attr("cost", 1.0)
        return float(trial.suggest_int("bits", 2, 8))

    with Search(folder, ["maximize"], sampler="bayesian", epochs=1, seed=0, settings={"lr": 0.1}) as search:
        return search.run(objective, trials, lambda trial: f"{trial.user_attrs['cost']:.1f} {trial.value:.4f}")


def search() -> bytes:
    with contextlib.redirect_stdout(io.StringIO()):
        return written(lambda path: searched(2, path.parent), "search.db")


QUANT_CONFIG = b"""num_bits: [8, 7]
per_channel: [true, false]
symmetric: [true, false]
narrow_range: false
quant_delay: 10
bn_fold: true
one_conv_fold: false
freeze_bn: 100
ema_decay: 0.9
layers:
  conv: {num_bits: [4, 7], narrow_range: [true, false]}
  "f*": {num_bits: [6, 8], weight_quantizer: {type: LSQWeightQuantizer, num_bits: 4}}
"""


def in_yaml(rng: np.random.Generator, content: bytes) -> bytes:
    return in_json(rng, json.dumps(yaml.safe_load(QUANT_CONFIG)).encode())


def in_c(rng: np.random.Generator, content: bytes) -> bytes:
    """The JSON of the comment that describes the model; the code itself is trusted, or not run."""
    lines = content.decode().splitlines()
    at = len(lines) - 3  # of the model; then come metadata and digest
    key, _, text = lines[at].removesuffix(" */").partition(": ")
    lines[at] = f"{key}: {in_json(rng, text.encode()).decode()} */"
    return "\n".join([*lines, ""]).encode()


# -- readers ----------------------------------------------------------------------------------------------------------


def small(graph: qat.Graph) -> bool:
    sizes = [int(np.prod(shape, dtype=object)) for shape in graph.shapes.values()]
    return sum(sizes) + sum(int(np.prod(param.shape, dtype=object)) for param in graph.params.values()) <= LARGEST


def check_graph(graph: qat.Graph) -> None:
    """A graph that was read can be printed, written again and computed."""
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert str(graph)
    assert len(graph.digest) == 16
    if not small(graph):
        return
    params = graph.initial_params()
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    pixels = tuple(np.zeros((2, *node.cell.shape), np.float32) for node in graph.inputs)
    run = Forward(graph, NUMPY_OPS)
    outputs, _ = run(tensors, pixels, training=True, phase=run.phase(0))
    for name, output in zip(graph.outputs, outputs, strict=True):
        assert output.shape == (2, *graph.shapes[name]), name
    with contextlib.suppress(qat.QatError):  # a float network, or one that has seen no data
        check_integers(graph, params)


def check_integers(graph: qat.Graph, params: dict[str, Any]) -> None:
    """Codes within their grid; a QatError passes through."""
    if small(graph):
        deployed = qat.to_integer(graph, params)
        codes = qat.evaluate(deployed, np.full((2, *deployed.input.shape), 7, np.uint8))
        assert codes.shape == (2, *deployed.output.shape)
        assert deployed.output.grid.qmin <= codes.min() <= codes.max() <= deployed.output.grid.qmax


def read_idx_file(path: Path) -> None:
    content = path.read_bytes()
    array = read_idx(path, 3)
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert path.suffix == ".gz" or array.tobytes() == content[16:]


def read_cifar(path: Path) -> None:
    images, labels = read_batches([path])
    assert images.dtype == np.uint8
    assert images.shape == (len(labels), 3, 32, 32)
    assert labels.dtype == np.int64
    assert set(labels) <= set(range(10))
    assert len(images) * 3073 == path.stat().st_size


def read_mat(path: Path) -> None:
    images, labels = read_svhn(path)
    assert images.shape == (len(labels), 3, 32, 32)


def read_graph(path: Path) -> None:
    check_graph(qat.Graph.from_json(path.read_bytes().decode(errors="surrogateescape")))


def read_checkpoint(path: Path) -> None:
    loaded = qat.Checkpoint.load(path)
    check_graph(loaded.graph)
    loaded.graph.check_params(loaded.params)
    assert isinstance(loaded.step, int)
    assert isinstance(loaded.epoch, int)
    json.dumps(loaded.history)
    check_integers(loaded.graph, loaded.params)


def read_resumed(path: Path) -> None:
    """A training that goes on."""
    loaded = qat.Checkpoint.load(path)
    if loaded.graph == Tiny().graph():
        train(qat.backend("torch"), loaded, images(), RECIPE)


@cache
def step_of(backend: str) -> Any:
    """A step of a training, whose optimizer takes what a checkpoint holds."""
    graph = Tiny().graph()
    module = qat.backend(backend)
    return module.make_step(module.lower(graph, graph.initial_params()), RECIPE.optimizer)


def read_state(backend: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        step_of(backend).load_state(qat.Checkpoint.load(path).optimizer)

    return read


def read_config(path: Path) -> None:
    check_graph(qat.convert_quant_network(Small(), **read_quant_config(path)))


def read_exported(file_format: str, profile: str = "default") -> Callable[[Path], str]:
    def read(path: Path) -> str:
        target = qat.target(file_format)
        assert isinstance(target.predict(path, PIXELS), np.ndarray)
        found = verify(path, target, qat.backend("torch"), checkpoint(profile), Split(PIXELS, LABELS), data="noise")
        assert isinstance(found, Certificate)
        assert found.summary()
        assert json.loads(found.to_json())
        if hasattr(target, "read_metadata"):
            assert all(isinstance(text, (str, dict)) for text in target.read_metadata(path).values())
        return "passed" if found.passed else "failed"

    return read


def read_c(path: Path) -> str:
    made, target = checkpoint(), qat.target("C")
    tensors = [node.output for node in qat.to_integer(made.graph, made.params).nodes]
    assert all(isinstance(codes, np.ndarray) for codes in target.trace(path, PIXELS, tensors).values())
    return read_exported("C")(path)


def read_float_onnx(path: Path) -> None:
    assert isinstance(qat.target("ONNX").predict(path, PIXELS), np.ndarray)


def module() -> Any:
    """A network of PyTorch."""
    import torch

    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 4),
    ).eval()


def pt2() -> bytes:
    import torch

    exported = torch.export.export(module(), (torch.zeros(2, 2, 6, 6),))
    return written(lambda path: torch.export.save(exported, path), "x.pt2")


def keras_model(name: str) -> bytes:
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    return written(lambda path: model.save(path), name)


def float_file(file_format: str, name: str) -> bytes:
    """Of no digest or metadata of ours that is looked at: as any tool could write it."""
    graph = Small().graph()
    return written(lambda path: qat.target(file_format).export_float(graph, graph.initial_params(), path), name)


def onnx_with_data() -> tuple[bytes, bytes]:
    """A model whose weights are in a file beside it, and that file."""
    import onnx

    model = onnx.load_model_from_string(float_file("ONNX", "x.onnx"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.onnx")
        onnx.save(model, path, save_as_external_data=True, location="x.bin", size_threshold=0)
        return path.read_bytes(), path.with_name("x.bin").read_bytes()


def read_imported(path: Path) -> str:
    """All of an import, with the comparison."""
    found = qat.import_model(path)
    check_graph(found.graph)
    found.graph.check_params(found.params)
    return str(found.difference)


def read_flags(path: Path) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--name", default="x")
    parser.parse_args(["--flagfile", str(path)])


def read_one_picture(path: Path) -> None:
    pixels, changes = read_picture(path, (3, 6, 6))
    assert pixels.shape == (3, 6, 6)
    assert all("\n" not in change for change in changes)


def read_one_mask(path: Path) -> None:
    assert read_mask(path, (9, 7), (6, 6), Preparation("stretch")).shape == (6, 6)


def read_set(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # of labels that are strings
        dataset = load(str(path), for_folds=True)
    whole = dataset.train.in_memory()
    assert len(whole.images) == len(whole)
    assert whole.images.dtype.kind in "uif"
    assert whole.images.dtype.kind != "f" or np.isfinite(whole.images).all()


#: What ``qat bench --json`` prints, shortened.
BENCH = json.dumps(
    {
        "here": [{"file": "a.onnx", "seconds": 1e-5, "quartiles": [9e-6, 1.1e-5], "bytes": 1000}],
        "cores": [{"file": "a.c", "core": "m4", "instructions": 800, "flash": 67000, "ram": 6000}],
    }
).encode()


def read_times(path: Path) -> None:
    assert isinstance(read_bench(path)["here"], list)


def read_row(path: Path) -> None:
    row = Row.load(path)
    assert len(accuracy_rows([row])[0]) == len(ACCURACY)
    assert all(len(line) == len(COST) for line in cost_rows([row]))
    assert row.differ >= 0 or min(x.differ for each in row.widths.values() for x in each.files.values()) < 0


def read_labels(path: Path) -> None:
    assert len(photographs(Places([path.parent]), None).train) == 128


def read_samples(path: Path) -> None:
    dataset = words(Places([path.parent]), None)
    assert len(dataset.test) > len(dataset.train)


def read_of_others(path: Path) -> str:
    found = qat.target("TFLITE").predict_of_others(path, PIXELS[:2].astype(np.float32))
    return str(found.shape)


def read_array(path: Path) -> None:
    dataset = dataset_of(str(path), "x", {"x": read_npy(path)}, True)
    assert len(dataset.train.in_memory().images) == len(dataset.train)


def read_index(path: Path) -> None:
    found = find_pictures(path, ["a", "b"])
    for file, label in found[:3]:
        assert 0 <= label < 1 << 31
        read_picture(file, (3, 6, 6))


def read_study(path: Path) -> None:
    with Study(path.parent) as study:
        study.add([Task("a", {"x": 1, "recipe": {"lr": 0.5}}), Task("c")])
        study.reopen({row.task.name: False for row in study.rows()})
        assert study.ready() or study.rows()


def read_params(backend: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        graph = Tiny().graph()
        params, _ = params_from(graph, qat.backend(backend).load_params(path), {}, str(path))
        assert all(np.isfinite(array).all() for array in params.values())

    return read


def params_file(backend: str, name: str) -> bytes:
    return written(lambda path: qat.backend(backend).save_params(Tiny().graph().initial_params(), path), name)


def seal_tflite(path: Path) -> None:
    from qat.targets.tflite.file import pack_model, schema

    try:
        path.write_bytes(pack_model(schema.ModelT.InitFromPackedBuf(path.read_bytes())))
    except Exception:  # a flatbuffer that cannot be packed again ends with a digest all the same
        content = path.read_bytes()[:-32]
        path.write_bytes(content + hashlib.sha256(content).digest())


def seal_mindir(path: Path) -> None:
    from qat.targets.mindir.file import DIGEST, digest_of, proto

    model = proto.ModelProto()
    with contextlib.suppress(Exception):
        model.ParseFromString(path.read_bytes())
        model.user_info[DIGEST] = digest_of(model)
        path.write_bytes(model.SerializeToString())


def seal_c(path: Path) -> None:
    content, header = path.read_bytes(), path.with_suffix(".h").read_bytes()
    content = b"".join(line for line in content.splitlines(True) if not line.startswith(b"/* qat-sha256"))
    digest = hashlib.sha256(content + header).hexdigest()
    path.write_bytes(content + f'/* qat-sha256: "{digest}" */\n'.encode())


KINDS = {
    "idx": Kind("idx", idx, read_idx_file, 20, 700, "qat/data/readers/idx.py"),
    "idx.gz": Kind("idx.gz", lambda: gzip.compress(idx(), mtime=0), read_idx_file, 10, 300, "qat/data/readers/idx.py"),
    "cifar": Kind("bin", cifar, read_cifar, 12, 400, "qat/data/readers/cifar.py"),
    "mat": Kind("mat", mat, read_mat, 15, 400, "qat/data/readers/svhn.py"),
    "npy": Kind(
        "source_image.npy",
        lambda: written(lambda path: np.save(path, np.arange(3)), "x.npy"),
        lambda path: read_source_images(path.with_name("file.mat"), 3) is None and "",
        10,
        200,
        "qat/data/readers/svhn.py",
    ),
    "arrays": Kind(
        "npz",
        lambda: saved(x=np.zeros((6, 3, 5), np.float32), y=np.arange(6) % 2, scale=np.float32(0.5)),
        read_set,
        20,
        500,
        "qat/data/readers/arrays.py",
        in_zip,
    ),
    "array": Kind(
        "npy",
        lambda: written(lambda path: np.save(path, np.zeros((6, 4), np.int16)), "x.npy"),
        read_array,
        15,
        400,
        "qat/data/readers/arrays.py",
    ),
    "numbers": Kind(
        "csv",
        lambda: b"a,b,label\n1,2.5,0\n3,-4e2,1\n0.5,7,1\n1,1,0\n",
        read_set,
        15,
        400,
        "qat/data/readers/table.py",
        in_text,
    ),
    "files": Kind(
        "csv",
        lambda: b'file,label\na.png,cat\n"a.png",dog\na.png,dog\na.png,cat\n',
        read_set,
        15,
        400,
        "qat/data/readers/table.py",
        in_text,
        beside=lambda: {"a.png": picture("PNG")},
    ),
    "times of bench": Kind("json", lambda: BENCH, read_times, 20, 400, "qat/reporting/gather.py", in_json),
    "row of the zoo": Kind(
        "json",
        lambda: (FOLDER / "mnist_cnn.json").read_bytes(),
        read_row,
        20,
        400,
        "qat/zoo/row.py",
        in_json,
    ),
    "labels of photographs": Kind(
        "csv",
        lambda: b"file,class_index,class_name\n" + b"".join(b"a.png,%d,cat\n" % number for number in range(130)),
        read_labels,
        10,
        300,
        "qat/zoo/samples.py",
        in_text,
        beside=lambda: {"a.png": picture("PNG")},
    ),
    "samples of the zoo": Kind(
        "npz",
        lambda: saved(x=np.zeros((6, 49, 10, 1), np.int8), y=np.arange(6) % 2),
        read_samples,
        10,
        300,
        "qat/zoo/samples.py",
        in_zip,
    ),
    "tflite of others": Kind(
        "tflite",
        lambda: exported("TFLITE", "x.tflite"),
        read_of_others,
        10,
        300,
        "qat/targets/tflite/file.py",
        in_tflite,
    ),
    "mask": Kind("png", lambda: picture("PNG", "L"), read_one_mask, 10, 200, "qat/data/pictures.py"),
    "picture.png": Kind("png", lambda: picture("PNG"), read_one_picture, 15, 400, "qat/data/pictures.py"),
    "picture.jpg": Kind("jpg", lambda: picture("JPEG"), read_one_picture, 5, 200, "qat/data/pictures.py"),
    "picture.gif": Kind("gif", lambda: picture("GIF", "L"), read_one_picture, 5, 200, "qat/data/pictures.py"),
    "picture.bmp": Kind("bmp", lambda: picture("BMP"), read_one_picture, 5, 100, "qat/data/pictures.py"),
    "index": Kind(
        "txt",
        lambda: b"a.png a\na.png 1\n\na.png b\n",
        read_index,
        10,
        300,
        "qat/data/pictures.py",
        in_text,
        beside=lambda: {"a.png": picture("PNG")},
    ),
    "class_names": Kind(
        "txt",
        lambda: b"cat\ndog\nfrog\n",
        lambda path: str(len(read_class_names(path))),
        5,
        100,
        "qat/data/pictures.py",
        in_text,
    ),
    "class weights": Kind(
        "txt",
        lambda: b"1\n0.5\n2\n",
        lambda path: str(len(read_weights([str(path)]))),
        5,
        100,
        "qat/scripts/common/tasks.py",
        in_text,
    ),
    "safetensors": Kind(
        "ckpt",
        lambda: written(checkpoint().save, "x.ckpt"),
        read_checkpoint,
        50,
        1400,
        "qat/training/checkpoint.py",
        in_safetensors,
    ),
    "json": Kind(
        "json", lambda: checkpoint().graph.to_json().encode(), read_graph, 60, 1200, "qat/graph/graph.py", in_json
    ),
    "resumed": Kind(
        "ckpt", lambda: trained("torch"), read_resumed, 15, 300, "qat/training/loop.py", in_safetensors, 0.9
    ),
    "state of keras": Kind(
        "ckpt",
        lambda: trained("keras"),
        read_state("keras"),
        0,
        150,
        "qat/backends/keras/network.py",
        in_safetensors,
        0.9,
    ),
    "state of mindspore": Kind(
        "ckpt",
        lambda: trained("mindspore"),
        read_state("mindspore"),
        0,
        150,
        "qat/backends/mindspore/network.py",
        in_safetensors,
        0.9,
    ),
    "yaml": Kind("yaml", lambda: QUANT_CONFIG, read_config, 50, 1000, "qat/passes/quant_config.py", in_yaml),
    "flags": Kind("cfg", lambda: b"--folds=2\n# x\n\n--name=y\n", read_flags, 10, 300, "qat/cli.py", in_text),
    "pt": Kind(
        "pt",
        lambda: params_file("torch", "x.pt"),
        read_params("torch"),
        0,
        300,
        "qat/backends/torch/files.py",
        in_zip,
    ),
    "state_dict in safetensors": Kind(
        "safetensors",
        lambda: safetensors.numpy.save(Tiny().graph().initial_params()),
        read_params("torch"),
        20,
        400,
        "qat/backends/torch/files.py",
        in_safetensors,
        0.9,
    ),
    "mindspore ckpt": Kind(
        "ckpt",
        lambda: params_file("mindspore", "x.ckpt"),
        read_params("mindspore"),
        0,
        150,
        "qat/backends/mindspore/files.py",
        in_wire,
    ),
    "onnx": Kind(
        "onnx", lambda: exported("ONNX", "x.onnx"), read_exported("ONNX"), 30, 700, "qat/targets/onnx/file.py", in_onnx
    ),
    "onnx of codes": Kind(
        "onnx",
        lambda: exported("ONNX", "x.onnx", input_type="int8", output_type="int8"),
        read_exported("ONNX"),
        0,
        300,
        "qat/targets/onnx/ends.py",
        in_onnx,
    ),
    "float onnx": Kind(
        "onnx",
        lambda: written(
            lambda path: qat.target("ONNX").export_float(Small().graph(), Small().graph().initial_params(), path),
            "x.onnx",
        ),
        read_float_onnx,
        10,
        200,
        "qat/targets/onnx/file.py",
        in_onnx,
    ),
    "imported onnx": Kind(
        "onnx",
        lambda: onnx_with_data()[0],
        read_imported,
        25,
        400,
        "qat/imports/sources/onnx_data.py",
        in_onnx,
        0.8,
        beside=lambda: {"x.bin": onnx_with_data()[1]},
    ),
    "imported tflite": Kind(
        "tflite",
        lambda: float_file("TFLITE", "x.tflite"),
        read_imported,
        30,
        400,
        "qat/imports/sources/tflite_file.py",
        in_tflite,
        0.8,
    ),
    "imported pt2": Kind("pt2", pt2, read_imported, 5, 150, "qat/imports/sources/pt2_file.py", in_zip),
    "imported keras": Kind(
        "keras", lambda: keras_model("x.keras"), read_imported, 0, 150, "qat/imports/sources/keras_file.py", in_zip
    ),
    "imported h5": Kind("h5", lambda: keras_model("x.h5"), read_imported, 0, 150, "qat/imports/sources/keras_file.py"),
    "ascend.onnx": Kind(
        "ascend.onnx",
        lambda: exported("ASCEND_ONNX", "x.ascend.onnx", "ascend"),
        read_exported("ASCEND_ONNX", "ascend"),
        10,
        200,
        "qat/targets/ascend/onnx/file.py",
        in_onnx,
    ),
    "tflite": Kind(
        "tflite",
        lambda: exported("TFLITE", "x.tflite"),
        read_exported("TFLITE"),
        0,
        200,
        "qat/targets/tflite/file.py",
        in_tflite,
    ),
    "sealed tflite": Kind(
        "tflite",
        lambda: exported("TFLITE", "x.tflite", input_type="uint8", output_type="float32"),
        read_exported("TFLITE"),
        40,
        700,
        "qat/targets/tflite/file.py",
        in_tflite,
        0.8,
        seal=seal_tflite,
    ),
    "sealed mindir": Kind(
        "mindir",
        lambda: exported("MINDIR", "x.mindir"),
        read_exported("MINDIR"),
        0,
        60,
        "qat/targets/mindir/file.py",
        in_wire,
        0.8,
        seal=seal_mindir,
    ),
    "air": Kind(
        "air",
        lambda: exported("AIR", "x.air", "ascend"),
        read_exported("AIR", "ascend"),
        15,
        400,
        "qat/targets/ascend/air/file.py",
        in_wire,
    ),
    "sealed c": Kind(
        "c",
        lambda: c_files()[0],
        read_c,
        0,
        30,
        "qat/targets/c/file.py",
        in_c,
        1.0,
        beside=lambda: {"file.h": c_files()[1]},
        seal=seal_c,
    ),
    "result": Kind(
        "json",
        result,
        lambda path: str(len(read_result(path)[1])),
        15,
        400,
        "qat/study/training.py",
        in_json,
        beside=lambda: {"file.npz": outputs()},
    ),
    "result's outputs": Kind(
        "npz",
        outputs,
        lambda path: str(len(read_result(path.with_suffix(".json"))[1])),
        15,
        300,
        "qat/study/training.py",
        in_zip,
        beside=lambda: {"file.json": result()},
    ),
    "study": Kind("db", study, read_study, 15, 300, "qat/study/store.py", in_sqlite),
    "search": Kind(
        "db", search, lambda path: str(len(searched(3, path.parent))), 5, 80, "qat/study/search.py", in_sqlite
    ),
}
#: Where the reader knows its name: of databases, which it also writes to, and of files that are looked for in a folder.
NAMES = {
    "study": "study.db",
    "search": "search.db",
    "labels of photographs": "labels.csv",
    "samples of the zoo": "kws01.npz",
}


def name_of(kind: str) -> str:
    """Of the file that is read."""
    return NAMES.get(kind, f"file.{KINDS[kind].suffix}" if kind in KINDS else "file")


@cache
def good(kind: str) -> bytes:
    """The content of a file that is read without complaint."""
    return KINDS[kind].good()


def mutant(kind: str, seed: int) -> bytes:
    """The content of a damaged file."""
    rng = np.random.default_rng((sum(kind.encode()), seed))
    return damaged(rng, good(kind), KINDS[kind].fields, KINDS[kind].share)


# -- the reading process ----------------------------------------------------------------------------------------------

WATCHED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pickle.find_class",
    "socket.connect",
)
_seen: list[str] = []  #: what happened of it while a file was read


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in WATCHED:
        own = event == "subprocess.Popen" and arguments[0] == sys.executable and "qat.child" in " ".join(arguments[1])
        if not own:
            _seen.append(f"{event} {str(arguments)[:300]}")


def misbehave(kind: str, path: Path) -> None:
    """What the tests of this file's own machinery need."""
    if kind == "abort":
        os.abort()
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "raise":
        raise IndexError("list index out of range")
    elif kind == "two lines":
        error = qat.QatError("one")
        error.args = ("one\ntwo",)  # as no QatError makes itself
        raise error
    elif kind == "write beside":
        path.with_name("other").touch()
    elif kind == "write into":
        path.write_bytes(b"changed")
    elif kind == "grow":
        (b"x" * (GROWTH + (1 << 28))).count(b"y")
    elif kind == "run":
        os.system("true")
    else:
        assert kind == "behave"


def resident(key: str, process: int | str = "self") -> int:
    """Bytes of a process, "VmRSS" now or "VmHWM" at most since the last ``forget``."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    return 0


def forget() -> None:
    """Let the most be counted anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def serve() -> None:
    """Answer each case on standard input by one JSON line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.addaudithook(_watch)
    for line in sys.stdin:
        kind, name = json.loads(line)
        path = Path(name)
        entry = KINDS.get(kind)
        if entry is not None and entry.seal is not None:
            entry.seal(path)
        sealed = path.read_bytes()
        forget()
        before = resident("VmRSS")
        _seen.clear()
        try:
            if entry is None:
                misbehave(kind, path)
            answer = ["read", (entry.read(path) if entry is not None else None) or "good"]
        except qat.QatError as error:
            text = str(error)
            answer = ["refused" if len(text.splitlines()) == 1 else "not one line", text]
        except BaseException:
            answer = ["raised", traceback.format_exc()]
        grown = max(resident("VmHWM") - before, max(map(_of_child, _children()), default=0))
        if answer[0] in ("read", "refused") and grown > GROWTH:
            answer = ["grew", f"by {grown:,} bytes; {answer}"]
        if _seen and kind != "sealed c":  # which is compiled and run
            answer = ["ran", f"{_seen}; {answer}"]
        if kind not in NAMES and path.is_file() and path.read_bytes() != sealed:
            answer = ["wrote", f"the file itself is changed; {answer}"]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(child) for child in found.read_text(encoding="ascii").split()] if found.exists() else []


def _of_child(process: int) -> int:
    return resident("VmHWM", process)


if __name__ == "__main__":
    serve()
