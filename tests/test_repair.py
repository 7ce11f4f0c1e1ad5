"""Automatic repair: the fewest layers that need more bits, or a finer grid, until a network loses no more than a target."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from calibrations import PLAIN, PLAIN_FLAGS, calibrate
from command import run
from graphs import Traced
from task_networks import Two

import qat
from qat.analysis.candidates import Costs, Level, Raising, candidates
from qat.analysis.compression import weight_sizes
from qat.analysis.deciding import AgreementMeasure, outputs_of
from qat.analysis.fewest import Search
from qat.analysis.recalibration import Recalibration
from qat.errors import QatWarning
from qat.passes.quant_config import read_quant_config, written_quant_config
from qat.scripts.common.repair import print_repair
from qat.tasks import Classification, OutputTask, Regression, Several
from qat.vocabulary.numpy_ops import NUMPY_OPS

F = np.float32
NAMES = ("a", "b", "c", "d")
PIXELS = np.random.default_rng(0).integers(0, 256, (120, 16), np.uint8)
DEAD = 3  #: a number that is 0 for every image


def network(**inputs: Any) -> qat.Graph:
    """Dense cells one after another, of 16 pixels."""
    cells: dict[str, Any] = {"a": qat.DenseBnAct(16, 16, activation="relu")}
    cells |= {name: qat.DenseBnAct(16, 16, activation="relu") for name in "bc"}
    cells["d"] = qat.DenseBnAct(16, 4)

    def construct(self: Any, x: Any) -> Any:
        for name in NAMES:
            x = getattr(self, name)(x)
        return x

    return Traced(construct, qat.Input((16,), mean=0.5, std=0.3, **inputs), **cells).graph()


GRAPH = network()


def params(*, of_a_dead_number: tuple[str, ...] = (), of_an_unused_one: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Weights of which 6 bits are enough, but in the named layers: one weight of the dead number, which is 0, or all of a
    number that nothing reads, are so large that the others have few codes.
    """
    rng = np.random.default_rng(1)
    found = {}
    for name, outputs in zip(NAMES, (16, 16, 16, 4), strict=True):
        weight = rng.choice([-1.0, 1.0], (outputs, 16)) * rng.uniform(0.5, 1.0, (outputs, 16)) / 2.0
        bias = rng.uniform(0.0, 0.1, outputs)
        if name != "d":
            weight[DEAD], bias[DEAD] = -1e-3, -9.0
        if name != "a":
            weight[:, DEAD] = 0.0
        found |= {f"{name}.weight": weight.astype(F), f"{name}.bias": bias.astype(F)}
    graph = qat.Checkpoint(GRAPH, found)
    found["d.bias"] -= outputs_of(graph, PIXELS, NUMPY_OPS)[0].mean(axis=0)  # each class is the largest output of some
    for name in of_a_dead_number:
        found[f"{name}.weight"][:, DEAD] = 8.0
    for name in of_an_unused_one:
        found[f"{name}.weight"][DEAD] = -8.0
    return found


def checkpoint(task: qat.Task | None = None, **bad: Any) -> qat.Checkpoint:
    return qat.Checkpoint(GRAPH, params(**bad), task=task or Classification())


def repaired(source: qat.Checkpoint, **settings: Any) -> qat.Repair:
    given = {"ops": NUMPY_OPS, "num_bits": (6, 8), **PLAIN}
    if "target_drop" not in settings:
        given["target_sqnr"] = 16.0
    return qat.repair(source, settings.pop("images", PIXELS), **{**given, **settings})


def raised(found: qat.Repair) -> list[tuple[str, str, str, str]]:
    return [(x.layer, x.what, x.before, x.after) for x in found.raised]


# -- which layers ------------------------------------------------------------------------------------------------------


def test_nothing_is_raised_where_the_target_is_met() -> None:
    found = repaired(checkpoint())
    assert found.raised == ()
    assert found.evaluations == 1
    assert found.after == found.before >= 16.0
    assert found.weight_bytes == found.weight_bytes_before
    assert "layers" not in yaml.safe_load(found.quant_config())


