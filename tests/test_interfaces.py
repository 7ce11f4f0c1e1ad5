"""Every backend and target has the functions that the commands call, with their arguments."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frameworks import HERE

import qat
from qat.deploy.interfaces import ParameterFiles, Step, Target, TrainingBackend
from qat.networks import LeNet5
from qat.pruning.importance import taylor_importance
from qat.registry import BACKENDS, TARGETS, installed
from qat.training.optimizer import Optimizer


def check(module: object, protocol: type, what: str) -> None:
    for name in protocol.__annotations__:
        assert hasattr(module, name), f"{what} has no {name}"
    for name, wanted in vars(protocol).items():
        if (name.startswith("__") and name != "__call__") or not inspect.isfunction(wanted):
            continue
        found = getattr(module, name, None)
        assert callable(found), f"{what} has no {name}"
        parameters = inspect.signature(found).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            continue
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        expected = [p for p in inspect.signature(wanted).parameters.values() if p.kind not in variable]
        assert [p.name for p in expected[1:]] == list(parameters)[: len(expected) - 1], f"{what}.{name}"


@pytest.mark.parametrize("name", HERE)
def test_backends(name: str) -> None:
    backend = qat.backend(name)
    check(backend, TrainingBackend, name)
    if name in BACKENDS and BACKENDS[name].suffix:
        check(backend, ParameterFiles, name)
    model = backend.lower(LeNet5())
    check_bound(backend.make_step(model, Optimizer()), name)
    assert all(callable(getattr(model, method)) for method in ("integers", "infer", "infer_codes"))


def check_bound(step: object, what: str) -> None:
    for name in ("__call__", "state", "load_state"):
        wanted = list(inspect.signature(getattr(Step, name)).parameters)[1:]
        assert list(inspect.signature(getattr(step, name)).parameters) == wanted, f"{what}, {name}"


@pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry)])
def test_targets(name: str) -> None:
    target = qat.target(name)
    check(target, Target, name)
    assert name == target.NAME
    assert (TARGETS[name].suffix, TARGETS[name].options) == (target.SUFFIX, target.OPTIONS)
    parameters = inspect.signature(target.export).parameters
    assert {option.name: option.choices[0] for option in target.OPTIONS} == {
        key: value.default
        for key, value in parameters.items()
        if value.default is not value.empty and key != "arithmetic"
    }


def test_a_module_that_lacks_a_function_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"math has no NAME"):
        check(__import__("math"), Target, "math")


def test_the_name_of_a_backend_or_a_target_in_its_place_is_refused_with_the_call_that_is_meant() -> None:
    graph = qat.convert_quant_network(LeNet5())
    checkpoint = qat.Checkpoint(graph, graph.observed_params())
    split = qat.Split(np.zeros((4, 1, 32, 32), np.uint8), np.zeros(4, np.int64))
    dataset: Any = qat.Dataset("zeros", "here", split, split)
    own: Any = SimpleNamespace(ARITHMETICS=("float",), export=None, devices=None, runtime=lambda: "")
    name: Any = "torch"
    verify = qat.verify
    for act in (
        lambda: qat.train(name, checkpoint, dataset, qat.Recipe()),
        lambda: qat.evaluate_accuracy(name, checkpoint, split),
        lambda: taylor_importance(name, LeNet5().graph(), {}, split),
        lambda: verify.backend_engine(name, checkpoint),
        lambda: verify.export_verified("y.onnx", own, name, checkpoint, split, data=""),
        lambda: verify.verify("y.onnx", own, name, checkpoint, split, data=""),
    ):
        with pytest.raises(qat.QatError, match=r"backend is 'torch'.*; give qat.backend.'torch'.$"):
            act()
    name = "ONNX"
    for act in (
        lambda: verify.export_verified("y.onnx", name, own, checkpoint, split, data=""),
        lambda: verify.verify("y.onnx", name, own, checkpoint, split, data="", arithmetic="float"),
        lambda: verify.verify("y.onnx", name, own, checkpoint, split, data=""),
    ):
        with pytest.raises(qat.QatError, match=r"target is 'ONNX'.*; give qat.target.'ONNX'.$"):
            act()
