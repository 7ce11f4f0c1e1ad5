"""Networks by name, for the commands."""

from __future__ import annotations

from typing import Any

from qat import hints
from qat.errors import QatError
from qat.graph import Network
from qat.networks.compact import CompactDigits, CompactResidual, CompactSeparable
from qat.networks.lenet5 import LeNet3x3, LeNet5, LeNet5BN
from qat.networks.lenet_gtc import LeNetGTC
from qat.networks.mlperf_tiny import DSCNN, Autoencoder, MobileNetV1
from qat.networks.mnist_cnn import MnistCnn
from qat.networks.resnet import ResNet8, ResNet20
from qat.networks.svhn_cnn import SvhnCnn
from qat.plugins import Group, own_object, working_directory_last

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
    "autoencoder": Autoencoder,
    "svhn_cnn": SvhnCnn,
}  #: our own; ``ADDED`` has those of other packages too
ADDED = Group("qat.networks", "network", tuple(NETWORKS))


def create(name: str) -> Network:
    """A network by its name.

    A module of the user's own is imported, and so run. It is looked up in the working directory too, after all other places,
    and only while it is imported and the network made: a file there never stands in for a library.

    Args:
        name: One of ``NETWORKS``, in capitals or small letters; that of an entry point of the group ``qat.networks`` of an
            installed package; or ``package.module:Class``.

    Returns:
        The network, made with the defaults of all arguments.

    Raises:
        QatError: there is no such network, or it cannot be made.

    >>> import qat
    >>> qat.networks.create("lenet")
    LeNet5 of 7 cells, input 1 x 32 x 32
    """
    known = ADDED.meant(name)
    if known is not None:
        return NETWORKS[known]() if known in NETWORKS else _made(name, ADDED.load(known))
    if ":" not in name:
        raise QatError(f"{hints.unknown('network', name, ADDED.names())}, or give your own as package.module:Class")
    with working_directory_last():
        return _made(name, own_object(name, "network", "package.module:Class"))


def _made(name: str, cls: Any) -> Network:
    if not (isinstance(cls, type) and issubclass(cls, Network)):
        raise QatError(f"network {name!r} is no qat.Network: derive the class from qat.Network")
    try:
        return cls()
    except TypeError as error:
        raise QatError(
            f"network {name!r} cannot be made ({error}): give its __init__ defaults for all arguments"
        ) from None
