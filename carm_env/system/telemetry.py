"""Libraries that report their use, or fetch code, unless they are told not to."""

from __future__ import annotations

import os
import sys

_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # datasets and evaluate count how often a local file is loaded.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    # transformers would fetch compiled kernels from the hub and run them.
    "USE_HUB_KERNELS": "NO",
}
# What a module has read from a variable, if the user's own code imported it before.
_READ = {
    ("huggingface_hub.constants", "HF_HUB_DISABLE_TELEMETRY"): True,
    ("datasets.config", "HF_UPDATE_DOWNLOAD_COUNTS"): False,
    ("evaluate.config", "HF_UPDATE_DOWNLOAD_COUNTS"): False,
}


def disable_telemetry() -> None:
    """Turns off the telemetry of Hugging Face's libraries and others; a variable that the user has set is kept.

    The libraries read these variables when they are imported: call this before.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for (module, name), is_on in _READ.items():
        if module in sys.modules and os.environ[name] == _SETTINGS[name]:
            setattr(sys.modules[module], name, is_on)
