"""Reading data sets, resizing images, and the order in which training sees them. Only files made here are read."""

import gzip
import hashlib
import math
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.data import Dataset, Split, load
from qat.data.readers.idx import read_idx
from qat.data.resize import resize_bilinear
from qat.errors import QatError
from qat.extras import how_to_install

CHECK = settings(derandomize=True, deadline=None, max_examples=100)
MUTATE = settings(derandomize=True, deadline=None, max_examples=400)
PARTS = {"train": "train", "test": "t10k"}


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def sample(count, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 5, 4), np.uint8), random.integers(0, 10, count).astype(np.uint8)


CONTENT = {"train": sample(7, 0), "test": sample(3, 1)}


def file_name(part, what, dot="-", gz=""):
    return f"{PARTS[part]}-{what}{dot}idx{3 if what == 'images' else 1}-ubyte{gz}"


def write_mnist(folder, dot="-", gz="", flat=False):
    for part, (images, labels) in CONTENT.items():
        place = folder if flat else folder / part
        place.mkdir(parents=True, exist_ok=True)
        for what, array in [("images", images), ("labels", labels)]:
            content = idx(array)
            (place / file_name(part, what, dot, gz)).write_bytes(gzip.compress(content) if gz else content)
    return folder


def assert_is_content(dataset):
    for part in ["train", "test"]:
        images, labels = CONTENT[part]
        split = getattr(dataset, part)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, images[:, np.newaxis])
        np.testing.assert_array_equal(split.labels, labels)
        assert len(split) == len(labels)


def refused(path, *parts):
    """The one-line error of loading ``path``, in which all ``parts`` stand."""
    with pytest.raises(QatError) as caught:
        load(str(path))
    message = str(caught.value)
    for part in parts:
        assert str(part) in message
    assert "\n" not in message
    return message


# -- loading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True], ids=["train/ and test/", "flat"])
@pytest.mark.parametrize("gz", ["", ".gz"], ids=["plain", "gz"])
@pytest.mark.parametrize("dot", ["-", "."], ids=["-idx", ".idx"])
def test_mnist_is_read_under_every_name_in_use(tmp_path, dot, gz, flat):
    dataset = load(str(write_mnist(tmp_path / "data", dot, gz, flat)))
    assert_is_content(dataset)
    assert dataset.name == "data, IDX files", "other sets have files of these names, too"
    assert dataset.source == str(tmp_path / "data")


