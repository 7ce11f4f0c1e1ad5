"""Importing .pt2 files of torch.export, and that such a file executes nothing."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from import_modules import EQUAL, Calls, Residual, X, kinds, nn, ready, torch

import qat


def saved(path: Path, module: Any, example: Any = X, **options: Any) -> Path:
    torch.export.save(torch.export.export(module, (example,), **options), path)
    return path


def test_a_file_is_imported_as_its_module(tmp_path: Path) -> None:
    module = ready(Residual())
    example = torch.zeros(1, 3, 32, 32)
    found = qat.import_model(saved(tmp_path / "net.pt2", module, example), tolerance=EQUAL)
    wanted = qat.import_model(module, example, name="net")
    assert found.graph == wanted.graph
    assert found.sources == wanted.sources
    assert all(np.array_equal(found.params[name], array) for name, array in wanted.params.items())


def test_the_batch_of_a_file_may_be_dynamic(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    path = saved(tmp_path / "net.pt2", ready(Residual()), torch.zeros(2, 3, 32, 32), dynamic_shapes=({0: batch},))
    assert len(qat.import_model(path, tolerance=EQUAL).graph.nodes) == 15


def test_another_size_may_not_be_dynamic(tmp_path: Path) -> None:
    height = torch.export.Dim("height", min=8, max=64)
    path = saved(
        tmp_path / "net.pt2", nn.Conv2d(3, 4, 1).eval(), torch.zeros(1, 3, 16, 16), dynamic_shapes=({2: height},)
    )
    with pytest.raises(
        qat.QatError, match=r"the size of input along axis 2 is not fixed \(s\d+\).*the batch alone may be"
    ):
        qat.import_model(path)


def test_a_decomposed_file(tmp_path: Path) -> None:
    module = ready(Residual())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of itself
        exported = torch.export.export(module, (torch.zeros(1, 3, 32, 32),)).run_decompositions()
        torch.export.save(exported, tmp_path / "net.pt2")
    assert len(qat.import_model(tmp_path / "net.pt2", tolerance=EQUAL).params) == len(
        qat.import_model(module, torch.zeros(1, 3, 32, 32)).params
    )


class Trap:
    """What writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def altered(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A file with other records."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"net/{name}", content)
    return path


def in_json(record: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def changed(records: dict[str, bytes]) -> None:
        content = json.loads(records[record])
        change(content)
        records[record] = json.dumps(content).encode()

    return changed


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
RUNS = "__import__('pathlib').Path({!r}).touch()"


def pickled_weight(records: dict[str, bytes], trap: Path) -> None:
    in_json(WEIGHTS, lambda config: config["config"]["weight"].update(use_pickle=True))(records)
    records["data/weights/weight_0"] = pickle.dumps(Trap(trap))


def pickled_constant(records: dict[str, bytes], trap: Path) -> None:
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    records["data/constants/model_constants_config.json"] = json.dumps({"config": {"c": payload}}).encode()
    records["data/constants/opaque_obj_0"] = pickle.dumps(Trap(trap))


def evaluated_size(records: dict[str, bytes], trap: Path) -> None:
    size = {"as_expr": {"expr_str": RUNS.format(str(trap)), "hint": {"as_int": 2}}}
    in_json(
        GRAPH, lambda graph: graph["graph_module"]["graph"]["tensor_values"]["input"]["sizes"].__setitem__(0, size)
    )(records)


def named_code(records: dict[str, bytes], trap: Path) -> None:
    name = f"a):\n  pass\n{RUNS.format(str(trap))}\ndef g(b"
    records[GRAPH] = records[GRAPH].replace(b'"conv2d"', json.dumps(name).encode())


def other_function(records: dict[str, bytes], trap: Path) -> None:
    in_json(GRAPH, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(target="torch.hub.load"))(records)


def library(records: dict[str, bytes], trap: Path) -> None:
    records["data/aotinductor/model/net.so"] = b"\x7fELF"


@pytest.mark.parametrize(
    ("attack", "pattern"),
    [
        (pickled_weight, "its 'weight' is pickled, which executes"),
        (pickled_constant, "its 'c' is pickled, which executes"),
        (evaluated_size, "has a symbolic size .*it may want to be executed"),
        (named_code, "names a value .*it may want to be executed"),
        (other_function, "calls 'torch.hub.load', which is no operation"),
        (library, "holds compiled libraries"),
    ],
)
def test_a_file_executes_nothing(
    tmp_path: Path, attack: Callable[[dict[str, bytes], Path], None], pattern: str
) -> None:
    trap = tmp_path / "trap"
    path = saved(tmp_path / "net.pt2", nn.Conv2d(3, 4, 1).eval())
    altered(path, lambda records: attack(records, trap))
    with pytest.raises(qat.QatError, match=pattern) as error:
        qat.import_model(path)
    assert not trap.exists()
    assert "\n" not in str(error.value)


def test_sample_inputs_and_guards_of_a_file_are_left_behind(tmp_path: Path) -> None:
    """They are pickled and executed by torch.export.load, and nothing needs them."""
    trap = tmp_path / "trap"
    path = saved(tmp_path / "net.pt2", nn.Conv2d(3, 4, 1).eval())

    def change(records: dict[str, bytes]) -> None:
        records["data/sample_inputs/model.pt"] = pickle.dumps(Trap(trap))
        in_json(GRAPH, lambda graph: graph.update(guards_code=[RUNS.format(str(trap))]))(records)

    assert kinds(qat.import_model(altered(path, change))) == ["Conv2dBnAct"]
    assert not trap.exists()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    for write in (lambda: torch.save(nn.Linear(2, 2), path), lambda: path.write_bytes(pickle.dumps({}))):
        write()
        with pytest.raises(qat.QatError, match=r"net.pt2: (is a pickle, which executes|cannot be read)"):
            qat.import_model(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(qat.QatError, match=r"net.pt2: .*torch.export.save"):
        qat.import_model(tmp_path / "net.pt2")


def test_metadata_of_other_types_is_left_behind(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt2", nn.Conv2d(3, 4, 1).eval())
    change = {"stack_trace": True, "nn_module_stack": 3, "from_node": "[]"}
    altered(path, in_json(GRAPH, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(metadata=change)))
    assert [node.name for node in qat.import_model(path).graph.nodes[1:]] == ["conv2d"]


def test_sizes_of_a_file_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt2", nn.Conv2d(3, 4, 1).eval())

    def change(config: Any) -> None:
        config["config"]["weight"]["tensor_meta"]["sizes"][0] = {"as_int": 1 << 40}

    altered(path, in_json(WEIGHTS, change))
    with pytest.raises(qat.QatError, match=r"'weight' has .* numbers up to place"):
        qat.import_model(path)


def test_an_operation_that_does_more_than_compute_is_not_run(tmp_path: Path) -> None:
    """A file may name any function of torch.ops: aten.from_file makes a file. It is unknown, and never called."""
    trap = tmp_path / "trap"
    path = saved(tmp_path / "net.pt2", Calls(lambda m, x: x + torch.ones(2)).eval(), torch.zeros(1, 2))

    def change(graph: Any) -> None:
        node = next(each for each in graph["graph_module"]["graph"]["nodes"] if ".ones." in each["target"])
        node["target"] = "torch.ops.aten.from_file.default"
        values = [("filename", {"as_string": str(trap)}), ("shared", {"as_bool": True}), ("size", {"as_int": 2})]
        node["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in values]

    altered(path, in_json(GRAPH, change))
    with pytest.raises(qat.QatError, match=r"aten\.from_file"):
        qat.import_model(path)
    assert not trap.exists()


def test_constants_of_any_size_are_not_computed(tmp_path: Path) -> None:
    """A few bytes say how large a constant is: it is refused before there is memory for it."""
    path = saved(tmp_path / "net.pt2", Calls(lambda m, x: x * torch.ones(123, 457).mean()).eval())
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "large.pt2", "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("models/model.json"):
                assert b"[123, 457]" in content
                content = content.replace(b"[123, 457]", b"[1230000, 457000]")
            changed.writestr(entry, content)
    with pytest.raises(qat.QatError, match=r"ones makes its constants grow beyond what is computed"):
        qat.import_model(tmp_path / "large.pt2")
