"""Models of transformers' by position, as exported files are called, and exported files by name, as a Trainer calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Logits(nn.Module):
    """A model that takes its inputs by position and answers with its logits, as exported files do.

        >>> Logits(AutoModelForImageClassification.from_pretrained("my_model"), ("pixel_values",))

    model: one of transformers', whose answer has `logits`. names: of the inputs, in their order.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Takes a tensor per name; returns the logits."""
        answer = self.model(**dict(zip(self.names, inputs, strict=True)))
        logits: Tensor = answer["logits"]
        return logits


class Answers(nn.Module):
    """Anything that answers inputs by position with logits, as a model of transformers' that makes no loss."""

    def __init__(self, answer: Callable[..., Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.answer, self.names = answer, names

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        logits = self.answer(*(inputs[name] for name in self.names))
        return {"loss": logits.new_zeros(()), "logits": logits}
