"""Every training refuses the patients that are reserved for tests."""

from __future__ import annotations

import pytest

from carm_env.patients.separation import HeldOutPatientError, SharedPersonError

FAMILIES = ["poses/test", "bodies/test", "bones/test", "standard/test", "diverse/test"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", ["train", "calibration"])
def test_networks_are_neither_trained_nor_calibrated_on_a_test_family(tmp_path, family, split):
    pytest.importorskip("torch")
    from training._support.arguments import NetworkArguments
    from training._support.views import load_views

    arguments = NetworkArguments(**{split: family, "test": "virtual:0"})
    with pytest.raises(HeldOutPatientError, match=f"--{split}"):
        load_views(arguments, "train", tmp_path, 32)


@pytest.mark.parametrize("variant", ["virtual:1000?scan=1", "virtual:1000?arms=sides"])
def test_a_training_person_neither_calibrates_nor_tests_a_network_under_another_name(tmp_path, variant):
    pytest.importorskip("torch")
    from training._support.arguments import NetworkArguments
    from training._support.views import load_views

    for other in ("calibration", "test"):
        with pytest.raises(SharedPersonError, match="virtual:1000 of train"):
            load_views(NetworkArguments(**{"train": "virtual:1000", other: variant}), "train", tmp_path, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fine_tuning_refuses_a_test_family(tmp_path, family):
    pytest.importorskip("trl")
    from training._support.views import load_views
    from training.sft import SftArguments

    with pytest.raises(HeldOutPatientError, match="--train"):
        load_views(SftArguments(train=f"virtual:1,{family}", test="virtual:0"), "train", tmp_path, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_agents_are_neither_trained_nor_selected_on_a_test_family(family):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("sb3_contrib")
    from training.rl import RlArguments

    for name in ("patients", "eval_patients"):
        with pytest.raises(HeldOutPatientError, match="patients"):
            RlArguments(**{name: (family,)}).check()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reinforcement_learning_of_language_models_refuses_a_test_family(family):
    pytest.importorskip("trl")
    from training._support.grpo_arguments import GrpoArguments

    with pytest.raises(HeldOutPatientError, match="--train"):
        GrpoArguments(train=family, test="virtual:0")
    with pytest.raises(HeldOutPatientError, match="--calibration"):
        GrpoArguments(calibration=family, test="virtual:0")


def test_transcripts_and_datasets_of_test_patients_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    import numpy as np

    from training._support import views
    from training._support.arguments import ViewArguments

    class Views:
        names = ("virtual:4000?weight_kg=125",)
        images = np.zeros((1, 8, 8), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "read_views", lambda folder, split: Views())
        patch.setattr(views, "read_description", lambda folder: {"options": {"isocenter_depth_mm": 140.0}})
        with pytest.raises(HeldOutPatientError, match="bodies/test"):
            views.load_views(ViewArguments(dataset=str(tmp_path)), "train", tmp_path, 32)
        assert views.load_views(ViewArguments(dataset=str(tmp_path)), "test", tmp_path, 32).names == Views.names
