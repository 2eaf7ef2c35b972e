"""Training of agents, end to end on small patients."""

import json
import time

import numpy as np
import pytest

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from policies import make_policy
from policies.checkpoint import CheckpointError, save_checkpoint
from policies.networks import DisplacementNetwork
from training import rl

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")


@pytest.fixture
def regressor(tmp_path):
    torch.manual_seed(0)
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    config = {
        "kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 1, "levels": [0.9],
        "radius": np.full((1, 14), 2.0).tolist(), "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM,
    }  # fmt: skip
    save_checkpoint(tmp_path / "regressor", config, tensors, "# card")
    return tmp_path / "regressor"


@pytest.fixture
def quick(small_patients, regressor, tmp_path):
    return [
        "--patients", *small_patients[:2], "--eval-patients", small_patients[2], "--regressor", str(regressor),
        "--eval-episodes", "2", "--evaluations", "2", "--out", str(tmp_path / "o"),
    ]  # fmt: skip


def small(tmp_path, algo):
    settings = {"n_envs": 2, "n_timesteps": 64, "policy": "MlpPolicy", "policy_kwargs": {"net_arch": [16]}}
    if "ppo" in algo:
        settings |= {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": "lin_1e-3"}
    else:
        settings |= {"learning_starts": 8, "buffer_size": 200, "batch_size": 8}
    path = tmp_path / "h.yml"
    path.write_text(json.dumps({"CArmNav-v0": settings}), encoding="utf-8")
    return ["--algo", algo, "--hyperparameters", str(path)]


@pytest.mark.parametrize("algo", ["ppo", "maskable_ppo", "dqn", "qrdqn"])
def test_the_export_of_every_algorithm_acts_like_the_trained_agent(quick, tmp_path, algo, capsys):
    assert rl.main([*quick, *small(tmp_path, algo), "--json", str(tmp_path / "f.json")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert 0 <= figures["seed_0"]["success"] <= 1 and figures["run"]["packages"]["stable-baselines3"]
    assert (tmp_path / "o" / "learning_curve.png").stat().st_size > 5000
    folder = tmp_path / "o" / "seed-0"
    agent = make_policy(f"{algo}:{folder / 'checkpoint'}")
    model = rl.ALGORITHMS[algo].load(folder / "model.zip")

    from policies.conformal import DisplacementRegressor
    from policies.features import TargetFeatures

    regressor = DisplacementRegressor(tmp_path / "regressor")
    rng = np.random.default_rng(0)
    for target in (1, 7, 14):
        image = rng.integers(0, 255, (32, 32, 1), np.uint8)
        info = {"target_landmark": target, "moved_mm": np.array([30.0, 0.0]), "move_clipped": False}
        mask = np.ones(49, np.int8)
        if algo == "maskable_ppo":
            mask[rng.integers(0, 24, 5)] = 0
        agent.reset(0)
        move = agent.act({"image": image}, {**info, "action_mask": mask}).move
        prediction = regressor.predict(image[None])
        features = TargetFeatures().update(prediction.mean_mm[0, target - 1], prediction.std_mm[0, target - 1], info)
        extra = {"action_masks": mask.astype(bool)} if algo == "maskable_ppo" else {}
        expected, _ = model.predict(features, deterministic=True, **extra)
        # The export is stored as float16: actions whose values differ by rounding can change places.
        assert move.index == int(expected) or algo in ("dqn", "qrdqn")
        assert mask[move.index]


@pytest.mark.parametrize("freeze", ["--freeze", "--no-freeze"])
def test_the_backbone_is_trained_unless_it_is_frozen(quick, tmp_path, freeze):
    assert rl.main([*quick, *small(tmp_path, "ppo"), "--features", "backbone", freeze]) == 0
    folder = tmp_path / "o" / "seed-0" / "checkpoint"
    policy = make_policy(f"ppo:{folder}")
    policy.reset(0)
    policy.act({"image": np.zeros((64, 64, 1), np.uint8)}, {"target_landmark": 3})

    from safetensors.torch import load_file

    now = load_file(folder / "model.safetensors")["eye.trunk.encoder.stages.0.layers.0.layer.0.convolution.weight"]
    before = load_file(tmp_path / "regressor" / "model.safetensors")[
        "0.trunk.encoder.stages.0.layers.0.layer.0.convolution.weight"
    ]
    assert torch.equal(now, before) == (freeze == "--freeze")


def test_an_agent_learns_from_pixels_without_a_trained_network(quick, tmp_path, capsys):
    given = [*quick, *small(tmp_path, "ppo"), "--features", "pixels"]
    assert rl.main(given) == 2
    assert "features pixels use no network" in capsys.readouterr().err
    without = given.index("--regressor")
    assert rl.main([*given[:without], *given[without + 2 :]]) == 0
    folder = tmp_path / "o" / "seed-0" / "checkpoint"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["features"] == "backbone" and config["architecture"] == "small" and "shipped_eye" not in config
    assert "from pixels alone" in (folder / "README.md").read_text(encoding="utf-8")
    policy = make_policy(f"ppo_pixels:{folder}")
    policy.reset(0)
    assert policy.act({"image": np.zeros((64, 64, 1), np.uint8)}, {"target_landmark": 3}).move is not None


@pytest.mark.parametrize("algo", ["ppo", "maskable_ppo", "qrdqn"])
def test_an_interrupted_training_resumes_to_the_same_agent(quick, tmp_path, algo, monkeypatch, capsys):
    from safetensors.torch import load_file

    from training._support import agent_training

    whole = [*quick, *small(tmp_path, algo)]
    assert rl.main([*whole, "--resume"]) == 0
    assert "does not exist yet, so the training begins" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "o" / "seed-0").iterdir() if path.name.startswith(".")]

    saved = agent_training.save

    def interrupted(model, archive):
        saved(model, archive)
        raise KeyboardInterrupt

    monkeypatch.setattr(agent_training, "save", interrupted)
    part = [*whole, "--out", str(tmp_path / "part")]
    assert rl.main(part) == 130
    monkeypatch.setattr(agent_training, "save", saved)
    assert rl.main([*part, "--resume"]) == 0
    assert "resuming after 32 steps" in capsys.readouterr().out
    one, two = (load_file(tmp_path / name / "seed-0" / "checkpoint" / "model.safetensors") for name in ("o", "part"))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    curves = [np.load(tmp_path / name / "seed-0" / "evaluations.npz") for name in ("o", "part")]
    for name in ("timesteps", "results", "successes"):
        np.testing.assert_array_equal(curves[0][name], curves[1][name])
    (tmp_path / "part" / "seed-0" / "evaluations.npz").write_bytes(b"PK damaged")
    assert rl.main([*part, "--resume"]) == 0
    if algo == "ppo":
        (tmp_path / "part" / "seed-0" / "model.zip").write_bytes(b"PK damaged")
        assert rl.main([*part, "--resume"]) == 2
        assert "start again without --resume" in capsys.readouterr().err
    if algo == "qrdqn":
        for path in (tmp_path / "part" / "seed-0").glob("replay-*.pkl"):
            path.unlink()
        assert rl.main([*part, "--resume"]) == 2
        assert "the replay buffer of" in capsys.readouterr().err


def test_a_finished_training_can_be_extended(quick, tmp_path, capsys):
    assert rl.main([*quick, *small(tmp_path, "ppo"), "--timesteps", "32"]) == 0
    assert rl.main([*quick, *small(tmp_path, "ppo"), "--timesteps", "96", "--resume"]) == 0
    output = capsys.readouterr().out
    assert "resuming after 32 steps" in output and "seed 0: 96 steps" in output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--algo", "pppo"], "Did you mean 'ppo'"),
        (["--features", "voxels"], "unknown features 'voxels'"),
        (["--timesteps", "0"], "timesteps is 0"),
        (["--seeds", "-1"], "seeds are (-1,)"),
        (["--hyperparameters", "absent.yml"], "absent.yml has no hyperparameters"),
        (["--patients", "hed"], "unknown"),
        (["--patients", "virtual:1000", "--eval-patients", "virtual:1000?scan=1"], "the same person would be in two"),
    ],
)
def test_bad_arguments_are_one_line(quick, given, message, capsys):
    assert rl.main([*quick, *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0, 5_000_000_000])
