"""What Helium computes in vectors, beside plain C: on an emulated Cortex-M55."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sequential import Chain, calibrated
from test_c_sweep import ENABLE, SETTINGS, command

import qat
from qat.targets.c.cortex_m.cores import missing_tools
from qat.targets.c.cortex_m.measure import measure
from qat.targets.c.kernels import common, head, helium_finish

C = qat.target("C")
pytestmark = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())

TIES = """
#include <stdio.h>

int main(void)
{
    static const int32_t bias[16], multipliers[] = {1 << 30, 0x7FFFFFFF, 3 << 29, 0x40000001};
    int32_t m, half, off, lowest, compared = 0, wrong = 0;
    uint8_t right[16], left[16], i;
    for (m = 0; m < 16; m++) /* four multipliers, with a left shift and without, of negative codes and without */
        for (i = 0; i < 21; i++)
            for (half = -300; half <= 300; half += 13)
                for (off = -2; off <= 2; off++) {
                    const int32_t multiplier = multipliers[m % 4];
                    Scaling s = {bias, &multiplier, 0, right, 100, 0, 255, 4, 0, 1};
                    uint32_t sums[16];
                    uint8_t y[16], o;
                    for (o = 0; o < 16; o++) { /* k + 1/2, and what lies beside it, of 16 numbers k */
                        const int64_t twice = ((int64_t)(half + o) << (i + 1)) * (1 << 29) / (multiplier >> 2);
                        sums[o] = (uint32_t)((twice >> 1) + off);
                        right[o] = i;
                        left[o] = (uint8_t)(o % 2);
                    }
                    s.left = m & 4 ? left : 0;
                    lowest = s.low = m & 8 ? 100 : 0;
                    finish_pixels(sums, 1, &s, 0, 13, y, 0);
                    for (o = 0; o < 13; o++, compared++)
                        wrong += y[o] != code_of_sum(&s, (int32_t)sums[o], o) || y[o] < lowest;
                }
    printf("%ld %ld", (long)compared, (long)wrong);
    return 0;
}
"""


def test_codes_of_sums_at_ties(tmp_path: Path) -> None:
    """Of both signs, for each shift to the right, beside the next whole numbers."""
    machine = SETTINGS["Cortex-M55"]
    texts = (
        head.HEAD,
        head.SCALING,
        common.REQUANTIZE,
        common.CLIP,
        common.CODE_OF_SUM,
        helium_finish.FINISH,
        ENABLE,
        TIES,
    )
    (tmp_path / "ties.c").write_text("\n".join(texts))
    made = tmp_path / "ties"
    subprocess.run([*command(machine, tmp_path), tmp_path / "ties.c", "-o", made], check=True)
    said = subprocess.run([*machine.emulator.split(), made], capture_output=True, text=True, check=True).stdout
    compared, wrong = map(int, said.split())
    assert compared > 900_000
    assert wrong == 0


def test_pixels_of_one_row_that_are_strides_apart(tmp_path: Path) -> None:
    """Windows that follow each other without a gap, between which nothing is read, or which fill words only with it."""
    network = Chain(
        qat.Input((2, 1, 48), mean=0.5),
        patches=qat.Conv2dBnAct(2, 2, (1, 2), (1, 2), pad_mode="valid", has_bias=True),
        every_other=qat.Conv2dBnAct(2, 4, 1, (1, 2), has_bias=True),
        each=qat.Conv2dBnAct(4, 1, 1),
        every_fourth=qat.Conv2dBnAct(1, 5, 1, (1, 4)),
    )
    setup = calibrated(network)
    C.export(setup.integer, tmp_path / "net.c")
    found = measure(tmp_path / "net.c", setup.pixels, "m55")
    np.testing.assert_array_equal(found.outputs[0], qat.evaluate(setup.integer, setup.pixels))


def test_windows_that_are_gathered_have_their_place(tmp_path: Path) -> None:
    """Binary weights have no 0 that fills up rows; a layer whose scratch memory were too small would write over its input."""
    network = Chain(
        qat.Input((3, 5, 5), mean=0.5, std=0.25),
        first=qat.Conv2dBnAct(3, 5, 3, activation="relu"),
        second=qat.Conv2dBnAct(5, 20, 3),
    )
    setup = calibrated(network, weight_quantizer=qat.BinaryWeightQuantizer())
    C.export(setup.integer, tmp_path / "net.c")
    assert re.search(r"\.filled = 1[^;]*\.reads = WINDOWS", (tmp_path / "net.c").read_text())
    found = measure(tmp_path / "net.c", setup.pixels, "m55")
    np.testing.assert_array_equal(found.outputs[0], qat.evaluate(setup.integer, setup.pixels))


def test_it_is_used_where_the_processor_has_it(tmp_path: Path) -> None:
    """And not on one without; with either, codes are equal."""
    network = qat.networks.create("lenet")
    quantized = qat.convert_quant_network(network.graph())
    integers = qat.to_integer(quantized, quantized.observed_params())
    C.export(integers, tmp_path / "net.c", arithmetic="fixed")
    x = np.random.default_rng(0).integers(0, 256, (1, *integers.input.shape), np.uint8)
    with_it = measure(tmp_path / "net.c", x, "m55")
    without = measure(tmp_path / "net.c", x, "m55", options=["-mcpu=cortex-m55+nomve"])
    np.testing.assert_array_equal(with_it.outputs[0], without.outputs[0])
    np.testing.assert_array_equal(with_it.outputs[0], qat.evaluate(integers, x, arithmetic="fixed"))
    assert 2 * with_it.instructions[0] < without.instructions[0]
    assert re.search(r"_bias_less_128\[", (tmp_path / "net.c").read_text())
