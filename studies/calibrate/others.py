"""Other tools' pruning without training, on the same network and samples."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.macs import macs
from dwindle.compress.recalibrate import recalibrate

TRIED = 8
"""How many ratios of channels are tried, each halfway between two before."""


def channels_by_torch_pruning(dense: nn.Module, share: float, seen: Tensor) -> nn.Module:
    """torch-pruning's one-shot: in every group of channels the same ratio of those with the least L2 norms goes, the
    smallest ratio that leaves at most `share` of the MACs. Batch norm's statistics are taken anew."""
    pruning = import_module("torch_pruning")
    example = seen[:1]
    whole = sum(macs(dense, (example,)).values())

    def at(ratio: float) -> nn.Module:
        network = copy.deepcopy(dense)
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
        importance = pruning.importance.GroupMagnitudeImportance(p=2)
        pruning.pruner.BasePruner(network, example, importance, pruning_ratio=ratio, ignored_layers=last).step()
        return network

    low, high = 0.0, 1.0 - share / 2
    for _ in range(TRIED):
        middle = (low + high) / 2
        fits = sum(macs(at(middle), (example,)).values()) <= share * whole
        low, high = (low, middle) if fits else (middle, high)
    network = at(high)
    recalibrate(network, (seen,))
    return network


def layerwise_by_coremltools(dense: nn.Module, share: float, seen: Tensor) -> nn.Module:
    """coremltools' LayerwiseCompressor with SparseGPT at its defaults: the same share of every convolution and linear
    layer stays. It takes a sequence of layers, and so it is given EfficientNet's parts as one."""
    kind = import_module("coremltools.optimize.torch.layerwise_compression")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    network = _sequence(copy.deepcopy(dense))
    with torch.no_grad():
        assert torch.allclose(network(seen[:2]), dense(seen[:2]), atol=1e-4)
    batches = list(seen.split(1))
    grouped = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    config = kind.LayerwiseCompressorConfig.from_dict(
        {
            "global_config": {"algorithm": "sparse_gpt", "target_sparsity": 1 - share},
            "calibration_nsamples": len(batches),
            "module_name_configs": dict.fromkeys(grouped),  # whose moments it takes for those of whole convolutions
        }
    )
    compressed: nn.Module = kind.LayerwiseCompressor(network, config).compress(batches, device="cpu")
    return compressed.eval()


def _sequence(network: Any) -> nn.Sequential:
    """The parts of an EfficientNet in the order in which its forward pass calls them."""
    blocks = [(f"block{index}", block) for index, block in enumerate(network._blocks)]
    return nn.Sequential(
        OrderedDict(
            [
                *(("stem", network._conv_stem), ("stem_norm", network._bn0), ("stem_act", network._swish)),
                *blocks,
                *(("head", network._conv_head), ("head_norm", network._bn1), ("head_act", network._swish)),
                *(("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("classifier", network._fc)),
            ]
        )
    ).eval()


LAYERWISE, CHANNELS = "coremltools' LayerwiseCompressor", "channels by torch-pruning, batch norm anew"
OTHERS: dict[str, Callable[[nn.Module, float, Tensor], nn.Module]] = {
    LAYERWISE: layerwise_by_coremltools,
    CHANNELS: channels_by_torch_pruning,
}
