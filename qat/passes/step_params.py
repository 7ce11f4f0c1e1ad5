"""Parameters of a network of one step, from those of the network over all steps that was trained."""

from __future__ import annotations

from collections.abc import Mapping

from qat.cells.fake_quant import FakeQuant
from qat.errors import QatError
from qat.graph import Graph, Network, Params, as_graph
from qat.vocabulary.ops import Array


def step_params(step: Network | Graph, trained: Network | Graph, params: Mapping[str, Array]) -> Params:
    """The parameters of ``step``, which has the same cells as a trained network, used once: ``GRU.step`` beside ``GRU``.

    1. What has a name of ``trained`` is what it is there.
    2. The fake quantizer of a state that enters has none there. It shares its grid with that of the state that leaves, and gets
       what the one in ``trained`` has that shares this grid and that ``step`` lacks: that of the state with which the series
       begins. So both networks have the same grids, and the same codes.

    Args:
        step: float, or quantized by the settings with which ``trained`` was.
        trained: the network that was trained.
        params: of ``trained``.

    Returns:
        float32 by full name.

    Raises:
        QatError: a parameter is in neither place.

    >>> import qat
    >>> class Series(qat.Network):
    ...     inputs = qat.Input((2, 4))
    ...     def __init__(self) -> None:
    ...         self.gru = qat.GRU(2, 3)
    ...     def construct(self, x):
    ...         return self.gru(x)
    >>> class Step(Series):
    ...     inputs = (qat.Input((2,)), qat.Input((3,), dtype="float32"))
    ...     def construct(self, x, h):
    ...         return self.gru.step(x, h)
    >>> series, step = (qat.convert_quant_network(net()) for net in (Series, Step))
    >>> params = qat.step_params(step, series, series.observed_params())
    >>> step.check_params(params)
    """
    step, trained = as_graph(step), as_graph(trained)
    trained.check_params(params)
    known = {node.cell_name: node.cell for node in trained.nodes}
    own = {node.cell_name for node in step.nodes}
    found: Params = {}
    for node in step.nodes:
        sources = [node.cell_name]
        if node.cell_name not in known and isinstance(node.cell, FakeQuant):
            shared = {name: known[name] for name in node.cell.shares if name in known}
            begins = [name for cell in shared.values() if isinstance(cell, FakeQuant) for name in cell.shares]
            sources = [*(name for name in begins if name not in own), *shared]  # zeros have no lower end
        for local, param in node.cell.params().items():
            array = next((params[f"{name}.{local}"] for name in sources if f"{name}.{local}" in params), None)
            if array is None or array.shape != param.shape:
                raise QatError(
                    f"{node.cell_name}.{local}: {trained.name} has no such parameter of shape {param.shape}, so that "
                    f"{step.name} is no step of it; build both from the same cells, of the same names and sizes, and convert "
                    "both with the same settings"
                )
            found[f"{node.cell_name}.{local}"] = array
    return found
