import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carm_env.envs.scene import load_scene
from carm_env.geometry import CArmPose, ProjectionGeometry
from carm_env.landmarks import LANDMARKS
from carm_env.patients.separation import SharedPersonError
from carm_env.system.errors import UnknownNameError
from carm_env.system.locks import BusyError
from carm_env.system.output_folders import lock_output
from carm_env.views.read import LazyImages, ViewDatasetError, read_views
from carm_env.views.sample import AUGMENTATIONS, ViewOptions, draw_isocenters, label_view, render_views
from carm_env.views.write import write_view_dataset

pytest.importorskip("pyarrow")
PAPER = Path(__file__).parents[4] / "shared/reference/carm_llm/data/test.csv"
FEW = ViewOptions(views_per_patient=12, size=32)


def reference_labels(patient, pose, size, geometry):
    """Computes labels one landmark at a time."""
    projection = ProjectionGeometry.from_pose(pose, geometry, size)
    x, _, z = pose.isocenter_lps_mm
    rows = {}
    for item in LANDMARKS:
        point = patient.landmarks_lps_mm.get(item.id)
        if point is not None:
            u, v = projection.project(point)
            rows[item.id] = (point[0] - x, point[2] - z, u, v)
    order = sorted(rows, key=lambda key: (np.hypot(*rows[key][:2]), key))
    return rows, tuple(order[:3])


def test_labels_equal_a_slow_reference(small_patients):
    for name in small_patients[:2]:
        scene = load_scene(name)
        for view in render_views(name, ViewOptions(views_per_patient=20, size=64)):
            rows, closest = reference_labels(scene.patient, view.pose, 64, scene.camera.geometry)
            assert view.labels.closest_landmarks == closest
            for key, (left, up, u, v) in rows.items():
                np.testing.assert_allclose(view.labels.displacement_mm[key - 1], [left, up], atol=1e-6)
                np.testing.assert_allclose(view.labels.pixels[key - 1], [u, v])
                assert view.labels.visible[key - 1] == (-0.5 < u < 63.5 and -0.5 < v < 63.5)


def test_a_share_of_the_views_is_drawn_around_landmarks(small_patients):
    plain = list(render_views(small_patients[0], ViewOptions(40, 16)))
    half = list(render_views(small_patients[0], ViewOptions(40, 16, near_share=0.5, near_landmarks=(10, 11))))
    again = list(render_views(small_patients[0], ViewOptions(40, 16, near_share=0.5, near_landmarks=(10, 11))))

    def is_near(view):
        return np.hypot(*view.labels.displacement_mm[[9, 10]].T).min() < 75.5

    moved = [before.pose != after.pose for before, after in zip(plain, half, strict=True)]
    assert 10 <= sum(moved) <= 30
    assert all(is_near(view) for view, was_moved in zip(half, moved, strict=True) if was_moved)
    assert sum(map(is_near, half)) > sum(map(is_near, plain))
    assert all(
        one.pose == other.pose and (one.image == other.image).all() for one, other in zip(half, again, strict=True)
    )
    workspace = load_scene(small_patients[0]).patient.workspace_mm
    points = np.array([view.pose.isocenter_lps_mm for view in half])[:, [0, 2]]
    assert (points >= workspace[0] - 1e-6).all() and (points <= workspace[1] + 1e-6).all()


def test_options_of_views_around_landmarks():
    assert "near_share" not in ViewOptions().to_json() and "near_landmarks" not in ViewOptions().to_json()
    options = ViewOptions(near_share=0.3, near_landmarks=("carina", 4))
    assert options.near_landmarks == (11, 4)
    assert options.to_json()["near_share"] == 0.3 and options.to_json()["near_landmarks"] == [11, 4]
    with pytest.raises(ValueError, match=r"near_share is 1.5, expected 0 to 1"):
        ViewOptions(near_share=1.5, near_landmarks=(4,))
    with pytest.raises(ValueError, match="near_share is 0.5, but near_landmarks is empty"):
        ViewOptions(near_share=0.5)
    with pytest.raises(UnknownNameError, match="knee"):
        ViewOptions(near_landmarks=("knee",))


