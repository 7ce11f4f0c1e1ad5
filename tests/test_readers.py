"""Data sets of one's own: every format that --data_path takes, and what is wrong with it in one line."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qat
from qat.cli import main
from qat.data import Dataset, Split, load
from qat.data.loading import own_readers
from qat.data.picture_rows import Masks, Paths, Pictures
from qat.data.readers import arrays
from qat.data.readers.base import with_test
from qat.errors import QatWarning

RNG = np.random.default_rng(0)


def picture(path: Path, height: int = 6, width: int = 5, channels: int = 3, value: int | None = None) -> Path:
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(folder: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 5) -> Path:
    for name in names:
        for number in range(count):
            picture(folder / name / f"{number}.png")
    return folder


def refused(path: object, *parts: str, **options: Any) -> str:
    """The one-line error of loading ``path``, in which all ``parts`` stand."""
    with pytest.raises(qat.QatError) as caught:
        load(str(path), **options).train.in_memory()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def saved(path: Path, **values: Any) -> Path:
    np.savez(path, **values)
    return path


# -- folders of pictures ------------------------------------------------------------------------------------------------


def test_a_folder_for_each_class_gives_its_names_sorted_and_holds_a_share_of_each_class_back(tmp_path: Path) -> None:
    dataset = load(str(class_folders(tmp_path / "pets", ("dog", "Ant", "cat"), 10)))
    assert dataset.name == "pets, 3 classes of pictures, 6 held back as test"
    assert dataset.class_names == ("Ant", "cat", "dog")
    assert np.bincount(dataset.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2, 2]
    again = load(str(tmp_path / "pets"))
    paths = [again.test.images.paths[i] for i in range(6)]
    assert paths == [dataset.test.images.paths[i] for i in range(6)]
    seen = {dataset.train.images.paths[i] for i in range(24)} | set(paths)
    assert len(seen) == 30
    label = dataset.train.labels[0]
    assert Path(dataset.train.images.paths[0]).parent.name == dataset.class_names[label]


@pytest.mark.parametrize(("parts", "measured"), [(("test",), "test"), (("val",), "val"), (("test", "val"), "test")])
def test_parts_in_folders_are_taken_as_they_are(tmp_path: Path, parts: tuple[str, ...], measured: str) -> None:
    for number, part in enumerate(("train", *parts)):
        class_folders(tmp_path / part, count=3 + number)
    dataset = load(str(tmp_path))
    assert len(dataset.train) == 6
    assert Path(dataset.test.images.paths[0]).parent.parent.name == measured
    assert dataset.name.endswith("tested on val") == (measured == "val")


def test_folds_need_no_test_part(tmp_path: Path) -> None:
    dataset = load(str(class_folders(tmp_path)), for_folds=True)
    assert (len(dataset.train), len(dataset.test)) == (10, 0)


def test_nothing_but_the_first_header_is_read_before_pixels_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, count=4)
    opened: list[str] = []
    real = qat.data.pictures.read_file  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "qat.data.pictures.read_file",
        lambda path, *args, **options: opened.append(str(path)) or real(path, *args, **options),
    )
    dataset = load(str(tmp_path)).resized((3, 4, 4))
    assert len(opened) == 1
    assert dataset.train.images[1:3].shape == (2, 3, 4, 4)
    assert len(opened) == 3


def test_pictures_of_several_sizes_and_colours_become_what_the_network_takes(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", 6, 5)
    picture(tmp_path / "a" / "1.jpg", 20, 9, 1)
    picture(tmp_path / "b" / "0.png", 3, 30, 4)
    picture(tmp_path / "b" / "1.webp", 8, 8)
    for shape in ((3, 7, 7), (1, 4, 6)):
        whole = load(str(tmp_path), for_folds=True).resized(shape).train.in_memory()
        assert whole.images.shape == (4, *shape)
        assert whole.images.dtype == np.uint8
    with pytest.raises(qat.QatError, match=r"takes \(2, 7, 7\), which is not an image of 1 or 3 channels"):
        load(str(tmp_path), for_folds=True).resized((2, 7, 7))


def test_what_is_wrong_with_folders_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "a")
    (tmp_path / "a" / "eel").mkdir()
    refused(tmp_path / "a", f"{tmp_path / 'a' / 'eel'}: holds no pictures", "class 'eel' is empty")
    class_folders(tmp_path / "a" / "eel")
    refused(tmp_path / "a", "holds folders (cat, dog) but no pictures")
    class_folders(tmp_path / "b", ("Cat", "cat"))
    refused(tmp_path / "b", "the classes 'Cat' and 'cat' differ in capitals alone")
    class_folders(tmp_path / "c", ("cat", "dog"), 1)
    refused(tmp_path / "c", "class 'cat' has 1 sample, too few")
    class_folders(tmp_path / "d" / "train")
    class_folders(tmp_path / "d" / "test", ("cat", "elk"))
    refused(tmp_path / "d", "class 'elk' is not in train/")
    (tmp_path / "d" / "more").mkdir()
    refused(tmp_path / "d", "holds train/ and also more")


def test_a_folder_that_nobody_reads_lists_what_is_there_and_what_would_be_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").touch()
    message = refused(tmp_path, "holds sub/, notes.txt, but no data set", "a folder of pictures for each class")
    for reader in own_readers():
        assert reader.looks_for in message
    assert "pictures are put into" not in message
    (tmp_path / "1.JPG").touch()
    refused(tmp_path, "; pictures are put into a folder for each class, and the folder that holds those is given")
    (tmp_path / "x.xlsx").write_text("no data set")
    refused(tmp_path / "x.xlsx", "there is a file here, but --data_path takes", ".npz, .npy or .csv file")


def test_an_unreadable_picture_is_named_when_it_is_met_and_skipped_where_that_is_asked_for(tmp_path: Path) -> None:
    class_folders(tmp_path, count=20)
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture, and the first one")
    refused(tmp_path, f"{tmp_path / 'cat' / '0.png'}: is not a picture in a supported format", for_folds=True)
    (tmp_path / "dog" / "7.png").write_bytes(b"no picture")
    picture(tmp_path / "cat" / "0.png")
    whole = picture(tmp_path / "cat" / "5.png", 60, 60).read_bytes()
    (tmp_path / "cat" / "5.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, f"{tmp_path / 'cat' / '5.png'}: cannot be read as a picture", for_folds=True)
    with pytest.warns(QatWarning, match=r"2 of 40 pictures cannot be read and are left out: .*5\.png.*7\.png"):
        dataset = load(str(tmp_path), for_folds=True, skip_unreadable=True)
    assert dataset.name.endswith("2 unreadable left out")
    assert len(dataset.train.in_memory()) == 38


def test_paths_take_little_more_memory_than_their_names(tmp_path: Path) -> None:
    names = [f"class_{i % 7}/picture_{i:06d}.jpg" for i in range(20_000)]
    paths = Paths("folder", names)
    assert [paths[i] for i in (0, 7, 19_999)] == [f"folder/{names[i]}" for i in (0, 7, 19_999)]
    assert len(pickle.dumps(paths)) < sum(map(len, names)) + 20 * len(names)
    some = paths.chosen(np.array([5, 3]))
    assert [some[0], some[1]] == [f"folder/{names[i]}" for i in (5, 3)]
    rows = Pictures(paths, (3, 8, 8), qat.data.Preparation()).chosen(np.arange(0, 20_000, 2))
    assert (rows.shape, pickle.loads(pickle.dumps(rows)).paths[1]) == ((10_000, 3, 8, 8), f"folder/{names[2]}")


def test_an_index_that_create_data_wrote_is_a_data_set(tmp_path: Path) -> None:
    assert main(["create-data", "--data_path", "digits", "--out", str(tmp_path), "--count", "60"]) == 0
    dataset = load(str(tmp_path), for_folds=True)
    np.testing.assert_array_equal(dataset.train.images[:], load("digits").test.images[:60])
    np.testing.assert_array_equal(dataset.train.labels, load("digits").test.labels[:60])
    assert dataset.class_names == tuple("0123456789")


# -- segmentation ---------------------------------------------------------------------------------------------------------


def test_masks_are_resized_with_their_pictures_and_stay_classes(tmp_path: Path) -> None:
    for number in range(6):
        pixels = np.zeros((12, 20), np.uint8)
        pixels[:, 10:] = 100 + number
        for name, array in (("images", np.repeat(pixels[..., np.newaxis], 3, 2)), ("masks", pixels)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    dataset = load(str(tmp_path))
    assert (len(dataset.train), len(dataset.test), dataset.train.labels.shape) == (5, 1, (5, 12, 20))
    for recipe in (qat.data.Preparation(), qat.data.Preparation("stretch"), qat.data.Preparation("pad")):
        whole = dataset.resized((3, 8, 8), recipe).train.in_memory()
        assert whole.labels.shape == (5, 8, 8)
        counts = whole.labels != 255
        assert counts.all() == (recipe.resize != "pad")
        assert set(np.unique(whole.labels[counts])) <= {0, *range(100, 106)}
        assert ((whole.labels > 0) == (whole.images[:, 0] >= 50))[counts].mean() > 0.85, recipe
    picked = dataset.train.chosen(np.array([3, 1]))
    assert isinstance(picked.labels, Masks)
    np.testing.assert_array_equal(picked.in_memory().labels.max(axis=(1, 2)), picked.images[:].max(axis=(1, 2, 3)))


def test_what_is_wrong_with_masks_is_named(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.jpg")
        picture(tmp_path / "masks" / f"{number}.png", channels=1)
    picture(tmp_path / "masks" / "1.png")
    refused(tmp_path, "masks/1.png: is a mask with RGB pixels", for_folds=True)
    picture(tmp_path / "masks" / "1.png", 9, 9, 1)
    refused(tmp_path, "masks/1.png: is a mask of 9x9, but its picture has 5x6", for_folds=True)
    (tmp_path / "masks" / "2.png").unlink()
    refused(tmp_path, "images/2.jpg has no counterpart in masks/")


# -- tables ---------------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def files(folder: Path, *labels: str, header: str = "") -> Path:
    for number in range(len(labels)):
        picture(folder / "p" / f"{number}.png", value=number)
    return table(folder, header + "".join(f"p/{number}.png,{label}\n" for number, label in enumerate(labels)))


@pytest.mark.parametrize("header", ["", "file,label\n"])
@pytest.mark.filterwarnings("ignore:.*labels are strings")
def test_a_table_of_files_and_classes(tmp_path: Path, header: str) -> None:
    dataset = load(str(files(tmp_path, "dog", "cat", "dog", "cat", header=header)))
    assert dataset.class_names == ("cat", "dog")
    for split in (dataset.train, dataset.test):
        assert split.images[:][:, 0, 0, 0].tolist() == [
            int(Path(split.images.paths[i]).stem) for i in range(len(split))
        ]
        assert (split.images[:][:, 0, 0, 0] % 2 == 1 - split.labels).all()


@pytest.mark.parametrize(
    ("labels", "header", "expected", "names"),
    [
        (["2", "0", "2"], "", np.array([2, 0, 2]), ()),
        (["2,elk", "0,ant", "2,elk"], "file,index,name\n", np.array([2, 0, 2]), ("ant", "1", "elk")),
        (["1,0", "0,0", "1,1"], "file,red,blue\n", np.array([[1, 0], [0, 0], [1, 1]]), ("red", "blue")),
        (["0.5", "-2", "3e1"], "", np.array([0.5, -2, 30], np.float32), ()),
        (["0.5,1", "2,0", "3,0"], "", np.array([[0.5, 1], [2, 0], [3, 0]], np.float32), ()),
    ],
)
def test_label_columns(tmp_path: Path, labels: list[str], header: str, expected: Any, names: tuple[str, ...]) -> None:
    path = files(tmp_path, *labels, header=header)
    dataset = load(str(path), for_folds=True)
    np.testing.assert_array_equal(dataset.train.labels, expected)
    assert dataset.train.labels.dtype == expected.dtype
    assert dataset.class_names == names


def test_tables_of_parts_share_their_classes(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0.png")
    for part, labels in (("train", "ac"), ("test", "cb")):
        table(tmp_path, "".join(f"0.png,{label}\n" for label in labels), f"{part}.csv")
    with pytest.warns(QatWarning, match="labels are strings; they become the classes 0 to 2, sorted: a, b, c"):
        dataset = load(str(tmp_path))
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([0, 2], [2, 1])
    assert dataset.train.images[:1].shape == (1, 3, 6, 5), "the files lie in images/ beside the tables"


@pytest.mark.parametrize(
    ("text", "expected", "labels"),
    [
        ("1,2,0\n3,4,1\n5,6,1\n", [[1, 2], [3, 4], [5, 6]], [0, 1, 1]),
        ("a;label;b\n1;0;2\n3;1;4\n", [[1, 2], [3, 4]], [0, 1]),
        ("a,b,price\n1,2,0.5\n3,4,1\n", [[1, 2], [3, 4]], [0.5, 1]),
        ("1,2,x\n3,4,w\n", [[1, 2], [3, 4]], [1, 0]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*labels are strings")
def test_a_table_of_numbers(tmp_path: Path, text: str, expected: Any, labels: Any) -> None:
    train = load(str(table(tmp_path, text)), for_folds=True).train
    np.testing.assert_array_equal(train.images, np.array(expected, np.float32))
    assert train.images.dtype == np.float32
    assert train.labels.tolist() == labels
    assert train.labels.dtype == (np.float32 if 0.5 in labels else np.int64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,0\n3,4\n", "line 2: has 2 columns where the first line has 3"),
        ("a,b,label\n1,2,0\n\n1,nan,0\n", "line 4: 'nan' is no finite float32 number"),
        ("1,2,0\n1,1e39,0\n", "line 2: '1e39' is no finite float32 number"),
        ("1,2,0\n1,two,0\n", "line 2: 'two' is no number"),
        ("1,two,0\n1,2,0\n", "line 1: 'two' is no number"),
        ("", "holds no numbers"),
        ("5\n6\n", "has one column; give features and a label"),
        ('1,"2,0\n1,2,3\n', "line 2: unexpected end of data"),
        ("1,2,0\n1,2,cat\n", "line 2: 'cat' is no number"),
        ("1,2,0\n1,,0\n", "line 2: '' is no number"),
        ('1,2,0\n1,"2,0\n', "line"),
        ("a,b,label\n", "holds no numbers"),
        ("a.png,1\nb.png\n", "line 2: has 1 columns"),
        ("a.png,1\nb.txt,1\n", "line 2: 'b.txt' is no file of a picture"),
        ("a.png\nb.png\n", "line 1: has no label"),
        ("a.png,0,ant\na.png,0,bee\n", "line 2: class 0 is 'bee' here and 'ant' before"),
        ("a.png,0\nb.png,1\n", "b.png: cannot be read (No such file or directory)"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "a.png")
    refused(table(tmp_path, text), message, for_folds=True)


# -- arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.float32, ">i2", ">f4"])
def test_arrays_keep_their_type(tmp_path: Path, dtype: Any) -> None:
    x = np.arange(60).reshape(10, 3, 2).astype(dtype)
    dataset = load(str(saved(tmp_path / "a.npz", x_train=x, y_train=np.arange(10), x_test=x[:4], y_test=np.arange(4))))
    assert dataset.name == "a, arrays"
    assert dataset.train.images.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(dataset.train.images.reshape(x.shape), x)
    assert (dataset.train.labels.dtype, len(dataset.test)) == (np.int64, 4)


def test_names_that_go_with_x_and_y(tmp_path: Path) -> None:
    values = {
        "scale": np.float64(0.5),
        "zero_point": np.array(83),
        "groups": np.arange(10) // 2,
        "names": np.array(["a"] * 10),
    }
    dataset = load(str(saved(tmp_path / "a.npz", x=np.zeros((10, 4), np.int8), y=np.arange(10) % 2, **values)))
    assert (dataset.scale, dataset.zero_point) == (0.5, 83)
    assert not set(dataset.train.groups) & set(dataset.test.groups)


def test_pictures_in_arrays_become_channels_first(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (6, 8, 7, 3), np.uint8)
    first = x.transpose(0, 3, 1, 2)
    for given, expected in ((x, first), (first, first), (x[..., 0], first[:, :1])):
        found = load(str(saved(tmp_path / "a.npz", x=given, y=np.arange(6))), for_folds=True).train.images
        np.testing.assert_array_equal(found, expected)
    codes = load(str(saved(tmp_path / "a.npz", x=x[..., :1].astype(np.int8), y=np.arange(6))), for_folds=True)
    assert codes.train.images.shape == (6, 1, 8, 7)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[1], [1, 2]], object), "x holds pickled Python objects, which are not loaded"),
        (
            np.arange(12).reshape(6, 2),
            "x is int64, whole numbers from 0 to 11, .*save x.astype.numpy.uint8., or x.astype.numpy.float32",
        ),
        (np.arange(12).reshape(6, 2) - 9000, "from -9000 to -8989.*numpy.int16. with a scale, or"),
        (np.full((6, 2), 1 << 40), "numpy.float32"),
        (np.array([[0.0], [np.nan]], np.float32), "x holds nan in row 1"),
        (np.array([[0.0], [np.inf]]), "x holds inf in row 1"),
        (np.array([["a"], ["b"]]), "x holds strings, but samples are numbers"),
        (np.zeros((2, 2), complex), "x is complex128, no array of numbers"),
        (np.zeros((0, 2), np.uint8), "it holds no samples"),
        (np.zeros((3, 2), np.uint8), "x has 3 rows and y 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*converted to float32")
def test_arrays_that_are_no_samples_are_refused(tmp_path: Path, x: Any, message: str) -> None:
    path = saved(tmp_path / "a.npz", x=x, y=np.arange(2))
    with pytest.raises(qat.QatError, match=message) as caught:
        load(str(path), for_folds=True)
    assert str(caught.value).startswith(str(path))


def test_whole_numbers_below_0_are_no_classes_and_groups_are_kept_whole(tmp_path: Path) -> None:
    x = np.zeros((6, 2), np.uint8)
    refused(saved(tmp_path / "a.npz", x=x, y=np.arange(6) - 3), "a.npz: y holds -3", "y.astype(numpy.float32)")
    kept = load(str(saved(tmp_path / "b.npz", x=x, y=(np.arange(6) - 3).astype(np.float32))), for_folds=True)
    assert kept.train.labels.min() == -3
    one = saved(tmp_path / "c.npz", x=x, y=np.arange(6) % 2, groups=np.zeros(6, np.int64))
    refused(one, "c.npz: its groups are kept whole, and holding back 1 of 6 samples takes all of them")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2), np.uint8), y=np.array([Harm(), Harm()], object))
    refused(tmp_path / "a.npz", "y holds pickled Python objects")
    np.save(tmp_path / "x.npy", np.array([Harm()], object))
    refused(tmp_path / "x.npy", "x holds pickled Python objects")
    assert not (tmp_path / "ran").exists()


def test_headers_that_lie_ask_for_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 100), np.float32))
    content = (tmp_path / "x.npy").read_bytes()
    lying = content.replace(b"'shape': (4, 100), }        ", b"'shape': (4, 99999999999), }")
    assert len(lying) == len(content)
    assert lying != content
    (tmp_path / "x.npy").write_bytes(lying)
    refused(tmp_path / "x.npy", "x: it declares 1,599,999,999,984 bytes, but holds")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", lying)
    refused(tmp_path / "a.npz", "x: it declares 1,599,999,999,984 bytes, but holds")


def test_labels_that_are_strings_become_classes_sorted_and_that_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=np.zeros((4, 2), np.uint8), y=np.array(["b", "a", "c", "a"]))
    with pytest.warns(QatWarning, match="labels are strings; they become the classes 0 to 2, sorted: a, b, c"):
        dataset = load(str(path), for_folds=True)
    assert (dataset.train.labels.tolist(), dataset.class_names) == ([1, 0, 2, 0], ("a", "b", "c"))
    saved(path, x=np.zeros((2, 2), np.uint8), y=np.array([b"b", b"z"]), class_names=np.array(["z", "b"]))
    assert load(str(path), for_folds=True).train.labels.tolist() == [1, 0]


def test_real_numbers_of_other_precision_are_converted_and_that_is_said(tmp_path: Path) -> None:
    with pytest.warns(QatWarning, match="x is float64, converted to float32"):
        dataset = load(str(saved(tmp_path / "a.npz", x=np.ones((9, 3, 4)), y=np.arange(9) / 7)))
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (np.float32, np.float32)


def test_samples_without_labels(tmp_path: Path) -> None:
    x = np.zeros((9, 5), np.float32)
    dataset = load(str(saved(tmp_path / "a.npz", x_train=x, x_test=x, y_test=np.arange(9) % 2)))
    assert dataset.train.labels is None
    assert len(dataset.train.chosen(np.arange(4))) == 4
    refused(saved(tmp_path / "b.npz", data=x), "holds arrays data, of which 'data' is none of a data set")
    refused(saved(tmp_path / "b.npz", x_test=x), "holds x_test, but no x_train")


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_large_npy_files_are_mapped_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    x = RNG.integers(0, 256, (20, 4, 5, 3)).astype(kind)
    np.save(tmp_path / "x_train.npy", x)
    np.save(tmp_path / "y_train.npy", np.arange(20) % 4)
    small = load(str(tmp_path))
    monkeypatch.setattr(arrays, "MAPPED", 100)
    large = load(str(tmp_path / "x_train.npy"))
    assert not isinstance(large.train.images, np.ndarray)
    assert not hasattr(pickle.loads(pickle.dumps(large.train.images)), "base")
    assert len(pickle.dumps(large.train.images)) < 2000
    for one, other in ((small, large), (small.resized((3, 4, 5)), large.resized((3, 4, 5)))):
        np.testing.assert_array_equal(one.train.images, other.train.in_memory().images)
        np.testing.assert_array_equal(one.test.images, other.test.in_memory().images)
    if kind is np.uint8:
        resized = large.resized((3, 8, 8))
        np.testing.assert_array_equal(small.resized((3, 8, 8)).train.images, resized.train.in_memory().images)
    else:
        x[7, 0, 0, 0] = np.nan
        np.save(tmp_path / "x_train.npy", x)
        refused(tmp_path, "x_train.npy holds nan in row 7", for_folds=True)


def test_a_missing_axis_of_one_is_added(tmp_path: Path) -> None:
    x = RNG.integers(-9, 9, (6, 49, 10)).astype(np.int8)
    dataset = load(str(saved(tmp_path / "a.npz", x=x, y=np.arange(6))), for_folds=True)
    np.testing.assert_array_equal(dataset.resized((1, 49, 10)).train.images, x[:, np.newaxis])
    np.save(tmp_path / "b.npy", x)
    mapped = Split(np.load(tmp_path / "b.npy", mmap_mode="r"), np.arange(6))
    rows = Dataset("x", "x", mapped, mapped).resized((1, 49, 10)).train.images
    assert rows.shape == (6, 1, 49, 10)
    np.testing.assert_array_equal(rows[np.array([4, 1])], x[[4, 1], np.newaxis])
    np.testing.assert_array_equal(rows.read(2), x[2, np.newaxis])
    with pytest.raises(qat.QatError, match=r"its samples are int8 \(49, 10\) but the network takes \(1, 32, 32\)"):
        dataset.resized((1, 32, 32))


# -- functions ------------------------------------------------------------------------------------------------------------

MODULE = """
import numpy as np
import qat

