"""Objectives that use more than outputs and labels: distillation, numbers of bits, weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from qat.analysis.metrics import bops_of
from qat.errors import QatError
from qat.quantizers import BaseWeightQuantizer, GTCActivationQuantizer, GTCWeightQuantizer
from qat.tasks import Classification, Task
from qat.training.forward import TrainingPasses
from qat.training.losses import Objective, soft_cross_entropy
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Ops, Tensor

BIT_FORMULAS = ("mended", "document")


@dataclass(frozen=True)
class Distillation(Objective):
    """Distillation (Hinton et al., arXiv 1503.02531, section 2).

    (1 - W) CE(z, labels) + W T^2 KL(softmax(t / T), softmax(z / T)), with the logits z of the network and t of the
    teacher. T^2 keeps the gradient of the second term as large as that of the first. The paper has a cross entropy in
    place of the divergence; it is larger by the teacher's entropy and has the same gradient.

    Terms: loss, cross_entropy, distillation_loss. The targets are (labels, logits of the teacher), or labels alone with
    ``own_teacher``.

    Args:
        temperature: T, greater than 0; 4 by default.
        weight: W, 0 to 1; 0.5 by default.
        own_teacher: the teacher is the network itself with its quantizers idle. Its own cross entropy is added, so that
            it learns too; the divergence sends it no gradient. False by default.
        smoothing: of the labels in the first term; 0 by default.
        task: whose loss the first term is; None, the default: that of the training, which is a classification.

    Raises:
        QatError: where a field is out of its range.

    >>> from qat.training.objectives import Distillation
    >>> Distillation(temperature=2.0)
    Distillation(temperature=2.0, weight=0.5, own_teacher=False, smoothing=0.0)
    """

    temperature: float = 4.0
    weight: float = 0.5
    own_teacher: bool = False
    smoothing: float = 0.0

    task: Task | None = field(default=None, repr=False)

    tasks = ("classification",)
    _task: ClassVar[Task]  #: of an instance: the task, with its smoothing

    def __post_init__(self) -> None:
        check_fields(self)
        _set_task(self, getattr(self, "smoothing", 0.0))
        if not self.temperature > 0.0:
            raise QatError(f"distill_temperature is {self.temperature}; use a positive number")
        if not 0.0 <= self.weight <= 1.0:
            raise QatError(f"distill_weight is {self.weight}; use a number from 0 to 1")

    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        ops, logits = passes.ops, passes.outputs
        labels, teacher = (targets, passes.float_outputs) if self.own_teacher else targets
        hard = self._task.loss(ops, logits, labels)
        fixed = ops.stop_gradient(teacher)
        entropy = soft_cross_entropy(ops, fixed, fixed, self.temperature)
        soft = soft_cross_entropy(ops, logits, fixed, self.temperature) - entropy
        total = hard * (1.0 - self.weight) + soft * (self.weight * self.temperature**2)
        if self.own_teacher:
            total = total + self._task.loss(ops, teacher, labels)
        return {"loss": total, "cross_entropy": hard, "distillation_loss": soft}


@dataclass(frozen=True)
class GTCLoss(Objective):
    """The loss of Generalized Ternary Connect (Parajuli et al., arXiv 1811.04985).

    One set of weights is trained as two networks: one of high precision (HP), whose quantizers are idle, and one of low
    precision (LP). The gradient flows into both.

    total = CE(HP, labels) + lambda_distillation_loss CE(LP, softmax(HP)) + lambda_bit_loss sum 2^b
            + lambda_regularization sum |w|^2 / 2

    b is the number of bits of each GTC quantizer. Terms: total_loss, hp_cross_entropy, distillation_loss, bit_loss,
    document_bit_loss, regularization_term (without their factors), lp_logits and hp_logits (N, K), and "bits:" and
    "document_bits:" with the name of each quantizer.

    Args:
        lambda_distillation_loss: 0 or more; 2 by default.
        lambda_bit_loss: 0 or more; 5e-4 by default.
        lambda_regularization: 0 or more; 1e-4 by default.
        bit_formula: how the loss counts bits: "document", the default (``document_bits``), or "mended" (``bits``). Both
            are reported.
        task: whose loss the first term is; None, the default: that of the training, which is a classification.

    Raises:
        QatError: where a field is out of its range.

    >>> from qat.training.objectives import GTCLoss
    >>> GTCLoss(lambda_bit_loss=1e-3).bit_formula
    'document'
    """

    lambda_distillation_loss: float = 2.0
    lambda_bit_loss: float = 5e-4
    lambda_regularization: float = 1e-4
    bit_formula: str = "document"
    task: Task | None = field(default=None, repr=False)

    tasks = ("classification",)
    _task: ClassVar[Task]  #: of an instance: the task, with its smoothing

    def __post_init__(self) -> None:
        check_fields(self)
        _set_task(self, getattr(self, "smoothing", 0.0))
        for name in ("lambda_distillation_loss", "lambda_bit_loss", "lambda_regularization"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise QatError(f"--{name} is {getattr(self, name)}; use 0 or a positive number")
        if self.bit_formula not in BIT_FORMULAS:
            raise QatError(f"bit_formula is {self.bit_formula!r}; use one of {', '.join(map(repr, BIT_FORMULAS))}")

    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        ops, low, high = passes.ops, passes.outputs, passes.float_outputs
        mended, document = {}, {}
        for name, each in passes.quantized.items():
            quantizer = each.quantizer
            if isinstance(quantizer, (GTCWeightQuantizer, GTCActivationQuantizer)):
                mended[name] = quantizer.bits(ops, each.x, each.own)
                document[name] = quantizer.document_bits(ops, each.x, each.own)
        hard = self._task.loss(ops, high, targets)
        soft = soft_cross_entropy(ops, low, high)
        losses = {"mended": _sum_of_codes(ops, mended, hard), "document": _sum_of_codes(ops, document, hard)}
        weights = hard * 0.0
        for weight in passes.weights:
            weights = weights + ops.mean(weight * weight) * (0.5 * math.prod(weight.shape))
        total = hard + soft * self.lambda_distillation_loss + losses[self.bit_formula] * self.lambda_bit_loss
        return {
            "total_loss": total + weights * self.lambda_regularization,
            "hp_cross_entropy": hard,
            "distillation_loss": soft,
            "bit_loss": losses["mended"],
            "document_bit_loss": losses["document"],
            "regularization_term": weights,
            "lp_logits": low,
            "hp_logits": high,
            **{f"bits:{name}": bits for name, bits in mended.items()},
            **{f"document_bits:{name}": bits for name, bits in document.items()},
        }


class _Budget(Objective):
    """The task's loss with the penalty factor max(0, share - 1)^2; the share is what is used of a budget."""

    smoothing: float
    task: Task | None
    _task: ClassVar[Task]  #: of an instance: the task, with its smoothing
    budget: ClassVar[str]  #: the field that holds it
    factor: ClassVar[str]  #: the field that holds the factor
    term: ClassVar[str]  #: how what is used is reported

    def __post_init__(self) -> None:
        check_fields(self)
        _set_task(self, getattr(self, "smoothing", 0.0))
        for name in (self.budget, self.factor):
            if not 0.0 < getattr(self, name) < math.inf:
                raise QatError(f"--{name} is {getattr(self, name)}; use a positive number")

    def _used(self, passes: TrainingPasses, zero: Tensor) -> tuple[Tensor, Tensor]:
        """What is used, and its share of the budget; zero: a scalar 0 of this backend."""
        raise NotImplementedError

    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        loss = self._task.loss(passes.ops, passes.outputs, targets)
        used, share = self._used(passes, loss * 0.0)
        excess = passes.ops.relu(share - 1.0)
        penalty = excess * excess * getattr(self, self.factor)
        return {"loss": loss + penalty, "cross_entropy": loss, self.term: used}


