"""Writing a float network as a file of any target: those whose files hold integers only refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qat.deploy.interfaces import HoldsFloats, Target
from qat.errors import QatError
from qat.graph import Graph, as_graph
from qat.vocabulary.ops import Array


def export_float(target: Target, graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network as a file of a target.

    Args:
        target: As ``qat.target`` gives it.
        graph: A float network.
        params: Its parameters by name, canonical arrays.
        path: The file, which appears or is replaced as a whole.

    Raises:
        QatError: the target's files hold integers only, the network is quantized, its parameters do not fit, or a cell has no
            form in that format.
    """
    if not isinstance(target, HoldsFloats):
        raise QatError(
            f"{as_graph(graph).name}: {target.NAME} holds integers only; export the float network to ONNX or TFLITE"
        )
    target.export_float(graph, params, path)