x, y = np.arange(40, dtype=np.uint8).reshape(10, 1, 2, 2), np.arange(10) % 2
def pair(): return x, y
def four(): return x, y, x[:4], y[:4]
def keras(): return (x, y), (x[:4], y[:4])
def named(): return {"x": x, "y": y, "class_names": ["no", "yes"]}
def dataset(): return qat.data.Dataset("mine", "", qat.data.Split(x, y), qat.data.Split(x[:3], y[:3]))
def fails(): return 1 / 0
def refuses(): raise qat.QatError("my own words")
def wrong(): return 3
def ragged(): return [[1, 2], [3]], [0, 1]
number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_data.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("def read(:\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_data", None)


@pytest.mark.usefixtures("own_module")
def test_a_function_gives_a_data_set_or_arrays() -> None:
    assert (load("own_data:dataset").name, load("own_data:dataset").source) == ("mine", "own_data:dataset")
    assert load("own_data:named").class_names == ("no", "yes")
    assert len(load("own_data:pair").test) == 2
    for name in ("four", "keras"):
        assert len(load(f"own_data:{name}").test) == 4
    assert not set(sys.path) & {str(Path.cwd())}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:fails", "own_data:fails: the function failed (ZeroDivisionError: division by zero)"),
        ("own_data:refuses", "my own words"),
        ("own_data:wrong", "the function returns a int; it has to return a qat.data.Dataset, a pair (x, y)"),
        ("own_data:ragged", "own_data:ragged: x cannot be made an array (ValueError: setting an array element"),
        ("own_data:number", "is a int, no function"),
        ("own_data:none", "which has no 'none'"),
        (
            "own_broken:read",
            "data 'own_broken:read' cannot be imported (SyntaxError: invalid syntax (own_broken.py, line 1))",
        ),
        ("own_nothing:read", "cannot be imported (ModuleNotFoundError: No module named 'own_nothing')"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_what_is_wrong_with_a_function_is_one_line_and_exit_status_2(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(name, message)
    assert main(["train", "--data_path", name]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.usefixtures("own_module")
def test_a_network_with_a_syntax_error_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--network", "own_broken:Net"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- data sets in general -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(6),
        np.arange(6) / 5,
        np.zeros((6, 3)),
        np.zeros((6, 3), np.int64),
        np.zeros((6, 4, 4), np.uint8),
        None,
        (np.arange(6), np.zeros(6)),
    ],
    ids=["classes", "values", "several values", "multi-label", "maps", "none", "several outputs"],
)
def test_labels_of_every_task(labels: Any) -> None:
    split = Split(np.zeros((6, 3, 4), np.float32), labels)
    some = split.chosen(np.array([4, 1]))
    assert (len(split), len(some), len(some.outputs)) == (6, 2, len(split.outputs))
    for own, other in zip(split.outputs, some.outputs, strict=True):
        np.testing.assert_array_equal(own[[4, 1]], other)
    assert (split.classes is not None) == (
        isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind == "i"
    )


def test_values_are_held_back_by_a_seed(tmp_path: Path) -> None:
    split = Split(np.arange(20, dtype=np.float32)[:, np.newaxis], np.arange(20) / 3)
    held = with_test(Dataset("made", "here", split, split), False)
    assert (len(held.train), len(held.test), held.name) == (16, 4, "made, 4 held back as test")
    np.testing.assert_array_equal(held.test.images[:, 0] / 3, held.test.labels.astype(np.float32))
    with pytest.raises(qat.QatError, match="here: there is 1 sample, too few"):
        with_test(Dataset("made", "here", split.chosen(np.arange(1)), split), False)
