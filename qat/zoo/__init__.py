"""Networks with trained weights and certified files, by name; ``qat zoo`` on the command line (docs/zoo.md).

>>> import qat
>>> qat.zoo.load("mnist_cnn")
Checkpoint of MnistCnn, quantized, step 0, 16,842 parameters
"""

from qat.zoo.entries import ENTRIES
from qat.zoo.entry import Entry, Published, Trained
from qat.zoo.kept import entry_of, figures_of, is_kept, load, names
from qat.zoo.make import Order, make
from qat.zoo.places import Places
from qat.zoo.row import Row

__all__ = [
    "ENTRIES",
    "Entry",
    "Order",
    "Places",
    "Published",
    "Row",
    "Trained",
    "entry_of",
    "figures_of",
    "is_kept",
    "load",
    "make",
    "names",
]
