"""A file of a stranger reads no other file, wherever in it a tensor says that its data are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from command import run
from graphs import chain
from onnx import TensorProto, helper, numpy_helper

import qat
from qat.registry import TARGETS
from qat.targets.tflite.file import load, pack_model

PIXELS = np.zeros((1, 1, 8, 8), np.uint8)
SECRET = "secret.bin"


def elsewhere(tensor: onnx.TensorProto) -> None:
    """Put a tensor's data into another file, of the working directory."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=SECRET)


def tensor() -> onnx.TensorProto:
    made = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    elsewhere(made)
    return made


def initializer(model: onnx.ModelProto) -> None:
    elsewhere(model.graph.initializer[-1])


def location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].external_data.add(key="location", value=SECRET)


def memory(model: onnx.ModelProto) -> None:
    """What ONNX Runtime takes for an address in its own memory."""
    initializer(model)
    model.graph.initializer[-1].external_data[0].value = "*/_ORT_MEM_ADDR_/*"


def sparse(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor(), indices, [8]))


def attribute(model: onnx.ModelProto) -> None:
    node = helper.make_node(
        "Constant", [], ["constant"], value=helper.make_tensor("c", TensorProto.FLOAT, [4], [0.0] * 4)
    )
    node.attribute[0].t.CopyFrom(tensor())
    model.graph.node.append(node)


def subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["weights"], ["y"])], "inner", [], [], [tensor()])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=helper.make_tensor("c", TensorProto.FLOAT, [4], [0.0] * 4))
    node.attribute[0].t.CopyFrom(tensor())
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], [helper.make_opsetid("", 17)]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / SECRET).write_bytes(bytes(1 << 16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file_format", ["ONNX", "ASCEND_ONNX"])
@pytest.mark.parametrize("change", [initializer, location_alone, memory, sparse, attribute, subgraph, function])
def test_data_in_another_file_are_refused(
    change: Callable[[onnx.ModelProto], None], file_format: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, path = qat.target(file_format), folder / f"net{TARGETS[file_format].suffix}"
    graph = qat.convert_quant_network(chain(qat.Flatten(), qat.DenseBnAct(64, 10)), profile="ascend")
    integers = qat.to_integer(graph, graph.observed_params())
    qat.Checkpoint(graph, graph.observed_params()).save(folder / "net.ckpt")
    target.export(integers, path)
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    tensors = [node.output for node in integers.nodes]
    for read, *arguments in (
        (target.predict, PIXELS),
        (target.input_specs,),
        (target.trace, PIXELS, tensors),
        (target.write_metadata, {"a": "b"}),
        *([(target.opened,)] if hasattr(target, "opened") else []),
    ):
        with pytest.raises(qat.QatError, match=r"the data of its tensor '.*' are in another file, .* export it again$"):
            read(path, *arguments)
    for command in (
        ["verify", "--model", path, "--ckpt_path", "net.ckpt", "--data_path", "digits"],
        ["run", "--model", path, "--image", "none.png"],
    ):
        status, _, error = run(capsys, *command)
        assert status == 2
        assert "are in another file" in error
        assert error.count("\n") == 1


def mindir(path: Path) -> tuple[ModuleType, Any]:
    """The target, and the model of a good file at ``path``."""
    from qat.targets.mindir.file import load

    target = qat.target("MINDIR")
    graph = qat.convert_quant_network(chain(qat.Flatten(), qat.DenseBnAct(64, 10)))
    target.export(qat.to_integer(graph, graph.observed_params()), path)
    return target, load(path)


def mindir_data(model: Any) -> None:
    model.graph.parameter[0].external_data.location = SECRET


def mindir_constant(model: Any) -> None:
    node = next(x for x in model.graph.node if x.op_type == "Constant" and x.attribute[0].tensors)
    node.attribute[0].tensors[0].external_data.location = SECRET


def mindir_library(model: Any) -> None:
    model.primitives[0].op_type = "Custom"


def mindir_operation(model: Any) -> None:
    model.graph.node[-1].op_type = "Custom"


def mindir_function(model: Any) -> None:
    model.functions.add(name="f")


@pytest.mark.parametrize(
    "change",
    [mindir_data, mindir_constant, mindir_library, mindir_operation, mindir_function],
    ids=lambda x: x.__name__,
)
def test_a_mindir_asks_for_no_other_file_or_library(change: Callable[[Any], None], folder: Path) -> None:
    from qat.targets.mindir.file import write

    path = folder / "net.mindir"
    target, model = mindir(path)
    change(model)
    write(model, path)  # with a digest of its own, which is no signature
    for read, *arguments in ((target.predict, PIXELS), (target.input_specs,), (target.write_metadata, {})):
        with pytest.raises(qat.QatError, match=r"in another file, and only|which no export writes; export it again$"):
            read(path, *arguments)


def test_a_tflite_has_no_data_in_another_file(folder: Path) -> None:
    path, target = folder / "net.tflite", qat.target("TFLITE")
    graph = qat.convert_quant_network(chain(qat.Flatten(), qat.DenseBnAct(64, 10)))
    target.export(qat.to_integer(graph, graph.observed_params()), path)
    model = load(path).model
    model.externalBufferGroups = [schema.ExternalBufferGroupT(name=SECRET)]
    model.externalBuffers = [schema.ExternalBufferT(id=1, group=0, length=4)]
    path.write_bytes(pack_model(model))
    with pytest.raises(qat.QatError, match=r"has data in another file"):
        target.predict(path, PIXELS)
