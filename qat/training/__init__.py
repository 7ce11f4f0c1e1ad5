"""Training: the loop, losses and objectives, optimizers, checkpoints, several processes."""
