"""What an import gives: a float network of our cells with its parameters, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from qat.cells import Input
from qat.graph import Graph, Params
from qat.imports.compare import TOLERANCE, Difference, compared
from qat.imports.source import Opened
from qat.tables import counted
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.listing import Listed, Listing


@dataclass
class Imported(Listed):
    """A network that was read.

    Attributes:
        graph: of cells.
        params: its parameters, by full name.
        sources: of each parameter that is one array of the source as it is, the array's name there.
        values: of each node, the value of the source that it gives.
        notes: what a user should know, a line each.
        difference: from the source, where they were compared.
        opened: the source.
        entries: of each input, an Input whose ``real_numbers`` are what the source takes.
    """

    graph: Graph
    params: Params
    sources: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None
    opened: Opened | None = None
    entries: tuple[Input, ...] = ()

    def __repr__(self) -> str:
        apart = (
            "" if self.difference is None else f", {self.difference.relative:.2g} of its largest output from its source"
        )
        notes = f", {counted(len(self.notes), 'note')}" if self.notes else ""
        return f"Imported: {self.graph!r}{apart}{notes}"

    @property
    def _listing(self) -> Listing:
        own = self.graph._listing
        return Listing("\n".join([repr(self), *self.notes]), own.columns, own.rows)

    def compare(self, images: Arrays | None = None, *, tolerance: float = TOLERANCE) -> Difference:
        """Run the source and the graph on the same samples.

        Args:
            images: What the graph takes, (N, ...), a tuple of arrays for several inputs, of which 8 are used. None, the
                default: 4 random samples.
            tolerance: The largest relative difference between their outputs.

        Returns:
            The difference, which ``difference`` keeps.

        Raises:
            QatError: they differ by more; the first node where they part is named.
        """
        assert self.opened is not None
        self.difference = compared(
            self.opened, self.graph, self.params, self.values, self.entries, images, tolerance=tolerance
        )
        return self.difference

    def checkpoint(self, task: Task | None = None) -> Checkpoint:
        """A checkpoint of the float network, as training would have left it.

        Args:
            task: What the network is for; by default a classification.

        Returns:
            The checkpoint, at step 0.
        """
        return Checkpoint(self.graph, self.params, task=task or Classification())
