"""Random crop and flip of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def crop_and_flip(images: Tensor, *, pad: int, flip: bool, generator: Generator | None = None) -> Tensor:
    """Shifts each image by up to `pad` pixels each way (what enters is zero), mirrors half of them if `flip`.

    Shapes: (N, C, H, W) of any type, on the generator's device → the same. One gather: each output pixel's
    source row and column follow from the image's draw. generator: what is drawn from; None: the device's own.
    """
    count, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device, dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (pad, pad, pad, pad))
    each = torch.arange(count, device=device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
