from __future__ import annotations

import pytest

from carm_env.patients.catalogue import expand_patients
from carm_env.patients.cohorts import COHORTS
from carm_env.patients.separation import (
    HeldOutPatientError,
    SharedPersonError,
    check_separate,
    check_trainable,
    held_out_reason,
    person_of,
)
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


@pytest.mark.parametrize("other", ["virtual:1000", "virtual:1000?scan=1", "virtual:1000?arms=sides",
                                   "virtual:1000?findings=pacemaker&scan=slice_mm:5"])  # fmt: skip
def test_a_person_is_in_one_split_whatever_the_options(other):
    with pytest.raises(SharedPersonError) as caught:
        check_separate({"train": ["virtual:1000", "virtual:1001"], "calibration": ["virtual:1002", other]})
    assert f"virtual:1000 of train and {other} of calibration" in str(caught.value)


def test_splits_that_no_model_is_trained_on_may_share_people_but_no_patients():
    splits = {"train": expand_patients("standard/train"), "test": expand_patients("standard/test")}
    check_separate({**splits, "poses": expand_patients("poses/test")})
    with pytest.raises(SharedPersonError, match="virtual:3000 of test and virtual:3000 of again.*and 7 more"):
        check_separate({**splits, "again": splits["test"]})


def test_variants_of_a_person_may_share_a_split():
    check_separate({"train": ["virtual:1000", "virtual:1000?scan=1"], "test": ["virtual:10000"]})


def test_files_are_people_of_their_own():
    assert person_of("a?b/ct.nii.gz?scan=7") == person_of("a?b/ct.nii.gz") == "a?b/ct.nii.gz"
    assert person_of("a?c/ct.nii.gz") != person_of("a?b/ct.nii.gz")
