"""Nothing is left out: each function of the vocabulary and each cell class stands everywhere it has to, and a test that fails
names what is missing where.
"""

from __future__ import annotations

import importlib
import inspect
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import every_cell
import graphs
import numpy as np
import pytest
import test_zoo
from every_cell import EXAMPLES, Array, F, entry_shape, input_shapes, missing, outcome, quantized
from hypothesis import HealthCheck, Phase, given, seed, settings
from test_ops_conformance import CASES
from test_pruning_groups import close, masked_outputs

import qat
import qat.cells
from qat.analysis import metrics
from qat.analysis.compression import compress, weight_sizes
from qat.analysis.sensitivity import sensitivity
from qat.cells.base import Context, Scope
from qat.cells.facts import COMPUTING, FACTS
from qat.cells.linear import WeightedCell
from qat.integer import IntegerLinear, IntegerNorm, trace_codes
from qat.integer.memory import activation_memory
from qat.integer.widths import bits_of
from qat.pruning import prune_weights
from qat.pruning.channels import remove_channels
from qat.pruning.groups import channel_groups
from qat.pruning.importance import l1_importance
from qat.registry import TARGETS, installed
from qat.scripts.run_autoq import quantized_layers
from qat.study.layers import costs_of
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Ops
from qat.vocabulary.values import Value

DOCS = Path(__file__).parents[1] / "docs" / "cells.md"
CELLS = every_cell.cell_classes()
IMPLIED = (qat.Input, qat.FakeQuant)  #: that stand in every network anyway, and not as a node "cell"
WITH_INPUTS = [cls for cls in CELLS if cls.arity != 0]
#: A convolution states by its groups how channels pass through it.
GROUPS = [qat.Conv2dBnAct(4, 6, 3, group=2, has_bias=True), qat.Conv2dBnAct(4, 8, 3, group=4, has_bias=True)]
by_name = pytest.mark.parametrize("cls", CELLS, ids=lambda cls: cls.__name__)
with_inputs = pytest.mark.parametrize("cls", WITH_INPUTS, ids=lambda cls: cls.__name__)

# -- the vocabulary ---------------------------------------------------------------------------------------------------

#: Functions that no case of ops_cases_*.py can hold, and the test that has them.
ELSEWHERE = {
    "from_numpy": ("test_ops_conformance", "test_from_numpy_and_back_keeps_every_bit"),
    "to_numpy": ("test_ops_conformance", "test_from_numpy_and_back_keeps_every_bit"),
    "drop": ("test_ops_conformance", "test_drop_leaves_out_its_share_and_nothing_else"),
    "batch_size": ("test_batch_of_one", None),
    "counts": ("test_calibration", "test_a_histogram_does_not_depend_on_batches"),
    "refuse_single": ("test_batch_of_one", None),
}


