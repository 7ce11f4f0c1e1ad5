"""Arrays: a .npz file, a pair of .npy files, or a folder of them; .npy files that are large are memory-mapped."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.readers.base import PARTS, Reader, name_of, named, of_parts
from qat.data.rows import Samples
from qat.errors import QatError, QatWarning, one_line
from qat.reading import check_array, check_zip, open_regular, reading, without_warnings
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

#: The names of arrays that are read: of one part, and of several.
NAMES = ("x", "y", "groups", *(f"{name}_{part}" for part in PARTS for name in ("x", "y", "groups")))
BESIDE = ("names", "class_names", "scale", "zero_point")  #: names of samples, which nothing needs; and of classes
EXPECTED = "x_train, y_train, x_test, y_test, or x and y"
MAPPED = 1 << 28  #: bytes of a .npy file beyond which its rows are read when they are asked for
LARGEST = 1 << 44  #: bytes of a .npy file
AS_THEY_ARE = (np.uint8, np.int8, np.int16, np.uint16, np.float32)
AT_ONCE = 1 << 22  #: numbers that are looked at together


class ArrayFile(Rows):
    """The rows of a .npy file, memory-mapped by whichever process reads them.

    Args:
        path: of the file.
        dtype: that its numbers are converted to.
        channels_last: whether it holds (N, H, W, C), and (N, C, H, W) is given.
        one_channel: whether it holds (N, H, W), and (N, 1, H, W) is given.
    """

    def __init__(self, path: str | Path, dtype: np.dtype[Any], channels_last: bool, one_channel: bool) -> None:
        self.path, self.dtype = str(path), dtype
        self._channels_last, self._one_channel = channels_last, one_channel
        self._mapped: Array | None = None
        found = self._map().shape
        if channels_last:
            found = (found[0], found[3], found[1], found[2])
        self.shape = (found[0], 1, *found[1:]) if one_channel else found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None}

    def _map(self) -> Array:
        if self._mapped is None:
            with reading(self.path, "an array", "save it again by numpy.save"):
                self._mapped = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._mapped

    def read(self, number: int) -> Array:
        """One row."""
        one: Array = self[number : number + 1][0]
        return one

    def __getitem__(self, which: slice | Array) -> Array:
        """The rows of a slice or an index as one array. Raises QatError where one holds NaN or infinity."""
        found = np.asarray(self._map()[which]).astype(self.dtype)
        numbers = np.arange(len(self))[which]
        _check_finite(self.path, found, lambda row: int(numbers[row]))
        return _channels_first(found, self._channels_last, self._one_channel)


def dataset_of(source: str, name: str, arrays: Mapping[str, Any], for_folds: bool) -> Dataset:
    """A data set of named arrays.

    Args:
        source: where they are from.
        name: what they are.
        arrays: by the names of ``NAMES`` and ``BESIDE``; paths of .npy files that are memory-mapped.
        for_folds: of ``qat.data.load``.

    Returns:
        The data set.

    Raises:
        QatError: where they are no data set.
    """
    unknown = [key for key in arrays if key not in (*NAMES, *BESIDE)]
    if unknown:
        raise QatError(
            f"{source}: holds arrays {named(arrays)}, of which {unknown[0]!r} is none of a data set; name them {EXPECTED}, "
            f"with groups, names, class_names, scale, zero_point"
        )
    several = any(f"x_{part}" in arrays for part in PARTS)
    suffixes = {part: f"_{part}" for part in PARTS if f"x_{part}" in arrays} if several else {"train": ""}
    if f"x{suffixes.get('train', '_train')}" not in arrays:
        missing = "x_train" if several else "x"
        raise QatError(f"{source}: holds {named(arrays) or 'no arrays'}, but no {missing}; name the arrays {EXPECTED}")
    arrays = {name: _opened(name, array) for name, array in arrays.items()}
    arrays, classes = _with_classes(source, arrays, [f"y{suffix}" for suffix in suffixes.values()])
    parts = {}
    for part, suffix in suffixes.items():
        x, y, groups = f"x{suffix}", f"y{suffix}", arrays.get(f"groups{suffix}")
        samples = _samples(source, x, arrays[x])
        labels = _labels(source, y, arrays[y]) if y in arrays else None
        if labels is not None and len(labels) != len(samples):
            raise QatError(
                f"{source}: {x} has {len(samples):,} rows and {y} {len(labels):,}; give a label for each sample"
            )
        if groups is not None and (np.shape(groups) != (len(samples),) or np.asarray(groups).dtype.kind not in "iu"):
            raise QatError(
                f"{source}: its groups are no whole number for each of {len(samples):,} samples; correct them"
            )
        parts[part] = Split(samples, labels, None if groups is None else np.asarray(groups).astype(np.int64))
    shapes = {part: as_tuple(split.images)[0].shape[1:] for part, split in parts.items()}
    if len(set(shapes.values())) > 1:
        raise QatError(f"{source}: samples have the shapes {shapes}; give all parts one shape")
    dataset = of_parts(source, name, parts, for_folds, classes)
    scale, zero_point = (_scalar(source, key, arrays.get(key)) for key in ("scale", "zero_point"))
    return replace(dataset, scale=scale, zero_point=zero_point)


def _plain(source: str, key: str, array: Any) -> Array:
    """An array of numbers or strings. Raises QatError for one of Python objects."""
    try:
        found: Array = np.asarray(array)
    except Exception as error:  # rows of several lengths; whatever another library's array raises
        raise QatError(
            f"{source}: {key} cannot be made an array ({type(error).__name__}: {one_line(error)}); give a NumPy array, all "
            "rows of one length"
        ) from None
    if found.dtype.hasobject:
        raise QatError(
            f"{source}: {key} holds Python objects, which are not read: loading them could run code; save an array of numbers, "
            "all rows of one length"
        )
    if found.dtype.kind not in "biufUS":
        raise QatError(f"{source}: {key} is {found.dtype}, no array of numbers; save numbers")
    return found


def _opened(name: str, array: Any) -> Any:
    """A large .npy file, unless it holds samples, memory-mapped; anything else as it is."""
    if not isinstance(array, Path) or name.startswith("x"):
        return array
    return np.load(array, mmap_mode="r", allow_pickle=False)


def _with_classes(
    source: str, arrays: Mapping[str, Any], labels: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays with numbers in place of labels that are strings, and what the numbers mean."""
    given = arrays.get("class_names")
    classes = () if given is None else tuple(_as_strings(source, "class_names", given).tolist())
    plain = {y: _plain(source, y, arrays[y]) for y in labels if y in arrays}
    words = {y: _as_strings(source, y, array) for y, array in plain.items() if array.dtype.kind in "US"}
    if not words:
        return dict(arrays), classes
    if not classes:
        classes = tuple(sorted(set(np.concatenate([*words.values()]).tolist())))
        warnings.warn(
            f"{source}: labels are strings; they become the classes 0 to {len(classes) - 1}, sorted: {named(classes)}",
            QatWarning,
            stacklevel=5,
        )
    return dict(arrays) | {y: _numbered(source, y, own, classes) for y, own in words.items()}, classes


