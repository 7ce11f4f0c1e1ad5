"""The constants of a C file: how they are written, and what a file that was written really holds.

Few numbers are decimal ones. Weights, and many bytes, are string literals, which compilers read some ten times as fast as as
many numbers, with a fifth of the memory; or they lie in a file of their own, which the assembler takes in (.incbin). Both are
bytes, the same on every processor; what has more than a byte is always decimal, since its bytes are not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from qat.errors import QatError
from qat.targets.c.text import lines
from qat.vocabulary.ops import Array

#: C types and NumPy's.
TYPES = {f"{kind}_t": np.dtype(kind) for kind in ("int8", "int16", "int32", "uint8", "uint16", "uint32")}
FEW = 256  #: bytes that are still written as numbers
WIDTH = 112  #: of lines of literals, to a byte
#: C99 asks for literals of 4095 characters; every compiler in use takes more, but Microsoft's no more than this.
LONGEST = 65_535
WEIGHTS_SUFFIX = ".bin"  #: of the weights' own file
IN_FILE = "#define FROM_FILE("  #: in the source of an export that has one

#: Before literals. GCC and Clang keep to C99's least of 4095 characters where they are asked to be pedantic.
_LITERALS = """\
#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Woverlength-strings" /* C99 asks for 4095 characters, all compilers in use take more */
#endif
"""
#: Before weights: a vector of 64 bytes that crosses two lines of a cache is read in twice the time.
_ALIGNED = """\
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__) || defined(__aarch64__))
#define ALIGNED __attribute__((aligned(64))) /* weights begin where a line of the cache does; others have none, or little */
#elif defined(__GNUC__) && defined(__arm__)
#define ALIGNED __attribute__((aligned(4))) /* weights are read by words */
#else
#define ALIGNED
#endif
"""
_FROM_FILE = """\
/* Weights lie in @FILE, which the assembler takes in. It looks for it in the folder in which the compiler runs, and in those
 * that are given with -I. */
#if !defined(__GNUC__) || (!defined(__ELF__) && !defined(__APPLE__))
#error "weights in a file of their own need GCC or Clang, for ELF or Mach-O: export without --weights_file"
#elif defined(__APPLE__)
#define AMONG_CONSTANTS ".pushsection __TEXT,__const\\n"
#define OWN_SYMBOL(name, size) ".globl " name "\\n.private_extern " name "\\n"
#else
#define AMONG_CONSTANTS ".pushsection .rodata\\n"
#define OWN_SYMBOL(name, size) \\
    ".globl " name "\\n.hidden " name "\\n.type " name ", %object\\n.size " name ", " size "\\n"
