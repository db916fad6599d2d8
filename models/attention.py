"""Attention layers that have fewer heads than their class allows for.

The libraries' own classes take the number of features of all heads together to be the width of the layer's input.
Once heads have been removed that no longer holds. Each class here stands in for one of those: the same parameters under
the same names, the same call, the same result, but the heads are counted from the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention


class SlimMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with `num_heads * head_dim` below `embed_dim`."""

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False, so that nn.TransformerEncoderLayer doesn't take its fused path, which expects square weights."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes what `nn.MultiheadAttention.forward` does, for [length, batch, features], or [batch, length,
        features] if batch_first, or without the batch; masks as there."""
        inputs: tuple[Tensor, ...] = (query, key, value)
        to_itself = key is query and value is query
        if batched := query.dim() == 3:
            inputs = inputs if self.batch_first else tuple(x.transpose(0, 1) for x in inputs)
        else:
            inputs = tuple(x.unsqueeze(0) for x in inputs)
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if to_itself:
            projected = self.project(inputs[0]).chunk(3, -1)
        else:
            biases = (None,) * 3 if bias is None else bias.chunk(3)
            projected = tuple(map(F.linear, inputs, weight.chunk(3), biases))
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in projected)
        mask = self._merged_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            attended = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def project(self, inputs: Tensor) -> Tensor:
        """Queries, keys and values of [batch, length, features], one behind the other in the last dimension."""
        return F.linear(inputs, self.in_proj_weight, self.in_proj_bias)

    def _merged_mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Merges both masks into one that is added to the scores, [batch or 1, heads or 1, length, length]."""
        mask = F._canonical_mask(attn_mask, "attn_mask", None, "", q.dtype, check_other=False)
        if mask is not None:
            mask = mask.view(-1, q.shape[1], *mask.shape[-2:]) if mask.dim() == 3 else mask[None, None]
        padding = F._canonical_mask(key_padding_mask, "key_padding_mask", None, "", q.dtype, check_other=False)
        if padding is not None:
            padding = padding.view(-1, 1, 1, padding.shape[-1])
        return padding if mask is None else mask if padding is None else mask + padding


class SlimShiftedWindowAttention(ShiftedWindowAttention):
    """torchvision's `ShiftedWindowAttention` (Swin, version 1) with fewer heads."""

    head_dim: int

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, height, width, features] to the same shape."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        padded = x.shape[1:3]
        shift = [s if w < size else 0 for s, w, size in zip(self.shift_size, self.window_size, padded, strict=True)]
        windows = _windows(x.roll((-shift[0], -shift[1]), (1, 2)), rows, columns)
        q, k, v = _heads(self.qkv(windows), self.head_dim)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1) + self.get_relative_position_bias()
        if any(shift):
            scores = scores + self._apart(shift, padded, x).unsqueeze(1)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        out: Tensor = F.dropout(self.proj((weights @ v).transpose(2, 3).flatten(3)), self.dropout, self.training)
        out = out.unflatten(1, (padded[0] // rows, -1)).unflatten(3, (rows, columns)).transpose(2, 3)
        out = out.flatten(3, 4).flatten(1, 2)
        return out.roll((shift[0], shift[1]), (1, 2))[:, :height, :width].contiguous()

    def _apart(self, shift: list[int], padded: Any, like: Tensor) -> Tensor:
        """Returns a mask, [windows, area, area]: -100 between places that the shift brought into one window from
        opposite edges, else 0."""
        regions = []
        for size, window, moved in zip(padded, self.window_size, shift, strict=True):
            place = torch.arange(size, device=like.device)
            regions.append((place >= size - window).to(like.dtype) + (place >= size - moved).to(like.dtype))
        region = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
        region = _windows(region, *self.window_size)[0, :, :, 0]
        return (region[:, :, None] != region[:, None, :]).to(like.dtype) * -100.0


class SlimRelativePositionalAttention(RelativePositionalMultiHeadAttention):
    """torchvision's `RelativePositionalMultiHeadAttention` (MaxViT) with fewer heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, windows, places, features] to the same shape."""
        q, k, v = _heads(self.to_qkv(x), self.head_dim)
        scores = q @ (k * self.scale_factor).transpose(-2, -1) + self.get_relative_positional_bias()
        out: Tensor = self.merge((scores.softmax(-1) @ v).transpose(2, 3).flatten(3))
        return out


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Splits [batch, height, width, features] into [batch, windows, rows * columns, features]."""
    x = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True)
class StandIn:
    """A library's class of attention layers, and the class that stands in for it where heads are missing.

    original: the library's class. slim: the class that stands in. projection: a layer's weight that makes queries,
    keys and values, [3 * heads * head_dim, width]. width: the width that the layer's attributes tell. heads: the name
    of the attribute that counts heads.
    """

    original: type[nn.Module]
    slim: type[nn.Module]
    projection: Callable[[Any], Tensor | None]
    width: Callable[[Any], int]
    heads: str


STAND_INS = (
    StandIn(
        nn.MultiheadAttention, SlimMultiheadAttention, lambda m: m.in_proj_weight, lambda m: m.embed_dim, "num_heads"
    ),
    StandIn(
        ShiftedWindowAttention,
        SlimShiftedWindowAttention,
        lambda m: m.qkv.weight,
        lambda m: m.qkv.in_features,
        "num_heads",
    ),
    StandIn(
        RelativePositionalMultiHeadAttention,
        SlimRelativePositionalAttention,
        lambda m: m.to_qkv.weight,
        lambda m: m.to_qkv.in_features,
        "n_heads",
    ),
)


def _heads(qkv: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Splits [batch, windows, tokens, 3 * heads * dim] into queries, keys and values, [batch, windows, heads, tokens,
    dim]."""
    return tuple(part.unflatten(-1, (-1, dim)).transpose(2, 3) for part in qkv.chunk(3, -1))


def slim(module: nn.Module) -> None:
    """Brings the number of heads of an attention layer in line with its weights, in place: a layer with heads missing
    becomes one of the class that stands in for its own. Call it while its attributes, and those of the layers inside
    it, still tell the sizes it had.

    Layers of other classes, and layers with all they had, stay as they are.
    """
    for known in STAND_INS:
        weight = known.projection(module) if type(module) in (known.original, known.slim) else None
        if weight is None:
            continue
        rows, features = weight.shape
        width = known.width(module)
        if type(module) is known.original and (rows, features) != (3 * width, width):
            module.head_dim = width // getattr(module, known.heads)
            module.__class__ = known.slim
        if type(module) is known.slim:
            setattr(module, known.heads, rows // (3 * int(module.head_dim)))  # type: ignore[arg-type]
