"""The result of ``repair``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.errors import QatError
from qat.passes.quant_config import written_quant_config
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.listing import Listed, Listing, Row


@dataclass(frozen=True)
class Raised:
    """A layer that was given more bits, or a finer grid: a row of a repair.

    Args:
        layer: its name, or those of all layers whose activations share one grid, joined by " + ".
        what: "weights" or "activations".
        before: what it had, as "4 bits"; where its grid changes "4 bits, tensor", one scale, and "4 bits, channel".
        after: what it has now.
        blame: the share of the outputs' error that it caused, 0 to 1 (``qat.analysis.diagnosis``).
        weight_bytes: of all weights of the network, with this layer and those before it raised.
        bops: bit operations for one sample, likewise.
        drop: what is lost then, in the measure's unit; None where nobody has measured it.
    """

    layer: str
    what: str
    before: str
    after: str
    blame: float
    weight_bytes: int
    bops: int
    drop: float | None


@dataclass(frozen=True, eq=False)
class Repair(Listed):
    """What ``repair`` found.

    Args:
        checkpoint: the quantized network, calibrated with ``settings``.
        settings: of ``convert_quant_network``, with those of the raised layers.
        raised: the layers that were raised, in their rank; none where the target was met without.
        measure: what is measured: the name of a metric, "agreement" or "SQNR".
        unit: of a drop: "points", "dB", or "" for the metric's own.
        limit: the most that may be lost; of an SQNR the least that has to be there.
        baseline: what the float network has.
        before: what the network has without anything raised.
        after: what it has now.
        drop_before: what was lost without anything raised, in ``unit``; of an SQNR what is missing to the limit.
        drop: what is lost now.
        standard_error: of ``drop``, by bootstrap over the samples; None where the measure has none.
        weight_bytes_before: of all weights, packed, with their scales, without anything raised.
        weight_bytes: of all weights now.
        weight_bytes_most: with everything raised that may be; where nothing had to be raised, as it is.
        bops_before: bit operations for one sample without anything raised.
        bops: bit operations for one sample now.
        evaluations: how many quantized networks were measured.
        samples: on how many.

    >>> import numpy as np, qat
    >>> from qat.networks import LeNet5
    >>> graph, images = LeNet5().graph(), np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8)
    >>> found = qat.repair(qat.Checkpoint(graph, graph.initial_params(0)), images, target_drop=100.0)
    >>> isinstance(found, qat.Repair), found.raised
    (True, ())
    >>> print(found.quant_config(), end="")
    num_bits: 8
    """

    checkpoint: Checkpoint
    settings: Mapping[str, Any]
    raised: tuple[Raised, ...]
    measure: str
    unit: str
    limit: float
    baseline: float
    before: float
    after: float
    drop_before: float
    drop: float
    standard_error: float | None
    weight_bytes_before: int
    weight_bytes: int
    weight_bytes_most: int
    bops_before: int
    bops: int
    evaluations: int
    samples: int

    def __repr__(self) -> str:
        lost = f"{self.drop:.2f} {self.unit}".rstrip()
        return (
            f"Repair of {self.checkpoint.graph.name}, {len(self.raised):,} raised, {self.measure} "
            f"{'missing' if self.measure == 'SQNR' else 'drop'} {lost}, {self.weight_bytes:,} bytes of weights"
        )

    @property
    def _listing(self) -> Listing:
        rows = [
            Row(
                (
                    x.layer,
                    x.what,
                    x.before,
                    x.after,
                    f"{100 * x.blame:.1f}",
                    f"{x.weight_bytes:,}",
                    "" if x.drop is None else f"{x.drop:.2f}",
                )
            )
            for x in self.raised
        ]
        columns = (
            "layer",
            "what",
            "before",
            "after",
            "blame in %",
            "bytes then",
            f"lost then, in {self.unit or 'its unit'}",
        )
        return Listing(repr(self), columns, tuple(rows))

    def quant_config(self) -> str:
        """The settings as a file of ``--quant_config``, which repeats the result.

        Returns:
            YAML.
        """
        return written_quant_config(self.settings)


class TargetMissedError(QatError):
    """No choice of layers within the budgets reaches what was asked for.

    Args:
        text: the message.
        best: the nearest that was found; not the one that was asked for.

    >>> import numpy as np, qat
    >>> from qat.networks import LeNet5
    >>> graph, images = LeNet5().graph(), np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8)
    >>> try:
    ...     found = qat.repair(qat.Checkpoint(graph, graph.initial_params(0)), images, target_sqnr=200.0)
    ... except qat.TargetMissedError as missed:
    ...     found = missed.best
    >>> found.measure, found.after < 200.0
    ('SQNR', True)
    """

    def __init__(self, text: object, best: Repair) -> None:
        super().__init__(text)
        self.best = best
