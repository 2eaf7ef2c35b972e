import csv
from pathlib import Path

import numpy as np
import pytest

from carm_env.anatomy.layout import landmark_layout, layout_from_csv

ANNOTATIONS = Path(__file__).parents[4] / "shared/reference/carm_llm/data/classification.csv"


def test_the_layout_is_that_of_a_supine_person_with_crossed_arms():
    layout = landmark_layout()
    left, cranial = layout.relative_mm("skull")
    assert abs(left) < 15 and 200 < cranial < 260
    assert layout.relative_mm("right humeral head")[0] < -100 < 100 < layout.relative_mm("left humeral head")[0]
    assert layout.relative_mm("right wrist")[0] > 0 > layout.relative_mm("left wrist")[0]
    assert np.linalg.eigvalsh(layout.covariance_mm2).min() > -1


def test_statistics_are_computed_from_complete_patients_only(tmp_path):
    path = tmp_path / "c.csv"
    rng = np.random.default_rng(0)
    shift = {"a": 0.0, "b": 500.0}
    rows = [(case, i, 10 * i + shift[case], rng.normal()) for case in "ab" for i in range(1, 15)]
    rows.append(("incomplete", 1, 0.0, 0.0))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case_number", "landmark", "x_ct", "y_ct"])
        writer.writerows(rows)
    layout = layout_from_csv(path)
    assert layout.patients == 2
    # x_ct grows caudally; the shift of the whole patient drops out.
    np.testing.assert_allclose(np.diff(layout.mean_mm[:, 1]), -10)


@pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="the authors' annotations (../shared) are not here")
def test_the_shipped_statistics_are_those_of_the_annotations():
    fresh, shipped = layout_from_csv(ANNOTATIONS), landmark_layout()
    np.testing.assert_allclose(fresh.mean_mm, shipped.mean_mm, atol=0.05)
    np.testing.assert_allclose(fresh.covariance_mm2, shipped.covariance_mm2, atol=0.05)
    assert fresh.patients == shipped.patients
