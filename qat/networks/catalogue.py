"""Networks by name, for the commands."""

from __future__ import annotations

import inspect
from typing import Any

from qat import hints
from qat.cells.input import Input
from qat.data import Dataset
from qat.errors import QatError, shortened
from qat.graph import Network
from qat.networks.cnn import Cnn, Cnn1d
from qat.networks.compact import CompactDigits, CompactResidual, CompactSeparable
from qat.networks.detector import Detector
from qat.networks.ds_cnn1d import DSCNN1d
from qat.networks.fitting import Given, input_for, outputs_for
from qat.networks.lenet5 import LeNet3x3, LeNet5, LeNet5BN
from qat.networks.lenet_gtc import LeNetGTC
from qat.networks.mlp import Mlp
from qat.networks.mlperf_tiny import DSCNN, Autoencoder, MobileNetV1
from qat.networks.mnist_cnn import MnistCnn
from qat.networks.mobilenet_v3 import MobileNetV3
from qat.networks.resnet import ResNet8, ResNet20
from qat.networks.segmenter import Segmenter
from qat.networks.svhn_cnn import SvhnCnn
from qat.networks.transformer import VisionTransformer
from qat.networks.unet import UNet
from qat.plugins import Group, own_object, working_directory_last
from qat.tasks import Classification, Task

NETWORKS: dict[str, type[Network]] = {
    "lenet": LeNet5,
    "lenet_bn": LeNet5BN,
    "lenet_3x3": LeNet3x3,
    "lenet_gtc": LeNetGTC,
    "mnist_cnn": MnistCnn,
    "resnet8": ResNet8,
    "resnet20": ResNet20,
    "compact_digits": CompactDigits,
    "compact_separable": CompactSeparable,
    "compact_residual": CompactResidual,
    "ds_cnn": DSCNN,
    "mobilenet": MobileNetV1,
    "mobilenet_v3": MobileNetV3,
    "vision_transformer": VisionTransformer,
    "autoencoder": Autoencoder,
    "svhn_cnn": SvhnCnn,
    "mlp": Mlp,
    "cnn": Cnn,
    "cnn1d": Cnn1d,
    "ds_cnn1d": DSCNN1d,
    "segmenter": Segmenter,
    "unet": UNet,
    "detector": Detector,
}  #: our own; ``ADDED`` has those of other packages too
OUTPUTS = ("outputs", "num_class")  #: parameters that say how many a network gives
ADDED = Group("qat.networks", "network", tuple(NETWORKS))


def create(
    name: str,
    dataset: Dataset | None = None,
    task: Task | None = None,
    *,
    mean: Given = None,
    std: Given = None,
    input_size: int | None = None,
) -> Network:
    """A network by its name, fitted to data where they are given.

    What a network can be fitted to are parameters of its ``__init__``: ``input``, a ``qat.Input``, and ``outputs`` (or
    ``num_class``), a number. Pictures are resized to the size that it has by default, unless it has none, or its class says
    ``any_size = True``. Whatever else there is keeps its default.

    A module of the user's own is imported, and so run. It is looked up in the working directory too, after all other places,
    and only while it is imported and the network made: a file there never stands in for a library.

    Args:
        name: One of ``NETWORKS``, in capitals or small letters; that of an entry point of the group ``qat.networks`` of an
            installed package; or ``package.module:Class``.
        dataset: The data. None, the default: the network's own input and outputs.
        task: What the network is for; None, the default: classification.
        mean, std: Of the pixels of pictures, scaled to 0..1: one number, one for each channel, or "auto", measured on the
            training pictures. None, the default: as is usual for the network.
        input_size: Height and width of pictures, in pixels; None, the default: as above.

    Returns:
        The network.

    Raises:
        QatError: there is no such network, it cannot be made, or it does not suit the data.

    >>> import numpy as np, qat
    >>> qat.networks.create("lenet")
    LeNet5 of 7 cells, input 1 x 32 x 32
    >>> windows = qat.Split(np.zeros((60, 3, 128), np.float32), np.arange(60) % 5)
    >>> network = qat.networks.create("cnn1d", qat.data.Dataset("windows", "from Python", windows, windows))
    >>> network, network.fc.out_channels
    (Cnn1d of 8 cells, input 3 x 1 x 128, 5)
    """
    wanted = (dataset, task or Classification(), mean, std, input_size)
    known = ADDED.meant(name)
    if known is not None:
        return _made(name, NETWORKS[known] if known in NETWORKS else ADDED.load(known), *wanted)
    if name.endswith(".ckpt"):
        raise QatError(
            f"network {shortened(name)} is named as a checkpoint is, whose network is in it; --ckpt_path takes it"
        )
    if ":" not in name:
        raise QatError(f"{hints.unknown('network', name, ADDED.names())}, or give your own as package.module:Class")
    with working_directory_last():
        return _made(name, own_object(name, "network", "package.module:Class"), *wanted)


def _made(
    name: str, cls: Any, dataset: Dataset | None, task: Task, mean: Given, std: Given, input_size: int | None
) -> Network:
    if not (isinstance(cls, type) and issubclass(cls, Network)):
        raise QatError(f"network {name!r} is no qat.Network: derive the class from qat.Network")
    if dataset is None:
        return _called(name, cls, {})
    parameters = inspect.signature(cls).parameters
    fitted: dict[str, Any] = {}
    if "input" in parameters:
        own = None if parameters["input"].default is inspect.Parameter.empty else _own_input(name, cls)
        any_size = cls.any_size
        fitted["input"] = input_for(dataset, own, any_size, mean, std, input_size)
    else:
        _refuse_arguments(name, mean=mean, std=std, input_size=input_size)
    outputs = next((key for key in OUTPUTS if key in parameters), None)
    if outputs is not None:
        needed = outputs_for(dataset, task)
        fitted |= {} if needed is None else {outputs: needed}
    try:
        network = _called(name, cls, fitted)
        network.graph()  # raises where its cells do not suit the input
    except QatError as error:
        if "input" not in fitted:
            raise
        raise QatError(
            f"{dataset.source}: its samples, {fitted['input'].spec}, do not suit the network {name!r} ({error}); choose "
            "another: cnn is for pictures, cnn1d for series (C, L), mlp for anything"
        ) from None
    return network


def _own_input(name: str, cls: type[Network]) -> Input | None:
    """What a network takes by default, where that is one array."""
    inputs = _called(name, cls, {}).inputs
    return inputs if isinstance(inputs, Input) else None


def _refuse_arguments(name: str, **arguments: Any) -> None:
    """Raise QatError for an argument that a network with an input of its own cannot follow."""
    for key, value in arguments.items():
        if value is not None:
            raise QatError(
                f"--{key}: network {name!r} has an input of its own; leave it out, or give its __init__ a parameter input, a "
                "qat.Input"
            )


def _called(name: str, cls: type[Network], arguments: dict[str, Any]) -> Network:
    try:
        return cls(**arguments)
    except TypeError as error:
        raise QatError(
            f"network {name!r} cannot be made ({error}): give its __init__ defaults for all arguments but input and outputs"
        ) from None
