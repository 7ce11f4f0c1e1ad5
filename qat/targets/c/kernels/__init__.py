"""The C that is the same in every file of the C target, by processor.

Activations are bytes, a code c of a grid [qmin, qmax] being stored as c - qmin, so that all products are of an unsigned and
a signed byte. Weights lie in blocks of up to 16 outputs, in each block as [inputs / 4][outputs][4]: one word of four inputs
meets the words of all outputs of the block one after another, which is what the vector instructions of x86 want, and costs
a microcontroller nothing. Sums are formed modulo 2^32 (unsigned, where the language defines it), and only their end is within
int32: subtracting an input's zero point is part of the bias.
"""

from __future__ import annotations

from collections.abc import Collection

from qat.targets.c.kernels import (
    common,
    convolve,
    dsp,
    dsp_depthwise,
    dsp_finish,
    floats,
    head,
    helium,
    helium_depthwise,
    helium_finish,
    helium_tables,
    neon,
    packed,
    portable,
    vnni,
    vnni_depthwise,
    x86,
)

PROCESSORS = (  #: who has kernels of its own, by the macro that HEAD defines for it; the rest run plain C
    ("USE_VNNI", vnni.FINISH, x86.MULTIPLY_VNNI),
    ("USE_AVX2", x86.FINISH_AVX2, x86.MULTIPLY_AVX2),
    ("USE_HELIUM", helium_finish.FINISH, ""),
    ("USE_NEON", neon.FINISH, neon.MULTIPLY),
)

CASES = ("ANY_WINDOWS", "ANY_INCOMPLETE", "ANY_SLOW", "ANY_TIES", "ANY_AVERAGE", "ANY_KERNEL")  #: rare ones, of layers


def _by_processor(which: int, plain: str) -> str:
    """One text of each processor's."""
    parts = [f"#{'el' * (i > 0)}if defined({each[0]})\n{each[which]}" for i, each in enumerate(PROCESSORS)]
    return "\n".join([*parts, f"#else\n{plain}#endif\n"])


def _bits(used: Collection[str]) -> list[int]:
    """Those of the weights of convolutions and dense layers."""
    return [b for b in (8, *packed.STEPS) if f"WEIGHTS_{b}" in used]


def _walked(used: Collection[str]) -> list[str]:
    """Layers as processors have them that only multiply, and make codes of sums, in their own way, and those of Helium."""
    bits = _bits(used)
    text = [_by_processor(1, portable.FINISH)]
    if "LAYER" in used:
        text.append("#ifdef USE_HELIUM")
        text += [common.UNPACK] if bits != [8] and "UNPACK" not in used else []
        text += [helium.convolve(packed=bits != [8]), "#else", common.CORRECT]
        text += [_by_processor(2, portable.MULTIPLY)] if 8 in bits else []
        text += [packed.HALVES] if 1 in bits else []
        text += [packed.multiply(b) for b in bits if b < 8]
        text += [
            convolve.products(bits),
            f"#if defined(USE_VNNI)\n{vnni.CONVOLVE}#endif\n",
            convolve.CONVOLVE,
            "#endif\n",
        ]
    if "DEPTHWISE" in used:
        text.append(f"#if defined(USE_VNNI)\n{vnni_depthwise.DEPTHWISE}#endif\n")
        text.append(
            f"#ifdef USE_HELIUM\n{helium_depthwise.DEPTHWISE}#else\n{convolve.ADD_TAPS}\n{convolve.DEPTHWISE}#endif\n"
        )
    return text


def _dsp(used: Collection[str]) -> list[str]:
    """Layers of processors with Arm's DSP extension."""
    text = [dsp_finish.FINISH]
    text += [dsp.convolve(_bits(used))] if "LAYER" in used else []
    return [*text, dsp_depthwise.DEPTHWISE] if "DEPTHWISE" in used else text


def kernels(used: Collection[str], arithmetic: str) -> list[str]:
    """The texts of the kernels that a file of that arithmetic uses, by their names: LAYER (convolutions and dense layers),
    DEPTHWISE, the bits of their weights as WEIGHTS_8, and the functions of other nodes.
    """
    layers = {"LAYER", "DEPTHWISE"} & set(used)
    scales = "ROUNDED" if arithmetic == "float" else "REQUANTIZE"
    used = {*used, *((scales, "CLIP", "CODE_OF_SUM", "WORD") if layers else ())}
    used |= {"WORD"} if "LARGER" in used else set()
    used |= {"ROUND"} if {"ROUNDED_LONG"} & used else set()
    used |= {"TIMES"} if {"ROUNDED", "ROUNDED_LONG"} & used else set()
    text = [floats.HEAD] if arithmetic == "float" else []
    text += [floats.NO_SHIFT] if layers and arithmetic == "float" else []
    text += [head.SCALING, head.LAYER] if layers else []
    text += [getattr(floats, name) for name in ("ROUND", "TIMES", "ROUNDED", "ROUNDED_LONG") if name in used]
    in_order = ("REQUANTIZE", "CLIP", "CODE_OF_SUM", "WORD", "UNPACK", "LARGER", "LARGER_WIDE")
    text += [getattr(common, name) for name in in_order if name in used]
    text += [f"#ifndef USE_HELIUM\n{convolve.WINDOW}#endif\n"] if "LAYER" in used else []
    if layers:
        text += ["/* Cases that a layer here has, or none. */"]
        text += [*(f"#define {case} {int(case in used)}" for case in CASES), ""]
        text += [
            "#if defined(USE_SIMD32) && !defined(USE_HELIUM)",
            dsp_finish.BEFORE,
            *_dsp(used),
            dsp_finish.BEHIND,
            "#else",
            *_walked(used),
            "#endif\n",
        ]
    text += [helium_tables.SUM_TABLE] if "SUM_TABLE" in used else []
    return text