@pytest.mark.parametrize("bad", ["b", "c", "d"])
def test_the_bad_layer_alone_is_raised(bad: str) -> None:
    found = repaired(checkpoint(of_a_dead_number=(bad,)))
    assert raised(found) == [(bad, "weights", "6 bits", "8 bits")]
    assert found.before < 16.0 <= found.after
    count = 64 if bad == "d" else 256
    assert found.weight_bytes - found.weight_bytes_before == count * 2 // 8
    assert found.raised[0].drop == found.drop == 16.0 - found.after <= 0.0
    assert found.raised[0].weight_bytes == found.weight_bytes
    assert found.checkpoint.history[0]["repair"]["raised"] == [[bad, "weights", "6 bits", "8 bits"]]


def test_two_bad_layers_are_raised_and_none_that_is_not_needed() -> None:
    source = checkpoint(of_a_dead_number=("b", "d"))
    found = repaired(source)
    assert {x.layer for x in found.raised} == {"b", "d"}
    for left_out in "bd":
        layers = {name: own for name, own in found.settings["layers"].items() if name != left_out}
        fewer = calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, **{**found.settings, "layers": layers})
        assert sqnr(source, fewer) < 16.0


def sqnr(source: qat.Checkpoint, quantized: qat.Checkpoint) -> float:
    (f,), (q,) = (outputs_of(x, PIXELS, NUMPY_OPS) for x in (source, quantized))
    return float(10.0 * np.log10((f.astype(float) ** 2).sum() / ((f.astype(float) - q) ** 2).sum()))


def test_a_finer_grid_is_enough_where_channels_are_far_apart() -> None:
    found = repaired(checkpoint(of_an_unused_one=("b",)), per_channel=(False, False))
    assert raised(found) == [("b", "weights", "6 bits, tensor", "6 bits, channel")]
    assert found.settings["layers"] == {"b": {"num_bits": (6, 8), "per_channel": (True, False)}}
    assert found.weight_bytes - found.weight_bytes_before == 4 * 15  # scales


def test_weights_of_two_bits_get_four_where_that_is_enough() -> None:
    found = repaired(checkpoint(), num_bits=(2, 8), target_sqnr=12.0)
    assert {x.after for x in found.raised} == {"4 bits"}


def test_activations_are_raised_where_they_are_to_blame() -> None:
    found = repaired(checkpoint(), num_bits=(8, 8), layers={"b": {"num_bits": (8, 2)}})
    assert raised(found)[0][:3] == ("b", "activations", "2 bits")
    assert {x.what for x in found.raised} == {"activations"}


def test_activations_of_one_grid_are_raised_together() -> None:
    def construct(self: Any, x: Any) -> Any:
        return self.d(self.add(self.a(x), self.b(x)))

    cells = {name: qat.DenseBnAct(16, 16) for name in "ab"}
    graph = Traced(
        construct, qat.Input((16,), mean=0.5, std=0.3), **cells, add=qat.Add(), d=qat.DenseBnAct(16, 4)
    ).graph()
    own = {name: x for name, x in params().items() if not name.startswith("c")}
    found = repaired(qat.Checkpoint(graph, own), num_bits=(8, 3), target_sqnr=22.0)
    assert {"a + b"} <= {x.layer for x in found.raised} <= {"a + b", "add", "d"}
    cell = {node.name: node.cell for node in found.checkpoint.graph.nodes}
    assert cell["a.fake_quant"].quantizer.num_bits == cell["b.fake_quant"].quantizer.num_bits > 3


def test_many_candidates_take_few_evaluations_and_the_result_is_the_fewest() -> None:
    """Of 60 candidates the target needs 9 and 41 by their blame; each measured set stands for an evaluation."""

    class Sum:
        def value(self, state: Any) -> float:
            return float({9, 41} <= set(state))

    search = Search(None, None, len, len, lambda line: None)  # type: ignore[arg-type]
    asked: set[frozenset[int]] = set()

    def met(state: dict[int, int], *, refined: bool = False) -> bool:
        asked.add(frozenset(state))
        return bool(Sum().value(state))

    search.met = met  # type: ignore[method-assign, assignment]

    class One(int):
        levels = (8,)

    items = [(One(number), 8) for number in range(60)]
    found = search.needed(search.first(items))  # type: ignore[arg-type]
    assert [int(x) for x, _ in found] == [9, 41]
    assert len(asked) < 35


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_converted_network() -> None:
    source = checkpoint(of_a_dead_number=("b", "d"))
    settings = {"num_bits": (2, 4), "per_channel": (False, False)}
    base = calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, **settings)
    raising = Raising(GRAPH, base.graph, settings)
    offered = candidates(raising, qat.diagnose(base.graph, base.params, PIXELS, ops=NUMPY_OPS))
    costs = Costs(raising, base.params, offered)
    assert {x.name for x in offered if x.what == "weights"} == set(NAMES)
    assert {x.levels for x in offered if x.what == "weights"} == {(Level(2), Level(4), Level(8))}
    states = [{}, {offered[0]: offered[0].levels[0]}, {x: x.levels[-1] for x in offered}]
    for state in states:
        graph = qat.convert_quant_network(GRAPH, **raising.settings(state))
        assert costs.weight_bytes(state) == sum(x.total_bits for x in weight_sizes(graph, {})) / 8
        assert costs.bops(state) == sum(qat.metrics.bops(graph).values())