def test_a_clock_with_which_no_archive_can_be_written_is_refused_before_training(monkeypatch, seconds, capsys):
    at = time.gmtime(seconds)
    monkeypatch.setattr(time, "localtime", lambda *given: at)
    assert rl.main([]) == 2
    assert f"the clock of this machine says the year {at.tm_year}" in capsys.readouterr().err


def test_an_archive_of_stable_baselines3_is_refused(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="can run any code"):
        make_policy(f"ppo:{tmp_path / 'model.zip'}")


def test_shipped_hyperparameters_are_read():
    for algo in rl.ALGORITHMS:
        found = rl.read_hyperparameters(rl.HYPERPARAMETERS / f"{algo}.yml")
        assert found["n_timesteps"] >= 40_000
    assert rl.read_hyperparameters(rl.HYPERPARAMETERS / "ppo.yml")["learning_rate"](0.5) == pytest.approx(5e-4)


def test_a_short_run_uses_few_patients_and_no_evaluation(quick, tmp_path, capsys):
    words = [*quick, *small(tmp_path, "ppo"), "--timesteps", "32", "--no-evaluate", "--json", str(tmp_path / "f.json")]
    assert rl.main(words) == 0
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["seed_0"].keys() == {"minutes"}
    assert not list((tmp_path / "o").rglob("*.npz")) and not list((tmp_path / "o").rglob("*.png"))
    assert rl.needed_patients(["standard/train"], 250) == rl.needed_patients(["standard/train"], 10**6)[:2]


def test_a_figure_that_cannot_be_drawn_does_not_fail_the_training(quick, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("training._support.curves.new_figure", fail)
    assert rl.main([*quick, *small(tmp_path, "ppo")]) == 0
    assert "was not drawn: RuntimeError: no fonts" in capsys.readouterr().err


def test_agents_with_the_former_names_still_load(quick, tmp_path):
    assert rl.main([*quick, *small(tmp_path, "ppo"), "--features", "backbone"]) == 0
    folder = tmp_path / "o" / "seed-0" / "checkpoint"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "features": "trunk"}), encoding="utf-8")
    make_policy(f"ppo:{folder}")
