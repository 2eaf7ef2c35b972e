"""A control: does a policy look at its X-rays, or would the text and its own moves be enough?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.policy import Decision, Policy
from carm_env.transcripts.records import Exchange

_LARGEST_SEED = 1 << 31


class SwappedImagesPolicy(Policy):
    """Another policy that is shown X-rays of random views of another patient, each instead of its own.

    The text stays: the target, the moves and how far the C-arm moved. A policy that looks falls to the level of
    `policies.blind.BlindPolicy`.

    Args:
        policy: name of the policy, as on the leaderboard.
        patient: the patient on the X-rays.

    Raises:
        ValueError: the policy reads the true state, which says more than the X-ray.
    """

    def __init__(self, policy: str = "mllm", patient: str = "virtual:0") -> None:
        # Imported here: the registry names this module.
        from policies.registry import make_policy

        self._policy, self._patient = make_policy(policy), patient
        if self._policy.privileged_info:
            raise ValueError(f"policy is {policy!r}, which reads the true state: expected one that looks at the X-ray.")
        self.max_threads, self.packages = self._policy.max_threads, self._policy.packages  # type: ignore[misc]
        self._env: CArmNavEnv | None = None
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        self._policy.reset(seed)
        self._rng = np.random.default_rng(seed)

    def check_patients(self, names: Sequence[str]) -> None:
        """Passes the names of the patients of an evaluation on."""
        self._policy.check_patients(names)

    def feedback(self, text: str) -> None:
        """Passes a clinician's words on."""
        self._policy.feedback(text)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Lets the other policy decide on an X-ray of a random view."""
        size = len(observation["image"])
        if self._env is None or self._env.image_size != size:
            self._env = CArmNavEnv(patients=self._patient, image_size=size)
        view: Any = self._env.reset(seed=int(self._rng.integers(_LARGEST_SEED)))[0]
        return self._policy.act({**observation, "image": view["image"]}, info)

    def description(self) -> dict[str, Any]:
        """Returns the facts of the other policy, and the patient on the X-rays."""
        return {**self._policy.description(), "x_rays_of": self._patient}

    def prompts(self) -> str:
        """Returns the hash of the other policy's prompts."""
        return self._policy.prompts()

    def last_exchange(self) -> Exchange | None:
        """Returns the other policy's last request to a language model."""
        return self._policy.last_exchange()
