"""An entry of the zoo from its source: import or train, quantize at each width, export to each format, verify, measure."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.analysis.calibration import calibrate
from qat.analysis.metrics import total_macs
from qat.data import Dataset, Split
from qat.deploy.certificate import Certificate
from qat.deploy.interfaces import CountsBytes, CountsMemory, RunsFilesOfOthers
from qat.deploy.measuring import IsEmulated
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.files import check_writable
from qat.graph import Graph
from qat.integer import IntegerGraph
from qat.passes.to_integer import to_integer
from qat.passes.unit_inputs import unit_inputs
from qat.registry import TARGETS, evaluation_ops
from qat.tables import counted
from qat.tasks import main
from qat.training.checkpoint import Checkpoint
from qat.training.distillation import teach
from qat.training.loop import check_labels, evaluate_metrics, train
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array
from qat.zoo.entry import TINY, Entry
from qat.zoo.kept import codes_digest
from qat.zoo.places import Places
from qat.zoo.row import FileFigures, Row, WidthFigures
from qat.zoo.settings import IMAGES, SEED, TEACHING, TEMPERATURE, WIDTHS, Way, conversion

FORMATS = ("ONNX", "TFLITE", "C")
RECORD = "zoo"  #: the key under which a checkpoint's history says how it was made
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is to be made of an entry.

    Args:
        out: the folder for checkpoints, files and the row. A checkpoint that was made there in the same way is used again.
        widths: some of ``qat.zoo.settings.WIDTHS``; all by default.
        formats: of files. None, the default: those of ``FORMATS`` that have the arithmetic.
        arithmetic: of networks and files, "float" by default, or "fixed".
        samples: a file of the form of the test samples, which is evaluated whole in their place. None, the default: none.
        cores: emulated processors that the .c file of the first width is run on too; none by default.
        backend: the framework that trains and evaluates; "torch" by default.
        device_target: "CPU", "GPU" or "Ascend". None, the default: the best that there is.

    Raises:
        QatError: there is no such width or format, or a format has not the arithmetic.

    >>> from pathlib import Path
    >>> import qat
    >>> qat.zoo.Order(Path("zoo"), widths=["8/8"], arithmetic="fixed").exported
    ['TFLITE', 'C']
    """

    out: Path
    widths: Sequence[str] = WIDTHS
    formats: Sequence[str] | None = None
    arithmetic: str = "float"
    samples: Path | None = None
    cores: Sequence[str] = ()
    backend: str = "torch"
    device_target: str | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("width", self.widths, WIDTHS), ("format", self.formats or (), FORMATS)):
            wrong = [each for each in given if each not in known]
            if wrong:
                raise QatError(f"{what} {wrong[0]!r} is none of the zoo's: choose some of {', '.join(known)}")
        without = [name for name in self.formats or () if self.arithmetic not in qat.target(name).ARITHMETICS]
        if without:
            raise QatError(
                f"{without[0]}: its files have no {self.arithmetic} arithmetic; leave it out, or choose the other arithmetic"
            )

    @property
    def exported(self) -> list[str]:
        """The formats of files."""
        own = [name for name in FORMATS if self.arithmetic in qat.target(name).ARITHMETICS]
        return list(self.formats) if self.formats is not None else own


