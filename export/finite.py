"""Whether a network's own outputs are finite, without which no file can be compared with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.export.answers import outputs_of
from dwindle.export.parity import SAMPLES
from dwindle.models.inputs import as_fed

if TYPE_CHECKING:
    from torch import Tensor, nn


def require_finite(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises UsageError where a network's own outputs are not finite, naming the first module that makes them so, or
    where the samples are what is not finite.

    module: in eval mode, on the CPU. inputs: real samples, of which the first SAMPLES are run one at a time.
    """
    import numpy as np
    import torch

    samples = tuple(as_fed(tensor[:SAMPLES]) for tensor in inputs)
    if all(np.isfinite(output).all() for output in outputs_of(module, samples)):
        return
    if not all(tensor.isfinite().all() for tensor in samples):
        raise UsageError(
            "the samples of the task's `inputs` are not all finite: mend or remove those with NaN or infinite numbers",
            code="not-finite",
            name="inputs",
        )
    first: list[str] = []

    def look(path: str, layer: nn.Module) -> Callable[..., None]:
        def looked(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            whole = all(one.isfinite().all() for one in given if isinstance(one, torch.Tensor))
            if whole and isinstance(output, torch.Tensor) and not output.isfinite().all():
                first.append(f"{path} ({type(layer).__name__})")

        return looked

    hooks = [
        layer.register_forward_hook(look(path, layer))
        for path, layer in module.named_modules()
        if path and not list(layer.children())
    ]
    try:
        with torch.no_grad():
            outputs_of(module, samples)
    finally:
        for hook in hooks:
            hook.remove()
    cause = f": {first[0]} is the first to make them so" if first else ""
    raise UsageError(
        f"the outputs of {type(module).__name__} itself are not finite on the task's inputs{cause}",
        code="not-finite",
        name=first[0].partition(" ")[0] if first else type(module).__name__,
    )
