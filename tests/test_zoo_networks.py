"""The zoo of trained networks: what comes with the package is what was measured, what is made is certified, on other samples
than it was calibrated on. (``test_zoo.py`` is of networks at random.)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run
from PIL import Image

import qat
from qat.data.download import Remote, Source
from qat.errors import QatError
from qat.imports.entry import pixels
from qat.training.recipe import Recipe
from qat.zoo import kept, places, samples
from qat.zoo.entries import ENTRIES
from qat.zoo.entry import TINY, Entry, Published, Trained
from qat.zoo.make import Order, make
from qat.zoo.places import Places
from qat.zoo.row import ACCURACY, COST, Row, accuracy_rows, cost_rows, markdown
from qat.zoo.settings import WIDTHS, Way

DOCS = Path(__file__).parent.parent / "docs" / "zoo.md"
Output = pytest.CaptureFixture[str]
#: Without what calibration chooses by itself.
PLAIN = Way({"method": "minmax", "equalize": False, "bias_correction": False})


# -- what comes with the package ---------------------------------------------------------------------------------------


def test_the_list_has_every_network_with_what_was_measured(capsys: Output) -> None:
    status, out, err = run(capsys, "zoo")
    assert (status, err) == (0, "")
    assert all(name in out for name in qat.zoo.names())
    row = qat.zoo.figures_of("mnist_cnn")
    assert row is not None
    assert all(row.shown(row.widths[width].figure) in out for width in WIDTHS)
    assert "Apache-2.0" in run(capsys, "zoo", "list", "kws01")[1]


def test_a_network_that_comes_with_the_package_is_written_as_a_checkpoint_and_as_a_certified_file(
    tmp_path: Path, capsys: Output
) -> None:
    status, out, err = run(capsys, "zoo", "fetch", "mnist_cnn", "--out", tmp_path / "net.ckpt")
    assert (status, err) == (0, "")
    assert kept.codes_digest(qat.Checkpoint.load(tmp_path / "net.ckpt")) in (kept.FOLDER / "mnist_cnn.json").read_text()
    file = tmp_path / "net.onnx"
    status, out, _ = run(capsys, "zoo", "fetch", "mnist_cnn", "--out", file)
    assert status == 0
    assert re.search(r"640 codes compared in ONNX Runtime .*, 0 differ", out)
    Image.new("L", (28, 28), 90).save(tmp_path / "picture.png")
    assert run(capsys, "run", "--model", file, "--image", tmp_path / "picture.png")[0] == 0


def test_every_kept_network_computes_what_was_measured_and_is_small() -> None:
    names = [name for name in qat.zoo.names() if qat.zoo.is_kept(name)]
    assert "mnist_cnn" in names
    for name in names:
        assert qat.zoo.load(name).graph.is_quantized
        assert isinstance(ENTRIES[name].origin, Trained), "what others have trained is not distributed here"
        assert (kept.FOLDER / f"{name}.ckpt").stat().st_size < 100_000
        history = qat.Checkpoint.load(kept.FOLDER / f"{name}.ckpt").history
        assert not [each for each in history if str(each.get("data_path", "")).startswith("/")], (
            "a path of whoever made it"
        )


def test_kept_files_are_in_the_package_and_under_version_control() -> None:
    """Checkpoints are ignored elsewhere."""
    setup = (DOCS.parents[1] / "setup.py").read_text(encoding="utf-8")
    assert '"qat.zoo": ["files/*"]' in setup
    rules = (DOCS.parents[1] / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert rules.index("!qat/zoo/files/*.ckpt") > max(n for n, rule in enumerate(rules) if rule.startswith("*.ckpt"))


def test_a_kept_network_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(kept.FOLDER, tmp_path / "files")
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "files")
    checkpoint = qat.zoo.load("mnist_cnn")
    weight = checkpoint.params["fc2.weight"].copy()
    weight[3] *= -1
    replace(checkpoint, params={**checkpoint.params, "fc2.weight": weight}).save(tmp_path / "files" / "mnist_cnn.ckpt")
    with pytest.raises(QatError, match="its integers are not those whose figures"):
        qat.zoo.load("mnist_cnn")


def test_random_samples_are_the_same_each_time_and_reach_every_code() -> None:
    spec = qat.Input((1, 28, 28)).spec
    found = kept.random_samples(spec)
    assert found.dtype == np.uint8
    assert found.shape == (kept.SAMPLES, 1, 28, 28)
    assert len(np.unique(found)) == 256
    np.testing.assert_array_equal(found, kept.random_samples(spec))
    assert len(np.unique(found[0])) <= 8 < len(np.unique(found[1]))
    assert kept.random_samples(qat.Input((5,), dtype="float32").spec).dtype == np.float32


def test_the_page_has_the_tables_that_the_command_prints(capsys: Output) -> None:
    page = DOCS.read_text(encoding="utf-8")
    rows = [row for name in qat.zoo.names() if (row := qat.zoo.figures_of(name)) is not None]
    assert len(rows) > 1
    assert not any(row.differ for row in rows)
    for table in (markdown(ACCURACY, accuracy_rows(rows)), markdown(COST, cost_rows(rows))):
        assert table in page, "docs/zoo.md: put in what 'qat zoo table' prints"
        assert table in run(capsys, "zoo", "table")[1]
    for entry in map(qat.zoo.entry_of, qat.zoo.names()):
        assert f"`{entry.name}`" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "lenet", "--out", "a.ckpt"], "network of the zoo 'lenet' is unknown, perhaps lenet5 is meant"),
        (["make"], "give the name of a network"),
        (["make", "kws01"], "needs --out, a folder"),
        (["fetch", "mnist_cnn", "kws01", "--out", "a"], "give one name"),
        (["fetch", "mnist_cnn", "--out", "a.onnx", "--cores", "m4"], "--cores: is of qat zoo make"),
        (["fetch", "mnist_cnn", "--out", "a.air"], "its name ends in none of"),
        (["fetch", "mnist_cnn", "--out", "a"], "its name ends in none of .onnx, .tflite, .c, .ckpt"),
        (["make", "mnist_cnn", "--out", "z", "--data", "nowhere"], "nowhere: is no folder"),
        (["fetch", "kws01", "--out", "a.ckpt", "--widths", "8/8", "4/8"], "one file has one width"),
        (["make", "kws01", "--out", "z", "--data", "nowhere"], "nowhere: is no folder"),
        (["make", "kws01", "--out", "z", "--data", ".", "--models", "."], "kws_ref_model.tflite: is not in ."),
        (
            ["make", "mnist_cnn", "--out", "z", "--data", "."],
            "MNIST_Data: is not in .; 'qat data mnist --out MNIST_Data'",
        ),
        (["make", "mnist_cnn", "--out", "z", "--data", ".", "--samples", "a.npz"], "has test samples of its own"),
        (["make", "mnist_cnn", "--out", "z", "--arithmetic", "fixed", "--formats", "ONNX"], "have no fixed arithmetic"),
        (["table", "--rows", "."], "holds no rows of the zoo"),
        (["lits"], "perhaps list is meant"),
    ],
)
def test_a_mistake_gives_one_line_and_writes_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "zoo", *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_does_not_come_with_the_package_is_said_so() -> None:
    with pytest.raises(QatError, match="ic01: does not come with the package, which holds mnist_cnn"):
        qat.zoo.load("ic01")


# -- what is made ------------------------------------------------------------------------------------------------------


def words(path: Path, seed: int, count: int) -> None:
    """Samples of the form of keyword spotting's: two classes that differ in their mean."""
    rng, y = np.random.default_rng(seed), np.arange(count) % 2
    x = np.clip(rng.normal(30, 40, (count, 49, 10, 1)) + 60 * y[:, None, None, None], -128, 127)
    np.savez(path, x=x.astype(np.int8), y=y)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Entry, Places]:
    """An entry that takes a second, and its data."""
    words(tmp_path / "kws01.npz", 0, 80)
    recipe = Recipe(2, 4, lr=0.01)
    ways = {"8/8": PLAIN, "4/8": PLAIN, "4/4": Way(recipe=Recipe(1, 4, lr=0.01))}
    entry = replace(ENTRIES["kws01"], name="small", origin=Trained("mlp", recipe), official=None, ways=ways)
    return entry, Places([tmp_path], (), tmp_path)


