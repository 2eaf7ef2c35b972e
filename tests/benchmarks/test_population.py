import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import population
from benchmarks.population import Arguments, compare_coordinates, energy_test, pose_patients, run
from carm_env.anatomy.layout import annotated_layouts_mm, landmark_layout

ANNOTATIONS = Path(__file__).parents[3] / "shared/reference/carm_llm/data/classification.csv"


def sample(count: int, seed: int = 0) -> np.ndarray:
    """Layouts ``(count, 14, 2)`` drawn from the mean and covariance of the annotated patients."""
    reference = landmark_layout()
    rng = np.random.default_rng(seed)
    rows = rng.multivariate_normal(
        reference.mean_mm.ravel(), reference.covariance_mm2, count, method="eigh", check_valid="ignore"
    )
    return rows.reshape(count, -1, 2)


def test_coordinates_of_the_same_population_pass_and_of_another_fail():
    layouts = sample(2000)
    assert all(check.passes for check in compare_coordinates(layouts, landmark_layout()))
    wider = compare_coordinates(1.5 * layouts, landmark_layout())
    assert not any(check.passes for check in wider if abs(check.reference_mean_mm) > 20)


def test_the_energy_test_rejects_another_population_and_not_the_same():
    rng = np.random.default_rng(0)
    first, same, other = (rng.normal(shift, 1.0, (80, 5)) for shift in (0.0, 0.0, 0.6))
    assert energy_test(first, same)[1] > 0.05
    assert energy_test(first, other)[1] <= 0.01


def test_the_script_prints_and_writes_every_figure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(population, "pose_patients", lambda count, seed, workers: sample(count, seed))
    status = run(Arguments(patients=24, json=tmp_path / "p.json"))
    written = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert len(written["coordinates"]) == 28
    assert {"mean_mm", "deviation_mm", "reference_deviation_mm", "passes"} < set(written["coordinates"][0])
    passed = all(item["passes"] for item in written["coordinates"]) and written["energy"]["p"] > 0.01
    assert status == (0 if passed else 1)
    printed = capsys.readouterr().out
    assert "Left hemidiaphragm" in printed and "published mean and covariance" in printed


def test_patients_are_posed_in_the_order_of_their_seeds():
    one, two = pose_patients(2, seed=5, workers=1)
    np.testing.assert_array_equal(pose_patients(1, seed=6, workers=1)[0], two)
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    "arguments", [["--patients", "3"], ["--patients", "30", "--seed", "0"], ["--patients", "30", "--workers", "0"]]
)
def test_invalid_arguments_are_errors(arguments, script_error):
    assert "expected at least" in script_error(population, *arguments)


@pytest.mark.slow
def test_five_hundred_patients_match_the_annotated_ones():
    assert all(check.passes for check in compare_coordinates(pose_patients(500), landmark_layout()))


@pytest.mark.slow
@pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="the authors' annotations (../shared) are not here")
def test_virtual_patients_are_not_distinguished_from_the_annotated_ones():
    rows = annotated_layouts_mm(ANNOTATIONS)
    assert energy_test(pose_patients(168).reshape(168, -1), rows.reshape(len(rows), -1))[1] > 0.01
