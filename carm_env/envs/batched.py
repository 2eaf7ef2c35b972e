"""N episodes that step together: the engine of `carm_env.envs.vector.CArmNavVectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from carm_env.actions import ALIGNED
from carm_env.envs._frames import CpuFrames, DeviceFrames, Frames
from carm_env.envs.navigation import CArmNavEnv, encode_targets
from carm_env.envs.rewards import RewardSettings
from carm_env.envs.state import EpisodeState

Step = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class EpisodeRow(CArmNavEnv):
    """One of N episodes as an environment: it draws episodes and answers questions, its vector environment steps it.

    Its state is row `row` of the state of all episodes.
    """

    def __init__(self, row: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.row = row

    def join(self, state: EpisodeState, frames: Frames) -> None:
        """Shares the state and the images of all episodes."""
        state = state.row(self.row)
        state.tolerances_mm[:] = self._state.tolerances_mm
        self._state = state
        self._frames = frames

    def _shown_image(self) -> NDArray[np.uint8]:
        return self._frames.host_image(self.row)


class BatchedEpisodes:
    """N episodes of ``CArmNav-v0`` in one `EpisodeState`, stepped and X-rayed together.

    Args:
        num_envs: number of episodes.
        max_episode_steps: time limit of each.
        threads: threads that take X-rays on the CPU; None for one per processor.
        device: torch device that takes the X-rays instead; None for the CPU's threads.
        autoreset_mode: ``NEXT_STEP`` or ``SAME_STEP``.
        **kwargs: arguments of `carm_env.envs.navigation.CArmNavEnv`.

    Attributes:
        envs: the episodes as environments.
        state: the state of all episodes.
        frames: the X-rays of all episodes.
    """

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int,
        threads: int | None,
        device: Any,
        autoreset_mode: AutoresetMode,
        **kwargs: Any,
    ) -> None:
        self.envs = [EpisodeRow(row, **kwargs) for row in range(num_envs)]
        first = self.envs[0]
        self._transition = first._transition
        self._obs_type, self._target_encoding = first.obs_type, first.target_encoding
        self._max_episode_steps = max_episode_steps
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        if device is not None and (first.domain_randomization.severity or first.has_image_chain):
            raise ValueError(
                "device and domain_randomization or image_chain are both given, and a batch on a device has the X-ray "
                "system of its camera: leave out device, so that threads take the X-rays."
            )
        self.state = EpisodeState.allocate(num_envs)
        self.frames: Frames = (
            CpuFrames(num_envs, first._view, first.image_size, threads)
            if device is None
            else DeviceFrames(num_envs, first._view, first.image_size, first._geometry, first._xray, device)
        )
        for env in self.envs:
            env.join(self.state, self.frames)
            env.rewards = first.rewards
        self._running = False
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every row; returns observations and infos."""
        self._running = False
        self._begin(np.arange(len(self.envs)), seeds, options)
        self._running = True
        self._expose(np.arange(len(self.envs)))
        return self._observations(), self._infos()

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Steps every row with a valid action; a row whose episode has ended is reset instead (``NEXT_STEP``)."""
        self._check_running()
        pending = self._ended.copy()
        self._begin(np.flatnonzero(pending))
        stepped = np.flatnonzero(~pending)
        rewards = np.zeros(len(self.envs))
        for settings, rows in self._by_rewards(stepped):
            rewards[rows] = self._transition.step(self.state, rows, actions[rows], settings)
        self._elapsed[stepped] += 1
        self._expose(np.flatnonzero(pending | (actions != ALIGNED.index)))
        terminations = self.state.declared.copy()
        truncations = ~pending & (self._elapsed >= self._max_episode_steps)
        self._ended = terminations | truncations
        observations, infos = self._observations(), self._infos()
        if self._same_step and self._ended.any():
            observations, infos = self._restart(observations, infos)
        return observations, rewards, terminations, truncations, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """``(N, 49)``: whether every axis that the action commands would move."""
        self._check_running()
        return self._transition.action_masks(self.state)

    def _check_running(self) -> None:
        if not self._running:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first.")

    def _begin(
        self, rows: NDArray[np.int64], seeds: Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        for row in rows.tolist():
            self.envs[row]._begin(seeds[row] if seeds is not None else None, options or {})
        self._elapsed[rows] = 0
        self._ended[rows] = False

    def _restart(self, observations: Any, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes where they have ended; the infos keep the last observations and infos of the old ones."""
        ended = self._ended.copy()
        rows = np.flatnonzero(ended)
        last = np.full(len(self.envs), None, dtype=object)
        is_image = self._obs_type == "image"
        for row in rows.tolist():
            last[row] = observations[row] if is_image else {key: values[row] for key, values in observations.items()}
        values = {key: values for key, values in infos.items() if not key.startswith("_")}
        final = {"final_obs": last, "final_info": _masked(values, ended)}
        self._begin(rows)
        self._expose(rows)
        return self._observations(), {**_masked(final, ended), **self._infos()}

    def _by_rewards(self, rows: NDArray[np.int64]) -> list[tuple[RewardSettings, NDArray[np.int64]]]:
        """Groups `rows` by their reward settings, which `set_attr` may have changed."""
        groups: dict[int, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(id(self.envs[row].rewards), []).append(row)
        return [(self.envs[group[0]].rewards, np.array(group)) for group in groups.values()]

    def _expose(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        envs = [self.envs[row] for row in rows.tolist()]
        self.frames.take(self.state, rows, [env.scene for env in envs], [env._draw_noise_seed() for env in envs])

    def _observations(self) -> Any:
        images = self.frames.images()
        if self._obs_type == "image":
            return images
        targets = encode_targets(self.state.targets, self._target_encoding)
        return {"image": images, "target": self.frames.as_observation(targets)}

    def _infos(self) -> dict[str, Any]:
        return _masked(self._transition.infos(self.state), np.ones(len(self.envs), dtype=bool))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Pickling has turned the views of the common state into copies.
        for env in self.envs:
            env.join(self.state, self.frames)


def _masked(infos: dict[str, Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Returns `infos` in Gymnasium's form for vectors: each value with its mask, and zeros or None elsewhere."""
    masked: dict[str, Any] = {}
    for key, values in infos.items():
        if isinstance(values, np.ndarray) and not mask.all():
            values[~mask] = None if values.dtype == object else 0
        masked[key], masked[f"_{key}"] = values, mask.copy()
    return masked