def _as_strings(source: str, key: str, array: Any) -> Array:
    """An array of strings (N,)."""
    found = _plain(source, key, array)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dtype.kind == "S":
        with reading(source, "strings", "save them as Unicode strings"):
            found = np.asarray(np.char.decode(found, "utf-8"))
    if found.ndim != 1 or found.dtype.kind != "U":
        raise QatError(f"{source}: {key} is {found.dtype} {found.shape}; give one string for each")
    return found


def _numbered(source: str, key: str, words: Array, classes: tuple[str, ...]) -> Array:
    numbers = {name: label for label, name in enumerate(classes)}
    unknown = [word for word in words.tolist() if word not in numbers]
    if unknown:
        raise QatError(f"{source}: {key} holds {unknown[0]!r}, which is not among class_names; correct one of them")
    return np.array([numbers[word] for word in words.tolist()], np.int64)


def _scalar(source: str, key: str, array: Any) -> float | None:
    if array is None:
        return None
    array = _plain(source, key, array)
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise QatError(f"{source}: {key} is {array.dtype} {array.shape}; give one finite number")
    value = float(array.reshape(()))
    if key == "scale" and value <= 0:
        raise QatError(f"{source}: scale is {value}; give a positive number")
    return value


def _samples(source: str, key: str, found: Any) -> Samples:
    """Samples of a type that networks take, channels first."""
    path = found if isinstance(found, Path) else None
    array = np.load(found, mmap_mode="r", allow_pickle=False) if path else _plain(source, key, found)
    if array.ndim == 0 or not array.size:
        raise QatError(f"{source}: {key} is {array.shape}, so it holds no samples; give a row for each sample")
    array = array[:, np.newaxis] if array.ndim == 1 else array
    dtype = _sample_dtype(source, key, array)
    channels_last = array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3)
    one_channel = array.ndim == 3 and dtype == np.uint8
    if path:
        return ArrayFile(path, dtype, channels_last, one_channel)
    array = array.astype(dtype, copy=False)
    _check_finite(f"{source}: {key}", array, int)
    return _channels_first(array, channels_last, one_channel)


