"""What a network costs, against figures counted by hand or published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qat
from qat.analysis.compression import weight_sizes
from qat.analysis.metrics import activation_bits, bops, information_bits, learned_bits, macs, measure, parameters
from qat.cli import main
from qat.networks import LeNet5, MnistCnn, ResNet8
from qat.study.layers import layers_of
from qat.training.checkpoint import Checkpoint


class Reference(qat.Network):
    """A LeNet-5 for 28 x 28 with 3 x 3 convolutions, published with 205,960 MACs and 60,074 parameters."""

    inputs = qat.Input((1, 28, 28))

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(1, 6, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(6, 16, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.pool, self.flatten = qat.MaxPool2d(2), qat.Flatten()
        self.fc1, self.fc2 = qat.DenseBnAct(400, 120, activation="relu"), qat.DenseBnAct(120, 84, activation="relu")
        self.fc3 = qat.DenseBnAct(84, 10)

    def construct(self, x):
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        return self.fc3(self.fc2(self.fc1(self.flatten(x))))


class SVHN(qat.Network):
    """arXiv 2101.05108: 13,552 weights and 840,832 MACs."""

    inputs = qat.Input((3, 32, 32))

    def __init__(self) -> None:
        self.norm = qat.BatchNorm(3)
        self.convs = [qat.Conv2dBnAct(i, o, 3, pad_mode="valid") for i, o in ((3, 16), (16, 16), (16, 24))]
        self.norms = [qat.BatchNorm(c, activation="relu") for c in (16, 16, 24)]
        self.pool, self.flatten = qat.MaxPool2d(2), qat.Flatten()
        self.fc1 = qat.DenseBnAct(96, 42, has_bias=False, has_bn=True, activation="relu")
        self.fc2 = qat.DenseBnAct(42, 64, has_bias=False, has_bn=True, activation="relu")
        self.fc3 = qat.DenseBnAct(64, 10)

    def construct(self, x):
        x = self.norm(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(self.pool(conv(x)))
        return self.fc3(self.fc2(self.fc1(self.flatten(x))))


def test_macs_and_parameters_of_a_published_lenet5() -> None:
    with_bias = {"conv1": 4056 * 10, "conv2": 1936 * 55, "fc1": 48000, "fc2": 10080, "fc3": 840}
    assert macs(Reference(), with_bias=True) == with_bias
    assert sum(with_bias.values()) == 205_960
    assert macs(Reference()) == with_bias | {"conv1": 4056 * 9, "conv2": 1936 * 54}
    assert sum(parameters(Reference()).values()) == 60_074


def test_macs_of_other_published_networks() -> None:
    assert sum(macs(SVHN()).values()) == 840_832
    weights = sum(x.size for name, x in SVHN().graph().initial_params().items() if name.endswith("weight"))
    assert weights == 13_552
    assert sum(macs(MnistCnn()).values()) == 203_552
    assert sum(parameters(MnistCnn()).values()) == 16_842
    assert sum(parameters(LeNet5()).values()) == 61_684


def test_groups_strides_and_batch_normalisation() -> None:
    class Small(qat.Network):
        inputs = qat.Input((4, 8, 8))

        def __init__(self) -> None:
            self.conv = qat.Conv2dBnAct(4, 6, (3, 1), stride=2, group=2, has_bn=True)
            self.pool = qat.AvgPool2d(2)

        def construct(self, x):
            return self.pool(self.conv(x))

    assert macs(Small()) == {"conv": 6 * 4 * 4 * 2 * 3}
    assert macs(Small(), with_bias=True) == {"conv": 6 * 4 * 4 * (2 * 3 + 1)}
    assert parameters(Small()) == {"conv": 6 * 2 * 3 + 12}


def test_a_quantized_network_costs_the_same_but_fewer_bits() -> None:
    graph = qat.convert_quant_network(
        LeNet5(),
        weight_quantizer=qat.LSQWeightQuantizer(4),
        activation_quantizer=qat.LSQActivationQuantizer(3),
        layers={"conv1": {"num_bits": (8, 5)}},
    )
    counts = macs(graph)
    assert counts == macs(LeNet5())
    assert parameters(graph) == parameters(LeNet5())  # learned scales are no parameters of the network
    assert bops(graph) == {
        "conv1": counts["conv1"] * 8 * 8,
        "conv2": counts["conv2"] * 4 * 5,  # its input went through a pooling
        **{name: counts[name] * 4 * 3 for name in ("fc1", "fc2", "fc3")},
    }
    assert bops(LeNet5()) == {name: count * 32 * 32 for name, count in counts.items()}
    rows = {x.name: x for x in measure(graph)}
    assert not any("fake_quant" in name for name in rows)
    assert (rows["conv1"].weight_bits, rows["conv1"].activation_bits) == (8, 5)
    assert (rows["max_pool2d"].weight_bits, rows["max_pool2d"].activation_bits) == (None, 5)
    assert rows["input"].activation_bits == 8
    assert rows["fc1"].shape == (120,)
    assert activation_bits(graph)["fc1"] == 32  # an accumulator, until its fake quantizer


def test_learned_bits_are_counted_instead_of_the_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every report on a checkpoint, and as the bits that its codes show."""
    graph = qat.convert_quant_network(
        LeNet5(), weight_quantizer=qat.LearnedWidthWeightQuantizer(8), layers={"fc3": {"weight_quantizer": None}}
    )
    learned = {"conv1": 8, "conv2": 5, "fc1": 3, "fc2": 2}
    params = graph.observed_params() | {
        f"{name}.weight_share": np.float32((bits + 0.2) / 8) for name, bits in learned.items()
    }
    assert learned_bits(graph, params) == {f"{name}.weight": bits for name, bits in learned.items()}
    assert learned_bits(graph, None) == {}
    counts, bits = macs(graph), learned | {"fc3": 8}
    expected = {name: count * bits[name] * 8 for name, count in counts.items()}
    assert bops(graph, params) == expected
    assert bops(graph) == {name: count * 8 * 8 for name, count in counts.items()}
    assert {x.name: x.weight_bits for x in measure(graph, params) if x.weight_bits} == bits
    sizes = {name: params[f"{name}.weight"].size for name in bits}
    integers = qat.to_integer(graph, params)
    assert information_bits(integers) == {name: sizes[name] * bits[name] for name in bits}  # there are no biases
    checkpoint = Checkpoint(graph, params)
    assert {layer.cost.name: layer.cost.size for layer in layers_of(checkpoint)} == information_bits(integers)
    assert {size.name: size.bits for size in weight_sizes(graph, params)} == bits
    checkpoint.save(tmp_path / "net.ckpt")
    assert main(["summary", "--ckpt_path", str(tmp_path / "net.ckpt")]) == 0
    found = capsys.readouterr().out
    assert f"{sum(expected.values()):,}" in found
    assert f"{sum(information_bits(integers).values()):,}" in found


