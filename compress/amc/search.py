"""AMC (He et al. 2018): an agent learns how much each layer should keep, then the network is pruned to that.

Beside it, at the same budget and judged by the same reward, stand the uniform allocation and a random search with
as many evaluations: they show what the agent was worth.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dwindle.compress.amc.allocation import Allocator, Kept, Space
from dwindle.compress.recalibrate import recalibrate
from dwindle.documents import parse
from dwindle.errors import UsageError
from dwindle.sealed import seal, unseal

if TYPE_CHECKING:
    from dwindle.models.checked_task import CheckedTask

DOCUMENT = "search.json"
Watch = Callable[[int, Sequence[float], "Settings"], None]
"""Called after each allocation with how many of `Settings.allocations` are judged, the rewards of the agent's
episodes so far, and the settings; not for allocations that an interrupted search had judged."""


@dataclass(frozen=True)
class Settings:
    """The settings of the search; those of the agent are in `dwindle.compress.amc.agent`."""

    episodes: int = 150
    """The paper's 800 are for networks of 50 layers and more. The exploration noise is 0.5·0.95ⁿ in episode n after
    the warm-up: below 0.01 after 77 of them, when an agent with ten layers to decide about tries nothing new. Twice
    as many found nothing better on a ResNet-8."""
    warmup: int = 40
    """How many of the episodes are random, for the agent to learn from."""
    reward: Literal["accuracy", "error-cost"] = "accuracy"
    """`accuracy` is the metric / 100; `error-cost` is −(1 − metric / 100)·log(cost), for a smaller network where
    accuracy allows."""
    seed: int = 0

    @property
    def allocations(self) -> int:
        """How many allocations are judged in all: the uniform one, the agent's episodes, and as many random ones."""
        return 1 + 2 * self.episodes

    def __post_init__(self) -> None:
        if not 1 <= self.warmup < self.episodes:
            raise UsageError(
                f"`episodes` is {self.episodes}, {self.warmup} of them random: give 2 or more, and fewer random",
                code="out-of-range",
                option="episodes",
            )

    @classmethod
    def of(cls, episodes: int | None, seed: int) -> Settings:
        """Returns the default settings with another number of episodes, of which the same share is random."""
        if episodes is None:
            return cls(seed=seed)
        return cls(episodes, max(1, episodes * cls.warmup // cls.episodes), seed=seed)


@dataclass(frozen=True)
class Trial:
    """An allocation and what it is worth."""

    kept: Kept
    cost: float
    reward: float


@dataclass(frozen=True)
class Result:
    """What a search found. Equal searches have equal results, interrupted or not."""

    names: tuple[str, ...]
    units: Kept
    """How many weights or channels each layer has."""
    currency: str
    whole: float
    """The cost of the unpruned network."""
    budget: float
    amc: Trial
    """The allocation of the agent's best episode."""
    random: Trial
    """The best of as many random allocations as the agent had episodes."""
    uniform: Trial
    curve: tuple[float, ...]
    """The reward of each of the agent's episodes."""
    settings: Settings

    @property
    def ratios(self) -> dict[str, float]:
        """The share that AMC keeps of each layer, by name, as `dwindle.compress.amc.arrival` takes it."""
        return {name: kept / of for name, kept, of in zip(self.names, self.amc.kept, self.units, strict=True)}


def require() -> None:
    """Raises UsageError where the packages that AMC needs are not installed."""
    try:
        import gymnasium  # noqa: F401
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"`method` amc needs {error.name}: pip install dwindle[amc]", code="not-installed", option="method"
        ) from error


def found(folder: Path) -> Result | None:
    """Returns the result of a finished search in `folder`, or None; raises CheckpointError where it is damaged."""
    document = _read(folder)
    return document.result if document else None


def search(
    folder: Path, space: Space, task: CheckedTask, budget: float, settings: Settings, watch: Watch | None = None
) -> Result:
    """Finds the allocation in `space` that is worth most at `budget`, in units of the space's currency.

    Every reward is saved in `folder` as soon as it is known. All else follows from the seed and the rewards, so
    a search that was killed plays its saved episodes again without judging them, and ends as it would have.

    Raises UsageError where the packages of `dwindle[amc]` are missing, the task's metric is no number or
    `folder` has another search; BudgetMissed where no allocation is cheap enough.
    """
    require()
    from dwindle.compress.amc.agent import Agent
    from dwindle.compress.amc.env import AllocationEnv

    allocator = Allocator.of(space, budget)
    rewards = _Rewards(folder, space, task, settings, budget)
    if rewards.result:
        return rewards.result

    drawn: list[Trial] = []
    played: list[Trial] = []

    def tell() -> None:
        if watch and rewards.judging:
            watch(1 + len(drawn) + len(played), [trial.reward for trial in played], settings)

    uniform = rewards(allocator.uniform)
    tell()
    generator = np.random.default_rng(settings.seed)
    for _ in range(settings.episodes):
        drawn.append(rewards(allocator.random(generator)))
        tell()

    game = AllocationEnv(allocator, lambda kept: rewards(kept).reward)
    with _own_randomness(settings.seed):
        agent = Agent(game, settings.episodes, settings.seed)
        for episode in range(settings.episodes):
            played.append(rewards(agent.play(episode - settings.warmup)))
            if episode >= settings.warmup - 1:
                agent.learn_from_episodes()
            tell()

    return rewards.finish(
        Result(
            names=tuple(layer.name for layer in space.layers),
            units=tuple(layer.units for layer in space.layers),
            currency=space.currency,
            whole=space.cost([layer.units for layer in space.layers]),
            budget=budget,
            amc=max(played, key=_worth),
            random=max(drawn, key=_worth),
            uniform=uniform,
            curve=tuple(trial.reward for trial in played),
            settings=settings,
        )
    )


def judge(space: Space, task: CheckedTask, kept: Kept) -> float:
    """Judges an allocation on the validation split, with batch norm recalibrated and nothing retrained."""
    candidate = space.apply(kept)
    if task.has("inputs"):
        recalibrate(candidate, task.inputs("train"))
    return task.evaluate(candidate, "validation")


class _Rewards:
    """The reward of each allocation, judged once and then read from a folder."""

    def __init__(self, folder: Path, space: Space, task: CheckedTask, settings: Settings, budget: float) -> None:
        self.folder, self.space, self.task, self.settings = folder, space, task, settings
        self.origin = {**asdict(settings), "budget": budget, "network": _fingerprint(space)}
        self.result: Result | None = None
        self.known: dict[Kept, float] = {}
        self.judging = False
        """Whether a reward was needed that an interrupted search had not saved."""
        if document := _read(folder):
            if document.origin != self.origin:
                raise UsageError(
                    f"{folder} has the search for another network or budget: choose another output folder",
                    code="other-run",
                    path=folder,
                )
            self.known = dict(document.rewards)
            self.result = document.result

    def __call__(self, kept: Kept) -> Trial:
        cost = self.space.cost(kept)
        if kept not in self.known:
            self.judging = True
            with _own_randomness(self.settings.seed):
                share = judge(self.space, self.task, kept) / 100
            self.known[kept] = share if self.settings.reward == "accuracy" else -(1 - share) * math.log(cost)
            self._save()
        return Trial(kept, cost, self.known[kept])

    def finish(self, result: Result) -> Result:
        self.result = result
        self._save()
        return result

    def _save(self) -> None:
        result = asdict(self.result) if self.result else None
        seal(self.folder, DOCUMENT, {"origin": self.origin, "result": result, "rewards": list(self.known.items())}, {})


def _worth(trial: Trial) -> tuple[float, float]:
    """The key to compare allocations by: the better reward, and of equal ones the lower cost."""
    return trial.reward, -trial.cost


def _fingerprint(space: Space) -> str:
    digest = hashlib.sha256(repr([(layer.name, layer.units) for layer in space.layers]).encode())
    for name, tensor in space.apply([layer.units for layer in space.layers]).state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Document:
    """search.json, without its seal."""

    origin: dict[str, Any]
    result: Result | None
    rewards: tuple[tuple[Kept, float], ...]
    files: dict[str, str]


def _read(folder: Path) -> _Document | None:
    if not (folder / DOCUMENT).exists():
        return None
    found: _Document = parse(_Document, unseal(folder, DOCUMENT), folder / DOCUMENT)
    return found


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seeds the global generators, which stable-baselines3 and users' code draw from, and gives them back after."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
