"""The accuracy that single layers cost at few bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transcription import expected_weight

import qat
from qat.analysis.compression import rounded
from qat.analysis.figures import heat_map
from qat.analysis.sensitivity import quantizer_of, sensitivity
from qat.cells import Cell
from qat.cli import main
from qat.networks import LeNet5, ResNet8
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.training.checkpoint import Checkpoint

PARAMS = LeNet5().graph().initial_params(0)


def test_each_layer_alone_is_quantized() -> None:
    seen = []

    def accuracy(graph: qat.Graph, params: dict[str, np.ndarray]) -> float:
        changed = [name for name in params if not np.array_equal(params[name], PARAMS[name])]
        seen.append((changed, {name: len(np.unique(params[name])) for name in changed}))
        return 0.9 - 0.1 * len(changed)

    found = sensitivity(LeNet5(), PARAMS, accuracy, bits=(4, 1), per_channel=False)
    layers = ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert [changed for changed, _ in seen] == [[f"{layer}.weight"] for layer in layers for _ in (4, 1)] + [[]]
    assert all(next(iter(values.values())) <= 16 for _, values in seen[:-1])
    assert [next(iter(values.values())) for _, values in seen[1:-1:2]] == [2] * 5
    assert list(found.accuracy) == layers
    assert found.baseline == 0.9
    assert found.lost("fc2", 4) == pytest.approx(0.1)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_numbers_are_those_of_the_codes(bits: int, per_channel: bool) -> None:
    weight = PARAMS["conv2.weight"]
    expected = expected_weight(weight, bits, True, False, per_channel, np.zeros(len(weight), np.float32))
    scale = np.broadcast_to(expected.scale, (len(weight),)).reshape(-1, 1, 1, 1)
    found = rounded(quantizer_of(bits, per_channel), weight)
    np.testing.assert_array_equal(found, (expected.codes * scale).astype(np.float32))


def test_one_bit_is_the_sign_times_the_mean() -> None:
    weight = PARAMS["fc3.weight"]
    expected = np.where(weight >= 0, 1, -1) * np.abs(weight).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(rounded(quantizer_of(1, True), weight), expected, rtol=1e-6)


def test_batch_normalisation_is_folded_first() -> None:
    graph = ResNet8().graph()
    folded, params = fold_batch_norm(graph, graph.initial_params(0))
    seen: list[qat.Graph] = []
    sensitivity(graph, graph.initial_params(0), lambda g, p: float(len(seen.append(g) or seen)), bits=(8,))
    assert all(each == folded for each in seen)
    assert isinstance(folded.nodes[1].cell, Cell)
    assert "conv.gamma" not in params


def test_wrong_questions_are_refused() -> None:
    quantized = qat.convert_quant_network(LeNet5())
    with pytest.raises(qat.QatError, match=r"is quantized already"):
        sensitivity(quantized, quantized.observed_params(), lambda *_: 1.0)
    for bits in ((0,), (17,), (4, 4), ()):
        with pytest.raises(qat.QatError, match=r"give different whole numbers from 1 to 16"):
            sensitivity(LeNet5(), PARAMS, lambda *_: 1.0, bits=bits)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "net.ckpt")
    Checkpoint(LeNet5().graph(), PARAMS).save(file)
    options = ["--ckpt_path", file, "--data_path", "digits", "--images", "50"]
    csv = tmp_path / "found.csv"
    assert main(["sensitivity", *options, "--bits", "4", "1", "--csv_path", str(csv)]) == 0
    assert "4 bits ┃ 1 bit " in capsys.readouterr().out
    lines = csv.read_text().splitlines()
    assert lines[0] == "layer,bits,accuracy,lost"
    assert len(lines) == 2 + 5 * 2
    assert main(["sensitivity", *options[:-1], "361"]) == 2
    assert "there are 360 test images" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert main(["sensitivity", *options, "--picture_path", str(tmp_path / "a.xyz")]) == 2
    refused = capsys.readouterr()
    assert "a.xyz: a picture is a file that ends in .png or .svg" in refused.err
    assert "4 bits" not in refused.out, "it is refused before anything is computed"


def test_the_picture(tmp_path: Path) -> None:
    labels = {"title": "t", "x_label": "x", "y_label": "y", "unit": "u"}
    picture = heat_map([[0.0, 50.0], [-0.1, 3.0]], ["one", "two"], ["8", "1"], **labels)
    for name in ("a.png", "a.svg"):
        picture.write(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(qat.QatError, match=r"ends in \.png or \.svg"):
        picture.write(tmp_path / "a.nothing")
