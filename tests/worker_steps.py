"""For test_workers.py: some steps of training on joint batches, alone or as one of several workers; writes what is left."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from test_backends_agree import CASES

import qat
from qat.networks import LeNetGTC
from qat.training.losses import cross_entropy
from qat.training.objectives import GTCLoss
from qat.training.optimizer import Optimizer
from qat.training.workers import this_worker

GTC = {
    "weight_quantizer": qat.GTCWeightQuantizer(),
    "layers": {"fc1": {"activation_quantizer": qat.GTCActivationQuantizer()}},
}
GTC_CASE = LeNetGTC, np.random.default_rng(2).integers(0, 256, (16, 1, 28, 28), np.uint8), GTC


def train(name: str, case: str, steps: int, batch: int) -> dict[str, np.ndarray]:
    """Parameters and state after steps of SGD; the losses; and means, 0 and 3, of figures of the workers. The images are such
    that no code of the tested cases lies so near to the middle of two that a sum in another order rounds it otherwise.
    """
    network, images, settings = GTC_CASE if case == "LeNet-GTC" else CASES[case]
    graph = network().graph() if settings is None else qat.convert_quant_network(network(), **settings)
    backend = qat.backend(name)
    params = graph.initial_params(3)
    step = backend.make_step(
        backend.lower(graph, params), Optimizer(), GTCLoss() if network is LeNetGTC else cross_entropy
    )
    generator = np.random.default_rng(1)
    losses = []
    for _ in range(steps):
        chosen = generator.permutation(len(images))[:batch]
        losses.append(step(images[chosen], generator.integers(0, 10, batch), 0.02))
    worker = this_worker()
    means = step.means([worker.rank - (worker.count - 1) / 2, 3.0])
    return backend.read(step.model) | {"losses": np.array(losses, np.float32), "means": np.array(means, np.float32)}


if __name__ == "__main__":
    folder, name, steps, batch, *cases = sys.argv[1:]
    if name == "mindspore":
        import mindspore

        mindspore.set_context(pynative_synchronize=True)  # as conftest.py does
    for number, case in enumerate(cases):
        found = train(name, case, int(steps), int(batch))
        np.savez(Path(folder) / f"{number}_{this_worker().rank}.npz", **found)