def test_a_network_is_made_from_its_source_to_certified_files(small: tuple[Entry, Places], tmp_path: Path) -> None:
    entry, where = small
    order = Order(tmp_path / "out")
    said: list[str] = []
    row, certificates = make(entry, where, order, said.append)
    float_ = qat.Checkpoint.load(tmp_path / "out" / "small.ckpt")
    assert len(certificates) == 9
    assert all(certificate.passed for certificate in certificates)
    assert (row.trained, row.tested, row.differ, row.macs) == (20, 60, 0, qat.metrics.total_macs(float_.graph))
    assert row.float_figure > 0.9
    for width in WIDTHS:
        stem = tmp_path / "out" / f"small_{width.replace('/', '_')}"
        assert all(stem.with_suffix(suffix).is_file() for suffix in (".ckpt", ".onnx", ".tflite", ".c"))
        checkpoint = qat.Checkpoint.load(stem.with_suffix(".ckpt"))
        bits = set(qat.metrics.weight_bits(checkpoint.graph).values()) - {32}
        assert bits == ({int(width[0])} if width != "4/4" else {4, 8})  # trained: the first and the last layers have 8
        of_outputs = qat.metrics.activation_bits(checkpoint.graph)
        assert of_outputs[checkpoint.graph.outputs[0]] == 8
        assert int(width[2]) in of_outputs.values()
        figure = qat.evaluate_metrics(
            qat.backend("torch"), checkpoint, entry.samples(where, None).resized((1, 49, 10)).test
        )
        assert row.widths[width].figure == figure["top-1"]
        assert row.widths[width].codes == kept.codes_digest(checkpoint)
    assert Row.load(tmp_path / "out" / "small.json") == row
    assert row.widths["4/4"].way == "trained, 1 epoch"
    # Once more: checkpoints are used again, but those of a width that is reached in another way are not.
    before = (tmp_path / "out" / "small_8_8.ckpt").read_bytes()
    changed = replace(entry, ways={**entry.ways, "4/8": Way({"rounding": "nearest", "bias_correction": False})})
    said.clear()
    again, _ = make(changed, where, replace(order, formats=["C"], widths=["8/8", "4/8"]), said.append)
    assert (tmp_path / "out" / "small_8_8.ckpt").read_bytes() == before
    assert [line.partition(":")[0] for line in said if "used again" in line] == [
        str(tmp_path / "out" / name) for name in ("small.ckpt", "small_8_8.ckpt")
    ]
    assert again.widths["8/8"].figure == row.widths["8/8"].figure
    assert again.widths["4/8"].codes != row.widths["4/8"].codes


