"""The C that is the same in every file of the C target, by processor.

Activations are bytes, a code c of a grid [qmin, qmax] being stored as c - qmin, so that all products are of an unsigned and
a signed byte. Weights lie in blocks of up to 16 outputs, in each block as [inputs / 4][outputs][4]: one word of four inputs
meets the words of all outputs of the block one after another, which is what the vector instructions of x86 want, and costs
a microcontroller nothing. Sums are formed modulo 2^32 (unsigned, where the language defines it), and only their end is within
int32: subtracting an input's zero point is part of the bias.
"""

from __future__ import annotations

from collections.abc import Collection

from qat.targets.c.kernels import common, convolve, dsp, head, packed, portable, vnni, vnni_depthwise, x86
from qat.targets.c.kernels import softmax as c_softmax

PROCESSORS = (  #: who has kernels of its own, by the macro that HEAD defines for it; the rest run plain C
    ("USE_VNNI", vnni.FINISH, x86.MULTIPLY_VNNI),
    ("USE_AVX2", portable.FINISH, x86.MULTIPLY_AVX2),
    ("USE_SIMD32", portable.FINISH, dsp.MULTIPLY),
)


def _by_processor(which: int, plain: str) -> str:
    """One text of each processor's."""
    parts = [f"#{'el' * (i > 0)}if defined({each[0]})\n{each[which]}" for i, each in enumerate(PROCESSORS)]
    return "\n".join([*parts, f"#else\n{plain}#endif\n"])


def kernels(used: Collection[str]) -> list[str]:
    """The texts of the kernels that a file uses, by their names: LAYER (convolutions and dense layers), DEPTHWISE, the bits of
    their weights as WEIGHTS_8, CORRECT (weights beyond a byte), and the functions of other nodes.
    """
    bits = [b for b in (8, *packed.STEPS) if f"WEIGHTS_{b}" in used]
    layers = {"LAYER", "DEPTHWISE"} & set(used)
    used = {*used, *(("REQUANTIZE", "CLIP") if layers else ()), *(("CORRECT", "WORD") if "LAYER" in used else ())}
    text = [head.SCALING, head.LAYER] if layers else []
    text += [getattr(common, name) for name in ("REQUANTIZE", "CLIP", "WORD", "UNPACK", "CORRECT") if name in used]
    if layers:
        text.append(_by_processor(1, portable.FINISH))
    if "LAYER" in used:
        text += [_by_processor(2, portable.MULTIPLY)] if 8 in bits else []
        text += [packed.HALVES] if 1 in bits else []
        text += [packed.multiply(b) for b in bits if b < 8]
        text += [convolve.products(bits), f"#if defined(USE_VNNI)\n{vnni.CONVOLVE}#endif\n", convolve.CONVOLVE]
    if "DEPTHWISE" in used:
        text += [f"#if defined(USE_VNNI)\n{vnni_depthwise.DEPTHWISE}#endif\n", convolve.DEPTHWISE]
    text += [c_softmax.ROUND] if "ROUND" in used else []
    return text
