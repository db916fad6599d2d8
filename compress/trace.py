"""The graph of a network, or one sentence on why there is none."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize, prune

from dwindle.errors import UsageError


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """What `model` does to the example inputs in eval mode; the model itself is left as it was.

    Raises UsageError where masks or parametrizations are still attached, and where the trace fails, with the line of
    the model's code at which it does.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) or any(
            isinstance(hook, prune.BasePruningMethod) for hook in module._forward_pre_hooks.values()
        ):
            raise UsageError(
                f"layer {name!r} still computes its weights from a mask or parametrization: make it permanent first "
                "(torch.nn.utils.prune.remove, torch.nn.utils.parametrize.remove_parametrizations)"
            )
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad():
            return torch.export.export(model.eval(), example_inputs, strict=False)
    except Exception as error:  # torch.export raises whatever the model's code and its own guards raise
        raise UsageError(_explain(error)) from error
    finally:
        for module in training:
            module.training = True


def _explain(error: Exception) -> str:
    """The last line outside torch that led to the error is the model's own."""
    torch_folder = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if torch_folder not in Path(f.filename).parents]
    theirs = [f for f in frames if f.filename != __file__]
    place = f" past {Path(theirs[-1].filename).name}:{theirs[-1].lineno} ({theirs[-1].line})" if theirs else ""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"the model cannot be traced{place}: {reason[:200]}; channels can only be removed where torch.export can "
        "follow, so leave out steps that depend on the data, such as non-maximum suppression: wrap the part before them"
    )
