"""Loads weights that were trained elsewhere, as they are found, without running any code that the file may hold."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError, one_line
from dwindle.quantities import format_names

WRAPPED = ("model_ema", "state_dict_ema", "ema", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict beside their own progress; an average of the weights, which is
what such scripts judge, before the weights themselves."""
PREFIX = re.compile(r"^(?:module|_orig_mod|_forward_module|model|network)\.")
"""What DataParallel, torch.compile, Fabric, Lightning modules and wrappers put before every name."""
ADDED = ("network.", "model.")
"""What a network may have before its names where the file has nothing."""


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a network."""

    loaded: int
    """How many of the network's tensors were loaded."""
    of: int
    """How many the network has."""
    fresh: tuple[str, ...]
    """The names of those of its head, which has another size there and stays as it was initialised."""
    ignored: tuple[str, ...]
    """The names in the file that are of no part of the network."""

    def sentence(self, where: str) -> str:
        """What was loaded from `where`, in words."""
        fresh = f"; the head is fresh: {format_names(self.fresh, 2)}" if self.fresh else ""
        ignored = f"; left out: {format_names(self.ignored, 2)}" if self.ignored else ""
        return f"{self.loaded} of the network's {self.of} tensors come from {where}{fresh}{ignored}"


def load_pretrained(model: nn.Module, path: Path, *, classes: int | None = None, new_head: bool = False) -> Fit:
    """Loads the weights in `path` into `model`, cast to the model's own types.

    `path`: a safetensors file, or a state dict that `torch.save` wrote, plain or under one of WRAPPED. It
    is read by torch's weights-only unpickler, which makes tensors and plain containers and calls nothing
    else. classes, new_head: as for `load_state`. Raises UsageError where the file can't be read, and as `load_state`.
    """
    return load_state(model, read_state(path), str(path), option="weights", classes=classes, new_head=new_head)


def load_state(
    model: nn.Module,
    saved: Mapping[str, Tensor],
    where: str,
    *,
    option: str,
    classes: int | None = None,
    new_head: bool = False,
) -> Fit:
    """Loads a state dict into `model`, cast to the model's own types; names may bear a prefix of PREFIX more or less.

    Batch norm's `num_batches_tracked` may be missing, as files from before torch 0.4.1 have none. A buffer that the
    model computes itself (`persistent=False`) is left out. where: what the state was read from, for the message;
    option: which option that was. new_head: leave the model's last layer, that of `classes` outputs, as it is where the
    state has it for another number, or has none.
    Raises UsageError where it doesn't fit (the first name that doesn't is given) or holds weights that aren't finite;
    the model is then as it was.
    """
    own = model.state_dict()
    found, ignored = _renamed(saved, own)
    what, other = f"{where} doesn't fit {type(model).__name__}:", "give the file that belongs to this model"

    def refused(sentence: str, name: str) -> UsageError:
        return UsageError(f"{what} {sentence}", code="doesnt-fit", option=option, name=name)

    head = _head(own, found, classes)
    if head and not new_head and head <= found.keys():
        name = min(head)
        raise refused(
            f"{name} has shape {tuple(found[name].shape)} there and {tuple(own[name].shape)} in the model, whose head "
            f"is of {classes} classes: {other}, or set `new_head` to keep the model's own head and train it",
            name,
        )
    fresh = head if new_head else set()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    fit = f"{len(own.keys() & found.keys())} of the model's {len(own)} names are there; {other}"
    if missing := [name for name in own if name not in found and name not in counters | fresh]:
        raise refused(f"it has no {_first(missing)}; {fit}", missing[0])
    computed = {name for name, _ in model.named_buffers()} - own.keys()
    ignored += sorted(found.keys() & computed)
    if unexpected := [name for name in found if name not in own and name not in computed]:
        raise refused(f"the model has no {_first(unexpected)}; {other}", unexpected[0])
    taken = {name: tensor for name, tensor in found.items() if name not in fresh | computed}
    for name, tensor in taken.items():
        if tensor.shape != own[name].shape:
            shapes = f"shape {tuple(tensor.shape)} there and {tuple(own[name].shape)} in the model"
            raise refused(f"{name} has {shapes}; {other}", name)
        if not _is_dense(tensor) or tensor.is_floating_point() != own[name].is_floating_point():
            raise refused(
                f"{name} is {tensor.dtype} there ({tensor.layout}, on {tensor.device}) and {own[name].dtype} in "
                "the model; save it as plain numbers of that type",
                name,
            )
        if tensor.is_floating_point() and not tensor.to(own[name].dtype).isfinite().all():
            raise UsageError(
                f"{name} in {where} is not finite: train or export it again",
                code="not-finite",
                option=option,
                name=name,
            )
    model.load_state_dict({**own, **taken})
    return Fit(len(taken), len(own), tuple(sorted(fresh)), tuple(ignored))


