"""Networks of PyTorch, Keras and MindSpore, prepared, trained in their users' own loops, exported, and put back."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrations import PLAIN
from torch import nn
from torchvision_models import models

import qat
from qat.data.gathering import MOST, gathered
from qat.imports.prepare import KEPT
from qat.targets.onnx import target as onnx_target
from qat.training.origin import origin_of
from qat.vocabulary.arrays import ArraySpec

SECTIONS = dict(
    re.findall(
        r"^## (.*)\n((?:(?!## ).*\n?)*)",
        (Path(__file__).parent.parent / "docs" / "import_training.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)
IMAGES = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
LABELS = np.arange(40) % 10


class Net(nn.Module):
    """A network with all that is merged: a batch normalisation, an activation, a residual, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc(torch.flatten(self.pool(x + self.depth(x)), 1))


def net() -> Net:
    """In evaluation mode, with batch statistics of its own."""
    torch.manual_seed(0)
    module = Net()
    module(torch.from_numpy(IMAGES))
    return module.eval()


def prepared(images: Any = IMAGES, **settings: Any) -> Any:
    return qat.prepare(net(), torch.from_numpy(IMAGES[:2]), images, **settings)


def loader() -> Any:
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(dataset, batch_size=16)


def train(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for images, labels in loader():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


# -- three lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".c"])
def test_a_torch_module_trained_in_its_own_loop_and_its_file_give_equal_outputs(tmp_path: Path, ending: str) -> None:
    model = prepared(loader())
    before = model(torch.from_numpy(IMAGES)).detach()
    train(model)
    path = tmp_path / f"net{ending}"
    certificate = qat.export(model, path)
    assert certificate.passed
    assert certificate.images == len(IMAGES)
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(IMAGES)).numpy()
    assert not np.array_equal(before, outputs)
    deployed = qat.target(ending.removeprefix(".")).predict(path, IMAGES)
    if certificate.arithmetic == "float":
        np.testing.assert_array_equal(deployed, outputs)
    else:  # of C: not what a model of a framework computes in, so that rounding may differ
        codes = qat.evaluate(model.integers(), IMAGES, arithmetic=certificate.arithmetic)
        np.testing.assert_array_equal(deployed, model.integers().outputs[0].grid.dequantize(codes))
        assert np.abs(deployed - outputs).max() < 1.5 * model.integers().outputs[0].grid.scale
    labelled = qat.export(model, path, images=loader())
    assert labelled.reference_top1 == pytest.approx(np.mean(deployed.argmax(1) == LABELS))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_quantizer": qat.LSQWeightQuantizer(4), "activation_quantizer": qat.LSQActivationQuantizer(8)},
        {"num_bits": (4, 8), "method": "percentile", "bn_fold": False},
    ],
    ids=["minmax", "LSQ", "4 bits"],
)
def test_every_parameter_has_a_gradient(settings: dict[str, Any]) -> None:
    model = prepared(**settings)
    nn.functional.cross_entropy(model.train()(torch.from_numpy(IMAGES)), torch.from_numpy(LABELS)).backward()
    gradients = {name: x.grad for name, x in model.named_parameters()}
    assert [name for name, x in gradients.items() if x is None] == []
    # Two fake quantizers before an addition have one grid, that of the larger scale, which alone has a gradient.
    idle = {name for name, x in gradients.items() if not x.abs().sum() > 0}
    assert len(idle) <= 1
    assert idle <= {"stem.0.fake_quant.scale_change", "depth.fake_quant.scale_change"}
    assert {"stem.0.weight", "stem.0.gamma", "depth.bias", "fc.weight"} <= dict(model.named_parameters()).keys()


def test_the_ranges_are_those_of_the_images() -> None:
    model, module = prepared(**PLAIN), net()
    with torch.no_grad():
        largest = module.stem(torch.from_numpy(IMAGES)).max()
    assert torch.isclose(dict(model.named_buffers())["stem.0.fake_quant.max"], largest, rtol=1e-5)


def test_state_is_saved_loaded_and_copied(tmp_path: Path) -> None:
    model, other = prepared(), prepared()
    train(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        codes = [each.eval()(torch.from_numpy(IMAGES)) for each in (model, other, copied)]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])
    assert other.step == copied.step == model.step == 3
    assert qat.export(copied, tmp_path / "net.onnx").passed
    train(copied)
    assert model.step == 3  # nothing is shared