def test_a_size_budget_is_kept_or_the_best_within_it_is_told() -> None:
    """Both b and d are bad, and b costs 64 bytes, d 16: d alone fits, but does not meet the target."""
    source = checkpoint(of_a_dead_number=("b", "d"))
    whole = repaired(source)
    assert repaired(source, size_budget=whole.weight_bytes).weight_bytes == whole.weight_bytes
    with pytest.raises(qat.TargetMissedError, match="target_sqnr 16 cannot be met, within size_budget ") as caught:
        repaired(source, size_budget=whole.weight_bytes - 1)
    best = caught.value.best
    assert "\n" not in str(caught.value)
    assert best.weight_bytes < whole.weight_bytes
    assert best.before < best.after < 16.0


def test_where_the_fewest_layers_cost_too_much_more_of_them_cost_less() -> None:
    """4 of 16 numbers are read from each cell; a large weight makes the whole cell bad, but 8 bits of d, which is small, and
    the output's error is the sum of what all layers add.
    """
    source = checkpoint(of_a_dead_number=("b",))
    by_layers = repaired(source, num_bits=(4, 8), target_sqnr=14.0)
    by_bytes = repaired(source, num_bits=(4, 8), target_sqnr=14.0, fewest="bytes")
    assert len(by_layers.raised) <= len(by_bytes.raised)
    assert by_bytes.weight_bytes <= by_layers.weight_bytes
    held = repaired(source, num_bits=(4, 8), target_sqnr=14.0, size_budget=by_bytes.weight_bytes)
    assert held.weight_bytes <= by_bytes.weight_bytes
    assert held.after >= 14.0


def test_a_budget_of_bit_operations_is_kept() -> None:
    source = checkpoint(of_a_dead_number=("b",))
    found = repaired(source)
    assert found.bops == sum(qat.metrics.bops(found.checkpoint.graph).values()) > found.bops_before
    with pytest.raises(qat.TargetMissedError, match="bops_budget"):
        repaired(source, bops_budget=found.bops - 1)


def test_a_network_over_its_budget_is_refused() -> None:
    with pytest.raises(qat.QatError, match="size_budget 100: with nothing raised Traced already has"):
        repaired(checkpoint(of_a_dead_number=("b",)), size_budget=100)


# -- what decides ------------------------------------------------------------------------------------------------------


def labelled(source: qat.Checkpoint) -> qat.Split:
    """The float network's own classes."""
    (outputs,) = outputs_of(source, PIXELS, NUMPY_OPS)
    return qat.Split(PIXELS, outputs.argmax(axis=1))


def test_the_metric_of_the_task_decides_where_there_are_labels() -> None:
    source = checkpoint(of_a_dead_number=("b",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)
        found = repaired(source, decide_on=labelled(source), target_drop=7.0)
    assert (found.measure, found.unit, found.baseline) == ("top-1", "points", 1.0)
    assert raised(found) == [("b", "weights", "6 bits", "8 bits")]
    assert found.drop == pytest.approx(100 * (1 - found.after))
    assert found.drop <= 7.0 < found.drop_before
    assert found.standard_error is not None
    # of a share p of n samples the standard error is sqrt(p (1 - p) / n)
    expected = 100 * np.sqrt(found.after * (1 - found.after) / len(PIXELS))
    assert found.standard_error == pytest.approx(expected, rel=0.2)


def test_too_few_samples_for_so_small_a_drop_are_told() -> None:
    """Of the images whose class changes half are right after it, half were before: nothing is lost, as it happens."""
    source = checkpoint(of_a_dead_number=("b",))
    quantized = calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, num_bits=(6, 8), method="minmax")
    before, after = (outputs_of(x, PIXELS, NUMPY_OPS)[0].argmax(axis=1) for x in (source, quantized))
    labels, changed = before.copy(), np.flatnonzero(before != after)
    labels[changed[::2]] = after[changed[::2]]
    with pytest.warns(QatWarning, match=r"target_drop 1: 120 samples tell a drop to 3\.\d\d points"):
        assert repaired(source, decide_on=qat.Split(PIXELS, labels), target_drop=1.0).raised == ()


