"""The C of a file's ends: what the caller gives becomes codes in the arena, and codes become what the caller gets."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import numpy as np

from qat.integer import Grid, IntegerGraph, IntegerTensor
from qat.integer.ends import OWN, REAL, Ends, FileInput, FileOutput, ends_of
from qat.targets.c.text import ctype, stored_type, width
from qat.targets.common import same_in_hwc

#: Of files with real numbers at an end, or with words that are quantized.
PRODUCT = """\
#include <float.h>
#if FLT_RADIX != 2 || FLT_MANT_DIG != 24 || FLT_MAX_EXP != 128
#error "float is not that of IEEE 754, whose bits and rounding this file needs"
#endif

/* x m, rounded to a float once. A volatile object holds a float and no more: a compiler may keep further bits of a product
 * (FLT_EVAL_METHOD 2, as x87) and may add to it before it rounds (contraction), but none of it passes through memory. Further
 * bits do no harm until then: a product of two floats has 48, which all such formats hold, so that it is not rounded twice. */
static inline float product(float x, float m)
{
    volatile float rounded = x * m;
    return rounded;
}
"""

#: After PRODUCT.
QUANTIZE = """\
/* The code next to x m in [low, high], which lie within 2^17, ties to the even one. The product is clipped as a float, since it
 * may be infinite, and one beyond int32 must not become an integer; a NaN becomes low. Then 1.5 2^23 is added: floats of that
 * size are integers, so that the sum is rounded to one, and its lowest bits are the code. Unlike rintf and lrintf that needs no
 * library, and without a floating-point unit it is one addition. The volatile object keeps the sum, as above, from having more
 * bits, and -ffast-math from taking it apart. Rounded to 53 or 64 bits before, it makes up no tie: an y with bits so low
 * is far below 1/2. Where denormal floats are taken for 0, a product of that size has the code 0 anyway, and so has an x of
 * that size if m <= 2^125. The processor has to round to nearest, which it does unless it is told otherwise. */
static inline int32_t quantize(float x, float m, int32_t low, int32_t high)
{
    const float least = (float)low, most = (float)high;
    volatile union {
        float real;
        int32_t bits;
    } sum;
    float y = product(x, m);
    y = y > least ? y : least;
    y = y < most ? y : most;
    sum.real = y + 0x1.8p+23f;
    return sum.bits - 0x4B400000; /* the bits of 1.5 2^23 */
}
"""


def ends_in_c(graph: IntegerGraph, input_type: str, output_type: str) -> Ends:
    """As ``ends_of``, but outputs of type "own" are the codes that the network has."""
    ends = ends_of(graph, input_type, output_type)
    return replace(ends, outputs=tuple(own_codes(x) for x in graph.outputs)) if output_type == OWN else ends


def own_codes(x: IntegerTensor) -> FileOutput:
    """An output that is the network's own codes."""
    return FileOutput(x.shape, np.dtype(x.grid.dtype).name, float(x.grid.scale), x.grid.zero_point)


def own_pixels(x: IntegerTensor) -> FileInput:
    """An input of raw pixels, or other codes of a byte, as files have it that do not describe their ends."""
    name, grid = np.dtype(x.grid.dtype).name, x.grid
    zero = grid.zero_point
    return FileInput(x.shape, name, name, float(grid.scale), zero, grid.low, grid.high, None, zero)


def read_in_place(end: FileInput) -> bool:
    """True for codes as the arena has them, none of which needs to be clipped."""
    return end.quantizes is None and end.stored == "uint8" and end.high - end.low == 255


