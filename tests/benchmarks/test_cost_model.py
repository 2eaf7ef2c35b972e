import json
from pathlib import Path

import pytest

from benchmarks import cost_model, dataset_speed
from benchmarks.cost_model import Arguments, Measured, estimate, read_measured
from carm_env.patients.reference import PatientRef
from carm_env.system.command_line import run_script

MEASURED = Measured(30.0, 36e6, 0.004, 1e4, 9e3, 0.8)


def run(*words):
    return run_script(cost_model.run, Arguments, given=[str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    """The flags that name small result files."""
    views = [{"size": 64, "view_ms": 4.0, "parquet_bytes": 1e4, "npz_bytes": 9e3}]
    speed, workers = tmp_path / "dataset.json", tmp_path / "workers.json"
    speed.write_text(json.dumps({"build_s": 30.0, "patient_bytes": 36e6, "views": views}), encoding="utf-8")
    policies = {"a": {"quiet": {"ratio": 1.6}}, "b": {"quiet": {"ratio": 1.9}}}
    workers.write_text(json.dumps({"workers": 2, "policies": policies}), encoding="utf-8")
    return ["--dataset-speed", speed, "--workers-speed", workers, "--size", 64]


def test_core_hours_and_bytes_follow_the_formulas():
    found = estimate(10**9, 1024, MEASURED)
    assert found.patients == 976_563
    assert found.core_hours == pytest.approx((976_563 * 30 + 10**9 * 0.004) / 0.8 / 3600)
    assert found.parquet_bytes == 10**13 and found.npz_bytes == 9 * 10**12 and found.patient_bytes == 976_563 * 36e6
    assert found.hours is None and found.cost is None
    twice = estimate(2 * 10**9, 2048, MEASURED, cores=10, price=0.5)
    assert twice.patients == found.patients and twice.build_core_hours == found.build_core_hours
    assert twice.view_core_hours == 2 * found.view_core_hours
    assert twice.hours == twice.core_hours / 10 and twice.cost == twice.core_hours / 2


def test_figures_are_read_from_the_results(files, tmp_path, capsys):
    assert read_measured(files[1], files[3], 64) == MEASURED
    assert run(*files, "--json", tmp_path / "cost.json") == 0
    output = capsys.readouterr().out
    assert "976,563" in output and "cost" not in output and "hours |" not in output
    written = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    assert [item["views"] for item in written["estimates"]] == [10**6, 10**7, 10**9]
    assert "cost" not in written["estimates"][0] and written["measured"]["build_s"] == 30 and written["run"]["date"]
    assert run(*files, "--price-per-core-hour", "0.5", "--cores", 64) == 0
    assert "| hours" in (output := capsys.readouterr().out) and "| cost" in output


def test_the_results_in_the_repository_are_read(capsys):
    assert run() == 0
    assert "976,563" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "65"], "--size is 65, expected one of: 64."),
        (["--views", "0"], "--views is (0,)"),
        (["--views-per-patient", "0"], "--views-per-patient is 0"),
        (["--price-per-core-hour", "-1"], "--price-per-core-hour is -1"),
        (["--dataset-speed", "absent.json"], "absent.json"),
    ],
)
def test_bad_input_is_named(words, message, files, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["cost_model.py"])
        try:
            status = run(*files, *words)
        except SystemExit as error:
            status = error.code
    assert status == 2 and message in capsys.readouterr().err


def test_a_file_of_another_script_is_refused(files, capsys):
    Path(files[3]).write_text('{"policies": []}', encoding="utf-8")
    assert run(*files) == 2
    assert "is not the result of benchmarks/dataset_speed.py or workers_speed.py" in capsys.readouterr().err


def test_time_and_bytes_of_a_dataset_are_measured(small_patients, tmp_path, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(dataset_speed, "build_patient", built.append)
    monkeypatch.setattr(dataset_speed, "prepare_patients", lambda refs, workers: None)
    folder = tmp_path / "patient"
    folder.mkdir()
    (folder / "volume.npy").write_bytes(b"0" * 1000)
    monkeypatch.setattr(PatientRef, "folder", folder)
    builds = dataset_speed.measure_builds([PatientRef.parse("virtual:1000"), PatientRef.parse("virtual:1001")])
    assert [patient.seed for patient in built] == [1000, 1001] and builds["patient_bytes"] == 1000
    monkeypatch.undo()
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    row = dataset_speed.measure_views([PatientRef.parse(name) for name in small_patients[:2]], 16, 32)
    assert row["size"] == 32 and row["view_ms"] > 0 and 100 < row["npz_bytes"] < row["parquet_bytes"] < 10_000
    with pytest.raises(ValueError, match="'imported:one', expected virtual patients"):
        dataset_speed.Arguments(patients=small_patients[:1])