def test_a_lower_metric_may_be_better() -> None:
    source = checkpoint(Regression(), of_a_dead_number=("c",))
    (outputs,) = outputs_of(source, PIXELS, NUMPY_OPS)
    split = qat.Split(PIXELS, outputs)
    found = repaired(source, decide_on=split, target_drop=0.15)
    assert found.baseline == 0.0
    assert found.unit == ""
    assert raised(found) == [("c", "weights", "6 bits", "8 bits")]
    assert found.before > 0.15 >= found.after > 0.0
    assert found.drop == found.after


def test_without_labels_the_agreement_decides() -> None:
    source = checkpoint(of_a_dead_number=("b",))
    found = repaired(source, target_drop=7.0)
    assert (found.measure, found.unit) == ("agreement", "points")
    assert raised(found) == [("b", "weights", "6 bits", "8 bits")]
    same = [x.argmax(axis=1) for y in (source, found.checkpoint) for x in outputs_of(y, PIXELS, NUMPY_OPS)]
    assert found.after == (same[0] == same[1]).mean()


def test_a_function_decides() -> None:
    source, seen = checkpoint(), []

    def error(x: qat.Checkpoint) -> float:
        seen.append(x)
        bits = (
            [n.cell.weight_quantizer.num_bits for n in x.graph.nodes if isinstance(n.cell, qat.DenseBnAct)]
            if seen[1:]
            else []
        )
        return float(bits.count(6))

    found = repaired(source, measure=error, higher_is_better=False, target_drop=2.0)
    assert seen[0] is source
    assert len(found.raised) == 2
    assert (found.baseline, found.before, found.after, found.drop) == (0.0, 4.0, 2.0, 2.0)
    with pytest.raises(qat.QatError, match="measure: gives nan"):
        repaired(source, measure=lambda x: float("nan"), target_drop=2.0)


def test_several_outputs() -> None:
    graph = Two().graph()
    task = Several((OutputTask("kind", Classification()), OutputTask("size", Regression())))
    source = qat.Checkpoint(graph, graph.initial_params(0), task=task)
    pixels = PIXELS[:, :6]
    outputs = outputs_of(source, pixels, NUMPY_OPS)
    labels = (outputs[0].argmax(axis=1), outputs[1])
    with pytest.warns(QatWarning, match="120 samples tell a drop to"):
        found = repaired(source, images=pixels, decide_on=qat.Split(pixels, labels), target_drop=2.0, num_bits=(2, 8))
    assert found.measure == "kind top-1"
    assert found.drop <= 2.0 < found.drop_before
    assert "size" not in {x.layer for x in found.raised}
    worst = repaired(source, images=pixels, num_bits=(2, 8))
    assert "size" in {x.layer for x in worst.raised}
    with pytest.raises(qat.QatError, match="size: has one number"):
        AgreementMeasure(source, pixels, 1.0, NUMPY_OPS)


# -- codes of 16 bits --------------------------------------------------------------------------------------------------


def exact() -> qat.Checkpoint:
    """Weights that 8 bits hold as they are, so that activations alone are to blame."""
    own = {name: np.sign(x).astype(F) if name.endswith("weight") else np.zeros_like(x) for name, x in params().items()}
    return qat.Checkpoint(GRAPH, own)


