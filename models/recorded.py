"""A training step recorded as one CUDA graph, and replayed.

A small network's step is hundreds of kernels of a few microseconds each: a CPU launches them more slowly than a GPU
runs them, and a replay launches them all at once (pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FIRST = 3
"""How many steps run before one is recorded: libraries choose their kernels, and the optimizer makes its momentum."""

Step = Callable[[Tensor, Tensor, "float | Tensor"], Tensor]
"""Trains on images and labels at a learning rate, and returns the loss."""


class Recorded:
    """A step on one GPU. Each replay runs the recorded kernels on new inputs, of the same shapes.

    What the step decides in Python is decided when it is recorded. It is recorded anew where the network has more or
    fewer hooks than then, such as those that round what layers read or make batch norm stand still. A step that has to
    wait for a value from the GPU can't be recorded, and runs as it is.
    """

    def __init__(self, step: Step, device: torch.device, model: nn.Module) -> None:
        """model: the network that the step trains."""
        self.step = step
        self.device = device
        self.hooks = [module._forward_pre_hooks for module in model.modules()]
        self.hooked = self._hooked()
        self.calls = 0
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.rate = torch.zeros((), device=device)

    def __call__(self, images: Tensor, labels: Tensor, rate: float | Tensor) -> Tensor:
        if self.hooked != self._hooked():
            self.hooked, self.graph, self.calls = self._hooked(), None, 0
        self.calls += 1
        self.rate.fill_(rate)
        if self.calls == FIRST + 1:
            self._record(images, labels)
        if self.graph is None:
            return self._as_it_is(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def _hooked(self) -> int:
        return sum(map(len, self.hooks))

    def _as_it_is(self, images: Tensor, labels: Tensor) -> Tensor:
        """Runs a step on the recording's stream, as autograd remembers which stream adds up a parameter's gradients."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self.step(images, labels, self.rate)
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _record(self, images: Tensor, labels: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        self.images, self.labels = (tensor.to(self.device, copy=True) for tensor in (images, labels))
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.loss = self.step(self.images, self.labels, self.rate)
        except RuntimeError:
            # A recording that failed leaves the generator believing that it goes on: it gets a state of its own again.
            anew = torch.Generator(self.device).graphsafe_get_state()
            torch.cuda.default_generators[self.images.device.index].graphsafe_set_state(anew)
            return
        self.graph = graph
