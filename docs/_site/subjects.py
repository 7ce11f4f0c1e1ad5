"""The subjects by which the API reference groups the public names of ``qat``: by the package that defines them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """A page of the API reference.

    Attributes:
        file: its file without ending.
        title: of the page.
        about: one sentence for its head and for the list of pages; reStructuredText.
        packages: where what it documents is defined; the longest beginning of a module's name decides.
        interfaces: modules whose public names stand on the page too, though qat does not export them.
    """

    file: str
    title: str
    about: str
    packages: tuple[str, ...]
    interfaces: tuple[str, ...] = ()


SUBJECTS = (
    Subject("graph", "Networks and graphs", "A network as a class, and the graph that it becomes.", ("qat.graph",)),
    Subject("cells", "Cells", "Layers with what is fused into them. :doc:`/docs/cells` compares them.", ("qat.cells",)),
    Subject(
        "quantizers",
        "Quantizers",
        "How real numbers become codes. :doc:`/docs/quantizers` says which to take.",
        ("qat.quantizers",),
    ),
    Subject(
        "conversion",
        "Conversion and integers",
        "From a float graph to a quantized one, and to integers and what they compute.",
        ("qat.passes", "qat.integer"),
    ),
    Subject(
        "training",
        "Training",
        "The training loop, its recipe, losses and objectives, checkpoints, teachers.",
        ("qat.training",),
    ),
    Subject(
        "calibration",
        "Calibration, diagnosis, reports",
        "Quantization without training, where accuracy goes, repair, and what a network costs.",
        ("qat.analysis", "qat.reporting"),
    ),
    Subject(
        "deployment",
        "Backends, targets, certificates",
        "Frameworks that train, files that deploy, and the comparison of the two.",
        ("qat.deploy", "qat.registry"),
        ("qat.deploy.interfaces",),
    ),
    Subject(
        "imports",
        "Networks of others",
        "Networks of PyTorch, Keras, ONNX and TFLite, and their users' own training loops.",
        ("qat.imports",),
    ),
    Subject("data", "Data", "Data sets: reading, splitting, augmenting. :doc:`/docs/data` shows them.", ("qat.data",)),
    Subject("tasks", "Tasks", "What a network is for: labels, loss, metrics. :doc:`/docs/tasks`.", ("qat.tasks",)),
    Subject("pruning", "Pruning", "Smaller networks. :doc:`/docs/pruning` shows the way.", ("qat.pruning",)),
    Subject("networks", "Networks by name", "The networks that come with the library.", ("qat.networks",)),
    Subject("zoo", "The zoo", "Networks with trained weights. :doc:`/docs/zoo` lists them.", ("qat.zoo",)),
    Subject("errors", "Errors", "What is raised, and when.", ("qat.errors",)),
)


def subject_of(module: str) -> Subject:
    """The subject of what a module defines.

    Raises:
        ValueError: if no subject has it.
    """
    found = [
        (len(package), subject)
        for subject in SUBJECTS
        for package in subject.packages
        if f"{module}.".startswith(f"{package}.")
    ]
    if not found:
        raise ValueError(f"no subject in {__name__}.py has {module}: add it to the packages of one")
    return max(found, key=lambda pair: pair[0])[1]
