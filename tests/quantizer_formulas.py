"""The formulas of the quantizers, transcribed in NumPy from what their docstrings name, with gradients written by hand.

Each gives the real value, and the gradients of sum(g * value). What tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import qat
from qat.quantizers import BaseActivationQuantizer, BaseWeightQuantizer

Array = npt.NDArray[np.float32]


@dataclass
class Transcript:
    """value: real numbers. gradients: by name, of sum(G * value); "w" is the weight or the activation."""

    value: Array
    gradients: dict[str, Array]


def lsq(w: Array, s: Array, q_n: int, q_p: int, g: Array, count: int) -> Transcript:
    """Esser et al., arXiv 1902.08153, equations 1, 2, 3 and 5, for one scale."""
    u = w / s
    below, above = u <= -q_n, u >= q_p
    value = np.rint(np.clip(u, -q_n, q_p)) * s
    of_scale = np.where(below, -q_n, np.where(above, q_p, np.rint(u) - u))
    of_scale = (g * of_scale).sum() / np.sqrt(count * q_p)
    return Transcript(value, {"w": g * ((u >= -q_n) & (u <= q_p)), "scale_change": of_scale})


def dorefa(w: Array, k: int, g: Array) -> Transcript:
    """Zhou et al., arXiv 1606.06160, equations 5 and 9."""
    n, m = 2**k - 1, np.abs(np.tanh(w)).max()
    value = 2 * np.rint(n * (np.tanh(w) / (2 * m) + 0.5)) / n - 1
    return Transcript(value, {"w": g * (1 - np.tanh(w) ** 2) / m})


def ternary(w: Array, mean: bool, clip: bool, g: Array) -> Transcript:
    """Li et al., arXiv 1605.04711, equations 3 and 5, with the threshold of its first versions."""
    threshold = 0.7 * np.abs(w).mean()
    kept = np.abs(w) > threshold
    alpha = np.abs(w)[kept].mean() if mean else 1.0
    return Transcript(alpha * np.sign(w) * kept, {"w": g * ((np.abs(w) <= 1) | (not clip))})


def binary(w: Array, mean: bool, clip: bool, g: Array) -> Transcript:
    """Rastegari et al., arXiv 1603.05279, equation 6; Courbariaux et al., arXiv 1511.00363, equation 1."""
    alpha = np.abs(w).mean() if mean else 1.0
    return Transcript(alpha * np.where(w >= 0, 1.0, -1.0), {"w": g * ((np.abs(w) <= 1) | (not clip))})


def power_of_two(w: Array, bits: int, g: Array) -> Transcript:
    """The smallest power of two with which the range has room."""
    scale = 2.0 ** np.ceil(np.log2(np.abs(w).max() / (2 ** (bits - 1) - 1)))
    return Transcript(np.rint(w / scale) * scale, {"w": g})


def log_rounded(s: float) -> float:
    """QKeras's power of two."""
    return 2.0 ** np.rint(np.log2(s + 1e-7))


def least_squares(w: Array, q: Array, alpha: str) -> float:
    """QKeras's _get_least_squares_scale."""
    s = (w * q).mean() / ((q * q).mean() + 1e-7)
    return log_rounded(s) if alpha == "auto_po2" else s


def qkeras_bits(
    w: Array, bits: int, integer: int, symmetric: bool, keep_negative: bool, alpha: float | str | None, g: Array
) -> Transcript:
    """QKeras's quantized_bits."""
    if isinstance(alpha, str):
        levels = (2 ** (bits - 1) - 1) * 2
        x = w / 2.0**integer

        def codes(s: float) -> Array:
            v = np.floor(np.abs(x) / s + 0.5)
            return np.sign(x) * np.where(v < levels / 2, v, levels / 2)

        s = np.abs(x).max() * 2 / levels
        if alpha == "auto_po2":
            s = log_rounded(s)
            for _ in range(5):
                s = least_squares(x, codes(s), alpha)
        return Transcript(2.0**integer * s * codes(s), {"w": g})
    m, m_i = 2.0 ** (bits - keep_negative), 2.0**integer
    xq = m_i * np.clip(np.rint(w * m / m_i), keep_negative * (-m + symmetric), m - 1) / m
    return Transcript((1.0 if alpha is None else alpha) * xq, {"w": g})


