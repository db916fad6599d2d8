"""Multiply-accumulates of a network, from shapes alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dwindle.errors import UsageError, one_line


def macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Returns the multiply-accumulates of one forward pass in eval mode, by layer.

    Convolutions and matrix products are counted, attention included, as `torch.utils.flop_counter` counts them;
    pointwise work is not. The sum of the values is the whole network's. Nothing is computed: the pass runs on
    tensors without data; raises UsageError for a model that can't take those.
    """
    training = [module for module in model.modules() if module.training]
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    plain_attention = sdpa_kernel(SDPBackend.MATH)  # the counter has no formula for the fused ones
    with torch.no_grad(), plain_attention, FakeTensorMode(allow_non_fake_inputs=True) as fake, counter:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            model(*(fake.from_tensor(x) for x in example_inputs))
        except Exception as error:  # a forward that looks at values finds none
            raise UsageError(
                f"the model {type(model).__name__} can't be traced ({one_line(error)}): its forward may decide by "
                "shapes, not by the values of a tensor"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused_attention)
            for module in training:
                module.training = True
    root = type(model).__name__
    # The counter takes a multiply and an add for two, and adds up a module with all that is inside it.
    counts = {
        path.removeprefix(root).removeprefix("."): sum(ops.values()) // 2
        for path, ops in counter.get_flop_counts().items()
        if path.split(".")[0] == root
    }
    own: dict[str, int] = {}
    for name in sorted(counts, key=len, reverse=True):
        own[name] = counts[name] - sum(spent for path, spent in own.items() if not name or path.startswith(f"{name}."))
    return {name: own[name] for name, _ in model.named_modules() if own.get(name)}