def test_views_with_a_deeper_isocentre_show_more_and_keep_their_displacements(small_patients):
    plain, deep = (
        list(render_views(small_patients[0], ViewOptions(8, 32, angles_deg=20.0, isocenter_depth_mm=depth)))
        for depth in (0.0, 120.0)
    )
    for near, far in zip(plain, deep, strict=True):
        assert far.labels.closest_landmarks == near.labels.closest_landmarks
        np.testing.assert_allclose(far.labels.displacement_mm, near.labels.displacement_mm, atol=1e-9)
        assert np.linalg.norm(np.subtract(far.pose.isocenter_lps_mm, near.pose.isocenter_lps_mm)) == pytest.approx(120)
    assert sum(view.labels.visible.sum() for view in deep) > sum(view.labels.visible.sum() for view in plain)


def test_datasets_without_a_depth_have_the_isocentre_at_mid_depth(small_patients, tmp_path):
    options = replace(FEW, isocenter_depth_mm=0.0)
    write_view_dataset(tmp_path, {"test": small_patients[:1]}, options, workers=1)
    description = json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))
    assert description["options"].pop("isocenter_depth_mm") == 0
    (tmp_path / "views.json").write_text(json.dumps(description), encoding="utf-8")
    write_view_dataset(tmp_path, {"test": small_patients[:1]}, options, workers=1)
    with pytest.raises(ViewDatasetError, match="other options"):
        write_view_dataset(tmp_path, {"test": small_patients[:1]}, FEW, workers=1)


@pytest.mark.skipif(not PAPER.is_file(), reason="needs the authors' test.csv in ../shared")
def test_closest_landmarks_have_the_format_of_the_authors(small_patients):
    with PAPER.open(newline="", encoding="utf-8") as file:
        theirs = [json.loads(row["top3_landmarks"]) for row in csv.DictReader(file)]
    ours = [json.loads(json.dumps(view.labels.closest_landmarks)) for view in render_views(small_patients[0], FEW)]
    for answers in (theirs, ours):
        assert all(len(set(ids)) == 3 and set(ids) <= {item.id for item in LANDMARKS} for ids in answers)
    assert len({ids[0] for ids in theirs}) == len(LANDMARKS)


def test_isocenters_are_dense_and_reproducible(small_patients):
    patient = load_scene(small_patients[0]).patient
    poses = draw_isocenters(patient, 256, 0)
    np.testing.assert_array_equal(poses, draw_isocenters(patient, 256, 0))
    assert not np.array_equal(poses, draw_isocenters(patient, 256, 1))
    low, high = patient.workspace_mm
    across = poses[:, [0, 2]]
    assert ((across >= low) & (across <= high)).all()
    assert (poses[:, 1] == patient.mid_depth_mm).all()
    counts, _, _ = np.histogram2d(*across.T, bins=4)
    assert counts.min() >= 6


@pytest.mark.parametrize("share", [0.3, 0.1])
def test_a_patient_that_fills_little_of_the_workspace_gets_all_views(small_patients, monkeypatch, share):
    patient = load_scene(small_patients[0]).patient
    low, high = patient.workspace_mm
    limit = low[0] + share * (high[0] - low[0])
    monkeypatch.setattr(type(patient), "covers", lambda self, x, z: x < limit)
    poses = draw_isocenters(patient, 256, 0)
    assert len(poses) == 256 and (poses[:, 0] < limit).all()
    monkeypatch.setattr(type(patient), "covers", lambda self, x, z: False)
    with pytest.raises(ValueError, match="covers hardly any of its workspace"):
        draw_isocenters(patient, 16, 0)


def test_an_absent_landmark_has_no_label(small_patients):
    scene = load_scene(small_patients[0])
    from carm_env.patient import Patient

    points = {key: point for key, point in scene.patient.landmarks_lps_mm.items() if key in (3, 7)}
    patient = Patient("imported:less", scene.patient.volume, points)
    pose = CArmPose((200.0, 96.0, 200.0))
    labels = label_view(patient, pose, ProjectionGeometry.from_pose(pose, scene.camera.geometry, 32))
    assert set(labels.closest_landmarks) == {3, 7}
    assert np.isnan(labels.displacement_mm[0]).all()
    assert not labels.visible[0]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_change_images_but_not_poses(small_patients, name):
    plain = list(render_views(small_patients[0], ViewOptions(8, 48, augment=())))
    changed = list(render_views(small_patients[0], ViewOptions(8, 48, augment=(name,))))
    assert [view.pose for view in plain] == [view.pose for view in changed]
    assert any((one.image != two.image).any() for one, two in zip(plain, changed, strict=True))