def _sample_dtype(source: str, key: str, array: Array) -> np.dtype[Any]:
    """The type that samples are used in. Raises QatError for whole numbers of more than 16 bits."""
    dtype = array.dtype
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        if dtype.itemsize != 4:
            warnings.warn(f"{source}: {key} is {dtype}, converted to float32", QatWarning, stacklevel=4)
        return np.dtype(np.float32)
    if dtype.newbyteorder("=") in AS_THEY_ARE:
        return dtype.newbyteorder("=")
    if dtype.kind in "US":
        raise QatError(f"{source}: {key} holds strings, but samples are numbers; save numbers")
    lowest, highest = int(array.min()), int(array.max())
    kinds = (np.uint8, np.int8, np.uint16, np.int16)
    fits = next((np.dtype(x) for x in kinds if np.iinfo(x).min <= lowest and highest <= np.iinfo(x).max), None)
    scale = " with a scale" if fits and fits.itemsize == 2 else ""
    advice = (
        f"{key}.astype(numpy.{fits}){scale}, or {key}.astype(numpy.float32)" if fits else f"{key}.astype(numpy.float32)"
    )
    raise QatError(
        f"{source}: {key} is {dtype}, whole numbers from {lowest} to {highest}, and whether they are pixels, codes or real "
        f"numbers cannot be told; save {advice}"
    )


def _channels_first(array: Array, channels_last: bool, one_channel: bool) -> Array:
    if channels_last:
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    return array[:, np.newaxis] if one_channel else array


def _labels(source: str, key: str, array: Any) -> Array:
    """Labels: int64, but for maps of classes, which keep their type; or float32."""
    found: Array = array if isinstance(array, np.memmap) else _plain(source, key, array)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 4 and 1 in (found.shape[1], found.shape[3]):  # maps of classes with an axis of channels
        found = found[:, 0] if found.shape[1] == 1 else found[..., 0]
    if found.dtype.kind in "US":
        raise QatError(f"{source}: {key} holds strings in {found.ndim} axes; give one string for each sample")
    if not found.ndim:
        raise QatError(f"{source}: {key} is one number; give a label for each sample")
    if found.dtype.kind == "i" and found.ndim == 1 and len(found) and found.min() < 0:
        raise QatError(
            f"{source}: {key} holds {found.min()}, but whole numbers are classes, from 0; correct it, or for a regression save "
            f"{key}.astype(numpy.float32)"
        )
    if found.dtype.kind in "biu":
        kept = np.dtype(np.uint8) if found.dtype.kind == "b" else found.dtype.newbyteorder("=")
        return found.astype(kept if found.ndim > 2 else np.int64, copy=False)
    _check_finite(f"{source}: {key}", found, int)
    return found.astype(np.float32, copy=False)