def qkeras_ternary(w: Array, alpha: float | str | None, threshold: float, g: Array) -> Transcript:
    """QKeras's ternary."""
    if isinstance(alpha, str):
        s = 2 * np.abs(w).max() / 3
        s = log_rounded(s) if alpha == "auto_po2" else s
        for _ in range(5):
            q = (np.abs(s * np.rint(w / s)) >= s / 2) * np.sign(w)
            s = least_squares(w, q, alpha)
        return Transcript(s * q, {"w": g})
    value = (1.0 if alpha is None else alpha) * (np.abs(w) >= threshold) * np.sign(w)
    return Transcript(value, {"w": g * (1 - np.tanh(w) ** 2) if alpha is None else g})


def qkeras_binary(w: Array, alpha: float | str | None, use_01: bool, g: Array) -> Transcript:
    """QKeras's binary."""
    sign = np.sign(w) + (1 - np.abs(np.sign(w)))
    sign = (sign + 1) / 2 if use_01 else sign
    s = least_squares(w, sign, alpha) if isinstance(alpha, str) else 1.0 if alpha is None else alpha
    return Transcript(s * sign, {"w": g * (1 - np.tanh(w) ** 2) if alpha is None else g})


def lsq_plus(x: Array, s: float, beta: float, bits: int, g: Array, count: int) -> Transcript:
    """Bhalgat et al., arXiv 2004.09576, section 3, where the zero point is a code: beta is rint(beta / s) s."""
    levels = 2**bits - 1
    z = np.clip(np.rint(-beta / s), 0, levels)
    u = x / s
    low, high = -z, levels - z
    value = np.clip(np.rint(u), low, high) * s
    below, above = u < low, u > high
    # value = s (low code) + beta below, s (high code) + beta above, but for the rounding of beta / s
    rest = low - beta / s
    of_scale = np.where(below, rest, np.where(above, rest + levels, np.rint(u) - u))
    factor = 1 / np.sqrt(count * levels)
    return Transcript(
        value,
        {
            "w": g * ~(below | above),
            "scale_change": factor * (g * of_scale).sum(),
            "offset_change": factor * (g * (below | above)).sum(),
        },
    )


def pact(x: Array, alpha: float, bits: int, non_negative: bool, symmetric: bool, g: Array) -> Transcript:
    """Choi et al., arXiv 1805.06085, equations 1 to 3; with codes of both signs where x has both."""
    levels = 2 ** (bits if non_negative and not symmetric else bits - 1) - 1
    low = 0.0 if non_negative else -alpha
    value = np.rint(np.clip(x, low, alpha) * levels / alpha) * alpha / levels
    of_alpha = (x >= alpha) * 1.0 - ((x <= -alpha) & (not non_negative))
    return Transcript(value, {"w": g * (x > low) * (x <= alpha), "alpha": (g * of_alpha).sum()})


def learned_width(
    x: Array, low: float, high: float, share: float, most: int, symmetric: bool, non_negative: bool, g: Array
) -> Transcript:
    """Uhlich et al., arXiv 1905.11452, section 2, with a range from low to high; d as a function of the bits b."""
    bits = int(np.clip(np.rint(share * most), 2, most))
    last = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    first = -last - 1 if symmetric else 0
    d = (max(high, -low) if symmetric else high - low) / last
    z = 0 if symmetric else np.rint(-low / d)
    u = x / d
    inside = (u >= first - z) & (u <= last - z)
    of_bits = np.where(inside, np.rint(u) - u, 0) * d * -np.log(2) * (last + 1) / last
    value = np.clip(np.rint(u), first - z, last - z) * d
    return Transcript(value, {"w": g * inside * (x > 0 if non_negative else 1), "share": most * (g * of_bits).sum()})