def test_domain_randomisation_moves_pixels_and_keeps_displacements(small_patients):
    plain = list(render_views(small_patients[0], ViewOptions(16, 48)))
    views = list(render_views(small_patients[0], ViewOptions(16, 48, augment=("domain",))))
    assert [view.image.tobytes() for view in views] == [
        view.image.tobytes() for view in render_views(small_patients[0], ViewOptions(16, 48, augment=("domain",)))
    ]
    for one, two in zip(plain, views, strict=True):
        np.testing.assert_array_equal(one.labels.displacement_mm, two.labels.displacement_mm)
        assert one.labels.closest_landmarks == two.labels.closest_landmarks
        assert (one.labels.pixels != two.labels.pixels).any() and set(two.technique["domain"]) >= {"rotation_deg"}
    none = render_views(small_patients[0], ViewOptions(16, 48, augment=("domain",), domain_severity=0.0))
    for one, two in zip(plain, none, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.labels.pixels, two.labels.pixels)
        np.testing.assert_array_equal(one.labels.visible, two.labels.visible)
        assert two.technique == {"domain": {}}


def test_options_name_the_domain_only_if_it_is_drawn(small_patients, tmp_path):
    assert not any(name.startswith("domain") for name in FEW.to_json())
    options = ViewOptions(4, 32, augment=("noise", "domain"), domain_severity=0.5, domain_groups=("window",))
    assert options.to_json()["domain_groups"] == ["window"]
    write_view_dataset(tmp_path, {"train": [f"{small_patients[0]}?scan=1"]}, options, 1)
    assert read_views(tmp_path, "train").names == (f"{small_patients[0]}?scan=1",)
    with pytest.raises(UnknownNameError, match="geometry"):
        ViewOptions(domain_groups=("kernel",))


def test_angles_are_drawn_within_their_limit(small_patients):
    views = list(render_views(small_patients[0], ViewOptions(24, 32, angles_deg=30.0)))
    angles = np.array([(view.pose.alpha_deg, view.pose.beta_deg) for view in views])
    assert (np.abs(angles) <= 30).all() and (np.abs(angles).max(0) > 15).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views_per_patient": 0}, "views_per_patient is 0"),
        ({"size": 4}, "image size is 4"),
        ({"angles_deg": 60}, "angles_deg is 60"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViewOptions(**options)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UnknownNameError, match="noise"):
        ViewOptions(augment=("nois",))


def test_a_dataset_is_reproducible_completed_and_read_by_datasets(small_patients, tmp_path, capsys):
    splits = {"train": small_patients[:2], "test": small_patients[2:3]}
    paths = write_view_dataset(tmp_path / "a", splits, FEW, 1)
    again = write_view_dataset(tmp_path / "b", splits, FEW, 1)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    described = json.loads((tmp_path / "a" / "views.json").read_text(encoding="utf-8"))
    assert described["geometry"]["source_detector_mm"] == 1020 and described["options"]["size"] == 32
    paths[1].write_bytes(b"cut short")
    kept = paths[0].stat().st_mtime_ns
    write_view_dataset(tmp_path / "a", splits, FEW, 1)
    assert paths[1].read_bytes() == again[1].read_bytes()
    assert paths[0].stat().st_mtime_ns == kept

    views = read_views(tmp_path / "a", "train")
    direct = [view for name in views.names for view in render_views(name, FEW)]
    np.testing.assert_array_equal(views.images, np.stack([view.image for view in direct]))
    np.testing.assert_array_equal(views.closest_landmarks, [view.labels.closest_landmarks for view in direct])
    assert len(views) == 24 and set(views.patients) == {0, 1}

    datasets = pytest.importorskip("datasets")
    later = read_views(tmp_path / "a", "train", lazily=True)
    assert later.images.shape == views.images.shape and len(later) == len(views)
    np.testing.assert_array_equal(later.images[3], views.images[3])
    np.testing.assert_array_equal(later.images[np.array([20, 1])], views.images[[20, 1]])
    np.testing.assert_array_equal(later.images[2:5], views.images[2:5])
    np.testing.assert_array_equal(later.displacement_mm, views.displacement_mm)
    with pytest.raises(ViewDatasetError, match="cannot be read"):
        LazyImages([tmp_path / "a" / "README.md"], 32)
    files = {split: str(tmp_path / "a" / "data" / split / "*.parquet") for split in splits}
    lazily = datasets.load_dataset("parquet", data_files=files, split="test", streaming=True)
    row = next(iter(lazily))
    assert row["image"].size == (32, 32)
    assert len(row["displacement_mm"]) == 14