def test_without_images_training_finds_the_ranges(tmp_path: Path) -> None:
    model = prepared(None)
    with pytest.raises(qat.QatError, match="there are no images to verify"):
        qat.export(model, tmp_path / "net.onnx")
    with pytest.raises(qat.QatError, match=r"has never seen data.*or give calibration_images to qat\.prepare"):
        qat.export(model, tmp_path / "net.onnx", images=IMAGES)
    train(model)
    assert qat.export(model, tmp_path / "net.onnx", images=loader()).passed


def test_raw_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.2)
    entry = qat.Input((3, 8, 8), mean=mean, std=std)
    model = prepared(pixels, inputs=entry)
    normalised = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    with torch.no_grad():
        wanted = net()(torch.from_numpy(normalised.astype(np.float32)))
        found = model.eval()(torch.from_numpy(pixels))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert qat.export(model, tmp_path / "net.tflite").passed


def test_another_framework_trains_it(tmp_path: Path) -> None:
    model = prepared(np.moveaxis(IMAGES, 1, -1), backend="keras")
    assert qat.backend("keras").predict(model, IMAGES).shape == (40, 10)
    assert model(np.moveaxis(IMAGES, 1, -1)).shape == (40, 10)
    assert qat.export(model, tmp_path / "net.onnx").passed


# -- images -----------------------------------------------------------------------------------------------------------


def generator() -> Iterator[Any]:
    yield from np.split(IMAGES, 4)


@pytest.mark.parametrize(
    ("images", "labelled"),
    [
        (IMAGES, False),
        (torch.from_numpy(IMAGES), False),
        (torch.from_numpy(IMAGES).requires_grad_(), False),
        ((IMAGES, LABELS), True),
        ([*np.split(IMAGES, 4)], False),
        (generator(), False),
        (loader(), True),
        ([((IMAGES,), {"boxes": []})], False),
    ],
    ids=["array", "tensor", "with gradient", "with labels", "list", "generator", "DataLoader", "other labels"],
)
def test_images_come_as_users_have_them(images: Any, labelled: bool) -> None:
    found = gathered(images, [ArraySpec((3, 8, 8), "float32")], "net", "images")
    np.testing.assert_array_equal(found.images[0], IMAGES)
    assert len(found.labels) == labelled
    if labelled:
        np.testing.assert_array_equal(found.labels[0], LABELS)


def test_several_inputs_and_labels() -> None:
    specs = [ArraySpec((3, 8, 8), "float32"), ArraySpec((10,), "float32")]
    other = np.zeros((40, 10), np.float32)
    for given in (
        (IMAGES, other, LABELS),
        ((IMAGES, other), LABELS),
        [(IMAGES[:20], other[:20], LABELS[:20]), (IMAGES[20:], other[20:], LABELS[20:])],
    ):
        found = gathered(given, specs, "net", "images")
        assert [x.shape for x in (*found.images, *found.labels)] == [(40, 3, 8, 8), (40, 10), (40,)]


def test_of_batches_only_the_first_samples_are_taken() -> None:
    given = []

    def endless() -> Iterator[Any]:
        while True:
            given.append(np.full((100, 2), len(given), np.float32))
            yield given[-1]

    (found,) = gathered(endless(), [ArraySpec((2,), "float32")], "net", "images").images
    assert (len(found), len(given), found[-1, 0]) == (MOST, 6, 5)