def test_a_cell_that_is_used_twice_has_its_parameters_once() -> None:
    class Twice(qat.Network):
        inputs = qat.Input((4, 1, 1))

        def __init__(self) -> None:
            self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(4, 4)

        def construct(self, x):
            return self.fc(self.fc(self.flatten(x)))

    assert sum(parameters(Twice()).values()) == 20
    assert sum(macs(Twice()).values()) == 32


def test_information_and_bytes() -> None:
    graph = qat.convert_quant_network(ResNet8(), num_bits=(4, 8))
    integers = qat.to_integer(graph, graph.observed_params())
    bits = information_bits(integers)
    assert bits["fc"] == 64 * 10 * 4  # observed_params has no biases
    assert "pool" not in bits  # whose weights are all 1
    stored = qat.target("C").storage(integers)
    assert stored["fc"] < 64 * 10 * 0.5 + 10 * 8
    assert stored["pool"] < 200
    assert qat.target("C").storage(integers, packing="bytes")["fc"] > 64 * 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--network", "lenet"]) == 0
    found = capsys.readouterr().out
    assert "61,684" in found
    assert "416,520" in found
    quantized = qat.convert_quant_network(LeNet5(), num_bits=(4, 8))
    file = str(tmp_path / "net.ckpt")
    Checkpoint(quantized, quantized.observed_params()).save(file)
    assert main(["summary", "--ckpt_path", file]) == 0
    found = capsys.readouterr().out
    arena = qat.target("C").arena_bytes(qat.to_integer(quantized, quantized.observed_params()))
    assert f"arena of its C file: {arena:,} bytes" in found
    assert "peak memory of activations: 5,880 bytes" in found
    assert main(["summary", "--network", "lenet", "--num_bits", "4", "8"]) == 0
    assert capsys.readouterr().out == found
    assert main(["summary", "--ckpt_path", file, "--num_bits", "4"]) == 2
    assert capsys.readouterr().err.startswith("qat summary: error: --num_bits: ")