@pytest.mark.parametrize("damage", ["empty", "half", "no parquet", "flipped", "flipped footer"])
def test_a_damaged_file_is_refused_by_readers_and_rendered_again(small_patients, tmp_path, capsys, damage):
    (path,) = write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    whole = path.read_bytes()
    at = {"flipped": len(whole) // 3, "flipped footer": len(whole) - 5}.get(damage, 0)
    flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "no parquet": b"text"}.get(damage, flipped))
    with pytest.raises(ViewDatasetError, match="remove it and render again"):
        read_views(tmp_path / "a", "train")
    (path.parent / f".{path.name}.unfinished-01234567.parquet").touch()
    write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    assert path.read_bytes() == whole and "is damaged and rendered again" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == [path], "no hidden file is left"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("closest_landmarks", [99]),
        ("closest_landmarks", [-1, 2, 3]),
        ("closest_landmarks", []),
        ("closest_landmarks", [1, 2, 3, 4]),
        ("displacement_mm", [[1.0, 2.0]]),
        ("displacement_mm", [[float("inf"), 0.0]] * 14),
        ("isocenter_lps_mm", [float("nan"), 0.0, 0.0]),
        ("visible", [True]),
        ("image", {"bytes": b"no image", "path": "x.png"}),
        ("image", None),
    ],
)
def test_wrong_values_are_refused(small_patients, tmp_path, column, value):
    from pyarrow import Table, parquet

    (path,) = write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    table = parquet.read_table(path)
    rows = table.to_pylist()
    rows[3][column] = value
    parquet.write_table(Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ViewDatasetError, match="remove it and render again"):
        read_views(tmp_path / "a", "train")


@pytest.mark.parametrize("files", [3, "x", {"train": 3}, {"train": [3]}, {"train": ["../x"]}, {"train": "x"}, None])
def test_a_damaged_description_is_refused_and_nothing_is_overwritten(small_patients, tmp_path, files):
    (path,) = write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    description = json.loads((tmp_path / "a" / "views.json").read_text(encoding="utf-8"))
    (tmp_path / "a" / "views.json").write_text(json.dumps({**description, "files": files}), encoding="utf-8")
    with pytest.raises(ViewDatasetError, match="is not a dataset of views"):
        read_views(tmp_path / "a", "train")
    with pytest.raises(ViewDatasetError, match="remove .* and render again"):
        write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    assert path.exists()


def test_a_folder_has_one_writer(small_patients, tmp_path):
    with lock_output(tmp_path / "a", "--out"), pytest.raises(BusyError, match="--out"):
        write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)


def test_files_of_other_patients_are_not_read(small_patients, tmp_path):
    # A patient that moves from train to test, or is built again, must not be read twice.
    write_view_dataset(tmp_path / "a", {"train": small_patients[:3]}, FEW, 1)
    write_view_dataset(tmp_path / "a", {"train": small_patients[:1], "test": small_patients[1:2]}, FEW, 1)
    assert read_views(tmp_path / "a", "train").names == (small_patients[0],)
    assert read_views(tmp_path / "a", "test").names == (small_patients[1],)
    datasets = pytest.importorskip("datasets")
    assert len(datasets.load_dataset(str(tmp_path / "a"), split="train", cache_dir=str(tmp_path / "hf"))) == 12