def test_a_model_keeps_few_images() -> None:
    model = prepared(np.concatenate([IMAGES, IMAGES]))
    assert [len(x) for x in origin_of(model).images] == [KEPT]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "gives no batch"),
        (7, "calibration_images is 7; give an array or tensor float32 .N, 3, 8, 8."),
        ([{"image": IMAGES}], "gives {'image'.*the network takes 1 input"),
        ([IMAGES[:2], IMAGES[:2, :, :4]], "batches that do not fit together"),
        (IMAGES.astype(np.float64), r"takes float32 .N, 3, 8, 8., but got float64.*: x\.astype\(np\.float32\)"),
        ([torch.from_numpy(IMAGES).double()], r"takes float32 .N, 3, 8, 8., but got torch.float64.*: x\.float\(\)"),
        (np.moveaxis(IMAGES, 1, -1), r"transpose them by \(0, 3, 1, 2\)"),
    ],
    ids=["nothing", "a number", "a dict", "shapes", "dtype", "dtype of tensors", "channels last"],
)
def test_images_that_do_not_fit(images: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        prepared(images)


@pytest.mark.parametrize(
    "images", [torch.from_numpy(IMAGES), IMAGES, [(IMAGES[:20], LABELS[:20])] * 2, loader()], ids=type
)
def test_the_example_may_be_left_to_the_images(images: Any) -> None:
    model = qat.prepare(net(), None, images)
    assert model.graph.input_specs == (ArraySpec((3, 8, 8), "float32"),)
    assert qat.prepare(net(), IMAGES[:2].astype(np.float64)).graph.nodes == model.graph.nodes
    with pytest.raises(qat.QatError, match="its example is nothing"):
        qat.prepare(net(), None, iter([IMAGES]))
    message = (
        "a DataLoader stands where the example of a .* does, .*; samples to find ranges on are calibration_images="
    )
    with pytest.raises(qat.QatError, match=message):
        qat.prepare(net(), loader())


def assert_imported_alike(imported: Any, params: Any) -> None:
    """A module holds these parameters where its import finds them."""
    assert len(imported.params) > 3
    for name, array in imported.params.items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)


# -- back into the module ---------------------------------------------------------------------------------------------


def test_without_training_every_bit_goes_back() -> None:
    model, module, other = prepared(), net(), Net()
    qat.export_params(model, other)
    left_out = "stem.1.num_batches_tracked"
    wanted, found = module.state_dict(), other.state_dict()
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if name != left_out and not torch.equal(wanted[name], found[name])] == []


@pytest.mark.parametrize("whole", [True, False])
def test_names_are_those_of_the_module_that_was_compiled(whole: bool) -> None:
    module, other = net().requires_grad_(False), Net()
    if whole:
        compiled: Any = torch.compile(module, backend="eager")
    else:
        compiled, module.stem = module, torch.compile(module.stem, backend="eager")
    model = qat.prepare(compiled, None, IMAGES)
    assert model.graph.name == "Net"
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in prepared().named_parameters()}
    assert trained(model) == set()
    for each in (other, compiled):
        qat.export_params(model, each)
    assert torch.equal(other.fc.weight, net().fc.weight)
    assert torch.equal(other.stem[0].weight, net().stem[0].weight)


def test_trained_parameters_go_back() -> None:
    model, module = prepared(), net()
    train(model)
    before = copy.deepcopy(module.state_dict())
    qat.export_params(model, module)
    assert not torch.equal(module.fc.weight, before["fc.weight"])
    assert_imported_alike(qat.import_model(module, torch.from_numpy(IMAGES)), qat.backend("torch").read(model))


