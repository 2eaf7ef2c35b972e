"""Learned policies: checkpoints, the classifier, conformal regions, agents."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.actions import Move, MoveLattice
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.reports.view_facts import region_half_mm
from policies import make_policy
from policies.belief import AtlasBelief
from policies.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint
from policies.conformal import ConformalPolicy, DisplacementRegressor
from policies.features import N_FEATURES, DisplacementTracker, TargetFeatures
from policies.localizers import make_localizer
from policies.networks import ARCHITECTURES, DisplacementNetwork, as_input, build_classifier
from policies.regions import (
    LEVELS,
    Prediction,
    calibrate,
    levels_for_new_patients,
    mixture,
    nonconformity,
    probability_closest,
    probability_within,
)
from policies.resnet import local_contrast

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    config = {"kind": "cnn", "architecture": "tiny", "image_size": 32, "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}
    save_checkpoint(tmp_path / "cnn", config, build_classifier("tiny").state_dict(), "# card")
    return tmp_path / "cnn"


@pytest.fixture
def ensemble(tmp_path):
    torch.manual_seed(0)
    tensors = {
        f"{number}.{name}": value
        for number in range(2)
        for name, value in DisplacementNetwork("tiny").state_dict().items()
    }
    config = {
        "kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 2, "levels": [0.9, 0.95, 0.97],
        "radius": np.full((3, 14), 2.0).tolist(), "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM,
    }  # fmt: skip
    save_checkpoint(tmp_path / "conformal", config, tensors, "# card")
    return tmp_path / "conformal"


def test_the_large_network_is_a_resnet34():
    network = build_classifier("resnet34")
    assert 21.0 < sum(value.numel() for value in network.parameters()) / 1e6 < 21.6
    small = build_classifier("small")
    assert 0.5 < sum(value.numel() for value in small.parameters()) / 1e6 < 1.0


@pytest.mark.parametrize("name", ["tiny", "small", "medium_contrast", "lofi"])
def test_networks_have_the_outputs_of_their_architecture(name):
    images = as_input(np.zeros((2, 64, 64, 1), np.uint8), ARCHITECTURES[name].image_size)
    assert build_classifier(name)(images)[0].shape == (2, N_LANDMARKS)
    mean, log_std = DisplacementNetwork(name)(images)
    assert mean.shape == log_std.shape == (2, N_LANDMARKS, 2)


def test_local_contrast_raises_faint_edges_and_ignores_exposure():
    columns = torch.arange(96.0)
    ramp = (0.02 * columns).expand(1, 1, 96, 96).clone()
    strong, faint = ramp.clone(), ramp.clone()
    strong[..., 40:43] += 3.0
    faint[..., 40:43] += 0.3
    at = [local_contrast(image)[0, 0, 48, 41].item() for image in (strong, faint)]
    # The faint step is a tenth of the strong one in the image, and more than half of it here.
    assert 0.5 * at[0] < at[1] < at[0] < 4.001
    np.testing.assert_allclose(local_contrast(strong + 5.0), local_contrast(strong), atol=1e-3)
    # Weak contrast is not fully compensated.
    np.testing.assert_allclose(local_contrast(0.7 * strong), local_contrast(strong), atol=0.2)
    assert float(local_contrast(torch.full((2, 1, 50, 50), 3.0)).abs().max()) < 1e-3


def test_a_displacement_network_with_a_zero_head_predicts_the_middle():
    network = DisplacementNetwork("tiny")
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    mean, _ = network(torch.zeros(1, 1, 64, 64))
    np.testing.assert_allclose(mean.detach(), 0, atol=1e-6)


def test_the_cnn_policy_ranks_and_moves(classifier):
    policy = make_policy(f"cnn:{classifier}")
    policy.reset(0)
    info = {"target_landmark": 4, "moved_mm": np.zeros(2)}
    decision = policy.act({"image": np.full((40, 40, 1), 90, np.uint8)}, info)
    assert len(set(decision.closest_landmarks)) == 3
    assert 0 < decision.confidence <= 1
    policy.reset(0)
    assert policy.act(np.full((40, 40, 1), 90, np.uint8), info).move == decision.move


def test_pickles_and_weights_of_another_architecture_are_refused(classifier, tmp_path):
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="can run any code"):
        make_policy(f"cnn:{tmp_path / 'weights.pt'}")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        make_policy(f"cnn:{tmp_path / 'absent'}")
    with pytest.raises(CheckpointError, match="of kind 'cnn', format 1, expected 'conformal'"):
        make_policy(f"conformal:{classifier}")
    config = json.loads((classifier / "config.json").read_text(encoding="utf-8"))
    (classifier / "config.json").write_text(json.dumps({**config, "architecture": "small"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="of another architecture"):
        make_policy(f"cnn:{classifier}")
    (classifier / "config.json").write_text(json.dumps({**config, "architecture": "smal"}), encoding="utf-8")
    with pytest.raises(ValueError, match="Did you mean 'small'"):
        make_policy(f"cnn:{classifier}")
    for key in ("architecture", "image_size"):
        less = {name: value for name, value in config.items() if name != key}
        (classifier / "config.json").write_text(json.dumps(less), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"config.json has no {key}"):
            make_policy(f"cnn:{classifier}")
    (classifier / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        load_checkpoint(classifier, "cnn")


def test_truncated_weights_are_reported(classifier):
    path = classifier / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
        load_checkpoint(classifier, "cnn")


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 1)), np.zeros((64, 64), np.uint8)]
)  # fmt: skip
def test_an_image_of_another_mode_is_refused(classifier, image):
    policy = make_policy(f"cnn:{classifier}")
    policy.reset(0)
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 1\)"):
        policy.act({"image": image}, {"target_landmark": 1})
    with pytest.raises(ValueError, match="expected square greyscale images"):
        policy.act({"image": np.zeros((32, 64, 1), np.uint8)}, {"target_landmark": 1})


def test_a_policy_without_weights_refuses_a_checkpoint():
    with pytest.raises(ValueError, match="oracle has no checkpoint"):
        make_policy("oracle:runs/x")


def test_the_belief_follows_observations_and_moves():
    belief = AtlasBelief()
    skull = np.zeros(N_LANDMARKS)
    skull[0] = 1.0
    belief.observe(skull)
    down = belief.displacement_mm(14)
    assert down[1] < -150
    belief.move([0.0, -90.0])
    assert belief.displacement_mm(14)[1] == pytest.approx(down[1] + 90, abs=1e-6)
    belief.reset()
    belief.observe(np.full(N_LANDMARKS, 1 / N_LANDMARKS))
    flat = belief.displacement_mm(14)
    belief.observe(np.full(N_LANDMARKS, 1 / N_LANDMARKS))
    np.testing.assert_allclose(belief.displacement_mm(14), flat)


def test_the_std_of_a_mixture_includes_disagreement():
    mean, std = mixture([[0.0], [10.0]], [[3.0], [3.0]])
    np.testing.assert_allclose(mean, [5.0])
    np.testing.assert_allclose(std, [np.sqrt(9 + 25)])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
def test_calibrated_regions_have_the_promised_coverage(seed, wrong_by):
    # The radius compensates wrong standard deviations on exchangeable patients.
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(40), 30)

    def scores():
        prediction = Prediction(np.zeros((1200, 14, 2)), np.full((1200, 14, 2), wrong_by))
        return nonconformity(prediction, rng.normal(size=(1200, 14, 2)))

    radius = calibrate(scores(), patients)
    assert (np.diff(radius, axis=0) >= 0).all()
    covered = (scores()[None] <= radius[:, None]).mean((1, 2))
    np.testing.assert_allclose(covered, [0.90, 0.95, 0.97], atol=0.02)


def test_all_calibration_patients_have_the_same_weight():
    # One patient with many easy views must not hide the hard views of the other.
    scores = np.r_[np.full((990, 14), 1.0), np.full((10, 14), 5.0)]
    patients = np.r_[np.zeros(990, int), np.ones(10, int)]
    assert (calibrate(scores, patients, [0.4, 0.9]) == [[1.0] * 14, [5.0] * 14]).all()
    absent = scores.copy()
    absent[:, 3] = np.nan
    with pytest.raises(ValueError, match="no calibration patient has Right scapular inferior angle"):
        calibrate(absent, patients)
    with pytest.raises(ValueError, match="level is 1.5"):
        calibrate(scores, patients, [1.5])


def test_a_tracker_shifts_with_the_c_arm_and_weights_by_precision():
    tracker = DisplacementTracker()
    tracker.update([100.0, 0.0], [50.0, 50.0], [0.0, 0.0])
    np.testing.assert_allclose(tracker.mean_mm, [100.0, 0.0])
    tracker.update([12.0, 1.0], [5.0, 5.0], [90.0, 0.0])
    np.testing.assert_allclose(tracker.mean_mm, [12.0, 1.0], atol=0.1)
    assert (tracker.std_mm < 5.0).all()


def test_errors_that_all_views_share_are_not_averaged():
    shared, own = DisplacementTracker(0.8, shared_error_mm=10.0), DisplacementTracker(0.8)
    for mean in (10.0, 14.0, 30.0):
        std = 4.0 if mean < 30 else 12.0
        own.update([mean, 0.0], [std, std], [0.0, 0.0])
        shared.update([mean, 0.0], [np.hypot(std, 10.0)] * 2, [0.0, 0.0])
    np.testing.assert_allclose(shared.mean_mm, own.mean_mm)
    np.testing.assert_allclose(shared.std_mm, np.hypot(own.std_mm, 10.0))


def test_the_probability_within_a_distance_matches_samples():
    assert probability_within([0, 0], [10, 10], 25) == pytest.approx(1 - np.exp(-0.5 * 2.5**2), abs=0.01)
    draws = np.random.default_rng(0).normal([20, -5], [8, 15], (200_000, 2))
    assert probability_within([20, -5], [8, 15], 25) == pytest.approx((np.hypot(*draws.T) < 25).mean(), abs=0.01)


def test_the_conformal_policy_moves_declares_and_abstains(ensemble, monkeypatch):
    policy = ConformalPolicy(ensemble, abstain_below=0.2)
    answers = {"mean": np.array([80.0, 0.0]), "std": 10.0}

    def predict(images):
        mean = np.broadcast_to(answers["mean"], (1, 14, 2))
        return Prediction(mean, np.full((1, 14, 2), answers["std"]))

    monkeypatch.setattr(policy._regressor, "predict", predict)
    info = {"target_landmark": 11, "moved_mm": np.zeros(2)}
    image = np.zeros((32, 32, 1), np.uint8)

    def answer(mean, std):
        policy.reset()
        answers.update(mean=np.array(mean, float), std=std)
        return policy.act(image, info)

    assert MoveLattice().displacement_mm(answer([80, 0], 10).move).tolist() == [90.0, 0.0]
    sure = answer([16, 0], 2)
    assert sure.move.is_aligned and not sure.abstain and sure.confidence > 0.9
    assert not answer([16, 0], 8).move.is_aligned
    unsure = answer([5, 0], 40)
    assert unsure.abstain and unsure.confidence < 0.5
    assert not answer([5, 0], 20).abstain
    with pytest.raises(ValueError, match="level is 0.5, expected one of: 0.9"):
        ConformalPolicy(ensemble, level=0.5)
    with pytest.raises(ValueError, match="abstain_below is 1.2"):
        ConformalPolicy(ensemble, abstain_below=1.2)
    with pytest.raises(ValueError, match="tolerance_mm is 0"):
        ConformalPolicy(ensemble, tolerance_mm=0)


def test_an_ensemble_averages_its_members(ensemble):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    both, one = DisplacementRegressor(ensemble), DisplacementRegressor(ensemble, members=1)
    assert both.predict(images).mean_mm.shape == (3, 14, 2)
    assert not np.allclose(both.predict(images).mean_mm, one.predict(images).mean_mm)
    ranked = both.localize(images)
    assert ranked.shape == (3, 3) and ((ranked >= 1) & (ranked <= 14)).all()


def test_target_features_are_reset():
    features = TargetFeatures()
    info = {"moved_mm": np.zeros(2), "move_clipped": False}
    first = features.update([50.0, 0.0], [20.0, 20.0], info)
    assert first.shape == (N_FEATURES,) and first.dtype == np.float32
    second = features.update([-40.0, 0.0], [20.0, 20.0], {"moved_mm": np.array([90.0, 0.0]), "move_clipped": True})
    assert second[10] == 1.0 and second[11] > first[11]
    features.reset()
    np.testing.assert_array_equal(features.update([50.0, 0.0], [20.0, 20.0], info), first)


def test_the_network_marks_regions_of_fixed_size(ensemble, monkeypatch):
    localizer = make_localizer(f"conformal:{ensemble}")
    field_mm = localizer.field_of_view_mm
    mean_mm = np.zeros((3, 14, 2))
    mean_mm[0, landmark(14).index] = 0.25 * field_mm, -0.1 * field_mm
    mean_mm[1, landmark(11).index] = -0.5 * field_mm, 0.0
    mean_mm[2, landmark(1).index] = 0.0, 2 * field_mm
    monkeypatch.setattr(DisplacementRegressor, "predict", lambda self, images: Prediction(mean_mm, mean_mm))
    inside, cut, outside = localizer.ground(np.zeros((3, 32, 32), np.uint8), [14, 11, 1])
    wide, high = np.array(region_half_mm("T12")) / field_mm
    np.testing.assert_allclose(inside, [(0.75 - wide, 0.6 - high, 0.75 + wide, 0.6 + high)])
    wide, high = np.array(region_half_mm("Carina")) / field_mm
    np.testing.assert_allclose(cut, [(0.0, 0.5 - high, wide, 0.5 + high)])
    assert outside == ()


def test_the_conformal_policy_does_not_oscillate(ensemble, monkeypatch):
    policy = ConformalPolicy(ensemble)
    policy.reset(0)
    image, predicted = {"image": np.zeros((32, 32, 1), np.uint8)}, iter([30.0, -30.0, 30.0])

    def predict(images):
        mean = np.zeros((1, 14, 2))
        mean[..., 0] = next(predicted)
        return Prediction(mean, np.full((1, 14, 2), 20.0))

    monkeypatch.setattr(policy._regressor, "predict", predict)
    steps, moved = [], np.zeros(2)
    for _ in range(3):
        move = policy.act(image, {"target_landmark": 1, "moved_mm": moved}).move
        moved = np.array([30.0 * move.x_step, 0.0])
        steps.append(move.x_step)
    # There, back again, then it declares.
    assert steps == [1, -1, 0]


def test_the_conformal_policy_does_not_push_against_the_end_of_the_workspace(ensemble, monkeypatch):
    policy = ConformalPolicy(ensemble)
    policy.reset(0)
    image, mean = {"image": np.zeros((32, 32, 1), np.uint8)}, np.array([90.0, 60.0])
    monkeypatch.setattr(
        policy._regressor, "predict", lambda images: Prediction(np.tile(mean, (1, 14, 1)), np.full((1, 14, 2), 5.0))
    )
    mask = np.array([Move.from_index(index).x_step <= 0 for index in range(49)], np.int8)
    info = {"target_landmark": 1, "moved_mm": np.zeros(2), "action_mask": mask}
    assert policy.act(image, info).move == Move(0, 2)
    mean[:] = 90.0, 0.0
    policy.reset(0)
    blocked = policy.act(image, info)
    assert blocked.move.is_aligned and blocked.abstain
    assert policy.act(image, {**info, "action_mask": np.ones(49, np.int8)}).move == Move(3, 0)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_new_patients_are_covered_as_promised(correlation):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 20)

    def scores(count):
        own = rng.standard_normal((count, 1, 14)) * correlation**0.5
        return np.abs(own + rng.standard_normal((count, 20, 14)) * (1 - correlation) ** 0.5).reshape(-1, 14)

    covered, plain = [], []
    for _ in range(8):
        known, new = scores(12), scores(200)
        covered.append(
            [(new <= row).mean() for row in calibrate(known, patients, levels_for_new_patients(known, patients))]
        )
        plain.append([(new <= row).mean() for row in calibrate(known, patients)])
    assert np.abs(np.mean(covered, 0) - LEVELS).max() < 0.015
    assert np.abs(np.mean(covered, 0) - LEVELS).mean() < np.abs(np.mean(plain, 0) - LEVELS).mean()


def test_levels_do_not_change_with_two_patients():
    assert levels_for_new_patients(np.ones((4, 14)), [0, 0, 1, 1]) == LEVELS


def test_levels_ignore_landmarks_and_patients_without_scores():
    rng = np.random.default_rng(0)
    scores, patients = np.abs(rng.standard_normal((200, 14))), np.repeat(np.arange(10), 20)
    levels = levels_for_new_patients(scores, patients)
    assert all(level <= own < 0.999 for level, own in zip(LEVELS, levels, strict=True))
    extended = np.concatenate([scores, np.full((20, 14), np.nan)])
    assert levels_for_new_patients(extended, np.append(patients, [10] * 20)) == levels
    scores[20:, 3] = np.nan
    assert all(own < 0.999 for own in levels_for_new_patients(scores, patients))


def test_an_agent_refuses_another_shipped_backbone(tmp_path):
    shutil.copytree(SHIPPED / "ppo", tmp_path / "ppo")
    make_policy(f"ppo:{tmp_path / 'ppo'}")
    path = tmp_path / "ppo" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "shipped_eye": "0" * 64}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="was trained with another"):
        make_policy(f"ppo:{tmp_path / 'ppo'}")


@pytest.mark.parametrize("kind", ["ppo", "maskable_ppo"])
def test_an_agent_does_not_push_against_the_end_of_the_workspace(kind, monkeypatch):
    policy = make_policy(kind)
    wish = Move(3, 0).index
    monkeypatch.setattr(policy._agent, "values", lambda *given: 2.0 * np.eye(49)[wish] + np.eye(49)[Move(0, 1).index])
    info = {"target_landmark": 1, "action_mask": np.ones(49, np.int8)}
    image = np.zeros((32, 32, 1), np.uint8)
    assert policy.act(image, info).move == Move(3, 0)
    info["action_mask"][wish] = 0
    assert policy.act(image, info).move == Move(0, 1)


def test_checkpoints_keep_the_stored_names_of_format_1(classifier):
    from safetensors.torch import load_file

    stored = load_file(classifier / "model.safetensors")
    assert "eye.trunk.embedder.embedder.convolution.weight" in stored and not any("backbone" in name for name in stored)
    _, tensors = load_checkpoint(classifier, "cnn")
    assert tensors.keys() == build_classifier("tiny").state_dict().keys()


def change_tensors(folder, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def config_with(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")

    return change


def text_of_config(text):
    return lambda folder: (folder / "config.json").write_text(text, encoding="utf-8")


def not_finite(number):
    def change(tensors):
        next(value for value in tensors.values() if value.is_floating_point()).view(-1)[-1] = number

    return lambda folder: change_tensors(folder, change)


def header_of(length):
    def change(folder):
        path = folder / "model.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])

    return change


HOSTILE_CHECKPOINTS = {
    **{
        f"image_size {value}": config_with(image_size=value)
        for value in (10**9, 10**400, 0, -5, 32.5, "32", None, [32], True, {})
    },
    "image_size NaN": text_of_config('{"kind": "cnn", "format": 1, "architecture": "tiny", "image_size": NaN}'),
    "architecture list": config_with(architecture=["tiny"]),
    "architecture long": config_with(architecture="t" * 10**6),
    "kind list": config_with(kind=["cnn"]),
    "format text": config_with(format="1"),
    "deep": text_of_config('{"a":' * 100_000),
    "list": text_of_config("[]"),
    "repeated": text_of_config('{"kind": "cnn", "kind": "cnn"}'),
    "no config": text_of_config(""),
    "binary": lambda folder: (folder / "config.json").write_bytes(bytes(range(256))),
    "NaN weights": not_finite(float("nan")),
    "infinite weights": not_finite(float("-inf")),
    "huge header": header_of(10**12),
    "small header": header_of(3),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "folder for weights": lambda folder: (
        (folder / "model.safetensors").unlink() or (folder / "model.safetensors").mkdir()
    ),
    "complex weights": lambda folder: change_tensors(
        folder, lambda tensors: tensors.update(extra=torch.zeros(2, dtype=torch.complex64))
    ),
}


@pytest.mark.parametrize("kind", HOSTILE_CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(classifier, kind):
    HOSTILE_CHECKPOINTS[kind](classifier)
    with pytest.raises(CheckpointError) as caught:
        make_policy(f"cnn:{classifier}")
    assert len(str(caught.value)) < 1000


HOSTILE_CALIBRATIONS = [
    {"members": 10**9}, {"members": -1}, {"members": 2.0}, {"levels": []}, {"levels": [2.0]}, {"levels": "0.9"},
    {"levels": [[0.9]]}, {"radius": [[1.0] * 14] * 2}, {"radius": [[1.0] * 13] * 3}, {"radius": 5},
    {"radius": [[-1.0] * 14] * 3}, {"radius": [[1e300] * 14] * 3}, {"radius": [["a"] * 14] * 3},
    {"radius": [[1.0] * 14] * 10**4}, {"error_floor_mm": -1.0}, {"error_floor_mm": "10"}, {"error_floor_mm": 1e9},
]  # fmt: skip


def test_the_error_floor_of_a_checkpoint_widens_every_region(ensemble):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    without = DisplacementRegressor(ensemble).predict(images)
    config_with(error_floor_mm=10.0)(ensemble)
    widened = DisplacementRegressor(ensemble).predict(images)
    np.testing.assert_array_equal(widened.mean_mm, without.mean_mm)
    np.testing.assert_allclose(widened.std_mm**2, without.std_mm**2 + 100.0)


@pytest.mark.parametrize("values", HOSTILE_CALIBRATIONS)
def test_a_hostile_calibration_is_refused(ensemble, values):
    config_with(**values)(ensemble)
    with pytest.raises(CheckpointError):
        make_policy(f"conformal:{ensemble}")


HOSTILE_AGENTS = [
    {"layers": [12, 10**9, 49]}, {"layers": [12]}, {"layers": []}, {"layers": [12, -1, 49]}, {"layers": 12},
    {"layers": [12, 65536, 65536, 49]}, {"layers": [12] * 1000}, {"layers": [12, 1.5, 49]}, {"quantiles": 0},
    {"quantiles": 10**9}, {"activation": 5}, {"features": ["target"]}, {"masked": "yes"}, {"shipped_eye": [1]},
]  # fmt: skip


@pytest.mark.parametrize("values", HOSTILE_AGENTS)
def test_a_hostile_agent_is_refused_before_it_is_built(tmp_path, values):
    folder = tmp_path / "ppo"
    shutil.copytree(SHIPPED / "ppo", folder)
    config_with(**values)(folder)
    with pytest.raises(CheckpointError, match=next(iter(values))):
        make_policy(f"ppo:{folder}")


def test_the_closest_landmark_has_the_probability_of_being_closest():
    mean = np.full((3, 14, 2), 200.0)
    mean[0, 4], mean[1, 4], mean[1, 9] = 5.0, (10.0, 0.0), (-10.0, 0.0)
    mean[2, 4], mean[2, 9] = (30.0, 0.0), (-40.0, 0.0)
    found = probability_closest(Prediction(mean, np.full((3, 14, 2), 10.0)), samples=4000)
    assert found.sum(1) == pytest.approx(1) and found[0, 4] == 1
    assert found[1, 4] == pytest.approx(0.5, abs=0.03) == found[1, 9]
    assert 0.6 < found[2, 4] < 0.9


@pytest.mark.parametrize("kind", ["cnn", "conformal"])
def test_localisers_agree_with_their_ranking(kind, classifier, ensemble):
    from carm_env.evaluation.localization import locate
    from policies.localizers import make_localizer

    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), np.uint8)
    name = f"{kind}:{classifier if kind == 'cnn' else ensemble}"
    found = locate(make_localizer(name), images)
    chosen = np.take_along_axis(found.probabilities, found.closest_landmarks - 1, 1)
    assert found.closest_landmarks.tolist() == make_localizer(name).closest(images).tolist()
    assert found.probabilities.sum(1) == pytest.approx(1)
    if kind == "cnn":
        assert (np.diff(chosen) <= 0).all()
    assert found.displacement_mm.shape == (5, 14, 2) and (found.region_mm is None) == (kind == "cnn")
