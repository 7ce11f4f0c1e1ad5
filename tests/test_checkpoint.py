"""The checkpoint file: what goes in comes out, and damage is told in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import qat
from qat.networks import LeNet5
from qat.training.checkpoint import Checkpoint
from qat.training.monitor import Epoch, Progress


class Tiny(qat.Network):
    """Small enough that a damaged file is read in no time."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4))
        self.conv = qat.Conv2dBnAct(1, 2, 3, activation="relu", has_bias=True)

    def construct(self, x: object) -> object:
        return self.conv(x)


def tiny() -> Checkpoint:
    graph = qat.convert_quant_network(Tiny(), quant_delay=3)
    state = {"conv.weight.momentum_buffer": np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)}
    progress = Progress((Epoch(4, 0.5, 0.1, 0.7, 0.8),), 0.25)
    history = ({"backend": "torch", "lr": 0.1},)
    return Checkpoint(graph, graph.initial_params(1), 7, 2, state, history, progress, graph.initial_params(2))


def test_everything_comes_back(tmp_path: Path) -> None:
    checkpoint = tiny()
    checkpoint.save(tmp_path / "a.ckpt")
    again = Checkpoint.load(tmp_path / "a.ckpt")
    assert again.graph == checkpoint.graph
    assert (again.step, again.epoch, again.history) == (7, 2, checkpoint.history)
    assert again.progress == checkpoint.progress
    for part in ("params", "optimizer", "best"):
        one, other = getattr(again, part), getattr(checkpoint, part)
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
            assert array.shape == other[name].shape


def test_parameters_of_another_network_are_refused(tmp_path: Path) -> None:
    graph = LeNet5().graph()
    Checkpoint(graph, tiny().params).save(tmp_path / "mixed.ckpt")
    with pytest.raises(qat.QatError, match=r"mixed.ckpt: they lack 'conv1.weight'"):
        Checkpoint.load(tmp_path / "mixed.ckpt")


def test_another_program_s_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.ckpt").write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
    with pytest.raises(qat.QatError, match=r"other.ckpt: has format None"):
        Checkpoint.load(tmp_path / "other.ckpt")


def test_wrong_dtype_is_refused(tmp_path: Path) -> None:
    checkpoint = tiny()
    params = {name: array.astype(np.float64) for name, array in checkpoint.params.items()}
    Checkpoint(checkpoint.graph, params).save(tmp_path / "wide.ckpt")
    with pytest.raises(qat.QatError, match="is float64, not float32"):
        Checkpoint.load(tmp_path / "wide.ckpt")


@given(st.data())
def test_damaged_files_give_one_line_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed, cut off or added, and the JSON header rewritten: a QatError or a checkpoint, no other exception."""
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    tiny().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(("byte", "cut", "header")))
        if kind == "byte":
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            content = content[: data.draw(st.integers(1, len(content)))]
        elif len(content) > 8 + (length := struct.unpack("<Q", content[:8].ljust(8, b"\0"))[0]):
            text = content[8 : 8 + length].decode(errors="replace")
            old = data.draw(
                st.sampled_from(("Conv2dBnAct", "float", "inputs", "[", '"', "1", "qat", "F32", "null", "3"))
            )
            new = data.draw(st.sampled_from(("", "null", "-1", "[]", "{}", '\\"', "Dense", "9" * 30)))
            header = text.replace(old, new, 1).encode()
            content = bytearray(struct.pack("<Q", len(header)) + header + content[8 + length :])
    path.write_bytes(content)
    message = f"{path} is still sound"
    try:
        Checkpoint.load(path)
    except qat.QatError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message


def test_history_is_plain_json(tmp_path: Path) -> None:
    tiny().save(tmp_path / "a.ckpt")
    with safetensors.safe_open(tmp_path / "a.ckpt", framework="numpy") as file:
        assert json.loads(file.metadata()["history"]) == [{"backend": "torch", "lr": 0.1}]
