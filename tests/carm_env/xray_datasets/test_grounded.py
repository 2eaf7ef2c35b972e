import numpy as np
import pytest

from carm_env.xray_datasets.box_fusion import fuse_boxes
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence, check_box, check_reports
from carm_env.xray_datasets.labelled import DatasetError


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.1, 0.2, 0.3), "expected four numbers"),
        ((0.1, 0.2, "x", 0.4), "expected four numbers"),
        ((0.1, 0.2, float("nan"), 0.4), "expected four numbers"),
        ((0.1, 0.2, 1.3, 0.4), "outside of the image"),
        ((12, 20, 130, 140), "divide pixels"),
        ((0.5, 0.2, 0.3, 0.4), "inverted or empty"),
        ((0.1, 0.2, 0.3, 0.2), "inverted or empty"),
    ],
)
def test_bad_boxes_are_named(box, message):
    with pytest.raises(DatasetError, match=message):
        check_box(box, "r.json, sentence 2")


def test_empty_reports_are_named():
    with pytest.raises(DatasetError, match="a sentence is empty"):
        GroundedSentence("  ")
    with pytest.raises(DatasetError, match="image-7: the report is empty"):
        GroundedReport("image-7", "patient", ())
    with pytest.raises(DatasetError, match="holds no report"):
        check_reports([], "folder")


def test_duplicate_boxes_become_their_mean():
    pytest.importorskip("ensemble_boxes")
    twice = [(0.1, 0.1, 0.5, 0.5), (0.12, 0.1, 0.52, 0.5), (0.7, 0.7, 0.9, 0.9)]
    merged = fuse_boxes(twice)
    assert np.allclose(merged, [(0.11, 0.1, 0.51, 0.5), (0.7, 0.7, 0.9, 0.9)], atol=1e-6)
    assert fuse_boxes(twice[:1]) == (twice[0],) and fuse_boxes([]) == ()
    assert fuse_boxes([(0.0, 0.0, 1.0, 1.0)] * 3) == ((0.0, 0.0, 1.0, 1.0),)
