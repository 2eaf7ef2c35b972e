"""The flag --domain-randomization of the training scripts."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("torch")

from carm_env.randomization.draw import CHAIN_GROUPS
from carm_env.system.errors import UnknownNameError
from training._support.arguments import NetworkArguments
from training._support.views import load_split


@pytest.fixture
def arguments(small_patients, tmp_path):
    return NetworkArguments(
        train=small_patients[0], calibration=small_patients[1], test=small_patients[2], views_per_patient=8,
        image_size=32, workers=1, output_dir=str(tmp_path),
    )  # fmt: skip


def test_training_views_are_randomised_and_the_others_stay(arguments):
    plain = {split: load_split(arguments, split) for split in ("train", "calibration", "test")}
    randomised = replace(arguments, domain_randomization=1.0)
    views = load_split(randomised, "train")
    assert views.names == (f"{arguments.train}?scan=0",)
    assert (np.asarray(views.images) != np.asarray(plain["train"].images)).any()
    for split in ("calibration", "test"):
        again = load_split(randomised, split)
        np.testing.assert_array_equal(again.images, plain[split].images)
        assert again.names == plain[split].names
    np.testing.assert_array_equal(load_split(arguments, "train").images, plain["train"].images)


def test_groups_can_be_chosen(arguments):
    chosen = replace(arguments, domain_randomization=0.5, domain_groups="polarity,kernel")
    chosen.check()
    assert chosen.domain.groups == ("kernel", "polarity")
    assert load_split(chosen, "train").names == (f"{arguments.train}?scan=0+severity:0.5+groups:kernel",)


def test_a_rendered_dataset_cannot_be_randomised(arguments):
    load_split(arguments, "train")
    folder = f"{arguments.output_dir}/views"
    with pytest.raises(ValueError, match="--augment domain"):
        load_split(replace(arguments, dataset=folder, domain_randomization=1.0), "train")


def test_wrong_values_are_refused(arguments):
    with pytest.raises(ValueError, match="severity is 3"):
        replace(arguments, domain_randomization=3.0).check()
    with pytest.raises(UnknownNameError, match="window"):
        replace(arguments, domain_groups="windows").check()


def test_agents_train_on_scans_with_other_x_ray_systems(small_patients, tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("sb3_contrib")
    from training import rl

    made = []
    real = rl.make_environments

    def make(patients, *given, **options):
        made.append((list(patients), given))
        return real(patients, *given, **options)

    monkeypatch.setattr(rl, "make_environments", make)
    words = ["--patients", small_patients[0], "--eval-patients", small_patients[1], "--timesteps", "128", "--out",
             str(tmp_path), "--no-evaluate", "--domain-randomization", "1.0"]  # fmt: skip
    assert rl.main(words) == 0
    patients, given = made[0]
    assert patients == [f"{small_patients[0]}?scan=0"]
    assert given[-1]["domain_randomization"] == {"severity": 1.0, "groups": list(CHAIN_GROUPS)}


def test_language_models_visit_states_of_scans_with_other_x_ray_systems(small_patients):
    pytest.importorskip("trl")
    from functools import partial

    from carm_env.envs.navigation import CArmNavEnv
    from carm_env.randomization.draw import DomainRandomization
    from training._support.grpo_states import StateSource
    from training.grpo import Patients
    from training.rewards import State

    domain = DomainRandomization(1.0)
    patients = Patients(",".join(small_patients[:2]), domain)
    assert list(patients) == [f"{name}?scan=0" for name in small_patients[:2]]
    environment = partial(CArmNavEnv, domain_randomization=domain.chain_settings)
    sources = [
        StateSource(State.of_environment, patients, 6, 1.0, 32, 0, environment=one) for one in (environment, CArmNavEnv)
    ]
    randomised, again, plain = (source.starts(6, "compact") for source in (sources[0], *sources))
    assert len(randomised) == 6
    for one, two, three in zip(randomised, again, plain, strict=True):
        np.testing.assert_array_equal(one.truth.target_mm, three.truth.target_mm)
        assert one.truth.target == two.truth.target == three.truth.target

    def images(states):
        return [state.messages[-1]["content"][0]["image"].tobytes() for state in states]

    assert images(randomised) == images(again) != images(plain)


@pytest.mark.parametrize("name", ["sft_base", "sft_embedded", "grpo_base", "grpo_embedded"])
def test_the_configurations_have_the_flag_and_leave_it_off(name):
    from pathlib import Path

    from carm_env.system.structured_files import read_yaml_mapping

    assert (
        read_yaml_mapping(Path(__file__).parents[2] / "training" / "configs" / f"{name}.yaml")["domain_randomization"]
        == 0
    )
