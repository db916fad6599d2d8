"""Cuts a module, and any tensors that go with its parameters, down to the channels that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models.attention import slim
from dwindle.models.copies import Change, copied


@dataclass(frozen=True)
class Slice:
    """What is kept of one dimension of a tensor.

    `kept` are ascending int64 indices into the `size` there were. Where `writes` is true, zeroing the other indices
    silences the channels that go; elsewhere the other indices only read them.
    """

    dim: int
    kept: Tensor
    size: int
    writes: bool


@dataclass(frozen=True)
class Keep:
    """What a cut leaves: of each parameter or buffer, by name, the kept indices of its dimensions (tensors that
    aren't named stay whole), and the new values of attributes that count channels or heads, by module."""

    tensors: Mapping[str, tuple[Slice, ...]]
    attributes: Mapping[str, Mapping[str, int | list[int]]] = field(default_factory=dict)


def cut(model: nn.Module, keep: Keep) -> nn.Module:
    """A copy of `model` without the channels that `keep` leaves out: an ordinary, smaller network.

    The model itself stays as it is. Parameters keep their `requires_grad`, tied ones stay tied, and buffers and the
    layers' attributes (`out_channels`, `groups`, `num_features`, …) follow. Gradients are not carried over.
    """
    return _copy(model, lambda name, tensor: _cut(tensor, keep.tensors.get(name, ())).clone(), keep)


def cut_tensors(named: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """Cuts tensors that mirror parameters (momentum, an average of the weights) by the indices of the parameter
    they are named after. Scalars, such as a step count, and tensors of parameters that stay whole pass through.

    Raises UsageError where a tensor does not have its parameter's shape.
    """
    result = {}
    for name, tensor in named.items():
        slices = keep.tensors.get(name, ())
        if tensor.dim() and any(s.dim >= tensor.dim() or tensor.shape[s.dim] != s.size for s in slices):
            raise UsageError(
                f"a tensor of shape {tuple(tensor.shape)} cannot be cut with {name}: it needs the parameter's own shape"
            )
        result[name] = _cut(tensor, slices) if tensor.dim() else tensor.detach()
    return result


def packed(model: nn.Module, keep: Keep, dtype: torch.dtype | None = None) -> nn.Module:
    """`cut`, to be looked at only: in another precision, or sharing what stays whole with the model."""
    return _copy(model, lambda name, tensor: _as(_cut(tensor, keep.tensors.get(name, ())), dtype), keep)


def masked(model: nn.Module, keep: Keep, dtype: torch.dtype | None = None) -> nn.Module:
    """The model at full size with the channels that `keep` leaves out silenced: what a cut has to equal. To be looked
    at only, like `packed`."""

    def silence(name: str, tensor: Tensor) -> Tensor:
        result = _as(tensor.detach(), dtype)
        for s in keep.tensors.get(name, ()):
            if s.writes:
                gone = torch.ones(s.size, dtype=torch.bool).index_fill_(0, s.kept, False)
                result = result.index_fill(s.dim, gone.nonzero()[:, 0].to(result.device), 0)
        return result

    return _copy(model, silence)


def _cut(tensor: Tensor, slices: tuple[Slice, ...]) -> Tensor:
    result = tensor.detach()
    for s in slices:
        result = result.index_select(s.dim, s.kept.to(result.device))
    return result


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _copy(model: nn.Module, change: Change, keep: Keep | None = None) -> nn.Module:
    """A deep copy in which every tensor has gone through `change`, sharing what was shared."""
    result = copied(model, change)
    if keep is not None:
        for path, values in keep.attributes.items():
            for name, value in values.items():
                old = getattr(result.get_submodule(path), name)
                setattr(result.get_submodule(path), name, type(old)(value))
        modes = [(module, module.training) for module in result.modules()]
        result.eval()  # a spectral norm in training changes whenever its weight is looked at
        for module, _ in modes:  # a module comes before what is inside it, as `slim` needs it
            _fit_attributes(module)
        for module, training in modes:
            module.training = training
    return result


def keeps_groups(inputs: int, outputs: int, groups: int) -> bool:
    """Whether a grouped convolution loses channels within every group, at the same places, so that it keeps all its
    groups: where those are few and wide. Otherwise it loses whole groups, as a depthwise one does."""
    return 1 < groups < min(inputs, outputs) // groups


def _fit_attributes(module: nn.Module) -> None:
    """Brings the sizes that a layer keeps as attributes in line with its tensors. Of grouped layers either whole
    groups have gone, so that the number of groups changes and what one holds stays, or the other way round."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1 and not keeps_groups(module.in_channels, module.out_channels, module.groups):
            module.groups = first * module.groups // (module.in_channels if module.transposed else module.out_channels)
        sizes = (first, second * module.groups)
        module.in_channels, module.out_channels = sizes if module.transposed else sizes[::-1]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = weight if weight is not None else module.running_mean
        if sized is not None:
            module.num_features = len(sized)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        # Whole groups go, but for one over all channels.
        module.num_groups = max(1, len(weight) * module.num_groups // module.num_channels)
        module.num_channels = len(weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.RNNBase):
        weights = dict(module.named_parameters())
        projection = weights.get("weight_hr_l0")
        module.input_size = weights["weight_ih_l0"].shape[1]
        module.hidden_size = (weights["weight_hh_l0"] if projection is None else projection).shape[1]
        module.proj_size = 0 if projection is None else len(projection)
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    else:
        slim(module)
