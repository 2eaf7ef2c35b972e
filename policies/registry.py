"""Policies by name."""

from __future__ import annotations

from carm_env.evaluation import policy_loading
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.policy_loading import BUILT_IN_POLICIES

POLICIES: dict[str, str] = {
    **BUILT_IN_POLICIES,
    "atlas": "policies.atlas:AtlasPolicy",
    "blind": "policies.blind:BlindPolicy",
    "cnn": "policies.cnn:CnnPolicy",
    "conformal": "policies.conformal:ConformalPolicy",
    "ppo": "policies.sb3:PpoPolicy",
    "maskable_ppo": "policies.sb3:MaskablePpoPolicy",
    "ppo_pixels": "policies.sb3:PpoPixelsPolicy",
    "dqn": "policies.sb3:DqnPolicy",
    "qrdqn": "policies.sb3:QrDqnPolicy",
    "mllm": "policies.mllm:MllmPolicy",
    "mllm_grpo": "policies.mllm:MllmGrpoPolicy",
    "hybrid": "policies.hybrid:HybridPolicy",
    "knn": "policies.lofi.knn:KnnPolicy",
    "retrieval": "policies.lofi.retrieval:RetrievalPolicy",
    "router": "policies.router:RouterPolicy",
    "swapped_images": "policies.swapped_images:SwappedImagesPolicy",
}
"""Name to ``module:Class``; the module is imported when its policy is constructed."""

LEARNED = ("cnn", "conformal", "ppo", "maskable_ppo", "ppo_pixels", "dqn", "qrdqn", "mllm", "mllm_grpo", "hybrid")
"""Policies with weights of this repository. The name alone means the weights that ship; ``cnn:runs/cnn/checkpoint``
means other ones."""


CHECKPOINTS = (*LEARNED, "knn", "retrieval", "router", "swapped_images", *policy_loading.CHECKPOINTS)
"""Policies that take something after a colon: weights, a model, an index of training views, or the policy that
``swapped_images`` is about."""


def make_policy(text: str) -> Policy:
    """Constructs a policy of this repository or of the user; see `carm_env.evaluation.policy_loading.make_policy`.

    >>> type(make_policy("oracle")).__name__
    'OraclePolicy'
    """
    return policy_loading.make_policy(text, POLICIES, CHECKPOINTS)