def classes_of(model: nn.Module, saved: Mapping[str, Tensor]) -> int | None:
    """The number of outputs that a state dict has for `model`'s last layer, where that alone has another size there;
    else None."""
    own = model.state_dict()
    found, _ = _renamed(saved, own)
    shapes = [(own[name].shape, found[name].shape) for name in own.keys() & found.keys()]
    other = [(ours, theirs) for ours, theirs in shapes if ours != theirs]
    counts = {theirs[:1] if ours[1:] == theirs[1:] else None for ours, theirs in other}
    (only,) = counts if len(counts) == 1 else (None,)
    return only[0] if only else None


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict, by names, types, shapes and values."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        plain = tensor.detach().cpu().contiguous()
        hashed.update(f"{name}\0{plain.dtype} {tuple(plain.shape)}\0".encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file, without running code that it may hold; raises UsageError where there is none."""

    def refused(sentence: str, code: str = "no-state-dict") -> UsageError:
        return UsageError(f"weights {path} {sentence}", code=code, option="weights", path=path)

    try:
        with warnings.catch_warnings(action="ignore"):  # about a file's age, which is nobody's concern here
            content = _safetensors(path) if _is_safetensors(path) else _torch(path)
    except OSError as error:
        raise refused(f"can't be read: {error.strerror or one_line(error)}", "unreadable") from error
    except pickle.UnpicklingError as error:
        if not re.search("Unsupported (global|class)", str(error)):
            raise refused(_NEITHER) from error
        raise refused(
            "are neither safetensors nor a state dict that torch.load reads with weights_only=True: they hold Python "
            "objects, such as a whole module, and to unpickle those would run code. Where you trust the file, make "
            f"a state dict of it: net = torch.load({str(path)!r}, weights_only=False); "
            "torch.save(net.state_dict(), 'weights.pt')",
            "pickled",
        ) from error
    except Exception as error:  # a foreign file can fail anywhere in either reader
        raise refused(_NEITHER) from error
    for key in WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(map(_is_weight, content.items())):
        raise refused("hold no state dict: save model.state_dict(), not the model or its parts")
    return content


_NEITHER = (
    "are neither safetensors nor a state dict that torch.load reads with weights_only=True: save model.state_dict() "
    "alone, best as safetensors"
)


def _torch(path: Path) -> Any:
    # The options of a training script, which timm's and torchvision's save beside the weights, are plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, "cpu", weights_only=True)


def _renamed(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state under the names that fit best, and the names that lack the prefix that all of the network's have."""
    best: tuple[dict[str, Tensor], list[str]] = dict(saved), []
    most = len(own.keys() & saved.keys())
    for candidate, ignored in _candidates(saved):
        if (fitting := len(own.keys() & candidate.keys())) > most:
            best, most = (candidate, ignored), fitting
    return best


def _candidates(saved: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """A state without one prefix, without two, and so on, and each with another instead."""
    inside, outside = dict(saved), list[str]()
    while True:
        yield inside, outside
        for prefix in ADDED:
            yield {prefix + name: tensor for name, tensor in inside.items()}, outside
        bearing = {name for name in inside if PREFIX.match(name)}
        if not bearing:
            return
        outside = [*outside, *(name for name in inside if name not in bearing)]
        inside = {PREFIX.sub("", name, count=1): inside[name] for name in bearing}


def _head(own: Mapping[str, Tensor], found: Mapping[str, Tensor], classes: int | None) -> set[str]:
    """The tensors of the model's head that the state has for another number of classes, or doesn't have."""
    outputs = [name for name, tensor in own.items() if tensor.shape[:1] == (classes,)]
    last = outputs[-1].rpartition(".")[0] if outputs else ""
    head = set()
    for name in outputs:
        there = found.get(name)
        if there is None:
            fits = name.rpartition(".")[0] != last
        else:
            fits = there.shape[1:] != own[name].shape[1:] or len(there) == classes
        if not fits:
            head.add(name)
    return head


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
