"""AMC as a game: one action per layer, one reward at the end (He et al. 2018, §3.1-3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from dwindle.compress.amc.allocation import Allocator, Kept, full

FEATURES = 11
"""The features of an observation: eight of the layer, min-max normalised over the layers; cost removed before it, cost
of all that follows it, both as shares of the whole; and the previous action."""

State = np.ndarray[Any, np.dtype[np.float32]]


class AllocationEnv(gymnasium.Env[State, State]):
    """An episode walks through the layers and ends with the reward of what was kept; γ is 1."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (FEATURES,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, allocator: Allocator, reward: Callable[[Kept], float]) -> None:
        self.allocator, self.reward = allocator, reward
        features = np.array([layer.features for layer in allocator.space.layers], dtype=np.float64)
        low, high = features.min(0), features.max(0)
        self._static = (features - low) / np.where(high > low, high - low, 1)
        self._full = full(allocator.space)
        self._whole = allocator.space.cost(self._full)
        self.kept: Kept = ()
        self._previous = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[State, dict[str, Any]]:
        super().reset(seed=seed)
        self.kept, self._previous = (), 1.0
        return self._state(), {}

    def step(self, action: State) -> tuple[State, float, bool, bool, dict[str, Any]]:
        self._previous = float(action[0])
        self.kept = (*self.kept, self.allocator.keep(self.kept, self._previous))
        if len(self.kept) < len(self._full):
            return self._state(), 0.0, False, False, {}
        self.kept = self.allocator.spend(self.kept)
        return self._state(), self.reward(self.kept), True, False, {}

    def _state(self) -> State:
        space, index = self.allocator.space, len(self.kept)
        here = min(index, len(self._full) - 1)  # the state after the last action is never learnt from
        reduced = self._whole - space.cost([*self.kept, *self._full[index:]])
        rest = self._whole - space.cost([*self._full[: here + 1], *(0 for _ in self._full[here + 1 :])])
        share = np.array([reduced, rest]) / self._whole
        return np.array([*self._static[here], *share, self._previous], dtype=np.float32)
