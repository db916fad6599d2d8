"""Masks as files hold them: a bit per weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.documents import REMEDY
from dwindle.errors import CheckpointError
from dwindle.sealed import Tensors

if TYPE_CHECKING:
    from torch import Tensor


def pack_masks(masks: Tensors) -> dict[str, Tensor]:
    """Packs masks into a bit per weight, the first weight in the lowest bit; their shapes are not kept."""
    import numpy as np
    import torch

    return {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))
        for name, mask in masks.items()
    }


def unpack_masks(packed: Tensors, weights: Tensors, file: Path | None = None) -> dict[str, Tensor]:
    """Undoes `pack_masks`, given tensors that have the masks' names and shapes.

    Raises CheckpointError, with the `file` they came from, for a mask without a weight or of another length.
    """
    import numpy as np
    import torch

    for name, bits in packed.items():
        needed = (weights[name].numel() + 7) // 8 if name in weights else None
        if bits.dtype != torch.uint8 or tuple(bits.shape) != (needed,):
            found = f"{bits.dtype} of shape {list(bits.shape)}"
            wanted = f"{needed} bytes are needed" if needed is not None else "there is no such weight"
            raise CheckpointError(
                f"{file or 'the masks'}: the mask of {name} is {found}, and {wanted}; {REMEDY}",
                code="mask",
                path=file,
                name=name,
            )
    return {
        name: torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little", count=weights[name].numel()))
        .bool()
        .reshape(weights[name].shape)
        for name, bits in packed.items()
    }