def make(entry: Entry, places: Places, order: Order, say: Say = lambda text: None) -> tuple[Row, list[Certificate]]:
    """Make a network of the zoo from its source.

    Args:
        entry: the network.
        places: where its source and its samples are.
        order: what is wanted of it.
        say: told what is done, a line each.

    Returns:
        What was measured, which is also written to ``<name>.json`` when all is done; and the certificates of the files.

    Raises:
        QatError: the source or the samples are not there or are others, or a file cannot be written. Files that were finished
            before stay, each with its certificate.
    """
    backend, task = qat.backend(order.backend), entry.task_of()
    path = order.out / f"{entry.name}.ckpt"
    check_writable(path)
    official = places.model(entry.official, TINY) if entry.official is not None else None
    dataset = replace(entry.samples(places, order.samples), source=f"the zoo's {entry.name}")

    def as_float() -> Checkpoint:
        return entry.origin.checkpoint(places, dataset, backend, task)

    float_ = _made(path, {"origin": entry.origin.record(), "samples": len(dataset.train)}, as_float, say)
    dataset = dataset.resized(float_.graph.input_specs[0].shape, float_.preparation)
    check_labels(float_.graph, dataset, task)
    metric, figure = main(evaluate_metrics(backend, float_, dataset.test, device_target=order.device_target))
    say(f"{entry.name}: {task.words(metric, figure)} in float on {counted(len(dataset.test), 'test sample')}")
    work = _Work(entry, order, path, float_, dataset, compared(entry, places, dataset), metric, say)
    widths, certificates = {}, []
    for width in order.widths:
        widths[width], found = work.at(width)
        certificates += found
    row = Row(
        name=entry.name,
        of=_digest(float_),
        network=float_.graph.name,
        task=entry.task,
        metric=metric,
        arithmetic=order.arithmetic,
        parameters=float_.graph.count_trainable(),
        macs=total_macs(float_.graph),
        trained=len(dataset.train),
        tested=len(dataset.test),
        float_figure=figure,
        widths=widths,
        official=None if official is None else (official.name, _of_official(official, float_, dataset.test, metric)),
        cores=work.cores(),
        other=order.samples is not None,
    )
    kept = order.out / f"{entry.name}.json"
    with contextlib.suppress(QatError):  # there is none, or that of another release
        row = row.joined(Row.load(kept))
    row.save(kept)
    return row, certificates


@dataclass(frozen=True)
class _Work:
    """An entry that is being made, from its float network on."""

    entry: Entry
    order: Order
    path: Path  #: of the float checkpoint
    float_: Checkpoint
    dataset: Dataset  #: in the shape that the network takes
    samples: Split  #: that certificates compare
    metric: str
    say: Say

    def file(self, width: str, suffix: str) -> Path:
        """Where what is made at a width lies."""
        return self.order.out / f"{self.entry.name}_{width.replace('/', '_')}{suffix}"

    def at(self, width: str) -> tuple[WidthFigures, list[Certificate]]:
        """The network at one width: its checkpoint, its files, what was measured, and the certificates."""
        order, way = self.order, self.entry.ways[width]
        settings = conversion(self.float_.graph, width, way) | {"arithmetic": order.arithmetic}
        record = {
            "of": _digest(self.float_),
            "width": width,
            "way": repr(way),
            "arithmetic": order.arithmetic,
            "calibrate": hashlib.sha256(str(inspect.signature(calibrate)).encode()).hexdigest()[
                :16
            ],  # with its defaults
        }
        backend = qat.backend(order.backend)
        quantized = _made(self.file(width, ".ckpt"), record, lambda: self.quantized(way, settings), self.say)
        integers = to_integer(quantized.graph, quantized.params)
        files, certificates = {}, []
        for name in order.exported:
            path = self.file(width, TARGETS[name].suffix)
            certificate = export_verified(
                path,
                qat.target(name),
                backend,
                quantized,
                self.samples,
                data=f"{self.dataset.name}, test samples",
                device_target=order.device_target,
                integers=integers,
            )
            self.say(f"wrote {path}: {certificate.summary().splitlines()[0]}")
            files[name] = _figures(certificate, 0, _bytes_of(path, name, integers))
            certificates.append(certificate)
        metrics = evaluate_metrics(backend, quantized, self.dataset.test, device_target=order.device_target)
        self.say(f"{self.entry.name} at {width}: {quantized.task.words(self.metric, metrics[self.metric])}, {way}")
        figures = WidthFigures(
            way=str(way),
            figure=metrics[self.metric],
            arena=_arena(integers),
            backend=_figures(certificates[-1], 1, 0),
            files=files,
            codes=codes_digest(quantized),
        )
        return figures, certificates

    def quantized(self, way: Way, settings: Mapping[str, Any]) -> Checkpoint:
        """The network quantized in one way: calibrated, or trained with the float network as its teacher."""
        order, float_, train_ = self.order, self.float_, self.dataset.train
        if way.recipe is None:
            chosen = np.sort(np.random.default_rng(SEED).permutation(len(train_))[:IMAGES])
            images = train_.chosen(chosen).in_memory().images
            ops = evaluation_ops(order.backend, order.device_target)
            found = calibrate(float_.graph, float_.params, _arrays(images), ops=ops, **way.calibration, **settings)
            derived = float_.derived(found.graph, found.params)
            return replace(derived, history=(*found.history, *derived.history))
        backend = qat.backend(order.backend)
        floats, params = unit_inputs(float_.graph, float_.params)  # weights over raw pixels would be thrown far off
        graph: Graph = qat.convert_quant_network(floats, **settings)
        start = float_.derived(graph, graph.params_from(params, SEED))
        taught = teach(backend, graph, str(self.path), train_, TEMPERATURE, TEACHING, device_target=order.device_target)
        dataset = replace(self.dataset, train=replace(train_, targets=taught.targets))
        trained = train(
            backend,
            start,
            dataset,
            way.recipe,
            device_target=order.device_target,
            objective=taught.objective,
            record=taught.record,
        )
        return replace(trained, optimizer={})

    def cores(self) -> dict[str, dict[str, int]]:
        """What an inference of the first width's .c file takes on emulated processors."""
        if not self.order.cores:
            return {}
        target, path = qat.target("C"), self.file(self.order.widths[0], ".c")
        assert isinstance(target, IsEmulated)
        if "C" not in self.order.exported:
            raise QatError("cores: runs .c files, and C is not among the formats; add it")
        sample = as_arrays(tuple(x[:1] for x in as_tuple(self.samples.images)))
        here, found = as_tuple(target.predict(path, sample)), {}
        for core in self.order.cores:
            own = target.measure(path, sample, core)
            found[target.cores()[core]] = {
                "instructions": own.instructions[0],
                **{name: getattr(own, name) for name in ("flash", "ram", "arena", "stack")},
                "differ": sum(int(np.count_nonzero(x != y)) for x, y in zip(own.reals, here, strict=True)),
            }
        return found


