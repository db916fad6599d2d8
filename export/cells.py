"""Recurrent cells as the layers and functions that they are made of, as what rounds activations rounds them between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class CellsInParts(TorchFunctionMode):
    """Has the one call of an `nn.LSTMCell`, `GRUCell` or `RNNCell` be several in its block: linear layers, sigmoids."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _PARTS.get(function, function)(*args, **(kwargs or {}))


def _lstm(x: Tensor, state: tuple[Tensor, Tensor], *layers: Any) -> tuple[Tensor, Tensor]:
    """`nn.LSTMCell`'s documentation has the formulas of this one, and of the others likewise."""
    hidden, cell = state
    read, kept = _gates(x, hidden, *layers)
    entering, forgetting, new, leaving = (read + kept).chunk(4, 1)
    cell = forgetting.sigmoid() * cell + entering.sigmoid() * new.tanh()
    return leaving.sigmoid() * cell.tanh(), cell


def _gru(x: Tensor, hidden: Tensor, *layers: Any) -> Tensor:
    read, kept = (one.chunk(3, 1) for one in _gates(x, hidden, *layers))
    new = (read[2] + (read[0] + kept[0]).sigmoid() * kept[2]).tanh()
    return new + (read[1] + kept[1]).sigmoid() * (hidden - new)


def _rnn(activation: Callable[[Tensor], Tensor], x: Tensor, hidden: Tensor, *layers: Any) -> Tensor:
    read, kept = _gates(x, hidden, *layers)
    return activation(read + kept)


def _gates(
    x: Tensor,
    hidden: Tensor,
    of_x: Tensor,
    of_hidden: Tensor,
    bias_of_x: Tensor | None = None,
    bias_of_hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return F.linear(x, of_x, bias_of_x), F.linear(hidden, of_hidden, bias_of_hidden)


_PARTS: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: _lstm,
    torch.gru_cell: _gru,
    torch.rnn_tanh_cell: partial(_rnn, torch.tanh),
    torch.rnn_relu_cell: partial(_rnn, torch.relu),
}
