"""What each op does to labels: the table.

The rules are in three files: layers with weights bind labels to parameters, arithmetic ties labels that meet, and
movement carries labels along. A rule of the user's own (`own.py`) goes before them. An op that has none and that torch
does not call pointwise is not guessed at: what it touches is pinned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from dwindle.compress.surgery import rules_arithmetic as arithmetic
from dwindle.compress.surgery import rules_layers as layers
from dwindle.compress.surgery import rules_movement as movement
from dwindle.compress.surgery.own import own_rule
from dwindle.compress.surgery.walk import Rule, unknown


def rule_of(node: Node) -> Rule:
    """The rule for an op of the trace."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    if packet is None:
        return unknown
    if own := own_rule(str(packet)):
        return own
    if packet in RULES and target._overloadname != "other":  # max.other is the pointwise one
        # An attention layer averages its map over the heads even where nobody reads that.
        return RULES[packet] if node.users or RULES[packet] is not arithmetic.statistic else movement.constant
    return arithmetic.pointwise if torch.Tag.pointwise in target.tags else unknown


_OPS: tuple[tuple[Rule, str], ...] = (
    (layers.convolution, "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"),
    (layers.linear, "linear"),
    (layers.embedding, "embedding"),
    (layers.batch_norm, "batch_norm instance_norm"),
    (layers.group_norm, "group_norm"),
    (layers.layer_norm, "layer_norm rms_norm"),
    (layers.prelu, "prelu"),
    (layers.normalised_weight, "_weight_norm _weight_norm_interface"),
    (layers.recurrent, "lstm gru rnn_tanh rnn_relu"),
    (layers.cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    (
        arithmetic.pointwise,  # those that carry no tag
        "where masked_fill masked_fill_ copy_ fill_ zero_ hardswish hardswish_ rsub floor_divide square clamp clip "
        "clamp_min clamp_max abs_ threshold_ mish_ relu6_ rrelu_ log_sigmoid log_sigmoid_forward real type_as "
        "zeros_like ones_like full_like rand_like randn_like empty_like",
    ),
    (arithmetic.matmul, "matmul bmm mm mv"),
    (arithmetic.added_matmul, "addmm addmm_ baddbmm baddbmm_ addmv addmv_"),
    (arithmetic.einsum, "einsum"),
    (arithmetic.attention, "scaled_dot_product_attention"),
    (arithmetic.total, "sum nansum"),
    (arithmetic.norm, "norm linalg_vector_norm"),
    (
        arithmetic.statistic,
        "mean amax amin max min var std var_mean std_mean prod median nanmedian kthvalue mode aminmax argmax argmin "
        "any all count_nonzero",
    ),
    (arithmetic.log_of_sum, "logsumexp"),
    (arithmetic.softmax, "softmax log_softmax _softmax _log_softmax"),
    (
        movement.move,
        "permute transpose transpose_ t movedim moveaxis swapaxes swapdims numpy_T mT squeeze squeeze_ unsqueeze "
        "unsqueeze_ flatten cat concat stack flip pixel_shuffle pixel_unshuffle unfold diagonal",
    ),
    (movement.reshape, "view reshape _unsafe_view unflatten view_as reshape_as expand expand_as broadcast_to"),
    (movement.repeat, "repeat tile repeat_interleave"),
    (movement.shuffle, "channel_shuffle native_channel_shuffle"),
    (
        movement.piece,
        "chunk split split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk unbind slice narrow select",
    ),
    (movement.glu, "glu"),
    (movement.pick, "index index_select"),
    (movement.roll, "roll"),
    (movement.pad, "pad constant_pad_nd"),
    (
        movement.pool,
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
        "upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_max_pool3d "
        "fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d",
    ),
    (movement.sample, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    (movement.columns, "im2col"),
    (movement.uncolumns, "col2im"),
    (
        movement.same,
        "dropout dropout_ feature_dropout alpha_dropout feature_alpha_dropout "
        "contiguous clone alias detach detach_ to _to_copy "
        "lift_fresh_copy",
    ),
    (
        movement.constant,
        "zeros ones full empty arange eye linspace scalar_tensor new_zeros new_ones new_full new_empty rand randn",
    ),
)

RULES: dict[Any, Rule] = {getattr(torch.ops.aten, name): rule for rule, names in _OPS for name in names.split()}
"""By op of torch.ops.aten, all its overloads."""
