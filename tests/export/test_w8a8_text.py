"""int8 arithmetic of networks that read indices and masks."""

import torch
from torch import Tensor, nn

from dwindle.export.fold import deployable
from dwindle.export.w8a8 import quantize


class Attending(nn.Module):
    """Attention over token ids with places counted in forward, and a mask of fp32's lowest value."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.inner = nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device) + 0
        x = self.words(ids) + self.places(places[None])
        lowest = (1.0 - mask[:, None].float()) * torch.finfo(torch.float32).min
        scores = torch.softmax(x @ x.transpose(1, 2) / 4 + lowest, -1)
        return self.inner(scores @ x)  # type: ignore[no-any-return]


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