def test_activations_get_sixteen_bits_where_every_format_takes_them() -> None:
    settings = {"num_bits": (8, 8), "target_sqnr": 65.0}
    with pytest.raises(qat.TargetMissedError):
        repaired(exact(), **settings)
    found = repaired(exact(), targets=("C",), **settings)
    assert {(x.what, x.before, x.after) for x in found.raised} == {("activations", "8 bits", "16 bits")}
    assert found.after >= 65.0
    lines: list[str] = []
    with pytest.raises(qat.TargetMissedError):
        repaired(exact(), targets=("C", "ONNX"), progress=lines.append, **settings)
    assert any("activations get 8 bits at most" in line and "ONNX" in line for line in lines)


# -- calibration -------------------------------------------------------------------------------------------------------


def test_what_refines_is_used_for_the_result_and_needs_no_more_layers() -> None:
    """A refinement that calibrates with one more bit everywhere."""
    source, calls = checkpoint(of_a_dead_number=("b", "d")), []

    def quantize(**settings: Any) -> qat.Checkpoint:
        calls.append(settings)
        return calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, method="minmax", **settings)

    def refine(**settings: Any) -> qat.Checkpoint:
        layers = {"d": {"num_bits": (8, 8)}, **settings.get("layers", {})}
        return quantize(**{**settings, "layers": layers})

    found = qat.repair(
        source, PIXELS, target_sqnr=16.0, num_bits=(6, 8), ops=NUMPY_OPS, quantize=quantize, refine=refine
    )
    assert raised(found) in (
        [("b", "weights", "6 bits", "8 bits")],
        [("d", "weights", "6 bits", "8 bits"), ("b", "weights", "6 bits", "8 bits")],
    )
    assert found.after >= 16.0
    assert sqnr(source, found.checkpoint) == pytest.approx(found.after)


def test_where_the_saved_network_loses_more_no_more_layers_are_added_than_it_needs() -> None:
    """Of 40 candidates the search finds the first 4 to be enough; as it is saved it needs 13."""
    search = Search(None, None, len, max, lambda line: None)  # type: ignore[arg-type]
    asked: list[int] = []

    def met(state: dict[int, int], *, refined: bool = False) -> bool:
        asked.append(len(state))
        return len(state) >= 13

    search.met = met  # type: ignore[method-assign, assignment]
    items = [(number, 8) for number in range(40)]
    found = search.refined(items[:4], items)  # type: ignore[arg-type]
    assert asked == [4, 5, 7, 11, 19, 15, 13, 12]
    assert found == items[:13]


def test_a_table_has_at_most_80_characters_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = repaired(checkpoint(of_an_unused_one=("b",)), per_channel=(False, False))
    for name in ("b", "blocks.17._depthwise_convolution.of_a_long_name.conv2d"):
        row = replace(found.raised[0], layer=name, weight_bytes=123_456_789)
        print_repair(replace(found, raised=(row,)))
        table = capsys.readouterr().out.splitlines()[1:7]
        assert max(map(len, table)) <= 80
        assert "conv2d" in table[4] or name == "b"


@pytest.mark.parametrize("own", [{}, {"method": "mse", "bias_correction": True}])
def test_what_is_computed_once_gives_the_same_calibration(own: dict[str, Any]) -> None:
    source, calls = qat.Checkpoint(GRAPH, params()), []
    told = {"method": "minmax", "bias_correction": False, "equalize": False} | own

    def quantize(**settings: Any) -> qat.Checkpoint:
        calls.append(settings)
        return calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, **told, **settings)

    again = Recalibration(quantize, source, PIXELS, lambda first: told, NUMPY_OPS)
    again(num_bits=(4, 8))
    for settings in ({"num_bits": (5, 8)}, {"num_bits": (4, 8), "per_channel": (False, False)}, {"num_bits": (4, 7)}):
        found, expected = again(**settings), quantize(**settings)
        assert found.graph == expected.graph
        assert all(np.array_equal(found.params[name], expected.params[name]) for name in expected.params)
    assert len(calls) == 5  # the first, those to compare with, and the one of other activations
    unknown = Recalibration(quantize, source, PIXELS, lambda first: None, NUMPY_OPS)
    assert unknown(num_bits=4).params.keys() == unknown(num_bits=8).params.keys()
    assert len(calls) == 7


