"""Pruning called from a running loop: one object, and one call after every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from dwindle.compress.gradual import Ramp
from dwindle.compress.granularity import granularity as named
from dwindle.compress.layers import Layers
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Network
from dwindle.compress.scores import load as load_score
from dwindle.errors import UsageError
from dwindle.mask_files import pack_masks, unpack_masks

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = "steps"


class Pruner:
    """Prunes a model while your own loop trains it.

        pruner = Pruner(model, density=0.2, steps=len(loader) * epochs // 2)
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            pruner.step()  # prunes a little more where that is due, and keeps pruned weights at zero
        torch.save(model.state_dict(), "pruned.pt")

    `dwindle compress my_code:net --weights pruned.pt --method keep` then makes a checkpoint of it, for export and
    bench. For LR rewinding in rounds, call `prune` with the next density, and run your loop, with its schedule, anew.

    model: any module; its weights are pruned in place. density: the share of the prunable weights that survives.
    steps: the number of steps, from `begin` on, over which they are pruned, steeply at first (Zhu & Gupta 2017); from
    then on masks are held. granularity: unstructured, a block such as 4x1, or N:M such as 2:4, which implies its own
    density. score: the name of a score, such as magnitude or lamp. include, exclude: shell patterns over the names of
    layers.

    Raises UsageError for a value out of range, an unknown name, and for channels, which make a new model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float | None = None,
        steps: int = 1,
        begin: int = 0,
        granularity: str = "unstructured",
        score: str = "magnitude",
        include: tuple[str, ...] = ("*",),
        exclude: tuple[str, ...] = (),
    ) -> None:
        if granularity == "channel":
            raise UsageError(
                "a Pruner prunes in place, and removing channels makes a new model: use `dwindle.compress.compress`",
                code="conflict",
                option="granularity",
            )
        self._granularity = named(granularity, load_score(score), Layers(include, exclude))
        share = self._granularity.floor if density is None else density
        for name, value, fine, wanted in (
            ("density", share, share is not None and 0 < share <= 1, "a share above 0, up to 1"),
            ("steps", steps, steps >= 1, "1 or more"),
            ("begin", begin, begin >= 0, "0 or more"),
        ):
            if not fine:
                raise UsageError(f"`{name}` is {value}: give {wanted}", code="out-of-range", option=name)
        assert share is not None
        self._network, self._begin, self._done = Network(model), begin, 0
        self._ramp = Ramp(self._granularity.share(self._network), share, steps, last=False)
        self._apply = mask_applier(model, {})

    @property
    def density(self) -> float:
        """The surviving share of the prunable weights, in [0, 1]."""
        return self._network.density

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """A boolean tensor per pruned parameter, by name, True where the weight survives."""
        return self._network.masks

    def step(self) -> None:
        """Prunes where it is due and sets pruned weights to zero; call it after every `optimizer.step()`."""
        self._done += 1
        since = self._done - self._begin
        if since > 0 and self._ramp.due(since):
            self.prune(self._ramp.share(since))
        self._apply()

    def prune(self, density: float) -> None:
        """Prunes to a density at once; what is gone never comes back."""
        self._granularity.shrink(self._network, density)
        self._apply = mask_applier(self._network.model, self._network.masks)
        self._apply()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the masks, packed to bits, and the number of steps done, to save beside the model's own."""
        return {**pack_masks(self._network.masks), STEPS: torch.tensor(self._done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state of `state_dict`, and sets the pruned weights to zero.

        Raises CheckpointError where the masks are another model's.
        """
        masks = {name: bits for name, bits in state.items() if name != STEPS}
        self._network.masks = unpack_masks(masks, dict(self._network.model.named_parameters()))
        self._done = int(state[STEPS])
        self._apply = mask_applier(self._network.model, self._network.masks)
        self._apply()
