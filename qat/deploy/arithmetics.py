"""Which arithmetic a file computes (docs/numerics.md): the network's own, unless its format has another or its user chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qat.deploy.certificate import statement
from qat.deploy.interfaces import RecordsArithmetic, RecordsMetadata, Target, check_target
from qat.errors import QatError
from qat.integer import IntegerGraph
from qat.integer.fixed_point import ARITHMETICS
from qat.reading import reading
from qat.training.checkpoint import Checkpoint

TRAINED = "trained_arithmetic"  #: in a file's metadata, where it is not that of the file
FORMATS = {"float": "ONNX, TFLITE or C", "fixed": "TFLITE or C"}  #: to use where another has no such arithmetic


def default_arithmetic(target: Target, path: str | Path | None = None, graph: IntegerGraph | None = None) -> str:
    """The arithmetic that a file was exported for, or is exported for where nobody says otherwise: that of its network.

    Args:
        target: of the file.
        path: of the file; None, the default: it is still to be written.
        graph: the integers of the network; None, the default: they are not at hand.

    Returns:
        "float" or "fixed". A network is in the float arithmetic also where nobody chose one, so that a target which has the
        fixed one alone computes that; its certificate says so.

    Raises:
        QatError: the network was trained in the fixed arithmetic, and the target of a file to be written has none.
    """
    check_target(target)
    own = target.ARITHMETICS
    if path is not None and isinstance(target, RecordsArithmetic):
        return target.arithmetic_of(path)
    if graph is not None and graph.arithmetic in own:
        return graph.arithmetic
    if graph is not None and path is None:
        require_arithmetic(graph, target.NAME, own)
    return own[0]


def require_arithmetic(graph: IntegerGraph, target: str, own: tuple[str, ...]) -> None:
    """Check that a target computes what a network was trained in.

    Args:
        graph: the integers of the network.
        target: the name of the target.
        own: its arithmetics.

    Raises:
        QatError: the network was trained in the fixed arithmetic, and the target has none.
    """
    if graph.arithmetic not in own and graph.arithmetic != ARITHMETICS[0]:
        raise QatError(
            f"{graph.name}: was trained in the {graph.arithmetic} arithmetic, but what runs files of {target} computes the "
            f"{own[0]} one; use --file_format {FORMATS[graph.arithmetic]}, or --arithmetic {own[0]} to export it nonetheless, "
            "with some codes other than those of training"
        )


def arithmetic_options(target: Target, arithmetic: str) -> dict[str, str]:
    """What a target's functions are told of the arithmetic: nothing where there is but one.

    Args:
        target: whose functions are called.
        arithmetic: "float" or "fixed".

    Returns:
        Keyword arguments.

    Raises:
        QatError: where files of the target do not have this arithmetic.
    """
    check_target(target)
    if arithmetic not in target.ARITHMETICS:
        others = FORMATS.get(arithmetic, FORMATS[ARITHMETICS[0]])
        raise QatError(
            f"arithmetic {arithmetic!r}: files of {target.NAME} have no such arithmetic, since what runs them computes in "
            f"{target.ARITHMETICS[0]}; use --file_format {others}, or --arithmetic {target.ARITHMETICS[0]}"
        )
    return {"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}


def kept_with(checkpoint: Checkpoint, arithmetic: str) -> dict[str, str]:
    """What the metadata of a file keep of its checkpoint.

    Args:
        checkpoint: of the quantized network.
        arithmetic: of the file.

    Returns:
        Texts by key.
    """
    own = checkpoint.graph.arithmetic
    return checkpoint.kept() | ({} if own == arithmetic else {TRAINED: own})


def said_of(path: str | Path, target: Target, arithmetic: str) -> str | None:
    """What is to be said of an exported file that computes another arithmetic than its network's training.

    Args:
        path: of the file.
        target: of its format.
        arithmetic: in which it is run.

    Returns:
        One line; with the codes that differ where its certificate has counted them. None where there is nothing to say.
    """
    metadata = target.read_metadata(path) if isinstance(target, RecordsMetadata) else {}
    exported = default_arithmetic(target, path)
    trained = metadata.get(TRAINED, exported)
    if trained == arithmetic:
        return None
    with reading(path, "an exported file: its certificate is damaged", "export it again"):
        counted = _counted(json.loads(metadata.get("certificate", "{}"))) if exported == arithmetic else None
    return statement(path, arithmetic, trained, counted, "on its certificate's samples")


def _counted(certificate: Mapping[str, Mapping[str, int]]) -> tuple[int, int] | None:
    """The codes that differ, and all of them, as a certificate in JSON has them. Raises ValueError for anything else."""
    apart = certificate.get("apart")
    return None if apart is None else (int(apart["differ"]), int(apart["codes"]))