class Recorder:
    """The vocabulary in NumPy, and the names of its functions that were asked for."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(NUMPY_OPS, name)


def test_every_function_of_the_vocabulary_has_conformance_cases() -> None:
    recorder = Recorder()
    for case in CASES:
        case.function(
            recorder,
            *(NUMPY_OPS.from_numpy(x.array, x.kind) for x in case.inputs if x.kind != "labels"),
            *(x.array for x in case.inputs if x.kind == "labels"),
        )
    public = {name for name, value in vars(Ops).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert sorted(public - recorder.used - set(ELSEWHERE)) == [], "without a case in tests/ops_cases_*.py"
    for module, test in ELSEWHERE.values():
        found = importlib.import_module(module)
        assert test is None or callable(getattr(found, test)), f"{module}.{test}"


def test_every_function_of_the_reference_is_in_the_vocabulary() -> None:
    """Else cells could use what no backend has to have."""
    functions = {name for name, value in vars(type(NUMPY_OPS)).items() if inspect.isfunction(value)}
    assert sorted(name for name in functions if not name.startswith("_") and not hasattr(Ops, name)) == [], "not in Ops"


# -- where every cell has to stand -------------------------------------------------------------------------------------


def test_every_cell_is_exported() -> None:
    assert [cls.__name__ for cls in CELLS if cls.__name__ not in qat.cells.__all__] == [], "not in qat.cells.__all__"
    assert [cls.__name__ for cls in CELLS if cls.__name__ not in qat.__all__] == [], "not in qat.__all__"


def test_every_cell_has_an_example() -> None:
    """Which the tests below need, and the tables of the documentation."""
    assert missing(EXAMPLES) == [], "without an example in tests/every_cell.py"


class EveryCellWasDrawnError(Exception):
    """Enough networks."""


def never_drawn(strategy: Any, cells_of: Any, implied: set[type], examples: int = 2000) -> list[str]:
    """The cell classes that are in none of so many networks at random; no more are drawn than it takes to see all."""
    found = set(implied)

    @seed(0)
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(network: Any) -> None:
        found.update(type(cell) for cell in cells_of(network))
        if not missing(found):
            raise EveryCellWasDrawnError

    with suppress(EveryCellWasDrawnError):
        collect()
    return missing(found)


def test_every_cell_stands_in_the_random_graphs() -> None:
    cells = never_drawn(graphs.graphs(), lambda graph: [node.cell for node in graph.nodes], set())
    assert cells == [], "never drawn by tests/graphs.py"


def test_every_cell_stands_in_the_random_networks_whose_codes_are_compared() -> None:
    implied = {qat.FakeQuant, qat.Dequantize}  # which come with the quantization
    cells = never_drawn(test_zoo.networks(), lambda zoo: [n.cell for n in zoo.graph().nodes], implied)
    assert cells == [], "never drawn by tests/test_zoo.py"


# -- that what a cell states of itself is so ---------------------------------------------------------------------------


def forward(cell: qat.Cell, *inputs: Value, training: bool = False) -> Value:
    """One pass over NumPy, with parameters of any kind."""
    rng = np.random.default_rng(5)
    params = {name: param.create(0, name) for name, param in cell.params().items()}
    for name, array in params.items():
        if not np.isfinite(array).all():  # a range that has observed nothing
            params[name] = -np.sign(array).astype(F)
        elif name in ("bias", "beta"):
            params[name] = rng.normal(size=array.shape).astype(F)
    tensors = {f"c.{name}": NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in cell.params().items()}
    context = Context(NUMPY_OPS, tensors, training, phase=0, updates={})
    result: Value = cell.forward(Scope(context, "c.", tuple(params), input_shapes(cell)), *inputs)
    return result


def numbers(cell: qat.Cell) -> list[Array]:
    """What an example takes: real numbers, no two of them equal."""
    rng = np.random.default_rng(6)
    return [rng.normal(size=(2, *shape)).astype(F) for shape in input_shapes(cell)]


def real(cell: qat.Cell, *inputs: Array) -> Array:
    """Real numbers from real numbers, in evaluation."""
    return np.asarray(forward(cell, *(Value(x) for x in inputs)).real(NUMPY_OPS))


@with_inputs
def test_output_numbers_are_what_the_cell_states(cls: type[qat.Cell]) -> None:
    cell, inputs = EXAMPLES[cls], numbers(EXAMPLES[cls])
    y = real(cell, *inputs)
    constants = np.array([getattr(cell, "value", np.nan)], F)  # of a ConstantChannel
    moved = bool(np.isin(y, np.concatenate([*(x.ravel() for x in inputs), constants])).all())
    stays = cls is qat.Dequantize  # the numbers, but not as codes
    assert moved == (cell.output_numbers == "moved" or stays), f"its numbers are {'moved' if moved else 'new ones'}"
    if cell.keeps_sign:
        assert (real(cell, *map(np.abs, inputs)) >= 0).all()
        np.testing.assert_array_equal(real(cell, *(2 * x for x in inputs)), 2 * y)
    one = np.ones(1, F)
    codes = forward(cell, *(Value(np.rint(8 * x), one, codes=True) for x in inputs)).codes
    assert codes == (cell.output_numbers in ("moved", "coded")), f"it gives {'codes' if codes else 'no codes'}"


@pytest.mark.parametrize(
    "cell", [*(EXAMPLES[cls] for cls in WITH_INPUTS if cls in EXAMPLES), *GROUPS], ids=lambda cell: cell.describe
)
def test_output_channels_are_what_the_cell_states(cell: Any) -> None:
    """Which output channels change with which input channel, and whether one of them can be left out."""
    inputs = numbers(cell)
    y = real(cell, *inputs)
    axes = (0, *range(2, y.ndim))
    changes = np.zeros((len(inputs), inputs[0].shape[1], y.shape[1]), bool)
    for source, channel in np.ndindex(changes.shape[:2]):
        changed = [x.copy() for x in inputs]
        changed[source][:, channel] += 10 * np.random.default_rng(7).normal(size=changed[source][:, channel].shape)
        changes[source, channel] = (real(cell, *changed) != y).any(axis=axes)
    kept = np.repeat(np.eye(inputs[0].shape[1], dtype=bool), max(1, y.shape[1] // inputs[0].shape[1]), axis=1)
    joined = np.eye(sum(x.shape[1] for x in inputs), dtype=bool)
    groups = (
        np.kron(np.eye(group := getattr(cell, "group", 1)), np.ones([size // group for size in changes.shape[1:]])) > 0
    )
    used = [each for each in changes if each.any()]  # of a OneGrid the first alone
    if not used:
        found = "new"  # as of a ZeroState: any number of channels
    elif all(np.array_equal(each, kept) for each in used):
        # What the first axis of a MatMul is depends on the shape.
        found = "fixed" if isinstance(cell, qat.MatMul) else "kept"
    elif np.array_equal(changes.reshape(len(joined), -1), joined):
        found = "joined"
    elif cell.with_channels(y.shape[1] - group, inputs[0].shape[1]) == cell:
        found = "fixed"  # as the channels of a softmax, each of which is different without the others
    elif np.array_equal(changes[0], groups):
        found = "new" if group == 1 else "grouped"
    else:
        found = "of no kind"
    assert cell.output_channels == found


@with_inputs
def test_signs_are_what_the_cell_states(cls: type[qat.Cell]) -> None:
    cell = EXAMPLES[cls]
    variants = [cell, *(replace(cell, activation="relu") for _ in range("activation" in vars(cell)))]  # type: ignore[type-var]
    for each in variants:
        inputs = [4 * x for x in numbers(each)]
        found = (
            real(each, *inputs),
            real(each, *(-np.abs(x) for x in inputs)),
        )  # the largest of many is hardly negative
        never = all((y >= 0).all() for y in found)
        assert never == each.non_negative, f"{each}: is {'never' if never else 'also'} negative"


@with_inputs
def test_only_cells_that_state_it_are_random(cls: type[qat.Cell]) -> None:
    inputs = [Value(x) for x in numbers(EXAMPLES[cls])]
    one, two = (forward(EXAMPLES[cls], *inputs, training=True).real(NUMPY_OPS) for _ in range(2))
    assert EXAMPLES[cls].random != np.array_equal(one, two)


@by_name
def test_bits_and_memory_of_the_integer_form(cls: type[qat.Cell]) -> None:
    graph, params = quantized(EXAMPLES[cls])
    integers = qat.to_integer(graph, params)
    tensors = {node.name: node.output for node in integers.nodes}
    tensors |= {node.belongs_to: node.output for node in integers.nodes}
    bits = metrics.activation_bits(graph)
    grids_alone = {name for node in graph.nodes if isinstance(node.cell, qat.OneGrid) for name in node.inputs[1:]}
    for node in graph.nodes:
        if node.name in grids_alone:  # nothing is computed of them
            continue
        if node.cell.keeps_grid or node.cell.output_numbers == "coded":
            name = node.inputs[0] if node.name not in tensors and node.cell.keeps_grid else node.name
            grid = tensors[name if name in tensors else name.removesuffix(".fake_quant")].grid
            assert bits_of(grid.qmin, grid.qmax) == bits[node.name], node.name
    first = {node.name: step for step, node in enumerate(integers.nodes)}
    last = {x.name: step for step, node in enumerate(integers.nodes) for x in node.inputs}
    size = {node.name: int(np.prod(node.output.shape)) for node in integers.nodes}
    reads = [sum(size[x.name] for x in set(node.inputs)) for node in integers.nodes]
    assert max(reads) <= activation_memory(integers).size <= sum(-(-each // 4) * 4 for each in size.values())
    assert all(first[name] <= last.get(name, len(first)) for name in first)


@by_name
def test_costs(cls: type[qat.Cell]) -> None:
    """MACs are the products of weights and inputs; parameters are the numbers that are trained and deployed."""
    cell: Any = EXAMPLES[cls]
    graph, params = quantized(cell)
    node = next(node for node in graph.nodes if type(node.cell) is cls and (cls in IMPLIED or node.name == "cell"))
    trained = sum(param.trainable * int(np.prod(param.shape)) for param in cell.float_params().values())
    assert metrics.parameters(graph).get(node.name, 0) == trained
    products = 0
    if "weight" in cell.float_params():
        ones = replace(cell, has_bias=False)
        weight = np.ones(cell.weight_shape, F)
        products = int(
            ones.apply(NUMPY_OPS, np.ones((1, *input_shapes(cell)[0]), F), input_shapes(cell)[0], weight, None).sum()
        )
    if cls is qat.Normalize:  # its weights are no parameters
        products = int(np.prod(graph.shapes[node.name]))
    if cls is qat.MatMul:
        products = int(real(cell, *[np.ones((1, *shape), F) for shape in input_shapes(cell)]).sum())
    assert metrics.macs(graph).get(node.name, 0) == products
    assert metrics.bops(graph).get(node.name, 0) == products * 8 * 8
    deployed = 0
    for each in qat.to_integer(graph, params).nodes:
        if each.name == node.name and isinstance(each, IntegerNorm):
            deployed = each.gain.size + each.shift.size
        if each.belongs_to == node.name and isinstance(each, IntegerLinear) and trained:
            deployed = each.weight.size + each.bias.size
    assert metrics.deployed_parameters(graph).get(node.name, 0) == deployed


@pytest.mark.parametrize("cell", [*EXAMPLES.values(), *GROUPS], ids=lambda cell: cell.describe)
def test_channels_are_pruned_through_it(cell: qat.Cell) -> None:
    """The smaller network is the masked one; where a cell fixes its channels, those before it stay."""
    graph = every_cell.Around(cell).graph()
    through = [unit for group in channel_groups(graph) for unit in group.units[:1]]
    passes = cell.output_channels != "fixed"
    if not isinstance(cell, IMPLIED):
        assert any("cell" in unit for unit in through) == passes, "channels that can be pruned through it"
    params = graph.initial_params()
    pixels = (np.random.default_rng(2).integers(0, 256, (2, *entry_shape(cell)), np.uint8),)
    smaller, kept = remove_channels(graph, params, through)
    (found,), (expected,) = masked_outputs(smaller, kept, pixels, []), masked_outputs(graph, params, pixels, through)
    close(found, expected)


def stands_in(cell: qat.Cell) -> dict[str, bool]:
    """The tables of weights, and whether the node of this cell has an entry there."""
    graph = every_cell.Around(cell).graph()
    params = graph.initial_params()
    smaller = compress(Checkpoint(graph, params), qat.WeightQuantizer(num_bits=2)).params
    pruner = qat.pruning.MagnitudePruner(0.5, schedule="constant", begin=0)
    names = {node.cell_name for node in graph.nodes if "weight" in node.cell.float_params()}
    return {
        "sensitivity": "cell" in sensitivity(graph, params, lambda *_: 1.0, bits=(8,)).accuracy,
        "weight_sizes": "cell" in [size.name for size in weight_sizes(graph, params)],
        "compress": any(not np.array_equal(smaller[name], params[name]) for name in params if name == "cell.weight"),
        "costs_of": "cell" in [cost.name for cost in costs_of(graph)],
        "run_autoq": "cell" in quantized_layers(graph),
        "l1_importance": "cell" in l1_importance(graph, params),
        "prune_weights": "cell.weight_mask" in prune_weights(graph, params, pruner, tuple(names))[1],
    }


@dataclass(frozen=True)
class Perceptron(WeightedCell):
    """A cell with a weight that is neither a Conv2dBnAct nor a DenseBnAct."""

    weight_kind = "dense_weight"
    output_channels = "new"
    weight_shape = qat.DenseBnAct.weight_shape
    output_shape = qat.DenseBnAct.output_shape  # type: ignore[assignment]
    apply = qat.DenseBnAct.apply  # type: ignore[assignment]
    integer_node = qat.DenseBnAct.integer_node  # type: ignore[assignment]
    macs = qat.DenseBnAct.macs  # type: ignore[assignment]
    with_channels = qat.DenseBnAct.with_channels  # type: ignore[assignment]
    sliced = qat.DenseBnAct.sliced  # type: ignore[assignment]


@pytest.mark.parametrize(
    "cell", [EXAMPLES[cls] for cls in CELLS if cls in EXAMPLES and cls not in IMPLIED], ids=lambda cell: cell.describe
)
def test_every_cell_with_a_weight_stands_in_the_tables_of_weights(cell: qat.Cell) -> None:
    weighted = dict.fromkeys(found := stands_in(cell), "weight" in cell.float_params())
    if isinstance(cell, qat.BatchNorm):
        weighted["sensitivity"] = True  # which folds it first: it is a convolution then
    assert found == weighted


def test_so_does_a_cell_of_a_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_cell, "ROWS", (*every_cell.ROWS, Perceptron))
    assert [table for table, stands in stands_in(Perceptron(4, 5)).items() if not stands] == []


# -- each cell and each target, in the documentation --------------------------------------------------------------------


@cache
def documented(title: str) -> dict[str, dict[str, str]]:
    """The table of docs/cells.md under a title: row -> column -> entry."""
    lines = DOCS.read_text(encoding="utf-8").partition(f"## {title}\n")[2].split("\n## ")[0].splitlines()
    rows = [[entry.strip() for entry in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_every_cell_is_in_the_tables_of_the_documentation() -> None:
    names = [cls.__name__ for cls in CELLS]
    assert list(documented("Facts")) == names, "docs/cells.md: print the table of facts by python tests/every_cell.py"
    assert list(documented("Targets")) == names, (
        "docs/cells.md: print the table of targets by python tests/every_cell.py"
    )
    assert every_cell.facts_table() in DOCS.read_text(encoding="utf-8"), "docs/cells.md: a fact differs"


@by_name
def test_what_the_documentation_says_of_targets_is_so(cls: type[qat.Cell]) -> None:
    """Computed with codes equal to NumPy's, or refused by the node's name."""
    row = documented("Targets")[cls.__name__]
    assert list(row) == ["cell", *TARGETS], "docs/cells.md: a target is missing"
    for name in (name for name, entry in TARGETS.items() if installed(entry)):
        assert outcome(EXAMPLES[cls], name) == row[name], f"{cls.__name__}, {name}: docs/cells.md says {row[name]}"


# -- a cell that leaves something out ----------------------------------------------------------------------------------


def test_the_cell_of_the_documentation_works_from_training_to_pruning() -> None:
    """Its codes on PyTorch and in C are NumPy's; metrics and pruning know it by what it states."""
    names: dict[str, Any] = {"__name__": "of_the_documentation"}
    exec(DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0], names)
    square = names["Square"]()
    graph, params = quantized(square)
    integers = qat.to_integer(graph, params)
    pixels = np.random.default_rng(3).integers(0, 256, (3, *entry_shape(square)), np.uint8)
    torch = qat.backend("torch")
    found = torch.trace(torch.lower(graph, params), pixels, [node.output for node in integers.nodes])
    for name, codes in trace_codes(integers, pixels, list(found)).items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)
    assert outcome(square, "C") == "computed"
    floats = every_cell.Around(square).graph()
    assert any("cell" in unit for group in channel_groups(floats) for unit in group.units)
    assert next(node.cell.non_negative for node in graph.nodes if node.name == "cell.fake_quant")
    assert metrics.bops(graph).keys() == metrics.macs(floats).keys()