@pytest.mark.parametrize("limit", [1, 12, 15, 99])
def test_only_the_patients_of_the_first_views_are_built_and_rendered(small_patients, tmp_path, limit):
    everything = write_view_dataset(tmp_path / "all", {"train": small_patients[:3]}, FEW, 1)
    paths = write_view_dataset(tmp_path / "few", {"train": small_patients[:3]}, FEW, 1, max_views={"train": limit})
    assert [path.name for path in paths] == [path.name for path in everything[: -(-limit // 12)]]
    few, first = read_views(tmp_path / "few", "train"), read_views(tmp_path / "all", "train", max_views=limit)
    assert len(few) == len(first) == min(limit, 36) and few.names == first.names
    np.testing.assert_array_equal(few.images, first.images)
    np.testing.assert_array_equal(few.pixels, first.pixels)
    pytest.importorskip("datasets")
    lazy = read_views(tmp_path / "all", "train", lazily=True, max_views=limit)
    np.testing.assert_array_equal(lazy.images[:], first.images)
    # A longer run renders the rest.
    assert write_view_dataset(tmp_path / "few", {"train": small_patients[:3]}, FEW, 1)
    assert len(read_views(tmp_path / "few", "train")) == 36


def test_splits_are_written_one_after_the_other(small_patients, tmp_path):
    write_view_dataset(tmp_path / "a", {"train": small_patients[:3]}, FEW, 1)
    write_view_dataset(tmp_path / "a", {"test": small_patients[2:]}, FEW, 1)
    assert read_views(tmp_path / "a", "train").names == small_patients[:2]
    assert read_views(tmp_path / "a", "test").names == small_patients[2:]
    with pytest.raises(ValueError, match="max_views of the split 'test' is 0"):
        write_view_dataset(tmp_path / "a", {"test": small_patients[2:]}, FEW, 1, max_views={"test": 0})


def test_a_person_of_a_split_that_is_trained_on_is_in_no_other(small_patients, tmp_path):
    one, two, three, _ = small_patients
    for splits in ({"train": [one], "test": [f"{one}?scan=1"]}, {"train": [f"{one}?scan=2"], "calibration": [one]}):
        with pytest.raises(SharedPersonError, match=f"{one}.* of train and {one}"):
            write_view_dataset(tmp_path / "b", splits, FEW, 1)
    assert not (tmp_path / "b").exists()
    write_view_dataset(tmp_path / "a", {"train": [one, two]}, FEW, 1)
    write_view_dataset(tmp_path / "a", {"calibration": [f"{one}?scan=slice_mm:8"]}, FEW, 1)
    assert read_views(tmp_path / "a", "train").names == (two,)
    # Splits that no model is trained on may share people.
    write_view_dataset(tmp_path / "a", {"test": [three], "thick": [f"{three}?scan=slice_mm:8"]}, FEW, 1)
    write_view_dataset(tmp_path / "a", {"sharp": [f"{three}?scan=kernel:sharp"]}, FEW, 1)
    assert read_views(tmp_path / "a", "test").names == (three,)


def test_another_dataset_is_not_overwritten(small_patients, tmp_path):
    write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, FEW, 1)
    with pytest.raises(ViewDatasetError, match="other options"):
        write_view_dataset(tmp_path / "a", {"train": small_patients[:1]}, ViewOptions(12, 48), 1)
    with pytest.raises(SharedPersonError, match="in two splits"):
        write_view_dataset(tmp_path / "b", {"train": small_patients[:1], "test": small_patients[:2]}, FEW, 1)
    with pytest.raises(ViewDatasetError, match="no split 'tset', expected one of: train"):
        read_views(tmp_path / "a", "tset")
    with pytest.raises(ViewDatasetError, match="is not a dataset of views"):
        read_views(tmp_path / "absent", "train")
    (tmp_path / "a" / "views.json").write_text('{"format": 99, "options": {}}', encoding="utf-8")
    with pytest.raises(ViewDatasetError, match="format 99"):
        read_views(tmp_path / "a", "train")


def test_the_command_renders(small_patients, tmp_path, capsys):
    from carm_env.cli import main

    arguments = ["render-dataset", "--out", str(tmp_path / "d"), "--views-per-patient", "4", "--size", "32"]
    assert main([*arguments, "--split", f"train={small_patients[0]}", f"test={small_patients[1]}"]) == 0
    assert "2 patients, 8 views" in capsys.readouterr().out
    assert main([*arguments, "--split", "train=hed"]) == 2
    assert main([*arguments, "--split", "train"]) == 2