def test_names_and_places_may_be_mixed(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train" / file_name("train", "labels")).rename(tmp_path / file_name("train", "labels", "."))
    images = tmp_path / "test" / file_name("test", "images")
    images.with_name(images.name + ".gz").write_bytes(gzip.compress(images.read_bytes()))
    images.unlink()
    assert_is_content(load(str(tmp_path)))


def test_a_relative_path_is_read(tmp_path, monkeypatch):
    write_mnist(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert_is_content(load("data"))


def test_a_gz_file_of_several_members_is_read_whole(tmp_path):
    """Which is what ``cat a.gz b.gz`` and parallel compressors write."""
    content = idx(CONTENT["train"][0])
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
    np.testing.assert_array_equal(read_idx(path, 3), CONTENT["train"][0])


@pytest.mark.parametrize("what", ["images", "labels"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_file_is_named_with_both_places_looked_at(tmp_path, part, what):
    write_mnist(tmp_path)
    (tmp_path / part / file_name(part, what)).unlink()
    refused(tmp_path, tmp_path / part, f"no file {file_name(part, what)}", f"in {tmp_path};")


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, f"{tmp_path}: holds nothing, but no data set", "MNIST's train-images-idx3-ubyte", "SVHN's")


def test_a_folder_with_the_name_of_a_file_is_no_file(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train" / file_name("train", "images")
    path.unlink()
    path.mkdir()
    refused(tmp_path, "no file train-images-idx3-ubyte")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    refused(
        tmp_path / "nowhere", f"{tmp_path / 'nowhere'}: there is nothing here", "MNIST, CIFAR-10 or SVHN", "'digits'"
    )


def test_a_path_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(CONTENT["train"][0]))
    refused(path, f"{path}: there is a file here")


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "data", f"{tmp_path / 'file' / 'data'}: there is nothing here")


def test_a_path_that_is_too_long_is_refused():
    """Path.is_dir raises for such a path, and for one in a folder that may not be searched, instead of saying False."""
    refused("x" * 300, "x" * 300)


GZ = ["", ".gz"]


def write_raw(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("gz", GZ)
@pytest.mark.parametrize("what", ["images", "labels"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: b"", "starts with nothing where an IDX file"),
        (lambda content: content[:3], "starts with 0000"),
        (lambda content: content[:7], "ends within its header, after 7 bytes"),
        (lambda content: content[:-1], "its header announces"),
        (lambda content: content + b"\0", "its header announces"),
        (lambda content: b"\x89PNG" + content[4:], "starts with 89504e47 where an IDX file"),
        (lambda content: b"\1\1" + content[2:], "starts with 010108"),
        (lambda content: b"\0\0\x0d" + content[3:], "starts with 00000d"),
        (lambda content: content[:3] + b"\2" + content[4:], "starts with 00000802"),
        (lambda content: content[:4] + b"\xff" * 4 + content[8:], "its header announces"),
        (lambda content: b"<!DOCTYPE html><html>Not found</html>", "starts with 3c21444f"),
    ],
    ids=[
        "empty",
        "3 bytes",
        "cut in header",
        "cut",
        "too long",
        "wrong magic",
        "no zeros",
        "floats",
        "wrong rank",
        "huge",
        "html",
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, gz, what, damage, expected):
    write_mnist(tmp_path, gz=gz)
    path = tmp_path / "test" / file_name("test", what, gz=gz)
    array = CONTENT["test"][0 if what == "images" else 1]
    write_raw(path, damage(idx(array)))
    refused(tmp_path, f"{path}: {expected}")


def test_images_where_labels_belong_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train" / file_name("train", "labels")
    write_raw(path, idx(CONTENT["train"][0]))
    refused(tmp_path, f"{path}: starts with 00000803 where an IDX file of 1 axes starts with 00000801")


@pytest.mark.parametrize("count", [0, 6, 8])
def test_different_numbers_of_images_and_labels_are_refused_with_both(tmp_path, count):
    write_mnist(tmp_path)
    path = tmp_path / "train" / file_name("train", "labels")
    write_raw(path, idx(np.zeros(count, np.uint8)))
    refused(tmp_path, f"{path}: holds {count} labels but train-images-idx3-ubyte 7 images", "do not belong together")


@pytest.mark.parametrize("shape", [(0, 5, 4), (7, 0, 4), (7, 5, 0), (0, 0, 0)])
def test_files_without_any_pixel_are_refused(tmp_path, shape):
    write_mnist(tmp_path)
    path = tmp_path / "train" / file_name("train", "images")
    write_raw(path, idx(np.zeros(shape, np.uint8)))
    write_raw(tmp_path / "train" / file_name("train", "labels"), idx(np.zeros(shape[0], np.uint8)))
    refused(tmp_path, f"{path}: holds no images")


@pytest.mark.parametrize("shape", [(0, 2**32 - 1, 2**32 - 1), (2**32 - 1, 0, 2**32 - 1), (2**32 - 1, 2**32 - 1, 0)])
def test_a_header_of_huge_axes_and_one_of_zero_is_refused(tmp_path, shape):
    """Nothing is announced and nothing is there, so the sizes agree; but NumPy has no such arrays."""
    write_mnist(tmp_path)
    path = tmp_path / "train" / file_name("train", "images")
    write_raw(path, bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape))
    refused(tmp_path, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:-9],
        lambda content: content[:20] + b"\xff\xff\xff\xff" + content[24:],
        lambda content: content[:-6] + b"\0\0" + content[-4:],
        lambda content: content + b"rubbish",
        lambda content: idx(CONTENT["train"][0]),
        lambda content: b"<!DOCTYPE html>",
    ],
    ids=[
        "empty",
        "cut in header",
        "cut",
        "changed data",
        "changed checksum",
        "rubbish after it",
        "not compressed",
        "html",
    ],
)
def test_a_damaged_gz_file_is_named(tmp_path, damage):
    write_mnist(tmp_path, gz=".gz")
    path = tmp_path / "train" / file_name("train", "images", gz=".gz")
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path, f"{path}: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(QatError, match=r"gone: cannot be read .*No such file"):
        read_idx(tmp_path / "gone", 1)
    with pytest.raises(QatError, match=r"cannot be read .*it is a folder"):
        read_idx(tmp_path, 1)


