from __future__ import annotations

import pytest

from carm_env.patients.catalogue import expand_patients
from carm_env.patients.cohorts import COHORTS
from carm_env.patients.separation import HeldOutPatientError, check_trainable, held_out_reason
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset

TESTS = [f"{name}/test" for name in COHORTS]
OTHERS = [f"{name}/{split}" for name, cohort in COHORTS.items() for split in cohort.splits if split != "test"]


@pytest.mark.parametrize("reference", TESTS)
def test_the_patients_of_test_splits_are_refused(reference):
    for patient in expand_patients(reference):
        with pytest.raises(HeldOutPatientError, match="--train names patients that are reserved for tests"):
            check_trainable([patient], "--train")


@pytest.mark.parametrize("reference", OTHERS)
def test_the_patients_of_other_splits_are_accepted(reference):
    check_trainable(expand_patients(reference), "--train")


@pytest.mark.parametrize(
    "patient",
    [
        "virtual:3000?arms=raised", "virtual:3000?voxel_mm=1.5&findings=pacemaker", "virtual:4100",
        "virtual:4003?age=50", "virtual:1000?warp=3", "virtual:0?warp=77",
    ],
)  # fmt: skip
def test_a_test_person_or_a_warp_under_another_name_is_refused(patient):
    assert held_out_reason(patient)


@pytest.mark.parametrize(
    "patient", ["virtual:0", "virtual:1000?arms=sides", "virtual:77777", "lidc-0001", "a/ct.nii.gz"]
)
def test_other_patients_are_not_reserved(patient):
    assert held_out_reason(patient) is None


def test_the_error_names_a_few_patients_and_the_reason():
    with pytest.raises(HeldOutPatientError) as caught:
        check_trainable(expand_patients("bones/test"), "--patients")
    text = str(caught.value)
    assert "virtual:4100?warp=1 is a person of bones/test" in text
    assert "and 17 more" in text
    assert "diverse/train" in text


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_no_views_of_test_patients_are_written_to_a_split_that_is_trained_on(tmp_path, split):
    pytest.importorskip("pyarrow")
    with pytest.raises(HeldOutPatientError, match=f"the split {split}"):
        write_view_dataset(tmp_path, {split: ["poses/test"]}, ViewOptions(views_per_patient=2))
    assert not any(tmp_path.iterdir())