@dataclass(frozen=True)
class SizeBudget(_Budget):
    """Cross entropy with a penalty on the size of the weights: the penalty method of arXiv 1905.11452, section 3.

    CE(logits, labels) + lambda_size max(0, size / budget - 1)^2. The size is the number of bits of all quantized
    weights, by their quantizers where these learn it, else by num_bits; the budget is bits_per_weight for each weight.

    Terms: loss, cross_entropy, bits_per_weight (the present mean).

    Args:
        bits_per_weight: the budget, greater than 0.
        lambda_size: weight of the penalty, greater than 0; 1 by default.
        smoothing: of the labels; 0 by default.
        task: whose loss takes the place of the cross entropy; None, the default: that of the training.

    Raises:
        QatError: where a field is out of its range.

    >>> from qat.training.objectives import SizeBudget
    >>> SizeBudget(bits_per_weight=3.0)
    SizeBudget(bits_per_weight=3.0, lambda_size=1.0, smoothing=0.0)
    """

    bits_per_weight: float
    lambda_size: float = 1.0
    smoothing: float = 0.0
    task: Task | None = field(default=None, repr=False)

    budget, factor, term = "bits_per_weight", "lambda_size", "bits_per_weight"

    def _used(self, passes: TrainingPasses, zero: Tensor) -> tuple[Tensor, Tensor]:
        weights = [each for each in passes.quantized.values() if isinstance(each.quantizer, BaseWeightQuantizer)]
        bits, total = zero, sum(each.numbers for each in weights)
        for each in weights:
            own_bits = each.bits(passes.ops)
            bits = bits + (float(each.quantizer.num_bits) if own_bits is None else own_bits) * (each.numbers / total)
        return bits, bits * (1.0 / self.bits_per_weight)