def dorefa_activation(x: Array, k: int, non_negative: bool, g: Array) -> Transcript:
    """Zhou et al., arXiv 1606.06160, of activations."""
    n = 2**k - 1
    inside = (x > 0 if non_negative else x >= 0) & (x <= 1)
    return Transcript(np.rint(n * np.clip(x, 0, 1)) / n, {"w": g * inside})


def binary_activation(x: Array, scale: float, clip: bool, g: Array) -> Transcript:
    """Hubara et al., arXiv 1602.02830, equations 1 and 4."""
    return Transcript(scale * np.where(x >= 0, 1.0, -1.0), {"w": g * ((np.abs(x) <= 1) | (not clip))})


def qkeras_relu(x: Array, bits: int, integer: int, slope: float, g: Array) -> Transcript:
    """QKeras's quantized_relu."""
    m, m_i = 2.0 ** (bits - (slope != 0)), 2.0**integer
    p = x * m / m_i
    value = m_i * np.clip(np.rint(p) / m, 0.0, 1.0 - 1.0 / m)
    if slope > 0:
        value = value + m_i * slope * np.clip(np.rint(p * slope) / (slope * m), -1.0, 0.0)
    return Transcript(value, {"w": g * np.where(x > 0, 1.0, slope) * (x <= m_i - m_i / m)})


