"""AMC's agent: stable-baselines3's DDPG with the settings and the exploration of He et al. 2018, §3.3."""

from __future__ import annotations

import numpy as np
from scipy.stats import truncnorm
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger
from torch.optim import Optimizer

from dwindle.compress.amc.allocation import Kept
from dwindle.compress.amc.env import AllocationEnv, State

ACTOR_LR, CRITIC_LR = 1e-4, 1e-3
BATCH = 64
NOISE, DECAY = 0.5, 0.95


class Agent(DDPG):
    """Plays whole episodes and learns after each. Seeds and draws from the global generators of NumPy and torch."""

    def __init__(self, env: AllocationEnv, episodes: int, seed: int) -> None:
        self.game, self.layers = env, len(env.allocator.space.layers)
        super().__init__(
            "MlpPolicy",
            env,
            buffer_size=episodes * self.layers,
            batch_size=BATCH,
            tau=0.01,
            gamma=1.0,
            # The reward comes at the end alone: its credit reaches the first layer at once, rather than after as
            # many updates of the target network as there are layers (the paper hands it to every step instead).
            n_steps=self.layers,
            policy_kwargs={"net_arch": [300, 300]},
            seed=seed,
            device="cpu",
        )
        self.set_logger(Logger(None, []))

    def play(self, learnt: int) -> Kept:
        """Plays one episode, remembers it, and returns what it kept. `learnt` is how many episodes the agent has learnt
        from; below 0 its actions are random."""
        assert self.replay_buffer is not None
        state, _ = self.game.reset()
        done = False
        while not done:
            action = self._explore(state, learnt)
            after, reward, done, _, info = self.game.step(action)
            # The buffer and the networks have actions in [-1, 1].
            stored = self.policy.scale_action(action)
            self.replay_buffer.add(state, after, stored, np.array(reward), np.array(done), [info])
            state = after
        return self.game.kept

    def learn_from_episodes(self) -> None:
        """Updates the agent as many times as an episode has steps."""
        self.train(gradient_steps=self.layers, batch_size=BATCH)

    def _explore(self, state: State, learnt: int) -> State:
        if learnt < 0:
            return np.random.random(1).astype(np.float32)
        # The noise is in units of the action, in [0, 1]: stable-baselines3's own would be added in [-1, 1].
        mean, sigma = self.predict(state, deterministic=True)[0], NOISE * DECAY**learnt
        noisy = truncnorm.rvs(-mean / sigma, (1 - mean) / sigma, mean, sigma, size=1)
        return np.asarray(np.clip(noisy, 0, 1), dtype=np.float32)

    def _update_learning_rate(self, optimizers: list[Optimizer] | Optimizer) -> None:
        """Sets the two learning rates that AMC has; stable-baselines3 has one for both networks."""
        assert isinstance(optimizers, list)
        for optimizer, rate in zip(optimizers, (ACTOR_LR, CRITIC_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
