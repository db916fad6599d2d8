"""A running average of the weights, which takes their place when a training ends (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The exponential average of a model's floating-point parameters and buffers, batch norm's statistics included.

    A weight that is zero when it settles was pruned, before or since it began: it stays zero.
    """

    def __init__(self, model: nn.Module, decay: float, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Begins with the present weights, or with `tensors`, a saved average. decay: what an update leaves of it."""
        self.decay = decay
        self.live = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        start = self.live if tensors is None else tensors
        self.tensors = {name: torch.empty_like(tensor).copy_(start[name]) for name, tensor in self.live.items()}

    def update(self, steps: int) -> None:
        """Updates the average with the weights after `steps` steps; early updates weigh more, so that the start is
        forgotten."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.tensors.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Sets the model's weights to the average."""
        for name, live in self.live.items():
            live.copy_(torch.where(live == 0, live, self.tensors[name]))
