"""Both Ascend formats of networks that take any dtype: the codes of NumPy, emulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from entering import DTYPES, hard_samples, integers, integers_of, node_of, normalized, ties_in

import qat
from qat.integer import IntegerGraph, trace_codes
from qat.integer.ends import ends_of
from qat.vocabulary.arrays import as_tuple

pytest.importorskip("onnx")
BOTH = pytest.mark.parametrize("file_format", ["ASCEND_ONNX", "AIR"])
ASCEND = {"profile": "ascend"}


def assert_equal_codes(file_format: str, graph: IntegerGraph, tmp_path: Path) -> None:
    """Every code that the file computes, and the real outputs."""
    target, path, samples = qat.target(file_format), tmp_path / "net", hard_samples(graph, 20_000)
    target.export(graph, path)
    assert target.input_specs(path) == [*graph.input_specs]
    tensors = [node.output for node in graph.nodes]
    expected = trace_codes(graph, samples, [x.name for x in tensors])
    found = target.trace(path, samples, tensors)
    assert {x.name for x in tensors} - found.keys() <= {"input"}
    assert (node_of(graph).requantize is None) == ("input" not in found)
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)
    for output, real in zip(graph.outputs, as_tuple(target.predict(path, samples)), strict=True):
        np.testing.assert_array_equal(real, output.grid.dequantize(expected[output.name]), err_msg=output.name)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_takes_what_the_network_takes(file_format: str, dtype: str, tmp_path: Path) -> None:
    graph = integers(dtype, **ASCEND)
    if dtype in ("float32", "uint16"):  # all scales are powers of two
        assert ties_in(graph, hard_samples(graph, 20_000)) >= 250
    assert_equal_codes(file_format, graph, tmp_path)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_codes_of_an_input_may_go_anywhere(file_format: str, dtype: str, tmp_path: Path) -> None:
    assert_equal_codes(file_format, integers(dtype, **ASCEND, joined="relu"), tmp_path)


@BOTH
@pytest.mark.filterwarnings("ignore:.*becomes a layer of its own")
@pytest.mark.parametrize("kind", normalized())
def test_a_mean_and_std_for_each_channel(file_format: str, kind: str, tmp_path: Path) -> None:
    assert_equal_codes(file_format, integers_of(normalized()[kind], (-2.0, 2.0), **ASCEND), tmp_path)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_codes_of_few_bits_are_clipped(file_format: str, dtype: str, tmp_path: Path) -> None:
    graph = integers(dtype, **ASCEND, layers={"input": {"num_bits": 5}})
    target, path, samples = qat.target(file_format), tmp_path / "net", hard_samples(graph, 5000)
    target.export(graph, path)
    expected = trace_codes(graph, samples, ["input"])["input"]
    assert len(np.unique(expected)) <= 32
    np.testing.assert_array_equal(target.trace(path, samples, [node_of(graph).output])["input"], expected)


@BOTH
def test_real_numbers_of_another_scale_are_refused_with_what_to_do(file_format: str, tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=r"input: .*convert the network with profile='ascend'"):
        qat.target(file_format).export(integers("float32"), tmp_path / "net")
    assert not [*tmp_path.iterdir()]


@BOTH
def test_there_is_no_choice_of_types(file_format: str) -> None:
    """The formats' own unit quantizes: files take what the network takes, and give real numbers."""
    assert not {"input_type", "output_type"} & {option.name for option in qat.target(file_format).OPTIONS}
    assert all(end.stored == end.dtype for end in ends_of(integers("float32", **ASCEND)).inputs)


def test_an_input_of_a_type_that_no_network_takes_is_refused(tmp_path: Path) -> None:
    from qat.targets.ascend.air.file import parse
    from qat.targets.ascend.air.target import export

    path = tmp_path / "net.air"
    export(integers("float32", **ASCEND), path)
    content = path.read_bytes()
    (at,) = [i for i in range(len(content)) if content.startswith(b"input\x12\x04Data", i)]
    entry = content.index(b"\x10\x01", at)  # field 2 of a descriptor, its type: float
    damaged = content[: entry + 1] + b"\x0a" + content[entry + 2 :]
    with pytest.raises(qat.QatError, match="input"):
        parse(damaged, path)
