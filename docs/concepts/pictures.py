"""Draw the pictures of these pages, each from numbers that the library computes: ``python docs/concepts/pictures.py``.

They have no background and colours of middle brightness, so that they are readable on a light and on a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import qat
from qat.vocabulary.numpy_ops import NUMPY_OPS

HERE = Path(__file__).resolve().parent
INK, BLUE, ORANGE, GREEN, RED = "#7d8590", "#4184e4", "#d4762c", "#3d9a50", "#e5534b"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qat",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


@contextmanager
def picture(name: str, width: float, height: float, columns: int = 1) -> Iterator[Any]:
    """The axes of a picture, which is written when the block ends."""
    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure.subplots(1, columns)
    figure.savefig(HERE / name, transparent=True, metadata={"Date": None, "Creator": None})
    text = (HERE / name).read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(
        r"font: ([\d.]+px) [^;\"]*", r"font: \1 -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif", text
    )
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    (HERE / name).write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def codes() -> None:
    """Weights of a real layer with the grids of 3 and 4 bits."""
    weights = qat.zoo.load("mnist_cnn").params["fc1.weight"].ravel()
    with picture("codes.svg", 8.2, 3.0, 2) as both:
        for axes, bits in zip(both, (4, 3), strict=True):
            found = qat.WeightQuantizer(bits, per_channel=False).quantize(NUMPY_OPS, weights.reshape(1, -1))
            scale, highest = float(np.ravel(found.scale)[0]), 2 ** (bits - 1) - 1
            axes.hist(weights, 56, color=BLUE, alpha=0.6, histtype="stepfilled")
            for code in range(-highest, highest + 1):
                axes.axvline(code * scale, color=ORANGE, linewidth=1)
            ticks = np.arange(-highest, highest + 1)
            axes.set_xticks(ticks * scale, [str(code) for code in ticks])
            axes.set_xlim(-1.08 * highest * scale, 1.08 * highest * scale)
            axes.set_yticks([])
            axes.set_xlabel(f"code; one step is the scale, {scale:.3f}")
            axes.set_title(f"{bits} bits", fontsize=11)


def ranges() -> None:
    """What a range leaves of the error: rounding inside, clipping outside."""
    numbers = np.abs(np.random.default_rng(0).laplace(0, 1, 100_000))
    tops = np.linspace(0.4, 12, 117)
    parts = []
    for top in tops:
        scale = top / 15
        shown = np.clip(np.rint(numbers / scale), 0, 15) * scale
        error, clipped = (numbers - shown) ** 2, numbers > top
        parts.append([error[~clipped].sum(), error[clipped].sum()])
    rounded, cut = np.array(parts).T / len(numbers)
    with picture("ranges.svg", 6.4, 3.2) as axes:
        axes.plot(tops, rounded, color=BLUE, label="rounding, of the numbers inside")
        axes.plot(tops, cut, color=ORANGE, label="clipping, of the numbers outside")
        axes.plot(tops, rounded + cut, color=INK, linewidth=2.2, label="both")
        best = int(np.argmin(rounded + cut))
        axes.plot(tops[best], (rounded + cut)[best], "o", color=RED)
        axes.annotate(
            f"least at {tops[best]:.1f}", (tops[best], (rounded + cut)[best]), (tops[best], 0.16), color=RED,
            ha="center", arrowprops={"arrowstyle": "-", "color": RED},
        )  # fmt: skip
        axes.set_ylim(0, 0.3)
        axes.set_xlabel(f"largest number of the range (the largest of all is {numbers.max():.1f})")
        axes.set_ylabel("mean squared error")
        axes.legend(frameon=False, labelcolor=INK)


def straight_through() -> None:
    """A fake quantizer of 3 bits: what it gives, and the gradient that it passes."""
    x = np.linspace(-1.0, 3.0, 801)
    scale, low, high = 0.25, 0, 7
    codes = np.clip(np.rint(x / scale), low, high)
    inside = (x / scale >= low) & (x / scale <= high)
    with picture("straight_through.svg", 8.2, 3.0, 2) as (left, right):
        left.plot(x, x, color=INK, linewidth=1, linestyle=":", label="x")
        left.plot(x, codes * scale, color=BLUE, label="scale * code")
        left.set_title("what the next layer gets", fontsize=11)
        left.legend(frameon=False, labelcolor=INK)
        right.plot(x, inside.astype(float), color=ORANGE)
        right.set_title("the gradient that passes", fontsize=11)
        right.set_yticks([0, 1])
        right.set_ylim(-0.1, 1.2)
        for axes in (left, right):
            axes.set_xlabel("x")


def orders() -> None:
    """One sum near the middle of two codes, added in 2,000 orders: in float32, and as integers."""
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, 1152), rng.integers(-127, 128, 1152)
    s_x, s_w = np.float32(0.0123), np.float32(0.00456)
    exact = int((x * w).sum())
    s_y = np.float32(exact * float(s_x) * float(s_w) / 87.5)  # the sum lies in the middle of the codes 87 and 88
    products = (s_x * x.astype(np.float32)) * (s_w * w.astype(np.float32))
    floats, sums = [], set()
    for _ in range(2000):
        order = rng.permutation(len(x))
        floats.append(float(np.add.accumulate(products[order], dtype=np.float32)[-1]) / float(s_y))
        sums.add(int(np.add.accumulate((x * w)[order])[-1]))
    assert sums == {exact}
    lower = float(np.mean(np.array(floats) < 87.5))
    with picture("orders.svg", 7.4, 3.0) as axes:
        offsets = (np.array(floats) - 87.5) * 1e5
        axes.hist(offsets, np.arange(-30, 31), color=BLUE, alpha=0.6, histtype="stepfilled")
        axes.axvline(0, color=ORANGE, linewidth=1.5)
        top = axes.get_ylim()[1]
        reach = 30
        axes.set_xlim(-reach, reach)
        axes.text(-reach, top, f"code 87: {lower:.0%} of the orders", ha="left", va="bottom", color=INK)
        axes.text(reach, top, f"code 88: {1 - lower:.0%}", ha="right", va="bottom", color=INK)
        axes.set_xlabel("sum / scale of the output - 87.5, in 1/100,000 of a step")
        axes.set_yticks([])
        axes.set_ylabel("orders of adding")


def box(axes: Axes, x: float, y: float, text: str, color: str, width: float = 1.5, height: float = 0.62) -> None:
    """A box with text, its centre at (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.1",
            facecolor="none", edgecolor=color, linewidth=1.6,
        )
    )  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", color=INK, fontsize=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.3})