#endif
#if defined(__x86_64__) || defined(__i386__) || defined(__aarch64__)
#define AT_A_LINE ".balign 64\\n" /* where a line of the cache begins; others have none, or little */
#else
#define AT_A_LINE ".balign 4\\n"
#endif
#define FROM_FILE(type, name, offset, size) \\
    extern const type name[size] __asm__("@NAME_" #name) __attribute__((visibility("hidden"))); \\
    __asm__(AMONG_CONSTANTS AT_A_LINE OWN_SYMBOL("@NAME_" #name, #size) "@NAME_" #name ":\\n" \\
            ".incbin \\"@FILE\\", " #offset ", " #size "\\n.popsection\\n")
"""


def before(used: Collection[str], name: str, file: str) -> list[str]:
    """What a source has before its constants.

    used: of LITERALS, ALIGNED and FROM_FILE. name: what the names of the network begin with. file: that of the weights.
    """
    texts = {"LITERALS": _LITERALS, "ALIGNED": _ALIGNED, "FROM_FILE": _FROM_FILE}
    return [text.replace("@NAME", name).replace("@FILE", file) for key, text in texts.items() if key in used]


class Constant(NamedTuple):
    """What a constant has to be.

    Args:
        kind: its C type.
        values: integers, in order.
    """

    kind: str
    values: Array


def fits(kind: str, values: Array) -> bool:
    """True where a C type holds them all."""
    limits = np.iinfo(TYPES[kind])
    return int(values.min()) >= limits.min and int(values.max()) <= limits.max


def as_numbers(kind: str, name: str, values: Array) -> str:
    """A constant of decimal numbers."""
    text = lines(values).replace("-2147483648,", "-2147483647 - 1,")  # the number is too large for int before its sign
    return f"static const {kind} {name}[{values.size}] = {{\n{text}\n}};\n"


def as_literals(kind: str, name: str, data: bytes, before: str = "") -> tuple[str, int]:
    """A constant of bytes as a string literal, and its size.

    Every literal ends with a 0 of its own. C allows to drop it, but C++ does not and newer compilers warn of it; so the last
    byte is that 0 where it is 0 anyway, and elsewhere the array has one byte more. More than ``LONGEST`` bytes become the
    members of a struct, between which nothing lies: each ends with a byte that is 0.

    before: what stands before the type.
    """
    ends = _ends(data)
    pieces = [data[begin:end] for begin, end in itertools.pairwise([0, *ends])]
    sizes = [len(piece) + (piece[-1] != 0) for piece in pieces]
    texts = [literal(piece[:-1] if piece[-1] == 0 else piece) for piece in pieces]
    if len(pieces) == 1:
        return f"static const {before}{kind} {name}[{sizes[0]}] =\n{texts[0]};\n", sizes[0]
    members = " ".join(f"{kind} part{i}[{size}];" for i, size in enumerate(sizes))
    inside = ",\n".join(texts)
    return (
        f"static const {before}struct {{ {members} }} {name}_parts = {{\n{inside},\n}};\n"
        f"#define {name} ((const {kind} *)(const void *)&{name}_parts)\n"
    ), sum(sizes)


def literal(data: bytes) -> str:
    """Bytes as string literals, one a line.

    Characters that can be printed stand for themselves, but quotation marks, backslashes and question marks, which may begin
    a trigraph. All others are octal escapes, as short as they may be: of three digits where the next character is a digit.
    """
    values = np.frombuffer(data, np.uint8)
    if not values.size:
        return '    ""'
    following = np.append(values[1:], np.uint8(0))
    before_digit = (following >= ord("0")) & (following <= ord("7"))
    kind = values + before_digit * np.uint16(256)
    ends = np.cumsum(_LENGTHS[kind])
    last = np.flatnonzero(np.diff(ends // WIDTH, append=-1))  # of each line
    characters = _CHARACTERS[kind].view(np.uint8)
    text, cuts = characters[characters != 0].tobytes().decode("ascii"), [0, *ends[last].tolist()]
    return "\n".join(f'    "{text[begin:end]}"' for begin, end in itertools.pairwise(cuts))


def _characters() -> list[bytes]:
    """What stands for each byte where no digit follows; then where one does."""
    plain = {i: chr(i) for i in range(32, 127) if chr(i) not in '"\\?'}
    texts = [plain.get(i, f"\\{i:o}") for i in range(256)] + [plain.get(i, f"\\{i:03o}") for i in range(256)]
    return [text.encode() for text in texts]


_LENGTHS = np.array([len(text) for text in _characters()])
_CHARACTERS = np.frombuffer(b"".join(text.ljust(4, b"\0") for text in _characters()), np.uint32)


def _ends(data: bytes) -> list[int]:
    """Where the pieces of a long constant end."""
    ends: list[int] = []
    begin = 0
    while len(data) - begin >= LONGEST:
        # One byte without a 0 among 65,535 would be a constant of a rare kind; it stays whole, which all but one compiler take.
        zero = data.rfind(0, begin, begin + LONGEST)
        if zero < 0:
            break
        begin = zero + 1
        ends.append(begin)
    return [*ends, len(data)] if begin < len(data) else ends


# -- what a source holds ----------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"\nstatic const (?:ALIGNED )?(\w+) (\w+)\[(\d+)\] =\s*")
_PARTS = re.compile(r"\nstatic const (?:ALIGNED )?struct \{ ([^}]*) \} (\w+)_parts = \{\n")
_IN_FILE = re.compile(r"\nFROM_FILE\((\w+), (\w+), (\d+), (\d+)\);\n")


def check(network: str, source: str, file: bytes, expected: Mapping[str, Constant]) -> None:
    """Raise QatError where a source does not hold the constants that it has to hold, as a compiler would read them.

    Args:
        network: for the message.
        source: the .c file.
        file: the weights' own file; empty where there is none.
        expected: by name.
    """
    try:
        found = constants(source, file)
    except ValueError:  # it is not as this module writes it
        found = {}
    for name, (kind, values) in expected.items():
        own = found.get(name)
        if own is None or own.kind != kind:
            what = "is not found" if own is None else f"stands in it as {own.kind}, not as {kind}"
        elif not values.size <= own.values.size <= values.size + 1:  # one more: the 0 at the end of a literal
            what = f"has {own.values.size} numbers in it, not {values.size}"
        else:
            wrong = np.flatnonzero(own.values[: values.size] != values.ravel())
            if not wrong.size:
                continue
            at = int(wrong[0])
            what = (
                f"has {own.values[at]} in it where {values.ravel()[at]} belongs ({wrong.size} of {values.size} differ)"
            )
        raise QatError(
            f"{network}: the C file is not written, since it would compute other codes: read back from it, {name} {what}; "
            "export to ONNX or TFLITE, and report it with the checkpoint"
        )


def constants(source: str, file: bytes) -> dict[str, Constant]:
    """The arrays of numbers in a source, by name, with the 0 at the end of literals: what a compiler makes of them."""
    found = {}
    for match in _PLAIN.finditer(source):
        kind, name, size = match.groups()
        if kind not in TYPES:
            continue
        if source.startswith('"', match.end()):
            values = _of_literal(_until(source, match.end(), ";\n"), int(size))
        else:
            values = _of_numbers(_until(source, match.end(), "};"), int(size))
        found[name] = Constant(kind, _converted(values, kind))
    for match in _PARTS.finditer(source):
        members = [member.split() for member in match.group(1).split(";") if member]
        texts = _until(source, match.end(), ",\n};\n").split('",\n')
        sizes = [int(part[part.index("[") + 1 : -1]) for _, part in members]
        values = np.concatenate([_of_literal(text, size) for text, size in zip(texts, sizes, strict=True)])
        found[match.group(2)] = Constant(members[0][0], _converted(values, members[0][0]))
    for match in _IN_FILE.finditer(source):
        kind, name, offset, size = match.groups()
        values = np.frombuffer(file[int(offset) : int(offset) + int(size)], np.uint8)
        found[name] = Constant(kind, _converted(values, kind))
    return found


def _until(text: str, begin: int, end: str) -> str:
    return text[begin : text.index(end, begin)]


def _converted(values: Array, kind: str) -> Array:
    """Numbers as an object of a C type holds them: modulo its size."""
    return values.astype(TYPES[kind])


def _of_numbers(text: str, size: int) -> Array:
    """The numbers of an array. Empty where there are not as many as it has."""
    texts = text.lstrip("{").replace("-2147483647 - 1", "-2147483648").rstrip(",\n ").split(",")
    values = np.array([int(number) for number in texts], np.int64)
    return values if values.size == size else values[:0]


def _of_literal(text: str, size: int) -> Array:
    """The bytes of an array that is initialised by string literals, one a line. Empty where it is too short for them."""
    # A quotation mark parts the lines: an escape does not go on in the next literal.
    inside = '"'.join(line.strip().removesuffix('"').removeprefix('"') for line in text.split("\n"))
    a = np.frombuffer(inside.encode() + b'"""', np.uint8)  # three more, so that there is something behind all
    first, second, third = (a[i : a.size - 3 + i] for i in (1, 2, 3))
    a = a[:-3]
    escape = a == ord("\\")  # of one to three octal digits; no others are written
    two = escape & _octal(second)
    three = two & _octal(third)
    code = first - np.uint8(ord("0"))
    code = np.where(two, code * np.uint8(8) + second - np.uint8(ord("0")), code)
    code = np.where(three, code * np.uint8(8) + third - np.uint8(ord("0")), code)
    used = a == ord('"')
    for i, digit in enumerate((escape, two, three), 1):
        used[i:] |= digit[: digit.size - i]
    held = np.append(np.where(escape, code, a)[~used], np.uint8(0))
    return held[:size] if held.size - 1 <= size <= held.size else held[:0]


def _octal(characters: Array) -> Array:
    found: Array = (characters >= ord("0")) & (characters <= ord("7"))
    return found
