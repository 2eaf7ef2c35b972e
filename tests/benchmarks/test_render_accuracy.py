import json

import numpy as np
import pytest

from benchmarks import render_accuracy
from benchmarks._support.phantom import torso_phantom
from benchmarks.render_accuracy import FIGURES, TARGETS, VIEWS, intensity_errors, line_errors, misses, table
from carm_env.system.command_line import run_script

SMALL = ["--volume", "60x60x90", "--spacing", "7.5", "--size", "32", "--every", "4", "--step", "0.5"]


def script(*words):
    return run_script(render_accuracy.run, render_accuracy.Arguments, given=[str(word) for word in words])


def test_an_error_of_a_percent_is_a_percent():
    exact = np.random.default_rng(0).uniform(1, 4, (2, 8, 8))
    errors = line_errors(exact * 1.01, exact)
    assert errors["line_max"] == pytest.approx(0.01) and 0 < errors["line_mean"] < 0.01
    assert intensity_errors(exact[0] * 0.98, exact[0])["intensity_max"] == pytest.approx(0.02)


def test_one_bad_pixel_changes_the_maximum_but_hardly_the_mean():
    exact = np.ones((1000,))
    intensity = exact.copy()
    intensity[7] = 1.5
    errors = intensity_errors(intensity, exact)
    assert errors["intensity_max"] == pytest.approx(0.5) and errors["intensity_mean"] == pytest.approx(5e-4)
    assert errors["intensity_p99"] < 1e-9


def test_the_script_measures_every_view_and_fidelity(tmp_path, capsys):
    out = tmp_path / "a.json"
    assert script(*SMALL, "--json", out) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    (torso,) = result["volumes"].values()
    assert torso["voxels"] == [60, 60, 90] and torso["missed"] == misses(torso["errors"])
    assert list(torso["errors"]) == [view.name for view in VIEWS]
    for by_fidelity in torso["errors"].values():
        assert set(by_fidelity) == {"fast", "reference"}
        for errors in by_fidelity.values():
            assert set(errors) == set(FIGURES)
            assert 0 < errors["line_mean"] <= errors["line_max"] < 0.05
            assert errors["intensity_mean"] <= errors["intensity_p99"] <= errors["intensity_max"] < 0.2
    aligned = torso["errors"]["aligned"]
    assert aligned["reference"]["intensity_mean"] < 0.5 * aligned["fast"]["intensity_mean"]
    assert result["every"] == 4 and result["step_mm"] == 0.5 and result["run"]["date"]
    printed = capsys.readouterr().out
    assert "(<= 5.0e-03)" in printed and "oblique_35_25" in printed


def test_the_default_volumes_are_the_patient_and_the_torso(monkeypatch, tmp_path):
    measured = []
    errors = {view.name: {name: dict.fromkeys(FIGURES, 1e-6) for name in ("fast", "reference")} for view in VIEWS}

    def measure(patient, *arguments):
        measured.append((patient.id, arguments[-1]))
        return errors

    monkeypatch.setattr(render_accuracy, "measure", measure)
    monkeypatch.setattr(render_accuracy, "DEFAULT_TORSO", "20x20x30")
    assert script() == script("--landmark", "carina") == 0
    assert measured == [("virtual:0", None), ("torso:20x20x30", None), ("virtual:0", "carina")]


def test_a_wrong_projector_is_detected(monkeypatch):
    make = render_accuracy.make_projector

    class Wrong:
        def __init__(self, volume, fidelity):
            self.inner = make(volume, fidelity)

        def path_masses(self, geometry):
            return self.inner.path_masses(geometry) * np.float32(1.02)

    monkeypatch.setattr(render_accuracy, "make_projector", Wrong)
    figures = render_accuracy.measure(torso_phantom((60, 60, 90), 7.5), 32, 4, 0.5)
    assert figures["aligned"]["fast"]["line_max"] > 0.015
    assert any("aligned, reference: intensity_mean" in line for line in misses(figures))


def test_the_table_shows_targets_and_misses_are_described():
    good = {view.name: {name: dict.fromkeys(FIGURES, 1e-6) for name in ("fast", "reference")} for view in VIEWS}
    assert misses(good) == []
    assert "1.0e-06 (<= 2.5e-02)" in table(good)
    good["aligned"]["fast"]["intensity_max"] = 1.0
    assert misses(good) == ["aligned, fast: intensity_max is 1.0e+00, target 2.5e-02"]
    assert {view for view, _ in TARGETS} <= {view.name for view in VIEWS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--landmark", "carina", *SMALL], "landmark"),
        (["--every", "0"], "--every is 0"),
        (["--step", "5"], "--step is 5"),
        (["--volume", "60x60"], "--volume is '60x60'"),
        (["--spacing", "-1"], "--spacing is -1"),
    ],
)
def test_bad_arguments_are_reported(words, message, script_error):
    assert message in script_error(render_accuracy, *words)