def _check_finite(what: str, array: Array, number_of: Callable[[int], int]) -> None:
    """Raise QatError that names the first row with NaN or infinity. number_of: from the row here to that of the file."""
    if array.dtype.kind != "f" or not array.size:
        return
    rows = max(1, AT_ONCE // max(1, array[0].size))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        wrong = np.argwhere(~np.isfinite(part.reshape(len(part), -1)))
        if len(wrong):
            value = part.reshape(len(part), -1)[tuple(wrong[0])]
            raise QatError(
                f"{what} holds {value} in row {number_of(start + int(wrong[0][0]))}; correct it or leave the row out"
            )


# -- files ------------------------------------------------------------------------------------------------------------


def read_npz(path: str | Path) -> dict[str, Array]:
    """The arrays of a .npz file; nothing that is pickled is loaded."""
    advice = "save it again by numpy.savez"
    with open_regular(path, advice) as file:
        check_zip(path, file, advice)
        with reading(path, "a .npz file", advice), zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as inside:
                    _check_header(path, entry.filename.removesuffix(".npy"), inside, entry.file_size)
        file.seek(0)
        with reading(path, "a .npz file", advice), without_warnings(), np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}


def read_npy(path: str | Path) -> Any:
    """The array of a .npy file; its path where it is to be memory-mapped."""
    advice = "save it again by numpy.save"
    with open_regular(path, advice, limit=LARGEST) as file, reading(path, "an array", advice), without_warnings():
        size = os.fstat(file.fileno()).st_size
        _check_header(path, Path(path).stem, file, size)
        file.seek(0)
        return Path(path) if size > MAPPED else np.load(file, allow_pickle=False)


def _check_header(path: str | Path, key: str, file: IO[bytes], size: int) -> None:
    """Raise QatError where an array is one of Python objects, or says that it has more bytes than there are."""
    try:
        dtype = check_array(file, size)
    except ValueError as error:
        raise QatError(f"{path}: {key}: {error}; save it again") from None
    if not dtype.itemsize:
        raise QatError(f"{path}: {key} is an array of nothing ({dtype}); save it again")
    if dtype.hasobject:
        raise QatError(
            f"{path}: {key} holds pickled Python objects, which are not loaded: they could run code; save an array of numbers, "
            "all rows of one length"
        )


def _read_npz_set(path: str, for_folds: bool) -> Dataset:
    return dataset_of(path, f"{name_of(path)}, arrays", read_npz(path), for_folds)


def _npy_files(path: str) -> dict[str, str]:
    """The .npy files of a folder, or of the folder of a .npy file, that are arrays of a data set, by name."""
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    found = {name: os.path.join(folder, f"{name}.npy") for name in (*NAMES, *BESIDE)}
    return {name: file for name, file in found.items() if os.path.isfile(file)}


def _read_npy_set(path: str, for_folds: bool) -> Dataset:
    files = _npy_files(path)
    if os.path.isfile(path) and Path(path).stem not in files:
        raise QatError(
            f"{path}: its labels are looked for beside it by name; call the files x.npy and y.npy, or x_train.npy, "
            "y_train.npy, x_test.npy, y_test.npy"
        )
    one = os.path.isfile(path) and not Path(path).stem.endswith(PARTS)
    chosen = {name: file for name, file in files.items() if not one or not name.endswith(PARTS)}
    arrays = {name: read_npy(file) for name, file in chosen.items()}
    return dataset_of(path, f"{name_of(path)}, arrays", arrays, for_folds)


def _recognizes(path: str) -> bool:
    if os.path.isdir(path):
        return not {"x", "x_train"}.isdisjoint(_npy_files(path))
    return path.lower().endswith((".npz", ".npy")) and os.path.isfile(path)


def _read(path: str, for_folds: bool) -> Dataset:
    return (_read_npz_set if path.lower().endswith(".npz") and os.path.isfile(path) else _read_npy_set)(path, for_folds)


READER = Reader("x_train.npy, or x.npy and y.npy", _recognizes, _read)