def enter(end: FileInput, grid: Grid, source: str, place: str) -> tuple[list[str], set[str]]:
    """The statements that make codes in the arena of what the caller gives, and the kernels that they call.

    Args:
        end: the input.
        grid: of its codes; the arena has a code c as c - qmin.
        source: the caller's array.
        place: where the codes lie.
    """
    x, size = IntegerTensor("", end.shape, grid), prod(end.shape)
    kind, given = stored_type(x), f"(int32_t){source}[i]"
    if end.quantizes is not None:
        requantize, offset = end.quantizes
        centred = f"{given} - ({offset})" if offset else given
        number = f"{source}[i]" if end.stored == REAL else f"(float)({centred})"
        code = f"quantize({number}, {literal(requantize.multiplier[0])}, {requantize.low}, {requantize.high})"
        value, used = f"({kind})({code} - ({grid.low}))", {"PRODUCT", "QUANTIZE"}
    elif read_in_place(end):
        return [f"memcpy({place}, {source}, {size});"], set()
    else:
        first, limits = grid.low + end.zero_point, np.iinfo(end.stored)
        if (end.low + end.zero_point, end.high + end.zero_point) == (limits.min, limits.max):
            value, used = f"({kind})({given} - ({first}))", set()
        else:  # the caller may give codes that the network does not have, and tables have no entry for
            clip = "clip_wide" if grid.wide else "clip"
            value = f"{clip}({given} - ({first}), {end.low - grid.low}, {end.high - grid.low})"
            used = {clip.upper()}
    return [f"for (i = 0; i < {size}; i++)", f"    ({place})[i] = {value};"], used


def leave(end: FileOutput, x: IntegerTensor, place: str, name: str) -> tuple[list[str], set[str]]:
    """The statements that give the caller an output in canonical (CHW) order, and the kernels that they call.

    Args:
        end: the output.
        x: its codes.
        place: where they lie.
        name: of the caller's array.
    """
    shift = x.grid.low + end.zero_point
    add = f" + ({shift})" if shift else ""

    def value(index: str) -> str:
        code = f"({place})[{index}]{add}"
        if end.stored == REAL:
            return f"product((float)((int32_t){code}), {literal(end.scale)})"
        return f"({ctype(end.stored)})({code})"

    used = {"PRODUCT"} if end.stored == REAL else set()
    size = prod(x.shape)
    if not same_in_hwc(x.shape):
        pixels = prod(x.shape[1:])
        return [
            f"for (c = 0; c < {x.shape[0]}; c++)",
            f"    for (i = 0; i < {pixels}; i++)",
            f"        {name}[c * {pixels} + i] = {value(f'i * {x.shape[0]} + c')};",
        ], used
    if not add and not used and np.dtype(end.stored).itemsize == width(x):
        return [f"memcpy({name}, {place}, {size * width(x)});"], used
    return [f"for (i = 0; i < {size}; i++)", f"    {name}[i] = {value('i')};"], used


def literal(value: float) -> str:
    """A float32 as C has it, hexadecimal: of decimal constants C asks for no more than a neighbour of the right one."""
    return re.sub(r"\.?0*p", "p", float(np.float32(value)).hex()) + "f"


def uses_floats(ends: Ends) -> bool:
    """True where the file needs floating-point arithmetic."""
    return any(x.quantizes for x in ends.inputs) or any(y.stored == REAL for y in ends.outputs)


def macros(key: str, end: FileInput | FileOutput) -> list[str]:
    """The lines of the header that describe an end, after its shape."""
    quantizes = end.quantizes if isinstance(end, FileInput) else None
    kind = ctype(end.stored)
    size = f"#define {key}_SIZE {prod(end.shape)} /* "
    if quantizes is not None:
        requantize, offset = quantizes
        least, most = (y / float(requantize.multiplier[0]) + offset for y in (requantize.low, requantize.high))
        what = "real numbers" if end.stored == REAL else "words"
        return [f"{size}{what}, {kind}; those beyond {least:.7g} to {most:.7g} are clipped */"]
    if end.stored == REAL:
        return [f"{size}real numbers, {kind} */"]
    return [
        f"{size}codes, {kind} */",
        f"#define {key}_SCALE {end.scale!r}f",
        f"#define {key}_ZERO_POINT ({end.zero_point})",
    ]
