"""Settings for single layers, from Python and from a YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qat
from qat.cli import main
from qat.networks import LeNet5
from qat.passes.quant_config import read_quant_config

GOOD = """
num_bits: [8, 8]
quant_delay: 5
layers:
  "fc*": {num_bits: 4}
  fc3: {num_bits: [6, 8], per_channel: false}
"""


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "quant.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "quant.yaml"


def test_brackets_in_a_pattern_are_those_of_names() -> None:
    class Blocks(qat.Network):
        inputs = qat.Input((4,))

        def __init__(self) -> None:
            self.blocks = {"a[0].fc": qat.DenseBnAct(4, 4), "a0.fc": qat.DenseBnAct(4, 4)}

        def construct(self, x: object) -> object:
            return self.blocks["a0.fc"](self.blocks["a[0].fc"](x))

    graph = qat.convert_quant_network(Blocks(), layers={"blocks.a[0].*": {"num_bits": 4}})
    bits = {x.name: x.cell.weight_quantizer.num_bits for x in graph.nodes if isinstance(x.cell, qat.DenseBnAct)}
    assert bits == {"blocks.a[0].fc": 4, "blocks.a0.fc": 8}


def test_the_last_pattern_that_fits_counts(tmp_path: Path) -> None:
    graph = qat.convert_quant_network(LeNet5(), **read_quant_config(write(tmp_path, GOOD)))
    cells = {node.name: node.cell for node in graph.nodes}
    weights = {name: cells[name].weight_quantizer for name in ("conv1", "fc1", "fc3")}
    assert [quantizer.num_bits for quantizer in weights.values()] == [8, 4, 6]
    assert [quantizer.per_channel for quantizer in weights.values()] == [True, True, False]
    activations = [cells[f"{name}.fake_quant"].quantizer for name in weights]
    assert [quantizer.num_bits for quantizer in activations] == [8, 4, 8]
    assert {quantizer.quant_delay for quantizer in (*weights.values(), *activations)} == {5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: {conv9: {num_bits: 4}}", "pattern 'conv9' fits no cell of LeNet5"),
        ("layers: {flatten: {num_bits: 4}}", "pattern 'flatten' fits no cell"),
        ("layers: {conv1: {bits: 4}}", "sets 'bits', which is unknown"),
        ("layers: {conv1: {num_bits: 40}}", "num_bits is 40"),
        ("layers: {conv1: {per_channel: true}}", "conv1: per_channel is True for activations"),
        ("layers: [1]", "must map patterns"),
        ("num_bit: 8", "'num_bit' is not a setting"),
        ("[8, 8]", "holds list where names"),
        ("", "holds NoneType"),
        ("num_bits: [8", "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['false']", "cannot be read as YAML"),
    ],
)
def test_mistakes_are_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=message.replace("[", r"\\[")) as caught:
        qat.convert_quant_network(LeNet5(), **read_quant_config(write(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match="cannot be read"):
        read_quant_config(tmp_path / "none.yaml")


@given(st.text(alphabet="num_bits: [8,]{}\n-&*!layersconv1\"'\t#|>%@`", max_size=60))
def test_any_text_gives_settings_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("yaml"), text)
    try:
        found = read_quant_config(path)
    except qat.QatError as error:
        found = {"message": str(error)}
    assert all("\n" not in value for value in found.values() if isinstance(value, str))


def test_the_command_takes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data_path", "digits", "--epochs", "1"]
    assert main(["train", *common, "--save_path", str(tmp_path / "a.ckpt")]) == 0
    arguments = ["train-quant", *common, "--ckpt_path", str(tmp_path / "a.ckpt")]
    assert main([*arguments, "--quant_config", str(write(tmp_path, GOOD))]) == 0
    graph = qat.Checkpoint.load(tmp_path / "a_quant.ckpt").graph
    assert "4 bits" in str(graph)
    capsys.readouterr()
    assert main([*arguments, "--quant_config", str(write(tmp_path, "layers: {conv9: {num_bits: 4}}"))]) == 2
    assert "pattern 'conv9' fits no cell" in capsys.readouterr().err


def test_quantizers_are_given_by_their_class(tmp_path: Path) -> None:
    path = tmp_path / "quant.yaml"
    path.write_text(
        "weight_quantizer: {type: LSQWeightQuantizer, num_bits: 2}\n"
        "layers:\n"
        "  conv1: {num_bits: 8}\n"
        "  fc3: {activation_quantizer: {type: PACTActivationQuantizer, num_bits: 4}}\n"
    )
    graph = qat.convert_quant_network(LeNet5(), **read_quant_config(path))
    cells = {node.name: node.cell for node in graph.nodes}
    assert cells["conv1"].weight_quantizer == qat.LSQWeightQuantizer(8)
    assert cells["fc2"].weight_quantizer == qat.LSQWeightQuantizer(2)
    assert cells["fc3.fake_quant"].quantizer == qat.PACTActivationQuantizer(4)
