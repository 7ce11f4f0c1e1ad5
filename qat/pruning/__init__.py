"""Pruning: remove channels and residual blocks, or set single weights to 0 (docs/pruning.md)."""

from qat.cells.pruner import MagnitudePruner
from qat.pruning.blocks import ResidualBlock, drop_blocks, residual_blocks
from qat.pruning.channels import prune_channels, remove_channels
from qat.pruning.groups import ChannelGroup, channel_groups
from qat.pruning.importance import l1_importance, slimming_importance, taylor_importance
from qat.pruning.magnitude import count_zeros, prune_weights, updated_masks

__all__ = [
    "ChannelGroup",
    "MagnitudePruner",
    "ResidualBlock",
    "channel_groups",
    "count_zeros",
    "drop_blocks",
    "l1_importance",
    "prune_channels",
    "prune_weights",
    "remove_channels",
    "residual_blocks",
    "slimming_importance",
    "taylor_importance",
    "updated_masks",
]