@pytest.mark.parametrize("bad", ["b", "d"])
def test_the_settings_repeat_the_codes(bad: str, tmp_path: Path) -> None:
    source = checkpoint(of_a_dead_number=(bad,))
    found = repaired(source, narrow_range=True, layers={"c": {"num_bits": 8}, bad: {"symmetric": (False, False)}})
    path = tmp_path / "quant.yaml"
    path.write_text(found.quant_config())
    again = calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, **read_quant_config(path))
    assert again.graph == found.checkpoint.graph
    np.testing.assert_array_equal(
        *(qat.evaluate(qat.to_integer(x.graph, x.params), PIXELS) for x in (again, found.checkpoint))
    )


def test_quantizers_are_written_by_their_class(tmp_path: Path) -> None:
    settings = {
        "num_bits": [4],
        "weight_quantizer": qat.LSQWeightQuantizer(4),
        "layers": {"a[0]: b": {"quantize": False}},
    }
    (tmp_path / "quant.yaml").write_text(written_quant_config(settings))
    found = read_quant_config(tmp_path / "quant.yaml")
    assert found == {
        "num_bits": 4,
        "weight_quantizer": {"type": "LSQWeightQuantizer", "num_bits": 4},
        "layers": {"a[0]: b": {"quantize": False}},
    }
    with pytest.raises(qat.QatError, match="take more than the 65,536 bytes"):
        written_quant_config({"layers": {f"layer{n}": {"num_bits": 4} for n in range(5000)}})


@pytest.mark.parametrize(
    ("quantizer", "offered"),
    [
        (qat.LSQWeightQuantizer(2, per_channel=True), (Level(4), Level(8))),
        (qat.DoReFaWeightQuantizer(2, per_channel=True), (Level(4),)),  # its codes of 8 bits take nine
        (qat.BinaryWeightQuantizer(per_channel=True), None),
    ],
)
def test_a_quantizer_gets_widths_that_it_has(quantizer: Any, offered: Any) -> None:
    settings = {"weight_quantizer": quantizer}
    base = calibrate(GRAPH, params(), PIXELS, ops=NUMPY_OPS, **settings)
    found = candidates(
        Raising(GRAPH, base.graph, settings), qat.diagnose(base.graph, base.params, PIXELS, ops=NUMPY_OPS)
    )
    assert {x.levels for x in found if x.what == "weights"} == ({offered} if offered else set())


def test_dense_weights_keep_their_one_scale_on_ascend() -> None:
    settings = {"profile": "ascend", "num_bits": (4, 8)}
    base = calibrate(GRAPH, params(), PIXELS, ops=NUMPY_OPS, **settings)
    found = candidates(
        Raising(GRAPH, base.graph, settings), qat.diagnose(base.graph, base.params, PIXELS, ops=NUMPY_OPS)
    )
    assert {x.levels for x in found if x.what == "weights"} == {(Level(8, per_channel=False),)}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_sqnr": None}, "got neither of target_drop and target_sqnr"),
        ({"target_drop": 1.0, "target_sqnr": 20.0}, "got both"),
        ({"target_drop": -1.0}, "target_drop is -1.0"),
        ({"target_drop": float("nan")}, "target_drop is nan"),
        ({"target_drop": "1"}, "target_drop is '1'"),
        ({"measure": len}, "give target_drop, in its unit"),
        ({"fewest": "codes"}, "fewest 'codes' is unknown"),
        ({"refine": len}, "refine is given without quantize"),
        ({"quantize": len}, "method is of calibrate, which quantize replaces"),
        ({"size_budget": 0}, "size_budget is 0"),
        ({"bops_budget": 1.5}, "bops_budget is 1.5"),
        ({"targets": ("WORD",), "num_bits": (8, 2)}, "WORD"),
        ({"layers": {"*": {"quantize": False}}}, "nothing to repair"),
    ],
)
@pytest.mark.filterwarnings("ignore::qat.errors.QatWarning")
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message) as caught:
        repaired(checkpoint(), **settings)
    assert "\n" not in str(caught.value)


def test_a_quantized_network_is_refused() -> None:
    quantized = calibrate(GRAPH, params(), PIXELS, ops=NUMPY_OPS)
    with pytest.raises(qat.QatError, match="is quantized already"):
        repaired(quantized)


# -- the command -------------------------------------------------------------------------------------------------------


