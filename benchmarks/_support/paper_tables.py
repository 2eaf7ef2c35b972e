"""Tables 1 and 2 as the paper prints them, and what is known of the cells that its released outputs do not give.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", tables 1 and 2.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Model(NamedTuple):
    """A row of the tables.

    Attributes:
        family: ``DL``, ``Gemma-3`` or ``Qwen-2.5VL``.
        billions: billions of parameters; 0 for the network.
        variant: ``Base``, ``Med`` or ``FT``; empty for the network.
    """

    family: str
    billions: int
    variant: str

    def __str__(self) -> str:
        return f"{self.family} {self.billions}B {self.variant}" if self.billions else "DL"


DL = Model("DL", 0, "")
RETRIEVAL_METRICS = ("p_at_1", "p_at_2", "p_at_3", "r_at_1", "r_at_2", "r_at_3")
CENTRED_METRICS, REAL_METRICS = ("h_at_2", "h_at_1"), ("h_at_2", "r_at_2")
_SIZE = re.compile(r"(?<![\d.])(\d+)b(?![a-z0-9])", re.IGNORECASE)

TABLE_1: dict[Model, tuple[float, ...]] = {
    DL: (0.995, 0.91, 0.76, 0.332, 0.61, 0.76),
    Model("Gemma-3", 27, "Base"): (0.64, 0.61, 0.54, 0.21, 0.41, 0.54),
    Model("Gemma-3", 27, "Med"): (0.57, 0.52, 0.49, 0.19, 0.35, 0.50),
    Model("Gemma-3", 27, "FT"): (0.96, 0.92, 0.84, 0.32, 0.61, 0.84),
    Model("Gemma-3", 12, "Base"): (0.58, 0.54, 0.47, 0.19, 0.36, 0.47),
    Model("Gemma-3", 12, "FT"): (0.96, 0.93, 0.85, 0.32, 0.62, 0.85),
    Model("Gemma-3", 4, "Base"): (0.43, 0.36, 0.40, 0.14, 0.24, 0.40),
    Model("Gemma-3", 4, "Med"): (0.45, 0.36, 0.44, 0.15, 0.24, 0.44),
    Model("Gemma-3", 4, "FT"): (0.96, 0.91, 0.82, 0.32, 0.61, 0.82),
    Model("Qwen-2.5VL", 32, "Base"): (0.58, 0.52, 0.48, 0.19, 0.34, 0.48),
    Model("Qwen-2.5VL", 32, "FT"): (0.96, 0.92, 0.83, 0.32, 0.62, 0.83),
    Model("Qwen-2.5VL", 7, "Base"): (0.46, 0.42, 0.37, 0.15, 0.28, 0.37),
    Model("Qwen-2.5VL", 7, "FT"): (0.95, 0.92, 0.82, 0.32, 0.61, 0.82),
}
"""P@1, P@2, P@3, R@1, R@2 and R@3."""
TABLE_2: dict[Model, tuple[float, ...]] = {
    DL: (0.92, 0.81, 0.95, 0.94),
    Model("Gemma-3", 27, "Base"): (0.42, 0.28, 0.90, 0.86),
    Model("Gemma-3", 27, "Med"): (0.24, 0.16, 0.74, 0.72),
    Model("Gemma-3", 27, "FT"): (0.85, 0.73, 0.93, 0.91),
    Model("Gemma-3", 12, "Base"): (0.41, 0.26, 0.86, 0.82),
    Model("Gemma-3", 12, "FT"): (0.84, 0.74, 0.88, 0.85),
    Model("Gemma-3", 4, "Base"): (0.33, 0.22, 0.83, 0.79),
    Model("Gemma-3", 4, "Med"): (0.23, 0.15, 0.76, 0.74),
    Model("Gemma-3", 4, "FT"): (0.66, 0.55, 0.85, 0.84),
    Model("Qwen-2.5VL", 32, "Base"): (0.33, 0.21, 0.79, 0.75),
    Model("Qwen-2.5VL", 32, "FT"): (0.70, 0.61, 0.88, 0.86),
    Model("Qwen-2.5VL", 7, "Base"): (0.32, 0.20, 0.69, 0.65),
    Model("Qwen-2.5VL", 7, "FT"): (0.65, 0.59, 0.83, 0.81),
}
"""Synthetic H@2 and H@1, real H@2 and R@2."""


def model_of(stem: str) -> Model | None:
    """Returns the row of the tables that a file of released answers belongs to; None if its name tells no model.

    >>> str(model_of("SFT_Qwen2.5-VL-7B_real")), str(model_of("google_medgemma-27b-it")), str(model_of("test_test"))
    ('Qwen-2.5VL 7B FT', 'Gemma-3 27B Med', 'DL')
    """
    if stem.startswith("test_"):
        return DL
    name, size = stem.lower(), _SIZE.search(stem)
    family = "Gemma-3" if "gemma" in name else "Qwen-2.5VL" if "qwen" in name else None
    if family is None or size is None:
        return None
    variant = "Med" if "medgemma" in name else "FT" if "sft" in name else "Base"
    return Model(family, int(size[1]), variant)
