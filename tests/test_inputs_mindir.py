"""MINDIR files of networks that take any dtype: the codes of NumPy, in MindSpore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entering import DTYPES, hard_samples, integers, integers_of, node_of, normalized, ties_in
from frameworks import but_long

import qat
from qat.integer import IntegerGraph, trace_codes
from qat.vocabulary.arrays import as_tuple

pytest.importorskip("mindspore")
MINDIR: Any = qat.target("MINDIR")


def assert_equal_codes(graph: IntegerGraph, samples: np.ndarray, path: Path) -> None:
    """Every code of every node, and the real outputs."""
    MINDIR.export(graph, path)
    assert MINDIR.input_specs(path) == [*graph.input_specs]
    tensors = [node.output for node in graph.nodes]
    expected = trace_codes(graph, samples, [x.name for x in tensors])
    found = MINDIR.trace(path, samples, tensors)
    assert found.keys() == expected.keys()
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)
    for output, real in zip(graph.outputs, as_tuple(MINDIR.predict(path, samples)), strict=True):
        np.testing.assert_array_equal(real, output.grid.dequantize(expected[output.name]), err_msg=output.name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_takes_what_the_network_takes(dtype: str, tmp_path: Path) -> None:
    graph = integers(dtype)
    samples = hard_samples(graph)
    assert_equal_codes(graph, samples, tmp_path / "net.mindir")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_codes_of_an_input_may_go_anywhere(dtype: str, tmp_path: Path) -> None:
    graph = integers(dtype, joined="hswish")
    assert_equal_codes(graph, hard_samples(graph, 2000), tmp_path / "net.mindir")


@pytest.mark.parametrize("limits", [(-4.0, 3.96875), (-(2.0**-20), 127 * 2.0**-27)])
def test_real_numbers_between_two_codes_go_to_the_even_one(limits: tuple[float, float], tmp_path: Path) -> None:
    graph = integers("float32", limits=limits)
    samples = hard_samples(graph, 1000)
    assert ties_in(graph, samples) >= 250
    for count in (1, 3, len(samples)):
        assert_equal_codes(graph, samples[:count], tmp_path / "net.mindir")


@pytest.mark.filterwarnings("ignore:.*becomes a layer of its own")
@pytest.mark.parametrize("kind", normalized())
def test_a_mean_and_std_for_each_channel(kind: str, tmp_path: Path) -> None:
    graph = integers_of(normalized()[kind], (0.0, 1.0))
    assert_equal_codes(graph, hard_samples(graph), tmp_path / "net.mindir")


@pytest.mark.parametrize("limits", [(-3e-37, 3e-37), (-1e33, 2e33)])
def test_products_that_overflow_or_are_denormal_have_the_codes_of_numpy(
    limits: tuple[float, float], tmp_path: Path
) -> None:
    graph = integers("float32", limits=limits)
    assert_equal_codes(graph, hard_samples(graph, 1000), tmp_path / "net.mindir")


def test_inputs_of_few_bits_are_clipped(tmp_path: Path) -> None:
    layers = {"input": {"activation_quantizer": qat.ActivationQuantizer(num_bits=3)}}
    graph = integers("float32", layers=layers)
    assert node_of(graph).output.grid.qmax == 7
    assert_equal_codes(graph, hard_samples(graph, 2000), tmp_path / "net.mindir")


def test_an_input_of_a_type_that_no_network_takes_is_refused(tmp_path: Path) -> None:
    from qat.targets.mindir.file import load, proto, write

    path = tmp_path / "net.mindir"
    MINDIR.export(integers("float32"), path)
    model = load(path)
    model.graph.input[0].tensor[0].data_type = proto.TensorProto.COMPLEX64
    write(model, path)  # with a digest of its own
    for read in (MINDIR.input_specs, lambda file: MINDIR.predict(file, np.zeros((1, 3, 9, 8), np.float32))):
        with pytest.raises(qat.QatError, match="takes what no export takes; export it again"):
            read(path)


@pytest.mark.parametrize("seed", but_long(range(20), lambda seed: seed >= 2))
def test_many_ranges(seed: int, tmp_path: Path) -> None:
    """Scales of any size: 0 codes differ."""
    rng = np.random.default_rng(seed)
    width = 10.0 ** rng.uniform(-30, 30)
    low = -width * rng.uniform()
    graph = integers("float32", limits=(low, low + width))
    assert_equal_codes(graph, hard_samples(graph), tmp_path / "net.mindir")
