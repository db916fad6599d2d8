"""int8 arithmetic of networks that read indices and masks."""

import torch
from torch import Tensor

from dwindle.export.fold import deployable
from dwindle.export.w8a8 import quantize
from tests.networks import Attending


def test_indices_stay_whole_and_masks_leave_ranges_as_they_are() -> None:
    torch.manual_seed(0)
    network = Attending().eval().requires_grad_(False)
    mask = (torch.arange(8)[None] < torch.tensor([[8], [5], [3], [6]])).long()
    real = torch.randint(0, 20, (4, 8)), mask
    one = tuple(tensor[:1] for tensor in real)
    shipped = deployable(network, one)
    program = quantize(shipped, real).program
    for sample in zip(*(tensor.split(1) for tensor in real), strict=True):
        exact, found = network(*sample), program(*sample)
        found = found if isinstance(found, Tensor) else found[0]
        assert (exact - found).norm() < 0.1 * exact.norm()
