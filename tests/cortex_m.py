"""A bare Cortex-M4 for the C target's tests: cross compiled by arm-none-eabi-gcc, run in qemu-system-arm (machine mps2-an386).

There is no operating system: a vector table, a reset handler that copies the initialised data, and semihosting for output.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qat.targets.c.text import ctype

TOOLS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
REASON = f"needs {', '.join(MISSING)} (apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)"
MACHINE = ["qemu-system-arm", "-machine", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native"]
CPU = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft"]
OPTIONS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections"]

#: Code and constants from 0, RAM from 0x20000000, 4 MiB each, as the machine has them.
LINKER = """
MEMORY { FLASH (rx): ORIGIN = 0, LENGTH = 4M  RAM (rwx): ORIGIN = 0x20000000, LENGTH = 4M }
ENTRY(reset)
SECTIONS {
    .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(4); } > FLASH
    .data : { data_begin = .; *(.data*) . = ALIGN(4); data_end = .; } > RAM AT > FLASH
    data_source = LOADADDR(.data);
    .bss : { bss_begin = .; *(.bss*) *(COMMON) . = ALIGN(4); bss_end = .; } > RAM
    /DISCARD/ : { *(.ARM.exidx*) *(.ARM.attributes) *(.comment) }
}
"""

START = """
#include <stdint.h>

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[];
int main(void);

static void semihosting(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void say(const char *text) { semihosting(0x04, text); }

void reset(void)
{
    uint32_t *to = data_begin;
    const uint32_t *from = data_source;
    while (to < data_end)
        *to++ = *from++;
    for (to = bss_begin; to < bss_end; to++)
        *to = 0;
    (void)main();
    semihosting(0x18, (const void *)0x20026); /* the application has ended */
    for (;;)
        ;
}

static void fault(void)
{
    say("fault\\n");
    semihosting(0x18, (const void *)0x20026);
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))0x20400000, reset, fault, fault, fault, fault, fault};
"""

MAIN = """
#include "{name}.h"

void say(const char *text);

{images}

int main(void)
{{
    int i, j;
    for (i = 0; i < {count}; i++) {{
        static {kind} codes[{output}];
        static char line[2 * sizeof codes + 2];
        const uint8_t *const bytes = (const uint8_t *)codes;
        {name}_run(images[i], codes);
        for (j = 0; j < (int)sizeof codes; j++) {{
            line[2 * j] = "0123456789abcdef"[bytes[j] >> 4];
            line[2 * j + 1] = "0123456789abcdef"[bytes[j] & 15];
        }}
        line[2 * sizeof codes] = '\\n';
        line[2 * sizeof codes + 1] = 0;
        say(line);
    }}
    return 0;
}}
"""


class Sizes(NamedTuple):
    """Bytes of the network's own object file."""

    flash: int  #: code and constants
    ram: int  #: data and bss: the arena


def run(c_file: Path, pixels: np.ndarray, output: int, dtype: type, folder: Path) -> tuple[np.ndarray, Sizes]:
    """Outputs (N, output) of samples (N, H, W, C) or (N, I) as the file takes them, computed on the emulated Cortex-M4."""
    name = c_file.stem
    written = float.hex if pixels.dtype.kind == "f" else str
    rows = ",\n".join("{" + ",".join(map(written, x.ravel().tolist())) + "}" for x in pixels)
    images = f"static const {ctype(pixels.dtype.name)} images[{len(pixels)}][{pixels[0].size}] = {{\n{rows}\n}};"
    kind = ctype(np.dtype(dtype).name)
    main = MAIN.format(name=name, images=images, count=len(pixels), output=output, kind=kind)
    for file, text in (("main.c", main), ("start.c", START), ("flash.ld", LINKER)):
        (folder / file).write_text(text, encoding="utf-8")
    for source in (c_file, folder / "main.c", folder / "start.c"):
        target = folder / f"{source.stem}.o"
        _do("arm-none-eabi-gcc", *CPU, *OPTIONS, f"-I{c_file.parent}", "-c", source, "-o", target)
    objects = [folder / f"{x}.o" for x in (name, "main", "start")]
    image = folder / "image.elf"
    _do(
        "arm-none-eabi-gcc",
        *CPU,
        "-nostartfiles",
        "-Wl,--gc-sections",
        "-T",
        folder / "flash.ld",
        *objects,
        "-o",
        image,
    )
    said = _do(*MACHINE, "-kernel", image)
    codes = np.frombuffer(bytes.fromhex("".join(re.findall(r"^[0-9a-f]+$", said, re.MULTILINE))), dtype)
    text, data, bss = map(int, _do("arm-none-eabi-size", objects[0]).splitlines()[1].split()[:3])
    return codes.reshape(-1, output), Sizes(text + data, data + bss)


def _do(*command: object) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout + done.stderr