def clipped_power_of_two(size: Array, bits: int, quantizer: Any) -> Array:
    """QKeras's _clip_power_of_two, and the exponents that it is given."""
    most, quadratic = quantizer.max_value, quantizer.quadratic_approximation
    effect = bits - (most is None or most > 1)
    low, high = -(2**effect), 2**effect - 1
    high = 2 * (high // 2) if quadratic else high
    kept = np.where(size < 1e-7, 1e-7, size)
    kept = kept if most is None else np.where(kept >= most, most, kept)
    kept = np.sqrt(kept) if quadratic else kept
    r = np.clip({"rnd": np.rint, "floor": np.floor}[quantizer.log2_rounding](np.log2(kept)), low, high)
    return np.where(size < 1e-7, low, (2.0 if quadratic else 1.0) * r)


def qkeras_po2(x: Array, quantizer: Any, g: Array) -> Transcript:
    """QKeras's quantized_po2."""
    sign = np.sign(x) + (1 - np.abs(np.sign(x)))
    return Transcript(sign * 2.0 ** clipped_power_of_two(np.abs(x), quantizer.num_bits - 1, quantizer), {"w": g})


def qkeras_relu_po2(x: Array, quantizer: Any, g: Array) -> Transcript:
    """QKeras's quantized_relu_po2."""
    bits, slope, most = quantizer.num_bits, quantizer.negative_slope, quantizer.max_value
    value = 2.0 ** clipped_power_of_two(np.maximum(x, 0), bits, quantizer)
    if slope:
        value = np.where(x >= 0, value, -(2.0 ** clipped_power_of_two(np.maximum(-x, 0) * slope, bits, quantizer)))
    return Transcript(value, {"w": g * np.where(x > 0, 1.0, slope) * (x <= (np.inf if most is None else most))})


def of_weight(quantizer: BaseWeightQuantizer, w: Array, s: Array, g: Array) -> Transcript:
    """One output at a time, or the whole weight as one. s: scales of LSQ."""

    def one(w: Array, s: float, g: Array) -> Transcript:
        if isinstance(quantizer, qat.LSQWeightQuantizer):
            q_p = 2 ** (quantizer.num_bits - 1) - 1
            return lsq(w, s, q_p if quantizer.narrow_range else q_p + 1, q_p, g, w.size)
        if isinstance(quantizer, qat.DoReFaWeightQuantizer):
            return dorefa(w, quantizer.num_bits, g)
        if isinstance(quantizer, qat.WeightQuantizer):
            return power_of_two(w, quantizer.num_bits, g)
        if isinstance(quantizer, qat.QKerasBitsWeightQuantizer):
            signs = (quantizer.narrow_range, quantizer.symmetric)
            return qkeras_bits(w, quantizer.num_bits, quantizer.integer, *signs, quantizer.alpha, g)
        if isinstance(quantizer, qat.QKerasTernaryWeightQuantizer):
            return qkeras_ternary(w, quantizer.alpha, quantizer.threshold, g)
        if isinstance(quantizer, qat.QKerasPo2WeightQuantizer):
            return qkeras_po2(w, quantizer, g)
        if isinstance(quantizer, qat.QKerasBinaryWeightQuantizer):
            return qkeras_binary(w, quantizer.alpha, quantizer.use_01, g)
        formula = ternary if isinstance(quantizer, qat.TernaryWeightQuantizer) else binary
        return formula(w, quantizer.scale == "mean", quantizer.clip, g)

    w, s, g = (np.asarray(array, np.float64) for array in (w, s, g))
    if not quantizer.per_channel:
        return one(w, float(s.reshape(-1)[0]), g)
    parts = [one(*each) for each in zip(w, s, g, strict=True)]
    gradients = {name: np.stack([part.gradients[name] for part in parts]) for name in parts[0].gradients}
    return Transcript(np.stack([part.value for part in parts]), gradients)


def of_activation(
    quantizer: BaseActivationQuantizer, own: dict[str, Array], x: Array, g: Array, non_negative: bool, features: int
) -> Transcript:
    """own: its parameters. features: numbers in one sample."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    bits = quantizer.num_bits
    if isinstance(quantizer, qat.LearnedWidthActivationQuantizer):
        ends = (0.0 if non_negative else float(own["min"]), float(own["max"]))
        return learned_width(x, *ends, float(own["share"]), bits, quantizer.symmetric, non_negative, g)
    if isinstance(quantizer, qat.PACTActivationQuantizer):
        return pact(x, float(own["alpha"]), bits, non_negative, quantizer.symmetric, g)
    if isinstance(quantizer, qat.DoReFaActivationQuantizer):
        return dorefa_activation(x, bits, non_negative, g)
    if isinstance(quantizer, qat.BinaryActivationQuantizer):
        return binary_activation(x, float(own.get("mean", 1.0)), quantizer.clip, g)
    if isinstance(quantizer, qat.QKerasReLUActivationQuantizer):
        return qkeras_relu(x, bits, quantizer.integer, quantizer.negative_slope, g)
    if isinstance(quantizer, qat.QKerasPo2ActivationQuantizer):
        return qkeras_po2(x, quantizer, g)
    if isinstance(quantizer, qat.QKerasReLUPo2ActivationQuantizer):
        return qkeras_relu_po2(x, quantizer, g)
    if isinstance(quantizer, qat.QKerasBitsActivationQuantizer):
        return qkeras_bits(x, bits, quantizer.integer, quantizer.narrow_range, quantizer.symmetric, None, g)
    if quantizer.offset and not non_negative:
        s, beta = (float(own[f"initial_{name}"] + own[f"{name}_change"]) for name in ("scale", "offset"))
        return lsq_plus(x, s, beta, bits, g, features)
    unsigned = non_negative and not quantizer.symmetric
    q_p = 2 ** (bits if unsigned else bits - 1) - 1 - (unsigned and quantizer.narrow_range)
    q_n = 0 if non_negative else 2 ** (bits - 1) - quantizer.narrow_range
    expected = lsq(x, float(own["initial_scale"] + own["scale_change"]), q_n, q_p, g, features)
    if non_negative:
        expected.gradients["w"] = expected.gradients["w"] * (x > 0)  # the edge of the ReLU
    return expected
