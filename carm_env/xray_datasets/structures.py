"""Structures that masks of X-rays show, by FleXray's names, and the body parts in which they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from carm_env.body_parts import body_part_number

PROTOCOL = "all_structures_flexray_v4"
"""FleXray's name of the list of structures."""
BACKGROUND = "background"
LEAST_SHARE = 0.01
"""Share of an image that the structures of a body part cover at least for the body part to be a label.

Shares of structures are added, so that overlapping structures count twice. Structures that are cut at the border or
annotated by mistake are smaller. By estimate, the carpals cover 2 % of an X-ray of a hand, and the last vertebrae of
the neck less than 1 % of an X-ray of a chest.
"""
BODY_PARTS_OF: Mapping[str, tuple[str, ...]] = {
    "skull": ("Skull",),
    "scapulae": ("Shoulder",),
    "clavicles": ("Clavicles",),
    "humeri": (),
    "phalanges": ("Finger",),
    "metacarpals": ("Hand",),
    "carpals": ("Wrist",),
    "radii": ("Forearm",),
    "ulnae": ("Forearm",),
    "tibiae": ("Lower leg",),
    "femurs": ("Thigh",),
    "patellae": ("Knee",),
    "fibulae": ("Lower leg",),
    "metatarsals": ("Feet",),
    "tarsals": ("Ankle", "Feet"),
    "toes": ("Feet",),
    **{f"rib_{number}": ("Chest",) for number in range(1, 13)},
    "sternum": ("Chest",),
    **{f"vertebra_c{number}": ("Cervical spine",) for number in range(1, 8)},
    **{f"vertebra_t{number}": ("Thoracic spine",) for number in range(1, 13)},
    **{f"vertebra_l{number}": ("Lumbar spine",) for number in range(1, 6)},
    "hips": ("Hip", "Pelvis"),
    "sacrum": ("Pelvis",),
    "lumbar_spine": ("Lumbar spine",),
    "thoracolumbar_spine": (),
    "kidneys": ("Abdomen",),
    "liver": ("Abdomen",),
    "spleen": ("Abdomen",),
    "lungs": ("Chest",),
    "heart": ("Chest",),
}
"""Body parts of each structure of the protocol. The assignment is ours, not FleXray's.

The humeri alone are none of the 22 body parts, and ``thoracolumbar_spine`` does not say which part of the spine is in
the image.
"""
JOINTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Elbow": (("humeri",), ("radii", "ulnae")),
    "Knee": (("femurs",), ("tibiae", "fibulae")),
}
"""Body parts between two groups of bones; an image shows the joint if it shows both groups. Ours, too."""


def shown_body_parts(shares: Mapping[str, float]) -> tuple[int, ...]:
    """Returns the numbers of the body parts that an image shows, in ascending order; possibly none.

    Args:
        shares: share of the image that each structure covers; structures that are not in it cover nothing.

    >>> shown_body_parts({"humeri": 0.1, "ulnae": 0.05, "radii": 0.05, "carpals": 0.001})
    (5, 8)
    """
    areas: defaultdict[str, float] = defaultdict(float)
    for structure, share in shares.items():
        for part in BODY_PARTS_OF[structure]:
            areas[part] += share
    shown = {part for part, area in areas.items() if area >= LEAST_SHARE}
    for joint, groups in JOINTS.items():
        if all(sum(shares.get(name, 0.0) for name in group) >= LEAST_SHARE for group in groups):
            shown.add(joint)
    return tuple(sorted(map(body_part_number, shown)))