def chain(axes: Axes, y: float, parts: list[tuple[str, str]], step: float = 1.9, start: float = 1.0) -> None:
    """Boxes in a row with arrows between them; (text, colour)."""
    for number, (text, color) in enumerate(parts):
        box(axes, start + number * step, y, text, color)
        if number:
            arrow(axes, (start + (number - 1) * step + 0.78, y), (start + number * step - 0.78, y))


def bare(axes: Axes, right: float, top: float) -> None:
    """Axes for a drawing: no frame, equal units."""
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.axis("off")


def folding() -> None:
    """Three ways to train with a batch normalisation, and the one way to deploy it."""
    rows = [
        (
            "not folded",
            [("quantize w", ORANGE), ("convolution", BLUE), ("batch norm.", GREEN), ("ReLU, quantize", ORANGE)],
        ),
        (
            "folded",
            [
                ("w times\ngamma / sigma", GREEN),
                ("quantize it", ORANGE),
                ("convolution", BLUE),
                ("ReLU, quantize", ORANGE),
            ],
        ),
        (
            "deployed",
            [("codes of w,\nnew scales", ORANGE), ("integer\nconvolution", BLUE), ("requantize", ORANGE)],
        ),
    ]
    with picture("folding.svg", 8.6, 3.2) as axes:
        bare(axes, 9.4, 3.2)
        for number, (name, parts) in enumerate(rows):
            y = 2.7 - number * 1.05
            axes.text(1.45, y, name, ha="right", va="center", color=INK, fontsize=10, fontweight="bold")
            chain(axes, y, parts, start=2.5)


def channels() -> None:
    """The largest weight of each output channel before and after folding; the numbers are drawn at random."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (16, 72)).astype(np.float32)
    factor = np.exp(rng.normal(0, 0.9, 16)).astype(np.float32)  # gamma / sigma
    with picture("channels.svg", 8.2, 2.8, 2) as both:
        for axes, values, what in zip(
            both, (weight, weight * factor[:, None]), ("w", "w · gamma / sigma"), strict=True
        ):
            largest = np.abs(values).max(1)
            fewest = int(np.rint(largest.min() / (largest.max() / 127)))
            axes.bar(range(16), largest, color=[ORANGE if x == largest.min() else BLUE for x in largest], alpha=0.7)
            axes.set_title(f"{what}: largest of each channel", fontsize=11)
            axes.set_xticks([])
            axes.set_xlabel(f"the smallest reaches code {fewest} of 127")


def requantization() -> None:
    """An integer layer from codes to codes."""
    with picture("requantization.svg", 8.8, 2.5) as axes:
        bare(axes, 9.8, 2.5)
        parts = [
            ("codes x\nuint8", INK), ("Σ (x - z) w + b\nint32", BLUE), ("times m\nfloat32", ORANGE),
            ("round, clip", ORANGE), ("codes y\nuint8", INK),
        ]  # fmt: skip
        chain(axes, 1.55, parts, step=1.95)
        axes.text(2.95, 2.2, "whole numbers: exact", ha="center", color=INK, fontsize=9)
        axes.text(5.88, 2.2, "one product, one rounding: IEEE 754", ha="center", color=INK, fontsize=9)
        box(axes, 2.95, 0.4, "codes w and b", GREEN, 1.5, 0.45)
        arrow(axes, (2.95, 0.64), (2.95, 1.22))
        box(axes, 4.9, 0.4, "m = s_x s_w / s_y", GREEN, 1.7, 0.45)
        arrow(axes, (4.9, 0.64), (4.9, 1.22))
        axes.text(5.95, 0.4, "made once, in NumPy", ha="left", va="center", color=GREEN, fontsize=9)


def main() -> None:
    """Draw them all."""
    with mpl.rc_context(STYLE):
        for draw in (codes, ranges, straight_through, orders, folding, channels, requantization):
            draw()


if __name__ == "__main__":
    main()
