"""The 22 body parts of the UNIFESP X-ray data, the labels of the paper's real X-rays.

They are numbered from 0, as in the data and in the answers that the paper's authors released; landmarks are numbered
from 1 (`carm_env.landmarks`).

Source: "UNIFESP X-ray Body Part Classifier Competition", kaggle.com/competitions/unifesp-x-ray-body-part-classifier.
"""

from __future__ import annotations

from carm_env.system.errors import UnknownNameError

BODY_PARTS = (
    "Abdomen", "Ankle", "Cervical spine", "Chest", "Clavicles", "Elbow", "Feet", "Finger", "Forearm", "Hand", "Hip",
    "Knee", "Lower leg", "Lumbar spine", "Others", "Pelvis", "Shoulder", "Sinus", "Skull", "Thigh", "Thoracic spine",
    "Wrist",
)  # fmt: skip
"""Names in the order of their numbers; "Others" is every other part."""
N_BODY_PARTS = len(BODY_PARTS)
_NUMBERS = {name.lower(): number for number, name in enumerate(BODY_PARTS)}


def body_part_number(name: str) -> int:
    """Returns the number of a body part; case does not matter.

    Raises:
        UnknownNameError: unknown body part; the message names the nearest one.

    >>> body_part_number("chest"), body_part_number("Wrist")
    (3, 21)
    """
    key = " ".join(name.lower().split())
    if key not in _NUMBERS:
        raise UnknownNameError("body part", name, BODY_PARTS)
    return _NUMBERS[key]