def test_other_samples_are_evaluated_whole_and_calibrate_nothing(small: tuple[Entry, Places], tmp_path: Path) -> None:
    entry, where = small
    words(tmp_path / "other.npz", 1, 30)
    order = Order(tmp_path / "out", widths=["8/8"], formats=["C"], samples=tmp_path / "other.npz")
    row, _ = make(entry, where, order)
    assert (row.trained, row.tested, row.other) == (20, 30, True)
    first, _ = make(entry, where, replace(order, samples=None))
    assert first.widths["8/8"].codes == row.widths["8/8"].codes
    assert (first.tested, first.other) == (60, False)


def test_a_file_that_cannot_be_written_leaves_no_row(
    small: tuple[Entry, Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, where = small
    target = qat.target("TFLITE")

    def full(*arguments: object, **options: object) -> None:
        raise QatError("disk: is full; free some")

    monkeypatch.setattr(target, "export", full)
    with pytest.raises(QatError, match="is full"):
        make(entry, where, Order(tmp_path / "out", widths=["8/8"]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "small.ckpt",
        "small_8_8.ckpt",
        "small_8_8.onnx",
    ]


def test_the_row_of_a_damaged_file_is_refused(tmp_path: Path) -> None:
    row = qat.zoo.figures_of("mnist_cnn")
    assert row is not None
    row.save(tmp_path / "a.json")
    assert Row.load(tmp_path / "a.json") == row
    data = json.loads((tmp_path / "a.json").read_text())
    for wrong in ("[]", "{", json.dumps({**data, "widths": {"8/8": {}}}), json.dumps({**data, "more": 1})):
        (tmp_path / "a.json").write_text(wrong)
        with pytest.raises(QatError, match=r"a\.json: "):
            Row.load(tmp_path / "a.json")


def test_a_published_network_is_imported_and_its_int8_file_evaluated(tmp_path: Path) -> None:
    """One that our own export has written stands for the publisher's: in float, and in int8."""
    rng, labels = np.random.default_rng(0), np.arange(80) % 2
    specs = rng.normal(0, 1, (80, 30, 1, 40)) + labels[:, None, None, None]
    np.savez(tmp_path / "calibration_samples.npz", specs=specs, labels=labels)
    form = replace(ENTRIES["str_ww"], compared=None, official=None)
    own = replace(form, name="own", origin=Trained("mlp", Recipe(2, 4, lr=0.01)), ways={"8/8": PLAIN})
    order = Order(tmp_path / "own", widths=["8/8"], formats=["TFLITE"])
    row, _ = make(own, Places([tmp_path], (), tmp_path), order)
    float_ = qat.Checkpoint.load(tmp_path / "own" / "own.ckpt")
    model = tmp_path / "models" / "own_float.tflite"
    model.parent.mkdir()
    qat.target("TFLITE").export_float(float_.graph, float_.params, model)  # type: ignore[attr-defined]
    shutil.copy(tmp_path / "own" / "own_8_8.tflite", model.parent / "own_int8.tflite")

    def remote(name: str) -> Remote:
        content = (model.parent / name).read_bytes()
        return Remote(f"somewhere/{name}", len(content), hashlib.sha256(content).hexdigest(), ".")

    entry = replace(
        own, name="published", origin=Published(remote("own_float.tflite")), official=remote("own_int8.tflite")
    )
    where = Places([tmp_path], [model.parent], tmp_path)
    found, _ = make(entry, where, replace(order, out=tmp_path / "published"))
    assert found.float_figure == row.float_figure
    assert found.official == ("own_int8.tflite", row.widths["8/8"].figure)
    (model.parent / "own_int8.tflite").write_bytes(model.read_bytes())
    with pytest.raises(QatError, match=r"own_int8\.tflite: has SHA-256 .* where the published file has"):
        make(entry, where, order)


def test_a_file_of_others_is_run_on_the_numbers_of_its_network(tmp_path: Path) -> None:
    checkpoint = qat.zoo.load("mnist_cnn")
    target = qat.target("TFLITE")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    target.export(integers, tmp_path / "a.tflite", output_type="float32")
    images = kept.random_samples(checkpoint.graph.input_specs[0])[:20]
    numbers = checkpoint.graph.inputs[0].cell.real_numbers(images)  # type: ignore[attr-defined]
    found = target.predict_of_others(tmp_path / "a.tflite", numbers)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found, target.predict(tmp_path / "a.tflite", images))
    assert (found != target.predict_of_others(tmp_path / "a.tflite", numbers[::-1])).any()  # type: ignore[attr-defined]
    (tmp_path / "b.tflite").write_bytes(b"no such file")
    with pytest.raises(QatError, match=r"is no \.tflite file"):
        target.predict_of_others(tmp_path / "b.tflite", numbers)  # type: ignore[attr-defined]


# -- where files are ---------------------------------------------------------------------------------------------------


def test_a_published_network_is_fetched_where_no_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Source, Path]] = []

    def download(source: Source, out: Path) -> list[Path]:
        asked.append((source, out))
        return []

    monkeypatch.setattr(places, "download", download)
    remote = ENTRIES["kws01"].official
    assert remote is not None
    path = Places((), (), tmp_path).model(remote, TINY)
    assert path == tmp_path / "models" / "kws_ref_model.tflite"
    ((source, out),) = asked
    assert source.home + source.files[0].name == TINY + remote.name
    assert (out, source.files[0].sha256) == (tmp_path / "models", remote.sha256)