@dataclass(frozen=True)
class BopsBudget(_Budget):
    """Cross entropy with a penalty on bit operations, as SizeBudget has one on stored bits.

    CE(logits, labels) + lambda_bops max(0, BOPs / max_bops - 1)^2. BOPs is the sum over layers of MACs b_w b_a for one
    sample (``qat.metrics.bops``), with the present bits of weights and of inputs. Layers with fixed bits count too, and
    idle quantizers count with num_bits.

    Terms: loss, cross_entropy, bops (the present sum).

    Args:
        max_bops: the budget, greater than 0.
        lambda_bops: weight of the penalty, greater than 0; 1 by default.
        smoothing: of the labels; 0 by default.
        task: whose loss takes the place of the cross entropy; None, the default: that of the training.

    Raises:
        QatError: where a field is out of its range.

    >>> from qat.training.objectives import BopsBudget
    >>> BopsBudget(max_bops=5e6)
    BopsBudget(max_bops=5000000.0, lambda_bops=1.0, smoothing=0.0)
    """

    max_bops: float
    lambda_bops: float = 1.0
    smoothing: float = 0.0
    task: Task | None = field(default=None, repr=False)

    budget, factor, term = "max_bops", "lambda_bops", "bops"

    def _used(self, passes: TrainingPasses, zero: Tensor) -> tuple[Tensor, Tensor]:
        learned = {name: each.bits(passes.ops) for name, each in passes.quantized.items()}
        share = zero
        for bops in bops_of(passes.graph, {name: bits for name, bits in learned.items() if bits is not None}).values():
            share = share + bops * (1.0 / self.max_bops)
        return share * self.max_bops, share


def for_task(objective: Objective, task: Task) -> Objective:
    """An objective in the training of a task.

    Args:
        objective: any.
        task: of the training.

    Returns:
        The objective, with the task in its field of that name where it has one that is None.

    Raises:
        QatError: where the objective is not for such a task.
    """
    if objective.tasks and task.name not in objective.tasks:
        raise QatError(
            f"{type(objective).__name__} is of {' and '.join(objective.tasks)}, but the task is {task.name}; leave it out, or "
            "change the task"
        )
    if isinstance(objective, (Distillation, GTCLoss, _Budget)) and objective.task is None:
        return replace(objective, task=task)  # type: ignore[type-var]
    return objective


def _set_task(objective: Any, smoothing: float) -> None:
    """Make the task whose loss is minimised, once: a compiled step cannot."""
    object.__setattr__(objective, "_task", (objective.task or Classification()).smoothed(smoothing))


def _sum_of_codes(ops: Ops, bits: dict[str, Tensor], like: Tensor) -> Tensor:
    """sum 2^b, with its gradient."""
    total = like * 0.0
    for each in bits.values():
        codes = ops.power_of_two(each)
        total = total + codes + codes * ((each - ops.stop_gradient(each)) * math.log(2.0))
    return total