STATED: dict[str, Any] = {
    "output_numbers": "computed",
    "output_channels": "fixed",
    "non_negative": False,
    "random": False,
}


def define(name: str, base: type[qat.Cell] = qat.Cell, **members: Any) -> type[qat.Cell]:
    return dataclass(frozen=True)(type(name, (base,), {"__module__": __name__, **members}))


@pytest.mark.parametrize("left_out", FACTS)
def test_a_cell_that_leaves_a_fact_out_is_refused_where_it_is_defined(left_out: str) -> None:
    with pytest.raises(qat.QatError, match=f"^Blur: the class does not state {left_out}, .*: add {left_out} = "):
        define("Blur", **{name: value for name, value in STATED.items() if name != left_out})
    with pytest.raises(qat.QatError, match="'Blur' is not a known cell"):  # nor can a file name it
        qat.Graph.from_json(
            '{"format": 1, "name": "n", "nodes": [{"name": "a", "cell": {"type": "Blur"}, "inputs": [], '
            '"cell_name": "a"}], "outputs": ["a"]}'
        )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"output_channels": "keep"}, "^Sharpen: output_channels is 'keep', how .*; use 'kept' or "),
        ({"random": None}, "^Sharpen: random is None"),
        ({"arity": 2}, "^Sharpen: the class does not state one_grid, "),
        ({"output_numbers": "coded"}, "^Sharpen: .* define code_bits"),
        ({"non_negative": 0}, "^Sharpen: non_negative is 0, whether .*; use True or False"),
        ({"random": 1.0}, "^Sharpen: random is 1.0, "),
        ({"output_numbers": "moved", "arity": 2, "one_grid": False}, '^Sharpen: .* "moved", .*; add one_grid = True'),
        ({"output_channels": "grouped"}, '^Sharpen: .* "grouped", .*; add a field or property group'),
        ({"params": lambda self: {}}, "^Sharpen: defines params, .* define float_params"),
        (
            {"float_params": lambda self: {}},
            "^Sharpen: defines float_params but not macs, so that what it costs is unknown",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_cell_that_states_a_fact_wrongly_is_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        define("Sharpen", **STATED | members)


def halve(self: Any, scope: Scope, *inputs: Value) -> Value:
    return Value(inputs[0].real(scope.ops) * 0.5)


@pytest.mark.parametrize("fact", FACTS)
def test_a_cell_that_computes_something_else_does_not_inherit_facts(fact: str) -> None:
    """It would be taken for its base: without a fake quantizer after it, or pruned as its base is."""
    others = {name: value for name, value in STATED.items() if name != fact}
    message = f"^Halve: the class defines forward but takes {fact}, .*, from Flatten, .*; add {fact} = "
    with pytest.raises(qat.QatError, match=message):
        define("Halve", qat.Flatten, forward=halve, **others)


@pytest.mark.parametrize("method", COMPUTING)
def test_each_method_that_computes_asks_for_the_facts(method: str) -> None:
    with pytest.raises(qat.QatError, match=f"^Halve: the class defines {method} but takes output_numbers, "):
        define("Halve", qat.Flatten, **{method: halve})


def test_what_a_second_base_computes_asks_for_the_facts_too() -> None:
    halving = type("Halving", (), {"forward": halve})
    with pytest.raises(qat.QatError, match=r"^Halve: the class defines forward but takes output_numbers, "):
        type("Halve", (halving, qat.Flatten), {})


def test_a_cell_that_computes_the_same_inherits_its_facts() -> None:
    assert define("Sparse", qat.Conv2dBnAct, macs=lambda self, output, *, with_bias: 1).output_numbers == "computed"
    assert define("Half", qat.Flatten, forward=halve, **STATED).output_numbers == "computed"


def test_the_groups_of_a_cell_may_be_a_field_or_a_property() -> None:
    define("Grouped", **STATED | {"output_channels": "grouped", "__annotations__": {"group": int}})
    define("GroupedByTwo", **STATED | {"output_channels": "grouped", "group": property(lambda self: 2)})


def test_the_order_of_the_fields_of_convolution_and_dense_layer() -> None:
    """Positional arguments go by it, and so do files of other releases."""
    shared = ["has_bias", "has_bn", "momentum", "eps", "activation", "alpha", "after_fake"]
    shared += ["weight_quantizer", "bn_fold", "freeze_bn", "pruner", "input_normalization", "tracker"]
    geometry = ["in_channels", "out_channels", "kernel_size", "stride", "pad_mode", "padding", "dilation", "group"]
    assert list(inspect.signature(qat.Conv2dBnAct).parameters) == [*geometry, *shared]
    assert list(inspect.signature(qat.DenseBnAct).parameters) == [*geometry[:2], *shared]
    assert (qat.Conv2dBnAct(1, 2, 3).has_bias, qat.DenseBnAct(1, 2).has_bias) == (False, True)