def test_channels_are_equalized_as_they_were_at_the_first_time() -> None:
    source = qat.Checkpoint(GRAPH, params())

    def quantize(**settings: Any) -> qat.Checkpoint:
        return calibrate(GRAPH, source.params, PIXELS, ops=NUMPY_OPS, equalize=True, **settings)

    again = Recalibration(quantize, source, PIXELS, lambda first: {"equalize": True}, NUMPY_OPS)
    first, second = again(num_bits=(4, 8)), again(num_bits=(5, 8))
    assert any(not np.allclose(first.params[name], source.params[name], rtol=0.1) for name in source.params)
    for name in source.params:
        np.testing.assert_allclose(second.params[name], first.params[name], rtol=1e-5, atol=1e-6, err_msg=name)


def calibrating(folder: Path, *bad: str) -> tuple[Any, ...]:
    """A command over a network with these bad layers, and data, which are written to a folder."""
    source = checkpoint(of_a_dead_number=bad)
    source.save(folder / "float.ckpt")
    split = labelled(source)
    few = {"x_test": split.images[:9], "y_test": split.labels[:9]}
    np.savez(folder / "data.npz", x_train=split.images, y_train=split.labels, **few)
    paths = ("--ckpt_path", folder / "float.ckpt", "--data_path", folder / "data.npz")
    return ("calibrate", *paths, *PLAIN_FLAGS, "--images", 100)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = calibrating(tmp_path, "b")
    asked = ("--num_bits", 6, 8, "--target_drop", 7, "--decide_images", 120)
    status, out, err = run(capsys, *common, *asked, "--save_path", tmp_path / "q.ckpt")
    assert status == 0, err
    assert "deciding on 120 training images, 100 of which calibrate too" in out
    table = out[out.index("raised, one after another") :]
    assert "w 6" in table
    assert max(map(len, table.splitlines()[1:7])) <= 80
    assert "standard error" in table
    found = qat.Checkpoint.load(tmp_path / "q.ckpt")
    assert found.history[0]["repair"] == {"target": "target_drop 7", "raised": [["b", "weights", "6 bits", "8 bits"]]}
    repeated = ("--quant_config", tmp_path / "q_quant.yaml", "--save_path", tmp_path / "again.ckpt")
    status, _, err = run(capsys, *common, *repeated)
    assert status == 0, err
    again = qat.Checkpoint.load(tmp_path / "again.ckpt")
    assert again.graph == found.graph
    assert all(np.array_equal(again.params[name], found.params[name]) for name in found.params)
    status, out, _ = run(capsys, *common, "--num_bits", 8, "--target_drop", 50, "--save_path", tmp_path / "met.ckpt")
    assert status == 0
    assert "nothing raised: the target is met without" in out
    assert "with all that may be" not in out  # what may be raised was not looked for


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size_budget", 9), "--size_budget is of a repair"),
        (("--targets", "C"), "--targets is of a repair"),
        (("--target_drop", 1, "--target_sqnr", 20), "got both"),
        (("--target_drop", "few"), "invalid float value"),
        (("--target_drop", 1, "--decide_images", 1000), "has 120 training images"),
        (("--target_drop", 0, "--size_budget", 920), "--target_drop 0 cannot be met, within size_budget 920"),
    ],
)
def test_mistakes_of_the_command(
    flags: tuple[Any, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, *calibrating(tmp_path, "b", "d"), "--num_bits", 6, 8, *flags)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert sorted(x.name for x in tmp_path.iterdir()) == ["data.npz", "float.ckpt"]


def test_the_settings_repeat_what_the_defaults_of_calibration_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = calibrating(tmp_path, "b")[:5]  # without settings of calibration
    images = ("--images", 100)
    asked = ("--num_bits", 6, 8, "--target_sqnr", 20, "--decide_images", 120)
    status, out, err = run(capsys, *common, *images, *asked, "--save_path", tmp_path / "q.ckpt")
    assert status == 0, err
    assert out.count("Chosen by the outputs' SQNR") == 1
    repeated = ("--quant_config", tmp_path / "q_quant.yaml", "--save_path", tmp_path / "again.ckpt")
    assert run(capsys, *common, *images, *repeated)[0] == 0
    first, again = (qat.Checkpoint.load(tmp_path / name) for name in ("q.ckpt", "again.ckpt"))
    assert first.graph == again.graph
    for name, array in first.params.items():
        np.testing.assert_array_equal(again.params[name], array, err_msg=name)
