"""The processors that qemu-system-arm emulates, and how a program is compiled for each of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple

from qat.errors import QatError
from qat.hints import unknown

GCC, NM, SIZE = "arm-none-eabi-gcc", "arm-none-eabi-nm", "arm-none-eabi-size"
QEMU, HOST = "qemu-system-arm", "cc"
#: What has to be installed, and the packages of Debian and Ubuntu that have it.
TOOLS = {
    GCC: "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    QEMU: "qemu-system-arm",
    HOST: "gcc",  # for the plugin of the emulator that counts
}


class Core(NamedTuple):
    """A processor on a board of Arm's MPS2 and MPS3, as qemu has them.

    Attributes:
        name: As the field calls it; F: with the unit for single precision.
        cpu: What -mcpu= takes.
        hard: Whether the floating-point unit is used; on a Cortex-M55 it brings Helium with it.
        machine: qemu's name of the board.
        vectors: Where the processor looks for its table of vectors.
        flash: Where code and constants lie here: the board's largest memory, 16 MiB at least, so that any network fits.
        ram: Where data lie, 4 MiB.
    """

    name: str
    cpu: str
    hard: bool
    machine: str
    vectors: int
    flash: int
    ram: int

    @property
    def options(self) -> list[str]:
        """Of the compiler; the unit is the one that belongs to the processor."""
        return [f"-mcpu={self.cpu}", "-mthumb", f"-mfloat-abi={'hard' if self.hard else 'soft'}"]


#: By the name that commands take.
CORES = {
    "m3": Core("Cortex-M3", "cortex-m3", False, "mps2-an385", 0, 0x21000000, 0x20000000),
    "m4": Core("Cortex-M4", "cortex-m4", False, "mps2-an386", 0, 0x21000000, 0x20000000),
    "m4f": Core("Cortex-M4F", "cortex-m4", True, "mps2-an386", 0, 0x21000000, 0x20000000),
    "m7": Core("Cortex-M7", "cortex-m7", True, "mps2-an500", 0, 0x60000000, 0x20000000),
    "m33": Core("Cortex-M33", "cortex-m33", False, "mps2-an505", 0x10000000, 0x80000000, 0x38000000),
    "m33f": Core("Cortex-M33F", "cortex-m33", True, "mps2-an505", 0x10000000, 0x80000000, 0x38000000),
    "m55": Core("Cortex-M55", "cortex-m55", True, "mps3-an547", 0, 0x70000000, 0x60000000),
}


def core_named(name: str) -> Core:
    """The processor of that name, as "m4". Raises QatError where there is none."""
    if name not in CORES:
        raise QatError(unknown("core", name, [*CORES]))
    return CORES[name]


def missing_tools() -> str:
    """What has to be installed before anything can run on an emulated core, in one line; "" where all is there."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    packages = " ".join(TOOLS[tool] for tool in missing)
    return f"needs {', '.join(missing)} (apt-get install {packages})" if missing else ""


def emulator() -> str:
    """The compiler and the emulator, with their versions. Raises QatError where one is missing."""
    missing = missing_tools()
    if missing:
        raise QatError(f"an emulated Cortex-M {missing}")
    found = []
    for tool in (GCC, QEMU):
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
        number = re.search(
            r"\d+(\.\d+)+", re.sub(r"\(.*?\)", "", said)
        )  # a distribution's own number stands in brackets
        found.append(f"{tool} {number[0] if number else ''}".strip())
    return ", ".join(found)