@pytest.mark.parametrize("gz", GZ)
@MUTATE
@given(data=st.data())
def test_any_damage_gives_a_qaterror_or_a_valid_array(tmp_path_factory, gz, data):
    """Bytes flipped, cut off, inserted or removed anywhere, in the header as well as in the data."""
    content = idx(CONTENT["train"][0])
    if gz:
        content = gzip.compress(content, mtime=0)
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        # half of all places lie in the header, where most can go wrong
        place = data.draw(st.integers(0, min(19, len(changed))) | st.integers(0, len(changed)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        if kind == "flip" and place < len(changed):
            changed[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del changed[place : place + data.draw(st.integers(1, 4))]
    path = tmp_path_factory.getbasetemp() / f"damaged{gz}"
    path.write_bytes(changed)
    array = message = None
    try:
        array = read_idx(path, 3)
    except QatError as error:
        message = str(error)
    if array is None:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
    else:
        assert array.dtype == np.uint8
        assert array.ndim == 3
        assert array.size == len(gzip.decompress(changed) if gz else changed) - 16


# -- resizing ----------------------------------------------------------------------------------------------------------


def bilinear(image, height, width):
    """One channel, by the definition: each output pixel looks up the four input pixels around its own centre."""
    rows, columns = image.shape
    result = np.empty((height, width))
    for i in range(height):
        y = min(max((i + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        top, dy = math.floor(y), y - math.floor(y)
        bottom = min(top + 1, rows - 1)
        for j in range(width):
            x = min(max((j + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            left, dx = math.floor(x), x - math.floor(x)
            right = min(left + 1, columns - 1)
            upper = image[top, left] * (1 - dx) + image[top, right] * dx
            lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
            result[i, j] = upper * (1 - dy) + lower * dy
    return result


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@CHECK
@given(sizes, sizes, st.integers(0, 1000))
def test_resizing_is_the_direct_transcription_of_the_definition(old, new, seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, *old), np.uint8)
    resized = resize_bilinear(images, new)
    assert resized.dtype == np.uint8
    assert resized.shape == (2, 3, *new)
    for image, result in zip(images.reshape(6, *old), resized.reshape(6, *new), strict=True):
        # half a grey value of rounding, and a thousandth for a float32 sum that falls on the other side of a tie
        assert np.abs(bilinear(image.astype(float), *new) - result).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("old", "new"), [((28, 28), (32, 32)), ((8, 8), (32, 32)), ((8, 8), (16, 4)), ((32, 32), (16, 16))]
)
def test_where_every_weight_is_a_binary_fraction_resizing_is_exact_with_ties_to_even(old, new):
    """MNIST and the digits to LeNet's 32x32: float32 holds all sums exactly, so not one pixel may differ."""
    images = np.random.default_rng(0).integers(0, 256, (3, 1, *old), np.uint8)
    images[1] //= 128  # 0 and 1: averages that are ties
    resized = resize_bilinear(images, new)
    exact = np.stack([bilinear(image[0].astype(float), *new)[np.newaxis] for image in images])
    assert (exact % 1 == 0.5).any(), "there must be ties for this to test them"
    np.testing.assert_array_equal(resized, np.rint(exact).astype(np.uint8))


def test_the_size_it_has_already_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 7), np.uint8)
    np.testing.assert_array_equal(resize_bilinear(images, (6, 7)), images)


@CHECK
@given(sizes, sizes, st.integers(0, 255))
def test_a_constant_image_stays_constant(old, new, value):
    resized = resize_bilinear(np.full((1, 1, *old), value, np.uint8), new)
    np.testing.assert_array_equal(resized, np.full((1, 1, *new), value, np.uint8))


@CHECK
@given(sizes, sizes, st.integers(0, 1000))
def test_no_pixel_leaves_the_range_of_the_image(old, new, seed):
    images = np.random.default_rng(seed).integers(0, 256, (1, 1, *old), np.uint8)
    resized = resize_bilinear(images, new)
    assert images.min() <= resized.min()
    assert resized.max() <= images.max()


def test_resizing_treats_rows_and_columns_alike():
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 9, 5), np.uint8)
    turned = resize_bilinear(np.ascontiguousarray(images.swapaxes(2, 3)), (13, 4))
    np.testing.assert_array_equal(resize_bilinear(images, (4, 13)), turned.swapaxes(2, 3))


def test_each_image_is_resized_by_itself_however_many_there_are():
    """Many images are resized in parts; the last image of one and the first of the next must not be lost or mixed."""
    images = np.random.default_rng(0).integers(0, 256, (2500, 1, 3, 3), np.uint8)
    resized = resize_bilinear(images, (4, 5))
    assert resized.shape == (2500, 1, 4, 5)
    for index in [0, 1023, 1024, 1025, 2047, 2048, 2499]:
        np.testing.assert_array_equal(resized[index], resize_bilinear(images[index : index + 1], (4, 5))[0])


def make_dataset(shape, count=4):
    random = np.random.default_rng(0)
    splits = [Split(random.integers(0, 256, (n, *shape), np.uint8), np.arange(n)) for n in (count, count - 1)]
    return Dataset("made", "/some/where", *splits)


def test_a_resized_data_set_has_the_networks_shape_in_both_splits_and_keeps_the_rest():
    before = make_dataset((3, 8, 8))
    after = before.resized((3, 10, 6))
    assert after.train.images.shape == (4, 3, 10, 6)
    assert after.test.images.shape == (3, 3, 10, 6)
    np.testing.assert_array_equal(after.test.images, resize_bilinear(before.test.images, (10, 6)))
    np.testing.assert_array_equal(after.test.labels, before.test.labels)
    assert (after.name, after.source) == ("made", "/some/where")
    assert before.train.images.shape == (4, 3, 8, 8)


def test_a_network_for_other_channels_is_refused_with_the_source_and_both_numbers():
    with pytest.raises(QatError, match="/some/where: its images have 3 channels but the network takes 1"):
        make_dataset((3, 8, 8)).resized((1, 8, 8))


# -- images held back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 13, 49])
def test_images_held_back_are_training_images_that_are_trained_on_no_more(count):
    data = Dataset("made", "/some/where", numbered(50), numbered(7))
    held = data.held_back(count)
    assert len(held.test) == count
    assert sorted([*held.train.labels, *held.test.labels]) == list(range(50))
    for split in (held.train, held.test):
        np.testing.assert_array_equal(split.images.reshape(-1), split.labels)
    assert data.held_back(count).test.labels.tolist() == held.test.labels.tolist()
    assert data.held_back(49, seed=1).train.labels.tolist() != data.held_back(49).train.labels.tolist()
    images = "1 training image" if count == 1 else f"{count} training images"
    assert held.name == f"made, {images} held back"


@pytest.mark.parametrize("count", [-1, 0, 50])
def test_no_or_all_images_held_back_is_refused(count):
    with pytest.raises(QatError, match=f"/some/where: {count} images cannot be held back of 50"):
        Dataset("made", "/some/where", numbered(50), numbered(7)).held_back(count)


# -- batches -----------------------------------------------------------------------------------------------------------


def order(split, batch_size, seed, epoch):
    return np.concatenate([labels for _, labels in split.batches(batch_size, seed, epoch)]).tolist()


def numbered(count):
    """A split whose labels and pixels are the number of the sample."""
    return Split(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.arange(count))


def test_batches_are_full_without_repeats_and_what_is_left_over_is_left_out():
    batches = list(numbered(23).batches(5, 0, 0))
    assert len(batches) == 4
    for images, labels in batches:
        assert images.shape == (5, 1, 1, 1)
        assert labels.shape == (5,)
    seen = np.concatenate([labels for _, labels in batches])
    assert len(set(seen.tolist())) == 20


def test_every_sample_is_seen_once_where_the_batches_divide_them():
    assert sorted(order(numbered(20), 5, 3, 1)) == list(range(20))


def test_images_stay_with_their_labels():
    for images, labels in numbered(40).batches(8, 5, 2):
        np.testing.assert_array_equal(images.reshape(-1), labels)


def test_the_order_depends_on_seed_and_epoch():
    split = numbered(50)
    orders = [order(split, 10, seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(one) for one in orders}) == 16, "(1, 2) and (2, 1) must differ too"
    assert list(range(50)) not in orders


def test_the_order_depends_on_nothing_else():
    """So that a run resumed in epoch 7 sees what the unbroken run saw in epoch 7."""
    split = numbered(50)
    expected = order(split, 10, 3, 7)
    np.random.seed(1)
    for epoch in range(7):
        order(split, 10, 3, epoch)
    assert order(split, 10, 3, 7) == expected
    other = replace(split, images=np.zeros((50, 1, 2, 2), np.uint8))
    assert order(other, 10, 3, 7) == expected
    assert order(split, 25, 3, 7) == expected, "smaller or larger batches cut the same order"
    started, also = split.batches(10, 3, 7), split.batches(10, 3, 7)
    assert next(started)[1].tolist() == next(also)[1].tolist() == expected[:10]


def test_fewer_samples_than_a_batch_give_no_batch():
    assert list(numbered(4).batches(5, 0, 0)) == []
    assert len(list(numbered(5).batches(5, 0, 0))) == 1


def test_batches_do_not_change_the_data():
    split = numbered(20)
    for images, labels in split.batches(4, 0, 0):
        images[:] = 0
        labels[:] = 0
    np.testing.assert_array_equal(split.labels, np.arange(20))
    np.testing.assert_array_equal(split.images.reshape(-1), np.arange(20))


# -- digits -------------------------------------------------------------------------------------------------------------


def test_the_digits_are_1797_images_of_which_the_last_360_are_for_testing():
    dataset = load("digits")
    assert (dataset.name, dataset.source) == ("digits", "digits")
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    for split in [dataset.train, dataset.test]:
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert set(split.labels.tolist()) == set(range(10))


def test_the_digits_grey_values_span_0_to_255():
    images = load("digits").train.images
    assert set(np.unique(images).tolist()) == {round(grey * 255 / 16) for grey in range(17)}


def test_the_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # Python's own way to say: not installed
    refused("digits", "scikit-learn, which is not installed", how_to_install("study"))


# -- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def cifar_records(count: int, seed: int = 0) -> np.ndarray:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), np.uint8)
    records[:, 0] %= 10
    return records


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar_batches_are_read_in_order(tmp_path, suffix, subfolder):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    pack = gzip.compress if suffix else bytes
    parts = {name: cifar_records(4, seed) for seed, name in enumerate(("data_batch_1", "data_batch_2", "test_batch"))}
    for name, records in parts.items():
        (folder / f"{name}.bin{suffix}").write_bytes(pack(records.tobytes()))
    dataset = load(str(tmp_path))
    assert dataset.name == "CIFAR-10"
    expected = np.concatenate([parts["data_batch_1"], parts["data_batch_2"]])
    np.testing.assert_array_equal(dataset.train.images, expected[:, 1:].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(dataset.train.labels, expected[:, 0])
    assert len(dataset.test) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 bytes"),
        (cifar_records(2).tobytes()[:-1], "not a multiple of the 3,073"),
        (bytes([10]) + bytes(3072), "image 0 has label 10"),
    ],
)
def test_damaged_cifar_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    (tmp_path / "test_batch.bin").write_bytes(cifar_records(1).tobytes())
    with pytest.raises(QatError, match=message) as caught:
        load(str(tmp_path))
    assert "data_batch_1.bin" in str(caught.value)


def test_cifar_without_its_test_file_is_refused(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_records(1).tobytes())
    with pytest.raises(QatError, match=r"no test_batch\.bin"):
        load(str(tmp_path))


def test_only_mnist_is_called_mnist(tmp_path, monkeypatch):
    """Fashion-MNIST comes in files of the same names."""
    labels = write_mnist(tmp_path) and CONTENT["train"][1]
    monkeypatch.setattr("qat.data.readers.idx.MNIST_LABELS", hashlib.sha256(labels.tobytes()).hexdigest())
    known = load(str(tmp_path))
    assert (known.name, known.class_names) == ("MNIST", tuple("0123456789"))
    (tmp_path / "train" / file_name("train", "labels")).write_bytes(idx(labels[::-1]))
    other = load(str(tmp_path))
    assert (other.name, other.class_names) == (f"{tmp_path.name}, IDX files", ())