def test_every_published_file_has_an_address_and_a_digest() -> None:
    for entry in ENTRIES.values():
        assert set(entry.ways) == set(WIDTHS)
        files = [entry.official, getattr(entry.origin, "remote", None)]
        for remote in filter(None, files):
            assert re.fullmatch("[0-9a-f]{64}", remote.sha256)
            assert remote.size > 10_000
    assert TINY.startswith("https://")


# -- samples -----------------------------------------------------------------------------------------------------------


def test_no_sample_calibrates_and_is_evaluated() -> None:
    first = samples.calibrating(500)
    assert first.sum() == 125
    assert not samples.calibrating(500, 128)[~samples.calibrating(500, 128)].any()
    np.testing.assert_array_equal(first, samples.calibrating(500))


def test_samples_become_the_data_sets_that_networks_take(tmp_path: Path) -> None:
    rng, where = np.random.default_rng(0), Places([tmp_path])
    pictures = rng.integers(0, 256, (8, 96, 96, 3), np.uint8)
    np.savez(tmp_path / "vww01", x=pictures, y=np.arange(8) % 2)
    persons = samples.persons(where, None)
    first = samples.calibrating(8)
    np.testing.assert_array_equal(persons.train.images, pictures[first].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(persons.test.images, pictures[~first].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(persons.test.labels, (np.arange(8) % 2)[~first])

    words(tmp_path / "kws01.npz", 0, 8)
    codes = samples.words(where, None)
    assert (codes.train.images.shape[1:], codes.scale, codes.zero_point) == ((1, 49, 10), pytest.approx(0.5847029), 83)  # type: ignore[union-attr]

    recordings = rng.normal(size=(8, 200 * 128)).astype(np.float32)
    np.savez(tmp_path / "ad01", x=recordings, y=np.arange(8) // 4)
    sounds = samples.sounds(where, None)
    tested = recordings[~samples.calibrating(8)]
    assert (sounds.train.images.shape, sounds.test.images.shape) == ((2 * 196, 640), (6 * 196, 640))  # type: ignore[union-attr]
    np.testing.assert_array_equal(sounds.test.images[196 + 7], tested[1, 7 * 128 : 12 * 128])  # type: ignore[index]
    assert (np.asarray(sounds.test.groups)[[0, 195, 196]] == [0, 0, 1]).all()

    specs = rng.normal(size=(8, 30, 1, 40)).astype(np.float32)
    np.savez(tmp_path / "calibration_samples", specs=specs, labels=np.arange(8.0) % 3)
    wake = samples.wake_words(where, None)
    assert (wake.train.images.shape, wake.test.images.shape) == ((2, 40, 30), (6, 40, 30))  # type: ignore[union-attr]
    stream = np.asarray(samples.wake_word_stream(where, wake).images)
    assert stream.shape == (3 * (8 * 30 - 29), 40, 30)
    np.testing.assert_array_equal(stream[1:211, :, :-1], stream[:210, :, 1:])  # moves by one frame
    assert all(any(np.array_equal(window, each[:, 0].T) for each in specs) for window in stream[:211:30])

    rows = ["file,class_index,class_name"]
    for number in range(140):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{2 * number},name {number}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    photographs = samples.photographs(where, None).resized((3, 4, 4))
    assert (len(photographs.train), len(photographs.test)) == (128, 12)
    for split in (photographs.train, photographs.test):  # a picture's red is half of its label
        np.testing.assert_array_equal(2 * np.asarray(split.images[:])[:, 0, 0, 0].astype(int), split.labels)  # type: ignore[index]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((8, 49, 10, 1), np.uint8), "y": np.zeros(8, int)}, "its x is uint8"),
        ({"x": np.zeros((8, 10, 49, 1), np.int8), "y": np.zeros(8, int)}, "samples are int8"),
        ({"x": np.zeros((8, 49, 10, 1), np.int8), "y": np.zeros(7, int)}, "give a label for each"),
        ({"x": np.zeros((8, 49, 10, 1), np.int8)}, "but no y"),
    ],
)
def test_samples_of_another_form_are_refused(arrays: dict[str, object], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "kws01.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(QatError, match=message):
        samples.words(Places([tmp_path]), None)


def test_a_network_that_takes_raw_pixels_gets_them() -> None:
    cell = ENTRIES["ic01"].origin.input  # type: ignore[attr-defined]
    assert cell == pixels((3, 32, 32), [0.0], [1 / 255])
    found = cell.real_numbers(np.full((1, 3, 32, 32), 200, np.uint8))
    np.testing.assert_allclose(found, 200.0, rtol=1e-5)
