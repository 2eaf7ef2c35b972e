"""Which body parts structures are, and which share of an image is enough."""

import pytest

from carm_env.body_parts import BODY_PARTS
from carm_env.xray_datasets.structures import BODY_PARTS_OF, JOINTS, LEAST_SHARE, shown_body_parts


def names(**shares):
    return {BODY_PARTS[number] for number in shown_body_parts(shares)}


def test_the_protocol_is_complete_and_all_names_are_known():
    # all_structures_flexray_v4 has 63 labels with the background.
    assert len(BODY_PARTS_OF) == 62
    assert {part for parts in BODY_PARTS_OF.values() for part in parts} | JOINTS.keys() == set(BODY_PARTS) - {
        "Others",
        "Sinus",
    }
    assert {name for groups in JOINTS.values() for group in groups for name in group} <= BODY_PARTS_OF.keys()


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, set()),
        ({"humeri": 0.5, "thoracolumbar_spine": 0.2}, set()),
        ({"lungs": 0.3, "vertebra_c7": 0.004, "vertebra_t1": 0.02}, {"Chest", "Thoracic spine"}),
        ({f"rib_{number}": 0.001 for number in range(1, 13)}, {"Chest"}),
        ({"humeri": 0.2, "radii": 0.006, "ulnae": 0.006}, {"Elbow", "Forearm"}),
        ({"humeri": 0.2, "ulnae": 0.006}, set()),
        ({"femurs": 0.2, "tibiae": 0.1, "patellae": 0.005}, {"Knee", "Lower leg", "Thigh"}),
        ({"tarsals": 0.1, "toes": 0.1}, {"Ankle", "Feet"}),
        ({"hips": LEAST_SHARE}, {"Hip", "Pelvis"}),
        ({"hips": LEAST_SHARE * 0.99}, set()),
    ],
)
def test_an_image_has_the_body_parts_that_it_shows(shares, expected):
    assert names(**shares) == expected
