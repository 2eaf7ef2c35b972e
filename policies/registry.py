"""From a policy's name to the policy."""

from __future__ import annotations

import importlib

from carm_env.errors import UnknownNameError
from policies.base import Policy

POLICIES: dict[str, str] = {
    "random": "policies.scripted:RandomPolicy",
    "oracle": "policies.scripted:OraclePolicy",
    "atlas": "policies.atlas:AtlasPolicy",
}
"""Name -> ``module:class``. A module is imported when its policy is asked for."""


def policy_class(name: str) -> type[Policy]:
    """The class of the policy called `name`; UnknownNameError names the nearest one."""
    if name not in POLICIES:
        raise UnknownNameError("policy", name, POLICIES)
    module, _, attribute = POLICIES[name].partition(":")
    kind: type[Policy] = getattr(importlib.import_module(module), attribute)
    return kind


def make_policy(name: str) -> Policy:
    """Build the policy called `name`.

    Raises:
        UnknownNameError: no such policy; the message names the nearest one.

    >>> type(make_policy("oracle")).__name__
    'OraclePolicy'
    """
    return policy_class(name)()