class Scaled(nn.Module):
    """A factor that is part of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * 0.5


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_is_frozen_stays_frozen() -> None:
    module = net()
    module.stem.requires_grad_(False)
    example = torch.from_numpy(IMAGES[:2])
    model = qat.prepare(module, example, IMAGES)
    assert trained(model) == {"depth.weight", "depth.bias", "fc.weight", "fc.bias"}
    train(model)
    after = dict(model.named_parameters())
    assert torch.equal(after["stem.0.weight"], module.stem[0].weight)
    assert not torch.equal(after["fc.weight"], module.fc.weight)
    module.requires_grad_(False)
    assert trained(qat.prepare(module, example)) == set()
    left = trained(qat.prepare(module, example, IMAGES, weight_quantizer=qat.LSQWeightQuantizer(4)))
    assert {name.rpartition(".")[2] for name in left} == {"weight_scale_change"}  # a quantizer's own


def test_a_bias_that_calibration_adds_is_frozen_with_its_weight() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()).eval()
    for still in (False, True):
        module.requires_grad_(not still)
        model = qat.prepare(module, None, IMAGES, bias_correction=True)
        assert trained(model) == (set() if still else {"0.weight", "0.bias"})


def test_what_is_computed_of_frozen_parameters_is_frozen() -> None:
    images = torch.randn(4, 4)
    assert trained(qat.prepare(Scaled().eval(), images)) == {"fc.weight", "fc.bias"}
    assert trained(qat.prepare(Scaled().eval().requires_grad_(False), images)) == set()


def test_a_parameter_without_a_place_is_named_when_it_was_trained() -> None:
    module = Scaled().eval()
    images = torch.randn(20, 4)
    model = qat.prepare(module, images, images)
    before = copy.deepcopy(module.state_dict())
    qat.export_params(model, module)  # nothing has changed, and so nothing is lost
    with pytest.raises(
        qat.QatError, match=r"Scaled has another fc\.weight, fc\.bias than the module that was prepared"
    ):
        qat.export_params(model, Scaled())
    model(images).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    with pytest.raises(qat.QatError, match=r"fc\.weight, fc\.bias changed, and the import made them of several arrays"):
        qat.export_params(model, module)
    assert all(torch.equal(before[name], x) for name, x in module.state_dict().items())


def test_a_module_of_another_architecture_is_refused() -> None:
    module = Scaled()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(qat.QatError, match=r"Scaled has (a|no) '"):
        qat.export_params(prepared(), module)
    assert all(torch.equal(before[name], x) for name, x in module.state_dict().items())
    with pytest.raises(qat.QatError, match="was not prepared from a module of a framework"):
        qat.export_params(qat.prepare(qat.networks.LeNet5(), backend="torch"), module)
    with pytest.raises(qat.QatError, match="holds no parameters"):
        qat.export_params(prepared(), "net.onnx")


# -- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Net(), torch.from_numpy(IMAGES)), "is in training mode"),
        ((object(),), "is no network that can be imported"),
        ((qat.networks.LeNet5(),), "a LeNet5 is of no framework; say which one is to train it: backend='torch'"),
        (("net.onnx",), "net.onnx is of no framework"),
    ],
    ids=["training", "object", "network", "file"],
)
def test_what_cannot_be_prepared(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        qat.prepare(*arguments)


def test_settings_of_calibration_need_images() -> None:
    with pytest.raises(qat.QatError, match="method says how ranges are found on images, and there are none"):
        prepared(None, method="mse")


def test_a_setting_that_there_is_not_is_named() -> None:
    with pytest.raises(qat.QatError, match="prepare: has no setting nbits, perhaps num_bits is meant"):
        prepared(nbits=4)
    with pytest.raises(qat.QatError, match="has no setting colour; give those of"):
        prepared(None, colour=4)


def test_a_quantized_checkpoint_is_not_prepared_again() -> None:
    with pytest.raises(qat.QatError, match="is quantized already"):
        qat.prepare(qat.checkpoint_of(prepared()), backend="torch")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    graph = qat.networks.LeNet5().graph()
    path = tmp_path / "net.onnx"
    for model, name, options, message in (
        (net(), path, {}, "a Net is no prepared model.*call qat.prepare first"),
        (torch.nn.DataParallel(prepared()), path, {}, "a DataParallel is no prepared model.*give its .module"),
        (qat.backend("torch").lower(graph), path, {}, "is a float network.*call qat.prepare first"),
        (qat.Checkpoint(graph, graph.initial_params()), path, {}, "is a float network"),
        (prepared(), tmp_path / "net.pth", {}, "its ending '.pth' is that of no format; formats are .onnx"),
        (prepared(), path, {"weight": "int8"}, "format ONNX has no option 'weight' .it has weights"),
        (prepared(), path, {"images": IMAGES[:, :2]}, "takes float32"),
    ):
        with pytest.raises(qat.QatError, match=message):
            qat.export(model, name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_codes_differ_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, predict = prepared(), onnx_target.predict

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = predict(*arguments, **options)
        found[0, 0] = found[0, 1]
        return found

    monkeypatch.setattr(onnx_target, "predict", wrong)
    path = tmp_path / "net.onnx"
    path.write_text("what was there")
    with pytest.raises(qat.QatError, match=r"net\.onnx: is not written, since .* 1 differ"):
        qat.export(model, path)
    assert path.read_text() == "what was there"


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    model = prepared(task=qat.tasks.Regression())
    train(model)
    qat.checkpoint_of(model).save(tmp_path / "net.ckpt")
    checkpoint = qat.Checkpoint.load(tmp_path / "net.ckpt")
    assert (checkpoint.step, checkpoint.task) == (3, qat.tasks.Regression())
    assert qat.export(checkpoint, tmp_path / "net.onnx", images=IMAGES).passed
    with pytest.raises(qat.QatError, match="there are no images to verify"):
        qat.export(checkpoint, tmp_path / "net.onnx")


# -- Keras ------------------------------------------------------------------------------------------------------------

ROWS = np.ascontiguousarray(np.moveaxis(IMAGES, 1, -1))


def keras_net() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inner = [keras.Input((8, 8, 6)), layers.SeparableConv2D(5, 3, padding="same", name="separable"), layers.ReLU()]
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            keras.Sequential(inner, name="inner"),
            layers.DepthwiseConv2D(3, strides=2, padding="same", name="depth"),
            layers.Flatten(),
            layers.Dense(10, name="fc"),
        ],
        name="small",
    )


def compiled(model: Any) -> Any:
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss, metrics=["accuracy"])
    return model


def test_a_keras_model_is_fitted_exported_and_put_back(tmp_path: Path) -> None:
    import keras

    module = keras_net()
    with pytest.raises(
        qat.QatError, match=r"an? ndarray .* needs none; samples to find ranges on are calibration_images="
    ):
        qat.prepare(module, ROWS)
    model = compiled(qat.prepare(module, calibration_images=ROWS))
    before = model.get_weights()
    stop = keras.callbacks.EarlyStopping(patience=1)
    history = model.fit(ROWS, LABELS, validation_data=(ROWS, LABELS), batch_size=8, verbose=0, callbacks=[stop])
    model.save_weights(tmp_path / "net.weights.h5")
    outputs = model.predict(ROWS, verbose=0)
    certificate = qat.export(model, tmp_path / "net.tflite", images=(ROWS, LABELS))
    np.testing.assert_array_equal(qat.target("TFLITE").predict(tmp_path / "net.tflite", IMAGES), outputs)
    assert certificate.reference_top1 == pytest.approx(history.history["val_accuracy"][-1])
    assert not all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    qat.export_params(model, module)
    assert_imported_alike(qat.import_model(module), qat.backend("keras").read(model))
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded.predict(ROWS, verbose=0), outputs)


def test_without_training_every_bit_goes_back_into_a_keras_model() -> None:
    import keras

    module = keras_net()
    model, other = qat.prepare(module, calibration_images=ROWS), keras.models.clone_model(module)
    qat.export_params(model, other)
    assert len(origin_of(model).sources) == 12
    for wanted, found in zip(module.weights, other.weights, strict=True):
        np.testing.assert_array_equal(wanted.numpy(), found.numpy(), err_msg=wanted.path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES, r"small: takes float32 .N, 8, 8, 3., but got float32 .40, 3, 8, 8.; .*transpose them by .0, 2, 3, 1"),
        (ROWS.astype(np.float64), r"takes float32 .N, 8, 8, 3., but got float64 .40, 8, 8, 3.; .*astype"),
    ],
)
def test_messages_about_images_of_keras_are_in_its_layout(images: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        qat.prepare(keras_net(), calibration_images=images)


def test_what_is_frozen_in_a_keras_model_stays_frozen() -> None:
    module = keras_net()
    for layer in module.layers[:-1]:
        layer.trainable = False
    model = compiled(qat.prepare(module, calibration_images=ROWS))
    assert [variable.name for variable in model.trainable_variables] == ["fc.weight", "fc.bias"]
    model.fit(ROWS, LABELS, verbose=0)
    found = {variable.name: variable.numpy() for variable in model.variables}
    np.testing.assert_array_equal(found["conv.gamma"], module.get_layer("norm").gamma.numpy())
    assert not np.array_equal(found["fc.weight"], module.get_layer("fc").kernel.numpy())


def test_a_keras_model_takes_its_own_layout_alone() -> None:
    model = qat.prepare(keras_net(), calibration_images=ROWS[:, :, :, :])
    assert model(ROWS).shape == model.predict(ROWS, verbose=0).shape == (40, 10)
    np.testing.assert_array_equal(qat.backend("keras").predict(model, IMAGES), model.predict(ROWS, verbose=0))
    with pytest.raises(qat.QatError, match=r"takes float32 \(N, 8, 8, 3\), but got float32 \(40, 3, 8, 8\)"):
        model(IMAGES)
    with pytest.raises(qat.QatError, match=r"but got float32"):
        compiled(model).fit(IMAGES, LABELS, verbose=0)


def settled(module: Any, rows: Any) -> Any:
    """With batch normalisations of these samples: a fresh network of fifty layers gives numbers near 0."""
    import keras

    norms = [layer for layer in module.layers if isinstance(layer, keras.layers.BatchNormalization)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    module(rows, training=True)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
    return module


# -- the page ---------------------------------------------------------------------------------------------------------


def page(section: str, names: dict[str, Any]) -> dict[str, Any]:
    """What its example leaves behind, beside what it begins with."""
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    names["__name__"] = "example"  # which MindSpore looks for
    exec(compile(code, "import_training.md", "exec"), names)
    return names


@pytest.mark.sweep
def test_the_page_for_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    networks = models()
    resnet18 = networks.resnet18
    monkeypatch.setattr(networks, "resnet18", lambda weights: resnet18())  # without a download
    torch.manual_seed(0)
    samples = torch.randn(32, 3, 32, 32)
    names = page("PyTorch", {"dataset": torch.utils.data.TensorDataset(samples, torch.arange(32))})
    assert names["certificate"].passed
    assert names["certificate"].images == 32
    layer = names["module"].layer4[1].conv2.weight.detach()
    assert torch.equal(layer, names["model"].get_submodule("layer4.1.conv2").weight.detach())


@pytest.mark.sweep
def test_the_page_for_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).random((32, 96, 96, 3), np.float32)
    original = keras.applications.MobileNetV2
    monkeypatch.setattr(
        keras.applications, "MobileNetV2", lambda **options: settled(original(weights=None, **options), rows)
    )
    names = page("Keras", {"images": rows, "labels": np.arange(32)})
    assert names["certificate"].passed
    assert names["certificate"].reference_top1 is not None
    kernel = names["module"].get_layer("Conv_1").kernel.numpy()
    np.testing.assert_array_equal(names["model"].tensors["Conv_1.weight"].numpy(), kernel)


def cell() -> Any:
    import mindspore as ms

    class Small(ms.nn.Cell):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = ms.nn.Conv2d(3, 8, 3, pad_mode="pad", padding=1)
            self.norm = ms.nn.BatchNorm2d(8)
            self.relu = ms.nn.ReLU()
            self.pool = ms.nn.MaxPool2d(2, 2)
            self.flatten = ms.nn.Flatten()
            self.fc = ms.nn.Dense(128, 10)

        def construct(self, x: Any) -> Any:
            return self.fc(self.flatten(self.pool(self.relu(self.norm(self.conv(x))))))

    return Small().set_train(False)


def test_a_mindspore_cell_is_prepared_exported_and_put_back(tmp_path: Path) -> None:
    import mindspore as ms

    module, other = cell(), cell()
    module.fc.bias.requires_grad = False
    batches = ms.dataset.NumpySlicesDataset((IMAGES, LABELS), shuffle=False).batch(16)
    model = qat.prepare(module, ms.Tensor(IMAGES[:2]), batches)
    trainable = {x.name for x in model.trainable_params()}
    assert {"conv.weight", "conv.gamma", "fc.weight"} <= trainable
    assert "fc.bias" not in trainable
    assert qat.export(model, tmp_path / "net.onnx").passed
    qat.export_params(model, other)
    wanted, found = module.parameters_dict(), other.parameters_dict()
    for name, parameter in wanted.items():
        np.testing.assert_array_equal(parameter.asnumpy(), found[name].asnumpy(), err_msg=name)


def test_what_is_said_of_mindspore_cells() -> None:
    import mindspore as ms

    example = ms.Tensor(IMAGES[:2])
    with pytest.raises(qat.QatError, match=r"Small: is in training mode.*set_train\(False\)"):
        qat.prepare(cell().set_train(), example)
    with pytest.raises(qat.QatError, match=r"Small: a mindspore\.nn\.Cell is read by calling it.*mindspore\.Tensor"):
        qat.prepare(cell())

    class Unwritten(ms.nn.Cell):  # type: ignore[misc]
        def construct(self, x: Any) -> Any:
            return ms.ops.cholesky(x)

    with pytest.raises(
        qat.QatError, match=r"Unwritten: MindSpore keeps no graph of a cell.*write the network as a qat\.Network"
    ):
        qat.prepare(Unwritten().set_train(False), example)


@pytest.mark.sweep
def test_the_page_for_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = page("MindSpore", {"module": cell(), "images": IMAGES, "labels": LABELS.astype(np.int32)})
    assert names["certificate"].passed
    assert names["model"].step == 5
