"""How a network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from qat.data import Augmentation
from qat.errors import QatError
from qat.training.optimizer import Optimizer, learning_rate
from qat.training.oscillations import Oscillations
from qat.vocabulary.fields import check_fields
from qat.vocabulary.listing import Listed, Listing, given_fields, of_fields


@dataclass(frozen=True)
class Recipe(Listed):
    """How to train.

    Where weights are pruned, only epochs at the final sparsity count for early_stopping, keep_best and the schedule
    "plateau".

    Attributes:
        epochs: passes over the training images; default 10.
        batch_size: images a step; default 64.
        lr: the peak learning rate of the schedule; default 0.02.
        lr_schedule: one of ``qat.training.optimizer.SCHEDULES``; default "cosine".
        seed: of the order of the images, of augmentation and of dropout; default 0.
        optimizer: default SGD with momentum 0.9.
        label_smoothing: the share of each target that is spread over all classes, 0 to below 1 (Szegedy et al., arXiv
            1512.00567, section 7); default 0.
        slimming: lambda of the L1 penalty on the scales of batch normalisations (``qat.pruning.training``), of float
            networks only; default 0.
        validation: so many training images are held back and evaluated after each epoch; default 0.
        early_stopping: stop where so many epochs have followed the one with the lowest validation loss; default 0: never.
        keep_best: end with the parameters of the epoch with the lowest validation loss, not of the last; default False.
        augment_shift: each time an image is seen, it is moved at random by up to so many pixels; default 0.
        augment_flip: each time an image is seen, it is mirrored or not, at random; default False.
        warmup: so many steps at the beginning, the schedule's rate is multiplied by a share that rises evenly to 1 (Goyal et
            al., arXiv 1706.02677, section 2.2); default 0.
        augment: further changes of images, of ``qat.data.augment.KINDS``; none by default.
        oscillations: count, freeze or dampen weights whose codes oscillate (``qat.Oscillations``), of quantized networks only;
            default None: nothing of it.
        reestimate_bn: at the end, estimate the statistics of batch normalisation anew over so many training images
            (``qat.reestimate_batch_norm``), chosen by the seed; such a training is finished and cannot be continued. Where
            weights are averaged (``Optimizer.ema``), the statistics are those of the averages. Default 0: the running ones.

    Raises:
        QatError: a value has another type or makes no sense, as 0 epochs.

    >>> from qat.training.recipe import Recipe
    >>> Recipe(epochs=3, lr=0.01).batch_size
    64
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.02
    lr_schedule: str = "cosine"
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    label_smoothing: float = 0.0
    slimming: float = 0.0
    validation: int = 0
    early_stopping: int = 0
    keep_best: bool = False
    augment_shift: int = 0
    augment_flip: bool = False
    warmup: int = 0
    augment: tuple[str, ...] = ()
    oscillations: Oscillations | None = None
    reestimate_bn: int = 0

    def __repr__(self) -> str:
        return given_fields(self)

    @property
    def _listing(self) -> Listing:
        return of_fields(self)

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, str):
            raise QatError(f"Recipe: optimizer is {self.optimizer!r}, a name; give qat.Optimizer({self.optimizer!r})")
        check_fields(self)
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise QatError(f"{name} is {value}; use a whole number of at least 1")
        if not 0.0 < self.lr < math.inf:
            raise QatError(f"lr is {self.lr}; use a positive number")
        if self.seed < 0:
            raise QatError(f"seed is {self.seed}; use 0 or a positive number")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise QatError(f"label_smoothing is {self.label_smoothing}; use a number from 0 to below 1")
        if not 0.0 <= self.slimming < math.inf:
            raise QatError(f"slimming is {self.slimming}; use 0 or a positive number")
        learning_rate(self.lr_schedule, self.lr, 0, 1)  # raises for an unknown schedule
        Augmentation(
            self.augment_shift, self.augment_flip, self.augment
        )  # raises for a negative shift, an unknown kind
        for name, value in (
            ("validation", self.validation),
            ("early_stopping", self.early_stopping),
            ("warmup", self.warmup),
            ("reestimate_bn", self.reestimate_bn),
        ):
            if value < 0:
                raise QatError(f"{name} is {value}; use 0 or a positive number")
        if self.oscillations is not None and self.optimizer.accumulate > 1:
            raise QatError(
                f"oscillations are counted once in a pass, but accumulate is {self.optimizer.accumulate}, so many passes a "
                "step; leave one of the two out"
            )
        needs = [name for name in ("early_stopping", "keep_best") if getattr(self, name)]
        needs += ["lr_schedule plateau"] if self.lr_schedule == "plateau" else []
        if needs and not self.validation:
            raise QatError(
                f"{needs[0]} decides by training images that are held back, but validation is 0; give --validation a number of "
                "images, as 1000"
            )
