"""Models whose weights FSDP2 divides among the processes of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carm_env.system.extras import optional_imports

with optional_imports("llm", "Training a language model"):
    from accelerate.utils import parse_flag_from_env
    from torch.distributed.fsdp import FSDPModule

_HELD: set[Any] = set()
"""Models whose weights are whole."""


def is_sharded() -> bool:
    """Returns whether ``accelerate launch`` has asked for FSDP."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


@contextmanager
def whole_weights(*models: Any) -> Iterator[None]:
    """Keeps the whole weights of models in each process during the block; without FSDP2, it does nothing.

    Every forward pass of a sharded model gathers its weights from all processes, so all must call it equally often, but
    episodes have different lengths. With whole weights, a forward pass without gradients asks no other process.

    All processes must enter and leave the outermost block. Blocks can be nested.

    Args:
        *models: the models, which need memory for all of their weights; None is skipped.
    """
    roots = [model for model in models if isinstance(model, FSDPModule) and model not in _HELD]
    parts = [module for model in roots for module in model.modules() if isinstance(module, FSDPModule)]
    for model in roots:
        # A generation does not begin with the forward pass of the model itself if it has an adapter.
        model._get_fsdp_state()._lazy_init()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    _HELD.update(roots)
    try:
        yield
    finally:
        _HELD.difference_update(roots)
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)
