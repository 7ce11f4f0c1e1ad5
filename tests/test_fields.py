"""Whatever is given to a field of a cell, a quantizer or a setting is taken, or refused by one line."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

import qat
from qat import quantizers
from qat.cells.pruner import MagnitudePruner
from qat.data import Augmentation
from qat.tasks import Regression
from qat.tasks.several import OutputTask
from qat.training import objectives
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.fields import check_fields
from qat.vocabulary.serial import Serializable, from_json

if TYPE_CHECKING:
    from qat.nothing import Missing

#: What the fields without a default hold.
NEEDED: dict[str, Any] = {
    "shape": (3, 8, 8),
    "function": "relu",
    "in_channels": 3,
    "out_channels": 4,
    "kernel_size": 3,
    "channels": 3,
    "quantizer": qat.ActivationQuantizer(),
    "final_sparsity": 0.5,
    "bits_per_weight": 3.0,
    "max_bops": 1e6,
    "padding": 1,
    "axis": 1,
    "num_groups": 3,
    "axes": (2, 0, 1),
    "groups": 2,
    "output_size": 2,
    "factor": (0.5, 1.0, 2.0),
    "shift": (0.0, -1.0, 0.5),
    "value": 0.25,
    "units": 4,
    "output": "fc",
    "task": Regression(),
    "parts": (OutputTask("fc", Regression()), OutputTask("other", Regression())),
}
WHOLE_FACTORS = (
    "PixelShuffle",
    "PixelUnshuffle",
    "Upsample",
    "UpsampleBilinear",
)  #: whose ``factor`` is a whole number
ODD: list[Any] = [
    None,
    True,
    False,
    np.bool_(True),
    0,
    1,
    2,
    -1,
    -8,
    1 << 63,
    10**400,
    -(10**400),
    np.int64(3),
    np.uint8(0),
]
ODD += [
    0.0,
    0.5,
    -0.5,
    3.0,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    np.float32(0.5),
    np.float64("nan"),
]
ODD += [
    "",
    "3",
    "0.5",
    "relu",
    "same",
    "*/",
    "a\nb",
    "\x1b[0m",
    b"relu",
    np.str_("relu"),
    1j,
    Decimal(1),
    Fraction(1, 2),
]
ODD += [
    (),
    [],
    (1,),
    (2, 2),
    [2, 2],
    (1, 1, 1, 1),
    (0, 2),
    (-1, 2),
    (True, 2),
    (0.5, 0.5),
    ("a", "b"),
    ((1, 1), (1, 1)),
]
ODD += [{}, {"type": "Input"}, {1}, range(2), object(), int, len, np.array(3), np.array([2, 2]), np.eye(3)]
ODD += [qat.Flatten(), qat.WeightQuantizer(), qat.ActivationQuantizer(2), Optimizer(), MagnitudePruner(0.5)]


def classes() -> list[type[Any]]:
    """Every cell, quantizer, pruner, objective and setting that can be made."""
    found = [cls for cls in Serializable.registry.values() if cls.__module__.startswith("qat.")]
    found += [
        cls for cls in vars(objectives).values() if inspect.isclass(cls) and cls.__module__ == objectives.__name__
    ]
    found = [cls for cls in found if hasattr(cls, "__dataclass_fields__") and not inspect.isabstract(cls)]
    return [*found, Recipe, Optimizer, Augmentation]


def made(cls: type[Any], **changes: Any) -> Any:
    needed = NEEDED | ({"factor": 2} if cls.__name__ in WHOLE_FACTORS else {})
    return cls(**{f.name: needed[f.name] for f in fields(cls) if f.default is MISSING and f.name in needed} | changes)


def test_every_kind_is_among_them() -> None:
    names = {cls.__name__ for cls in classes()}
    public = {cls.__name__ for cls in vars(qat).values() if inspect.isclass(cls) and issubclass(cls, qat.Cell)}
    assert public - {"Cell"} <= names
    assert {cls for cls in quantizers.__all__ if cls.endswith("Quantizer") and not cls.startswith("Base")} <= names


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_it_is_taken_or_refused_in_one_line(cls: type[Any]) -> None:
    made(cls)
    for field in fields(cls):
        taken = 0
        for value in ODD:
            try:
                found = made(cls, **{field.name: value})
            except qat.QatError as error:
                text = str(error)
                assert "\n" not in text, (field.name, value)
                assert "\x1b" not in text, (field.name, value)
                assert len(text) < 400, (field.name, value)
                continue
            taken += 1
            assert replace(found) == found
            hash(found)
            if isinstance(found, Serializable):
                assert from_json(found.to_json(), Serializable) == found
            if isinstance(found, qat.Cell):
                assert found.describe
        assert taken < len(ODD) / 2, f"{field.name} takes nearly everything"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qat.Dropout("0.5"), r"^Dropout: rate is '0.5'; use a finite number$"),
        (lambda: qat.Dropout(float("nan")), r"^Dropout: rate is nan; use a finite number$"),
        (
            lambda: qat.Input((1, 8, 8), mean=(0.5, 0.4)),
            r"^Input: mean is \(0.5, 0.4\), 2 numbers, but its shape .* has 1",
        ),
        (
            lambda: qat.Input((1, 8, 8), std=np.ones(3)),
            r"^Input: std is \(1.0, 1.0, 1.0\), 3 numbers, .*, or one for all$",
        ),
        (lambda: qat.Input("3x8x8"), r"^Input: shape is '3x8x8'; use a tuple of whole numbers$"),
        (lambda: qat.Input((1, 8, True)), r"^Input: shape is \(1, 8, True\); use a tuple of whole numbers$"),
        (lambda: qat.Input((1, 8, 0)), r"^Input: shape is \(1, 8, 0\); give the positive sizes"),
        (
            lambda: qat.Conv2dBnAct(3, 4, "3"),
            r"^Conv2dBnAct: kernel_size is '3'; use a whole number or a tuple of 2 whole nu",
        ),
        (lambda: qat.Conv2dBnAct(3, 4, 3, has_bn=1), r"^Conv2dBnAct: has_bn is 1; use True or False$"),
        (lambda: qat.Conv2dBnAct(3, True, 3), r"^Conv2dBnAct: out_channels is True; use a whole number$"),
        (
            lambda: qat.Conv2dBnAct(3, 4, 3, activation=["relu"]),
            r"^Conv2dBnAct: activation is \('relu',\); use a string or",
        ),
        (lambda: qat.Conv2dBnAct(3, -4, 3), r"^Conv2dBnAct: out_channels is -4; give a whole number of at least 1$"),
        (
            lambda: qat.Conv2dBnAct(3, 4, 3, padding=(-1, 0), pad_mode="pad"),
            r"^Conv2dBnAct: padding is \(-1, -1, 0, 0\); use",
        ),
        (
            lambda: qat.Conv2dBnAct(3, 4, 3, weight_quantizer=qat.ActivationQuantizer()),
            "use a BaseWeightQuantizer or None",
        ),
        (lambda: Recipe(epochs="3"), r"^Recipe: epochs is '3'; use a whole number$"),
        (lambda: Recipe(optimizer="adam"), r"^Recipe: optimizer is 'adam', a name; give qat\.Optimizer\('adam'\)$"),
        (lambda: Optimizer(momentum="0.9"), r"^Optimizer: momentum is '0.9'; use a finite number$"),
    ],
)
def test_messages(make: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        make()


def test_numpy_s_numbers_are_python_s() -> None:
    cell = qat.Conv2dBnAct(
        np.int64(3), np.uint8(4), np.array([3, 3]).tolist(), has_bn=np.bool_(True), eps=np.float64(1e-3)
    )
    assert cell == qat.Conv2dBnAct(3, 4, (3, 3), has_bn=True, eps=1e-3)
    assert all(
        type(x) in (int, tuple, bool, float) for x in (cell.in_channels, cell.kernel_size, cell.has_bn, cell.eps)
    )


def test_lists_stay_lists_where_the_annotation_says_so() -> None:
    @dataclass(frozen=True)
    class Taps:
        taps: list[int]
        size: tuple[int, int] = (1, 1)

    made = Taps([1, 2], [3, np.int64(4)])  # type: ignore[arg-type]
    check_fields(made)
    assert made == Taps([1, 2], (3, 4))
    assert [type(number) for number in made.size] == [int, int]


def test_a_number_that_python_does_not_write_is_refused_in_one_line() -> None:
    with pytest.raises(qat.QatError, match=r"^Dropout: rate is <int>; use a finite number$"):
        qat.Dropout(10**5000)


def test_a_cell_of_one_s_own_is_checked_as_far_as_its_annotations_are_known() -> None:
    @dataclass(frozen=True)
    class Own:
        mode: Literal["a", "b"] = "a"
        anything: Any = None

    check_fields(Own("b", object()))
    with pytest.raises(qat.QatError, match=r"^Own: mode is 'c'; use 'a' or 'b'$"):
        check_fields(Own("c"))

    @dataclass(frozen=True)
    class Unknown:
        other: Missing | None = None
        size: int = 1

    check_fields(Unknown(size="any"))
