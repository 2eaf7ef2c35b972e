"""Images that the router is trained and measured on."""

import numpy as np
import pytest

from policies.routing.made_images import FRONTAL, INVERTED, REGIONS, frontal_views, inverted_views, workspace_views


def test_inverted_views_are_of_each_region_and_from_anywhere(small_patients):
    name, count = small_patients[0], 2
    found = list(inverted_views(name, count, 0))
    assert len(found) == count * len(REGIONS) + 2 * count
    assert {(one.modality, one.finding, one.group) for one in found} == {(FRONTAL, INVERTED, name)}
    # Each is drawn from another pose.
    assert len({one.image.tobytes() for one in found}) == len(found)


def test_the_background_of_inverted_views_is_bright(small_patients):
    def typical_grey(images):
        return np.mean([np.quantile(one.image, 0.5) for one in images])

    bright, dark = inverted_views(small_patients[0], 3, 1), workspace_views(small_patients[0], 6, 1)
    assert typical_grey(bright) > typical_grey(dark)


@pytest.mark.parametrize("make", [frontal_views, workspace_views, inverted_views])
def test_equal_seeds_give_equal_images(small_patients, make):
    first, second, other = (list(make(small_patients[0], 1, seed)) for seed in (3, 3, 4))
    assert [one.image.tobytes() for one in first] == [one.image.tobytes() for one in second]
    assert [one.image.tobytes() for one in first] != [one.image.tobytes() for one in other]
