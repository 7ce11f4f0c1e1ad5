"""How a file is fed and read, for whoever runs it without this library: each target keeps it in its files' metadata.

What a file takes is its network's ``Input``, the type that was chosen at the export, and, of pictures, the preparation that the
checkpoint keeps. Only here are these put together, as JSON (docs/deploy/README.md describes it); targets render it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from qat.cells.base import Shape
from qat.data.preparation import FILTERS, LINEAR, PLAIN, Preparation
from qat.deploy.arithmetics import kept_with
from qat.deploy.interfaces import Target
from qat.graph import Graph
from qat.integer.ends import REAL, Ends, FileInput, FileOutput, FileTensors
from qat.training.checkpoint import Checkpoint

RECIPE = "recipe"  #: the key of a file's metadata
COLOURS = {1: "grayscale", 3: "RGB"}  #: channels of pictures
LAYOUTS = {
    1: ("NC", "NC"),
    2: ("NCL", "NLC"),
    3: ("NCHW", "NHWC"),
}  #: of one sample's axes: channels first, channels last
INSIDE = "The file normalises by itself: subtract and divide nothing else."


@runtime_checkable
class DescribesTensors(Protocol):
    """What a target has beside whose files do not take what the network takes, channels first, or do not give real numbers."""

    def tensors(self, path: str | Path) -> FileTensors:
        """The inputs and outputs of a file as it has them."""


def metadata_of(path: str | Path, target: Target, checkpoint: Checkpoint, arithmetic: str) -> dict[str, str]:
    """What the metadata of an exported file keep: of its checkpoint, and how it is fed and read.

    Args:
        path: the file, which has been exported.
        target: of its format.
        checkpoint: of the quantized network.
        arithmetic: of the file.

    Returns:
        Texts by key, for ``target.write_metadata``.
    """
    tensors = target.tensors(path) if isinstance(target, DescribesTensors) else tensors_of(checkpoint.graph)
    recipe = recipe_of(tensors, checkpoint.preparation)
    return kept_with(checkpoint, arithmetic) | {RECIPE: json.dumps(recipe, separators=(",", ":"))}


def tensors_of(graph: Graph) -> FileTensors:
    """Of a file that takes what its network takes, and gives real numbers, channels first.

    Args:
        graph: the network.

    Returns:
        Its inputs and outputs.
    """
    inputs, count = tuple(node.name for node in graph.inputs), len(graph.outputs)
    outputs = ("output",) if count == 1 else tuple(f"output{i}" for i in range(count))
    ends = Ends(
        tuple(FileInput.as_it_is(*spec) for spec in graph.input_specs),
        tuple(FileOutput.real(graph.shapes[name]) for name in graph.outputs),
    )
    return FileTensors(ends, inputs, outputs)


def recipe_of(tensors: FileTensors, preparation: Preparation | None = None) -> dict[str, Any]:
    """How a file is fed and read.

    Args:
        tensors: its inputs and outputs.
        preparation: how pictures become its input; None, the default: as ``qat run`` does it where nobody has said it.

    Returns:
        JSON values: ``inputs`` and ``outputs``, in the file's order, and of a network of pictures ``picture``.

    >>> from qat.integer.ends import Ends, FileInput, FileOutput, FileTensors
    >>> ends = Ends((FileInput((1, 4, 4), "uint8", "int8", 0.5, -128, 0, 255, None, 0),), (FileOutput.real((3,)),))
    >>> recipe = recipe_of(FileTensors(ends, ("input",), ("fc",), channels_last=True))
    >>> recipe["inputs"][0]["shape"], recipe["inputs"][0]["layout"], recipe["inputs"][0]["formula"]
    ([1, 4, 4, 1], 'NHWC', 'value = pixel - 128')
    """
    last = tensors.channels_last
    inputs = [_taken(name, end, last) for name, end in zip(tensors.inputs, tensors.ends.inputs, strict=True)]
    given = zip(tensors.outputs, tensors.ends.outputs, strict=True)
    recipe: dict[str, Any] = {
        "inputs": inputs,
        "outputs": [_given(name, end, last and not tensors.outputs_first) for name, end in given],
    }
    first, *others = tensors.ends.inputs
    if _is_picture(first) and not others:
        recipe["picture"] = _picture(first.shape, preparation or PLAIN)
    return recipe


def _is_picture(end: FileInput) -> bool:
    return end.dtype == "uint8" and len(end.shape) == 3 and end.shape[0] in COLOURS


def _stored(shape: Shape, last: bool) -> tuple[list[int], str]:
    """The axes of a batch of one, and their letters."""
    axes = [*shape[1:], shape[0]] if last else [*shape]
    return [1, *axes], LAYOUTS[len(shape)][last] if len(shape) in LAYOUTS else ""


def _taken(name: str, end: FileInput, last: bool) -> dict[str, Any]:
    shape, layout = _stored(end.shape, last)
    found: dict[str, Any] = {"name": name, "shape": shape, "layout": layout, "dtype": end.stored}
    if end.stored == end.dtype:
        return found | _grid(end)
    found["takes"], x = end.dtype, "pixel" if _is_picture(end) else "number"
    if end.multiplier is not None:  # the caller quantizes
        encode = {"offset": end.offset, "multiplier": float(np.float32(end.multiplier)), "low": end.low}
        encode |= {"high": end.high, "zero_point": end.zero_point}
        inner = f"({_less(x, end.offset)}) * {_shown(end.multiplier)}"
        formula = f"value = clip(round({inner}), {end.low}, {end.high}){_more(end.zero_point)}"
        return found | _grid(end) | {"encode": encode, "formula": f"{formula}, in float32, ties to even"}
    if end.stored == REAL:
        encode = {"offset": end.offset, "scale": float(np.float32(end.scale))}
        return found | {"encode": encode, "formula": f"value = ({_less(x, end.offset)}) * {_shown(end.scale)}"}
    shift = end.offset - end.zero_point
    return found | _grid(end) | {"encode": {"offset": shift}, "formula": f"value = {_less(x, shift)}"}


def _grid(end: FileInput) -> dict[str, Any]:
    """What the values stand for, where the file tells: real = (value - zero_point) * scale."""
    if end.stored == REAL or (end.low == end.high and end.multiplier is None):
        return {}
    zero_point = end.offset if end.stored == end.dtype else end.zero_point
    scale = end.scale * (end.multiplier or 1.0) if end.stored == end.dtype else end.scale
    return {"scale": float(np.float32(scale)), "zero_point": zero_point}


def _given(name: str, end: FileOutput, last: bool) -> dict[str, Any]:
    shape, layout = _stored(end.shape, last)
    found: dict[str, Any] = {"name": name, "shape": shape, "layout": layout, "dtype": end.stored}
    if end.stored == REAL:
        return found
    grid = {"scale": float(np.float32(end.scale)), "zero_point": end.zero_point}
    return found | grid | {"formula": f"real = ({_less('value', end.zero_point)}) * {_shown(end.scale)}"}


def _picture(shape: Shape, preparation: Preparation) -> dict[str, Any]:
    channels, height, width = shape
    size = {"height": height, "width": width, "channels": COLOURS[channels]}
    how = preparation.to_json()
    cut = ("resize_to", "crop_fraction")
    return size | {key: value for key, value in how.items() if preparation.resize == "crop" or key not in cut}


def resizing(preparation: Preparation, size: tuple[int, int]) -> list[str]:
    """How a picture is brought to the size of a network, in words.

    Args:
        preparation: the recipe.
        size: (H, W) of the network.

    Returns:
        Sentences.

    >>> import qat
    >>> resizing(qat.data.Preparation("stretch", interpolation="linear"), (32, 32))[0]
    'Resize any other size to 32 x 32 whatever its proportions.'
    """
    height, width = size
    if preparation.resize == "stretch":
        first = [f"Resize any other size to {width} x {height} whatever its proportions."]
    elif preparation.resize == "pad":
        first = [f"Resize any other size in proportion such that it fits into {width} x {height}; lay it on black."]
    else:
        tall, wide = (int(x / preparation.crop_fraction) for x in size)
        if preparation.resize_to is not None:
            tall = wide = preparation.resize_to
        shorter = f"its shorter side has {tall} pixels" if tall == wide else f"it covers {wide} x {tall} pixels"
        first = [
            f"Resize any other size in proportion such that {shorter}, then cut {width} x {height} from the middle."
        ]
    if preparation.interpolation == LINEAR:
        return [
            *first,
            "Interpolate bilinearly between the four nearest pixels, centres of pixels aligned (OpenCV's INTER_LINEAR); "
            "where a picture gets smaller, average over all pixels (Pillow's BILINEAR).",
        ]
    return [*first, f"Interpolate by Pillow's {FILTERS[preparation.interpolation]}."]


def _steps(height: int, width: int, channels: str, **preparation: Any) -> list[str]:
    """What is done with a picture, in words."""
    return [
        f"Pixels of 0 to 255, {channels}, the top row first, {width} wide and {height} high.",
        *resizing(Preparation(**preparation), (height, width)),
        INSIDE,
    ]


def _shown(value: float) -> str:
    """The shortest decimals that name a float32."""
    return str(np.float32(value))


def _less(x: str, offset: int) -> str:
    return f"{x} - {offset}" if offset > 0 else f"{x} + {-offset}" if offset < 0 else x


def _more(add: int) -> str:
    return f" + {add}" if add > 0 else f" - {-add}" if add < 0 else ""


def formula_of(entry: Mapping[str, Any]) -> str:
    """What is done with the numbers of an input or output.

    Args:
        entry: of a recipe.

    Returns:
        Its formula; of others that they are taken or given as they are.
    """
    return str(entry.get("formula", "as it is"))


def in_words(recipe: Mapping[str, Any]) -> list[str]:
    """A recipe as sentences, for comments and descriptions.

    Args:
        recipe: as ``recipe_of`` gives it.

    Returns:
        One text for each input, of pictures what is done with them, one text for each output.
    """

    def told(what: str, x: Mapping[str, Any]) -> str:
        sizes = " x ".join(map(str, x["shape"]))
        return f"{what} {x['name']}: {x['dtype']} {sizes} {x['layout']}, {formula_of(x)}."

    lines = [told("Input", x) for x in recipe["inputs"]]
    if "picture" in recipe:
        lines += _steps(**recipe["picture"])
    return lines + [told("Output", x) for x in recipe["outputs"]]
