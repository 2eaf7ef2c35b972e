"""Training of the networks, end to end on small patients."""

import dataclasses
import json

import numpy as np
import pytest

from policies import make_policy, networks
from policies.checkpoint import SHIPPED
from policies.conformal import DisplacementRegressor
from training import cnn, conformal
from training._support.augmentation import Deformations, transform_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

STEM = "trunk.embedder.embedder.convolution.weight"


@pytest.fixture
def quick(small_patients, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [
        "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test", small_patients[3],
        "--views_per_patient", "96", "--workers", "1", "--architecture", "tiny", "--batch_size", "32",
    ]  # fmt: skip


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "model.safetensors")


def test_the_classifier_learns_and_is_exported(quick, tmp_path, capsys):
    out = tmp_path / "cnn"
    arguments = [*quick, "--output_dir", str(out), "--epochs", "12", "--json", str(tmp_path / "f.json")]
    assert cnn.main(arguments) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    # Chance is 0.07.
    assert figures["closest_exact"] > 0.3
    assert figures["p_at_1"] >= figures["closest_exact"] and figures["run"]["packages"]["torch"]
    card = (out / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "not a medical device" in card and "python training/cnn.py" in card
    make_policy(f"cnn:{out / 'checkpoint'}")


def test_an_interrupted_training_resumes_to_the_same_weights(quick, tmp_path, monkeypatch, capsys):
    common = [*quick, "--epochs", "3"]
    assert cnn.main([*common, "--output_dir", str(tmp_path / "whole")]) == 0

    from training._support.training_state import TrainingState

    save = TrainingState.save

    def interrupted(self, *arguments):
        save(self, *arguments)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", interrupted)
    assert cnn.main([*common, "--output_dir", str(tmp_path / "part")]) == 130
    assert "with --resume to continue" in capsys.readouterr().err
    monkeypatch.setattr(TrainingState, "save", save)
    assert cnn.main([*common, "--output_dir", str(tmp_path / "part"), "--resume"]) == 0
    assert "resuming after epoch 2" in capsys.readouterr().out
    whole, part = weights(tmp_path / "whole"), weights(tmp_path / "part")
    for name, value in whole.items():
        assert torch.equal(value, part[name]), name


def test_a_training_that_stopped_early_stays_stopped(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cnn, "retrieval_metrics", lambda logits, closest: {"closest_exact": 0.5, "p_at_1": 0.5})
    common = [*quick, "--epochs", "6", "--patience", "2", "--output_dir", str(tmp_path / "o")]
    assert cnn.main(common) == 0
    assert "epoch 3/6" in capsys.readouterr().out
    before = weights(tmp_path / "o")
    assert cnn.main([*common, "--resume", "true"]) == 0, "the value of --resume was needed once"
    assert "epoch 4/6" not in capsys.readouterr().out
    for name, value in before.items():
        assert torch.equal(value, weights(tmp_path / "o")[name]), name


def test_the_pretext_and_one_hot_labels_run(quick, tmp_path):
    arguments = [*quick, "--epochs", "1", "--pretext", "position", "--label-smoothing-mm", "0"]
    assert cnn.main([*arguments, "--output_dir", str(tmp_path / "p"), "--report_to", "tensorboard"]) == 0
    assert list((tmp_path / "p").rglob("events.out.tfevents*"))


def test_the_ensemble_is_trained_and_calibrated(quick, tmp_path, capsys):
    out = tmp_path / "conformal"
    arguments = [*quick, "--epochs", "2", "--members", "2", "--output_dir", str(out)]
    assert conformal.main([*arguments, "--json", str(tmp_path / "f.json")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert 0 <= figures["coverage_90"] <= figures["coverage_95"] <= figures["coverage_97"] <= 1
    config = json.loads((out / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert np.shape(config["radius"]) == (3, 14)
    make_policy(f"conformal:{out / 'checkpoint'}")

    more = [*quick, "--epochs", "1", "--members", "1", "--seed", "7", "--output_dir", str(tmp_path / "more")]
    assert conformal.main([*more, "--init-members", str(out / "checkpoint")]) == 0
    together = DisplacementRegressor(tmp_path / "more" / "checkpoint")
    assert len(together.networks) == 3
    for number, network in enumerate(DisplacementRegressor(out / "checkpoint").networks):
        for name, value in network.state_dict().items():
            assert torch.equal(value, together.networks[number].state_dict()[name]), name
    capsys.readouterr()
    both = ",".join(str(folder / "checkpoint") for folder in (out, tmp_path / "more"))
    calibrated = tmp_path / "calibrated"
    only = [*quick, "--members", "0", "--init-members", both, "--output_dir", str(calibrated)]
    assert conformal.main(only) == 0
    assert len(DisplacementRegressor(calibrated / "checkpoint").networks) == 5
    assert not (calibrated / "member-0").exists()
    capsys.readouterr()
    assert conformal.main([*quick, "--members", "0", "--output_dir", str(calibrated)]) == 2
    assert "members is 0, expected at least 1, or 0 with --init-members" in capsys.readouterr().err
    assert conformal.main([*only, "--isocenter_depth_mm", "0"]) == 2
    assert "knows images with isocenter_depth_mm 140, expected 0" in capsys.readouterr().err
    assert conformal.main([*more, "--init-members", str(SHIPPED / "conformal")]) == 2
    assert "all members of an ensemble have one architecture" in capsys.readouterr().err
    for given, message in (
        (str(tmp_path / "more" / "checkpoint"), "take another --output-dir"),
        ("x", "init_members is x"),
    ):
        assert conformal.main([*more, "--init-members", given]) == 2
        assert message in capsys.readouterr().err


def test_a_warm_start_keeps_weights_and_can_add_local_contrast(quick, tmp_path, monkeypatch, capsys):
    both = dataclasses.replace(networks.ARCHITECTURES["tiny"], local_contrast=True)
    monkeypatch.setitem(networks.ARCHITECTURES, "tiny_contrast", both)
    begun = tmp_path / "c" / "checkpoint"
    assert conformal.main([*quick, "--epochs", "1", "--members", "1", "--output_dir", str(tmp_path / "c")]) == 0
    common = [*quick, "--epochs", "1", "--members", "1", "--learning_rate", "1e-9", "--warm_start", str(begun)]
    before = weights(tmp_path / "c")[f"0.{STEM}"]
    for architecture, channels in (("tiny", 1), ("tiny_contrast", 2)):
        out = tmp_path / architecture
        assert conformal.main([*common, "--architecture", architecture, "--output_dir", str(out)]) == 0
        after = weights(out)[f"0.{STEM}"]
        assert after.shape[1] == channels
        torch.testing.assert_close(after[:, :1], before)
        assert float(after[:, 1:].abs().sum()) < 1e-2
    capsys.readouterr()
    for given, message in (
        (["--members", "2"], "holds 1 networks, expected 2"),
        (["--architecture", "small", "--image_size", "32"], "is of another architecture"),
        (["--warm_start", "x"], "no checkpoint at x"),
        (["--output_dir", str(tmp_path / "c")], "where the new checkpoint would be written"),
    ):
        assert conformal.main([*common, "--output_dir", str(tmp_path / "x"), *given]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--max-steps", "-1"], "max_steps is -1, expected 0 or more"),
        (["--noise", "-0.1"], "noise is -0.1, expected 0 or more"),
        (["--architecture", "smal"], "Did you mean 'small'"),
        (["--epochs", "0"], "epochs is 0, expected at least 1"),
        (["--batch_size", "4096"], "fewer than one batch of 4096"),
        (["--report_to", "wandb"], "unknown report_to 'wandb'"),
        (["--pretext", "jigsaw"], "unknown pretext 'jigsaw'"),
        (["--learning_rate", "-1"], "learning_rate is -1.0"),
        (["--train", "hed"], "unknown"),
        (["--config", "absent.yaml"], "--config absent.yaml cannot be read"),
    ],
)
def test_bad_arguments_are_one_line(quick, tmp_path, given, message, capsys):
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "2000"])
def test_an_error_floor_that_no_checkpoint_can_state_is_refused_before_the_training(quick, tmp_path, given, capsys):
    assert conformal.main([*quick, "--output_dir", str(tmp_path / "x"), "--error-floor-mm", given]) == 2
    assert "expected 0 to 1000 mm" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_loss_that_is_not_finite_stops_the_training(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda outputs, wanted: outputs.sum() * float("nan"))
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1"]) == 2
    assert "the loss became nan in epoch 0, step 0: start again with a lower --learning-rate" in capsys.readouterr().err


def out_of_memory(*arguments, **options):
    raise torch.OutOfMemoryError("no room")


def out_of_memory_on_a_cpu(*arguments, **options):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize("fault", [out_of_memory, out_of_memory_on_a_cpu])
@pytest.mark.parametrize(
    "function", ["torch.nn.functional.cross_entropy", "torch.optim.AdamW.step", "training.cnn.predict"]
)
def test_out_of_memory_is_explained(quick, tmp_path, monkeypatch, capsys, fault, function):
    monkeypatch.setattr(function, fault)
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1"]) == 2
    advice = "take fewer images, or a smaller" if function == "training.cnn.predict" else "set --batch-size 16"
    assert "out of memory: " in (message := capsys.readouterr().err) and advice in message


def test_other_errors_of_torch_pass_through(quick, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1"])


def test_a_missing_tracker_is_reported(quick, tmp_path, monkeypatch, capsys):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "is_trackio_available", lambda: False)
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1", "--report_to", "trackio"]) == 2
    assert "pip install 'carm-env[trackio]'" in capsys.readouterr().err


def test_a_resume_with_other_arguments_is_refused(quick, tmp_path, capsys):
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1"]) == 0
    arguments = [*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "2", "--resume"]
    assert cnn.main(arguments) == 2
    assert "was trained with other epochs" in capsys.readouterr().err
    others = [*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1", "--resume", "--train", quick[5]]
    assert cnn.main([*others, "--test", quick[1].split(",")[0], "--calibration", quick[3]]) == 2
    assert "was trained with other views" in capsys.readouterr().err
    others = [*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1", "--resume", "--calibration", quick[5]]
    assert cnn.main([*others, "--test", quick[3]]) == 2
    assert "was trained with other views" in capsys.readouterr().err
    (tmp_path / "x" / "state.pt").write_bytes(b"junk")
    assert cnn.main([*quick, "--output_dir", str(tmp_path / "x"), "--epochs", "1", "--resume"]) == 2
    assert "the state cannot be read" in capsys.readouterr().err


def test_a_dataset_of_another_size_is_refused(quick, small_patients, tmp_path, capsys):
    from carm_env.views.sample import ViewOptions
    from carm_env.views.write import write_view_dataset

    splits = {"train": small_patients[:1], "calibration": small_patients[1:2], "test": small_patients[2:3]}
    write_view_dataset(tmp_path / "d", splits, ViewOptions(4, 48), 1)
    arguments = ["--dataset", str(tmp_path / "d"), "--architecture", "tiny", "--output_dir", str(tmp_path / "x")]
    assert cnn.main(arguments) == 2
    assert "holds views of 48 pixels, but the network expects 32" in capsys.readouterr().err
    assert cnn.main(["--dataset", str(tmp_path / "none"), "--architecture", "tiny"]) == 2
    assert "is not a dataset of views" in capsys.readouterr().err


@pytest.mark.parametrize("script", [cnn, conformal])
def test_a_dataset_of_another_depth_is_refused(script, small_patients, tmp_path, capsys):
    from carm_env.views.sample import ViewOptions
    from carm_env.views.write import write_view_dataset

    splits = {"train": small_patients[:1], "calibration": small_patients[1:2], "test": small_patients[2:3]}
    write_view_dataset(tmp_path / "d", splits, ViewOptions(4, 32, isocenter_depth_mm=0.0), 1)
    arguments = ["--dataset", str(tmp_path / "d"), "--architecture", "tiny", "--output_dir", str(tmp_path / "x")]
    assert script.main(arguments) == 2
    assert "isocenter_depth_mm is 140, but the views of" in capsys.readouterr().err
    assert script.main([*arguments, "--isocenter_depth_spread_mm", "-1"]) == 2
    assert "isocenter_depth_spread_mm is -1.0, expected 0 or more" in capsys.readouterr().err
    assert script.main([*arguments, "--near_share", "2"]) == 2
    assert "near_share is 2.0, expected 0 to 1" in capsys.readouterr().err
    for flag in ("near_share", "isocenter_depth_spread_mm"):
        assert script.main([*arguments, f"--{flag}", "0.5"]) == 2
        assert f"and {flag} is 0.5: the views are rendered already" in capsys.readouterr().err


def test_views_of_one_class_are_refused(small_patients):
    from carm_env.views.read import ViewArrays

    closest = np.full((5, 3), 4)
    views = ViewArrays(
        np.zeros((5, 8, 8), np.uint8), closest, np.zeros((5, 14, 2), np.float32), np.ones((5, 14), bool),
        np.zeros((5, 3), np.float32), np.zeros(5, int), ("a",), np.zeros((5, 14, 2), np.float32),
    )  # fmt: skip
    with pytest.raises(ValueError, match="in all 5 views the closest landmark is Right scapular inferior angle"):
        cnn.soft_labels(views, 0.0)


def test_flags_override_a_config_file(quick, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("epochs: 3\nevaluate: false\n", encoding="utf-8")
    arguments = ["--config", str(tmp_path / "c.yaml"), "--epochs", "1", "--output-dir", str(tmp_path / "x")]
    assert cnn.main([*quick, *arguments]) == 0
    output = capsys.readouterr().out
    assert "epoch 1/1" in output and "on patients never trained on" not in output


def test_a_short_run_renders_only_what_it_needs(quick, tmp_path, capsys):
    arguments = [*quick, "--max-steps", "3", "--output-dir", str(tmp_path / "x")]
    assert conformal.main([*arguments, "--members", "1", "--no-evaluate"]) == 0
    output = capsys.readouterr().out
    assert "epoch 1/1" in output and "minutes" in output and "on patients never trained on" not in output
    rendered = [path.parent.name for path in (tmp_path / "x").glob("views/data/*/*.parquet")]
    assert sorted(rendered) == ["calibration", "train"]
    assert "never trained on" not in (tmp_path / "x" / "checkpoint" / "README.md").read_text(encoding="utf-8")


def test_the_loss_prefers_anatomical_layouts():
    from policies.networks import SCALE_MM
    from training._support.losses import DisplacementLoss, layout_statistics

    anatomical = layout_statistics()[0].reshape(1, 14, 2)
    swapped = anatomical[:, [0, 2, 1, *range(3, 14)]]
    log_std, batch, none = torch.zeros(1, 14, 2), np.array([0]), torch.zeros(1, 0, 2)
    identity = Deformations(torch.eye(2)[None], none, none, torch.zeros(1, 0))
    absent = DisplacementLoss(np.full((1, 14, 2), np.nan, np.float32), 1.0)
    losses = [float(absent(mean, log_std, batch, identity)) for mean in (anatomical, swapped)]
    assert losses[0] == pytest.approx(0, abs=1e-5) and losses[1] > 1
    present = DisplacementLoss(SCALE_MM * anatomical.numpy(), 0.0)
    losses = [float(present(mean, log_std, batch, identity)) for mean in (anatomical, swapped)]
    assert losses[0] < losses[1]


def test_images_and_displacements_are_transformed_alike():
    # A bright spot at a displacement must be found at the transformed displacement.
    size = 65
    image = torch.zeros(1, 1, size, size)
    left, up = 12, 9
    image[0, 0, size // 2 - up, size // 2 + left] = 1.0
    angle, zoom = np.deg2rad(30), 1.2
    transform = zoom * torch.tensor([[[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]]).float()
    transformed = transform_images(image, transform)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    found = [float((part * transformed).sum() / transformed.sum()) for part in (columns - size // 2, size // 2 - rows)]
    expected = transform[0] @ torch.tensor([left, up]).float()
    np.testing.assert_allclose(found, expected, atol=0.4)


def test_images_and_displacements_are_deformed_alike():
    size, field_mm = 128, 200.0
    generator = torch.Generator().manual_seed(0)
    deformations = Deformations.draw(32, generator, 0.3)
    points = 1.2 * (torch.rand(32, 1, 2, generator=generator) - 0.5)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")

    def pixels(displacement):
        return (0.5 + displacement * torch.tensor([1.0, -1.0]) * networks.SCALE_MM / field_mm) * size - 0.5

    column, row = pixels(points)[..., None].unbind(2)
    spots = torch.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 8)[:, None]
    deformed = deformations.images(spots, field_mm)[:, 0]
    found = torch.stack([(deformed * axis).sum((1, 2)) / deformed.sum((1, 2)) for axis in (columns, rows)], 1)
    moved = deformations.moved(points)
    inside = ((pixels(moved)[:, 0] - size / 2).abs() < size / 2 - 7).all(1)
    assert inside.sum() > 20
    assert (found - pixels(moved)[:, 0])[inside].abs().max() < 0.2
    far = 4 * torch.rand(32, 14, 2, generator=generator) - 2
    moved = deformations.moved(far)
    assert networks.SCALE_MM * (moved - far @ deformations.matrix.mT).norm(dim=-1).mean() > 2
    assert networks.SCALE_MM * (deformations.sources(moved) - far).norm(dim=-1).max() < 0.1
    assert deformations.moved(torch.zeros(32, 1, 2)).abs().max() == 0


def test_no_strain_means_no_waves():
    plain, none = (Deformations.draw(5, torch.Generator().manual_seed(3), strain) for strain in (0.0, 0.0))
    images = torch.rand(5, 1, 32, 32)
    assert plain.phase.shape == (5, 0)
    assert torch.equal(plain.images(images, 150.0), transform_images(images, none.matrix))


def test_two_processes_train_together(quick, small_patients, tmp_path):
    import os
    import subprocess
    import sys
    from pathlib import Path

    from carm_env.views.sample import ViewOptions
    from carm_env.views.write import write_view_dataset

    splits = {"train": small_patients[:2], "calibration": small_patients[2:3], "test": small_patients[3:4]}
    write_view_dataset(tmp_path / "d", splits, ViewOptions(48, 32), 1)
    script = tmp_path / "recorded.py"
    script.write_text(
        "import sys\n"
        "from accelerate import PartialState\n"
        "from training import cnn\n"
        "from training._support.training_state import TrainingState\n"
        "advance = TrainingState.advance\n"
        "def recorded(self, network, figures, *more):\n"
        "    with open(f'recorded-{PartialState().process_index}.txt', 'a') as file:\n"
        "        print(sorted(figures.items()), file=file)\n"
        "    advance(self, network, figures, *more)\n"
        "TrainingState.advance = recorded\n"
        "sys.exit(cnn.main())\n",
        encoding="utf-8",
    )
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(cnn.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script),
         "--dataset", str(tmp_path / "d"), "--architecture", "tiny", "--batch_size", "16", "--epochs", "2",
         "--pretext", "position", "--report_to", "tensorboard",
         "--output_dir", str(tmp_path / "o")],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # Two trainings, of the pretext and of the classes, and one report.
    assert (done.stdout.count("epoch 2/2"), done.stdout.count("on patients never trained on")) == (2, 1)
    # Both see the same metrics, or one could stop early and the other would wait for it.
    recorded = [(tmp_path / f"recorded-{rank}.txt").read_text(encoding="utf-8").splitlines() for rank in (0, 1)]
    assert len(recorded[0]) == 4 and recorded[0] == recorded[1]
    make_policy(f"cnn:{tmp_path / 'o' / 'checkpoint'}")


def test_a_classifier_can_start_from_a_displacement_network(quick, tmp_path, capsys):
    assert conformal.main([*quick, "--epochs", "1", "--members", "1", "--output_dir", str(tmp_path / "c")]) == 0
    checkpoint = tmp_path / "c" / "checkpoint"
    arguments = [*quick, "--epochs", "1", "--output_dir", str(tmp_path / "o"), "--warm-start", str(checkpoint)]
    assert cnn.main([*arguments, "--learning_rate", "1e-9"]) == 0
    before, after = weights(tmp_path / "c"), weights(tmp_path / "o")
    torch.testing.assert_close(after["eye.head.weight"], before["0.head.weight"])
    assert cnn.main([*arguments, "--pretext", "position"]) == 2
    assert "warm_start and pretext are both given" in capsys.readouterr().err
    assert cnn.main([*arguments, "--architecture", "small", "--image_size", "32"]) == 2
    assert "is of another architecture" in capsys.readouterr().err
