"""Loads weights that were trained elsewhere, without running any code that the file may hold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError, one_line

WRAPPED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict, beside their own progress."""
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
"""Prefixes that DataParallel, DistributedDataParallel and torch.compile put before every name."""


def load_pretrained(model: nn.Module, path: Path) -> None:
    """Loads the weights in `path` into `model`: every one of them, cast to the model's own types.

    `path`: a safetensors file, or a state dict that `torch.save` wrote, plain or under one of WRAPPED. It
    is read by torch's weights-only unpickler, which makes tensors and plain containers and calls nothing
    else. Batch norm's `num_batches_tracked` may be missing, as files from before torch 0.4.1 have none.
    Raises UsageError where the file can't be read, doesn't fit (the first name that doesn't is given) or
    holds weights that aren't finite; the model is then as it was.
    """
    own = model.state_dict()
    saved = _state_dict(path)
    found = {name if name in own else WRAPPERS.sub("", name): tensor for name, tensor in saved.items()}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    what, other = f"{path} doesn't fit {type(model).__name__}:", "give the file that belongs to this model"
    if missing := [name for name in own if name not in found and name not in counters]:
        raise UsageError(f"{what} it has no {_first(missing)}; {other}")
    if unexpected := [name for name in found if name not in own]:
        raise UsageError(f"{what} the model has no {_first(unexpected)}; {other}")
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            shapes = f"shape {tuple(tensor.shape)} there and {tuple(own[name].shape)} in the model"
            raise UsageError(f"{what} {name} has {shapes}; {other}")
        if not _is_dense(tensor) or tensor.is_floating_point() != own[name].is_floating_point():
            raise UsageError(
                f"{what} {name} is {tensor.dtype} there ({tensor.layout}, on {tensor.device}) and {own[name].dtype} in "
                "the model; save it as plain numbers of that type"
            )
        if tensor.is_floating_point() and not tensor.to(own[name].dtype).isfinite().all():
            raise UsageError(f"{name} in {path} is not finite: train or export it again")
    model.load_state_dict({**own, **found})


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about a file's age, which is nobody's concern here
            content = _safetensors(path) if _is_safetensors(path) else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"weights {path} can't be read: {error.strerror or one_line(error)}") from error
    except Exception as error:  # a foreign file can fail anywhere in either reader
        raise UsageError(
            f"weights {path} are neither safetensors nor a state dict that torch.load reads with "
            "weights_only=True: save model.state_dict() alone, best as safetensors"
        ) from error
    for key in WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(map(_is_weight, content.items())):
        raise UsageError(f"weights {path} hold no state dict: save model.state_dict(), not the model or its parts")
    return content


def _is_safetensors(path: Path) -> bool:
    """The format starts with its header's length, 8 bytes, then the header, which is JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _is_weight(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_complex())


def _first(names: list[str]) -> str:
    return names[0] + (f" (nor {len(names) - 1} others)" if len(names) > 1 else "")