def _made(path: Path, record: Mapping[str, Any], function: Callable[[], Checkpoint], say: Say) -> Checkpoint:
    """A checkpoint that lies at a path where it was made as the record says; else it is made, and put there."""
    if path.is_file():
        kept = Checkpoint.load(path)
        if kept.history and kept.history[0].get(RECORD) == record:
            say(f"{path}: was made in this way before, and is used again")
            return kept
    made = function()
    first, *others = made.history or ({},)
    made = replace(made, history=({**first, RECORD: dict(record)}, *others))
    made.save(path)
    say(f"saved {path}")
    return made


def _digest(checkpoint: Checkpoint) -> str:
    """Of a network and its parameters."""
    found = hashlib.sha256(checkpoint.graph.digest.encode())
    for name in sorted(checkpoint.params):
        found.update(np.ascontiguousarray(checkpoint.params[name]).tobytes())
    return found.hexdigest()[:16]


def compared(entry: Entry, places: Places, dataset: Dataset) -> Split:
    """The samples that certificates compare.

    Args:
        entry: the network.
        places: where its samples are.
        dataset: in the shape that the network takes.

    Returns:
        Samples, in memory.
    """
    if callable(entry.compared):
        return entry.compared(places, dataset)
    count = len(dataset.test) if entry.compared is None else min(entry.compared, len(dataset.test))
    return dataset.test.chosen(np.arange(count)).in_memory()


def _arrays(images: Any) -> Arrays:
    return as_arrays(tuple(np.asarray(x) for x in as_tuple(images)))


def _figures(certificate: Certificate, number: int, size: int) -> FileFigures:
    """What a certificate says of one engine."""
    one = certificate.comparisons[number]
    return FileFigures(size, one.codes, one.differ, one.engine)


def _bytes_of(path: Path, name: str, integers: IntegerGraph) -> int:
    """Of a file; of C those of its constants, since the file is text."""
    target = qat.target(name)
    if name == "C":
        assert isinstance(target, CountsBytes)
        return sum(target.storage(integers).values())
    return path.stat().st_size


def _arena(integers: IntegerGraph) -> int:
    target = qat.target("C")
    assert isinstance(target, CountsMemory)
    return target.arena_bytes(integers)


def _of_official(path: Path, float_: Checkpoint, test: Split, metric: str) -> float:
    """The figure of the publisher's own int8 file on the test samples."""
    target = qat.target("TFLITE")
    assert isinstance(target, RunsFilesOfOthers)
    cell: Any = float_.graph.inputs[0].cell
    numbers: Array = cell.real_numbers(_arrays(test.images))
    outputs = target.predict_of_others(path, numbers)
    shape = float_.graph.shapes[float_.graph.outputs[0]]
    return float_.task.metrics(float_.graph, outputs.reshape(len(outputs), *shape), test)[metric]
