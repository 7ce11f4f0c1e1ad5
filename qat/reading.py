"""Reading files from elsewhere: regular files only, limited in size, with every error of a parser as one line.

A file may be damaged or malicious, and the libraries that parse it raise errors of any class. So every reader opens
files with ``open_regular`` (or ``read_file``, ``read_unpacked``, ``read_text``), and runs its parser inside
``reading``, and inside ``without_warnings`` where the parser warns.
"""

from __future__ import annotations

import gzip
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from qat.errors import QatError, one_line
from qat.files import LARGEST, open_file, settle

M = TypeVar("M")

LARGEST_TEXT = 1 << 20  #: bytes of a text file that people write, as class names, an index or flags
LARGEST_JSON = 1 << 24  #: bytes of a JSON text
#: A compressed file may unpack to so many bytes, or to so many times its own size, whichever is more.
LARGEST_UNPACKED, MOST_TIMES = 1 << 28, 20
MOST_TABLES = 100_000  #: of one kind in a .tflite file
LARGEST_SAMPLE = 1 << 28  #: numbers that an exported file may compute for one sample, over all nodes
LONGEST_REASON = 160  #: characters of a library's message


@contextmanager
def reading(path: str | Path, what: str, advice: str) -> Iterator[None]:
    """Turn whatever is raised inside into a QatError: the file cannot be read, why, and what to do.

    A QatError that begins with the path passes unchanged; to any other one the path and the advice are added.
    KeyboardInterrupt, SystemExit and GeneratorExit pass. Everything else is caught, because parsers have no common
    class of errors: they fail on indices and keys, run out of memory or stack, and those written in Rust panic with a
    BaseException.

    Args:
        path: of the file.
        what: the kind of file it should be.
        advice: what to do.

    Yields:
        Nothing.

    Raises:
        QatError: in place of other exceptions.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except QatError as error:
        text = str(error)
        if text.startswith(one_line(path)):
            raise
        raise QatError(f"{path}: {text}{', or' if '; ' in text else ';'} {advice}") from None
    except BaseException as error:
        raise QatError(f"{path}: cannot be read as {what} ({reason_of(error)}); {advice}") from None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence a parser's warnings: either the content is good, or there is an error.

    Use it around the parser's call alone, because it affects the warnings of all threads.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason_of(error: BaseException) -> str:
    """The message of an exception, short and on one line; with its class where the message alone says little."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split())
    if isinstance(error, MemoryError):
        text = "it needs more memory than there is"
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    elif not text or isinstance(error, (KeyError, IndexError, AttributeError, AssertionError)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."


def open_regular(path: str | Path, advice: str, *, limit: int = LARGEST) -> IO[bytes]:
    """Open a file for reading.

    Args:
        path: of the file.
        advice: what to do where it cannot be read, for the message.
        limit: the most bytes that it may have.

    Returns:
        The open file.

    Raises:
        QatError: where it cannot be opened, for a folder, a pipe or a device, and where it is too large.
    """
    settle(path)
    try:
        file = open_file(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        advice = f"check the name, or {advice}" if isinstance(error, FileNotFoundError) else advice
        raise QatError(f"{path}: cannot be read ({reason_of(error)}); {advice}") from None
    if (size := _size(file)) > limit:
        file.close()
        raise QatError(f"{path}: holds {size:,} bytes, but at most {limit:,} are read; {advice}")
    return file


def read_file(path: str | Path, advice: str, *, limit: int = LARGEST) -> bytes:
    """The content of a file, opened by ``open_regular``, with the same arguments and errors."""
    with open_regular(path, advice, limit=limit) as file:
        try:
            return file.read(_size(file))
        except (OSError, MemoryError) as error:
            raise QatError(f"{path}: cannot be read ({reason_of(error)}); {advice}") from None


def read_text(path: str | Path, advice: str, *, limit: int = LARGEST_TEXT) -> str:
    """The content of a text file in UTF-8, as ``read_file``."""
    try:
        return read_file(path, advice, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise QatError(f"{path}: cannot be read ({reason_of(error)}); {advice}") from None


def read_unpacked(path: str | Path, advice: str, *, limit: int = LARGEST) -> bytes:
    """The content of a file as ``read_file``, decompressed where its name ends in .gz.

    Args:
        path: of the file.
        advice: what to do where it cannot be read, for the message.
        limit: the most bytes of content; of a .gz file no more than ``most_unpacked`` either.

    Returns:
        The content.

    Raises:
        QatError: as ``open_regular``, and where the file decompresses to more.
    """
    if Path(path).suffix != ".gz":
        return read_file(path, advice, limit=limit)
    with open_regular(path, advice) as file, reading(path, "a .gz file", advice):
        limit = min(limit, most_unpacked(_size(file)))
        content = gzip.GzipFile(fileobj=file).read(limit + 1)
    if len(content) > limit:
        raise QatError(f"{path}: unpacks to more than {limit:,} bytes, the limit for this file; {advice}")
    return content


def most_unpacked(size: int) -> int:
    """How many bytes a compressed file of ``size`` bytes may decompress to."""
    return max(LARGEST_UNPACKED, MOST_TIMES * size)


def kind_of(path: str | Path) -> tuple[str, str] | None:
    """What a file is, by its first bytes, where another kind is wanted.

    Args:
        path: of a file.

    Returns:
        What it is, as the words after its name, and what to do with it; None where that is not known.
    """
    try:
        with open_file(path) as file:
            start = file.read(16)
    except (OSError, ValueError):
        return None
    if not start:
        return "is empty, so that its writing was cut off", "use another copy"
    if start[8:9] == b"{" and not start.startswith(b"{"):  # safetensors: the length of a JSON text, and that text
        return "is a checkpoint", "commands take it as --ckpt_path"
    return next((known for begins, *known in _KINDS if start.startswith(begins)), None)  # type: ignore[return-value]


#: What files begin with, what they are then, what to do with them.
_PICTURE = ("is a picture", "'qat run --image' takes it")
_KINDS = (
    (b"\x1f\x8b", "is compressed by gzip", "unpack it first: gunzip"),
    (b"\x89PNG", *_PICTURE),
    (b"\xff\xd8\xff", *_PICTURE),
    (b"GIF8", *_PICTURE),
    (
        b"PK",
        "is a .zip archive, as PyTorch and NumPy write them",
        "'qat import' and 'qat import-params' take networks of others",
    ),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them", "'qat import --model' takes it"),
    (b"\x93NUMPY", "is an array of NumPy", "--data_path takes the folder that holds it"),
)


def check_zip(path: str | Path, file: IO[bytes], advice: str) -> None:
    """Raise QatError where a .zip archive, as .npz and .pt files are, declares more content than ``most_unpacked``."""
    size = _size(file)
    with reading(path, "a .zip archive", advice), zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    file.seek(0)
    if unpacked > most_unpacked(size):
        raise QatError(f"{path}: unpacks to {unpacked:,} bytes from {size:,}, more than such a file needs; {advice}")


def check_sample(numbers: int) -> None:
    """Raise ValueError where an exported file computes more numbers for one sample than any network does."""
    if numbers > LARGEST_SAMPLE:
        raise ValueError(f"one sample takes {numbers:,} numbers, but at most {LARGEST_SAMPLE:,} are supported")


def _size(file: IO[Any]) -> int:
    return os.fstat(file.fileno()).st_size


def check_array(file: IO[bytes], size: int | None = None) -> np.dtype[Any]:
    """The type of a .npy file's numbers, read from its header.

    Raises ValueError where it declares more bytes than it holds, which NumPy would allocate. size: of the file, where that is
    a part of an archive.
    """
    library: Any = np.lib.format  # it has no type hints
    one = library.read_magic(file) == (1, 0)
    shape, _, dtype = library.read_array_header_1_0(file) if one else library.read_array_header_2_0(file)
    held = _size(file) if size is None else size
    if math.prod(shape) * dtype.itemsize > held:
        raise ValueError(f"it declares {math.prod(shape) * dtype.itemsize:,} bytes, but holds {held:,}")
    file.seek(0)
    found: np.dtype[Any] = dtype
    return found


def messages(message: Any, kind: type[M]) -> Iterator[M]:
    """All messages of a kind in another one, those of attributes, subgraphs and functions among them; not within such a one."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                if hasattr(part, "ListFields"):  # the keys of a map are texts
                    yield from messages(part, kind)


def check_tables(model: Any, size: int) -> None:
    """Raise ValueError where the tables and names of a .tflite file are more than it could hold if each stood in it once: many
    entries of a vector may point to the same one, so that a small file unpacks to any size. model: as the schema's accessor
    ``Model`` has it, before it is unpacked. size: of the file, in bytes.
    """
    if model.SubgraphsLength() != 1:
        raise ValueError(f"it has {model.SubgraphsLength()} subgraphs, not one")
    graph = model.Subgraphs(0)
    signatures = [model.SignatureDefs(i) for i in range(min(model.SignatureDefsLength(), 2))]
    counts = [model.SignatureDefsLength() ** 2, *(x.InputsLength() + x.OutputsLength() for x in signatures)]
    counts += [graph.TensorsLength(), graph.OperatorsLength(), model.BuffersLength(), model.MetadataLength()]
    counts.append(model.OperatorCodesLength())
    if max(counts) > min(MOST_TABLES, size):
        raise ValueError(f"it has {max(counts):,} tables of one kind")
    named = [*(graph.Tensors(i) for i in range(graph.TensorsLength()))]
    if any(tensor.Sparsity() is not None for tensor in named):
        raise ValueError("it has sparse tensors")
    named += [model.Metadata(i) for i in range(model.MetadataLength())]
    named += [x.Inputs(i) for x in signatures for i in range(x.InputsLength())]
    named += [x.Outputs(i) for x in signatures for i in range(x.OutputsLength())]
    if sum(len(x.Name() or b"") for x in named) > size:
        raise ValueError("its names are longer than the file")
