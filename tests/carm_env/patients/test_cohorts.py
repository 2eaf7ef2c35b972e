import dataclasses
import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.patient_store import check_imported_name
from carm_env.patients.cohorts import (
    COHORTS,
    N_DEMO_SEEDS,
    SPLITS,
    cohort_patients,
    cohort_references,
    some_of_each_split,
)
from carm_env.patients.reference import PatientRef
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import content_hash

STANDARD = COHORTS["standard"]


def people(name: str, split: str) -> set[int]:
    return set(COHORTS[name].seeds.get(split, ()))  # type: ignore[call-overload]


def test_no_person_is_in_two_splits_or_cohorts_or_among_the_demo_patients():
    groups = [people(name, split) for name in COHORTS if name != "poses" for split in SPLITS]
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert min(set().union(*groups)) >= N_DEMO_SEEDS


def test_poses_shows_the_people_of_standard_test_and_of_no_other_split():
    assert people("poses", "test") == people("standard", "test")
    names = cohort_patients("poses/test")
    assert len(set(names)) == 30
    assert names[0] == "virtual:3000?arms=sides&covers=thighs"
    assert names[1:3] == ("virtual:3000?arms=raised", "virtual:3000?arms=one_up&covers=thighs")


def test_the_families_have_test_patients_only():
    for name in ("poses", "bodies", "bones"):
        assert COHORTS[name].splits == ("test",)
        with pytest.raises(UnknownNameError, match="Valid: test"):
            cohort_patients(f"{name}/train")
        assert f"{name}/train" not in cohort_references()


def test_every_patient_of_bones_has_a_warp_of_its_own_and_no_other_cohort_has_one():
    warps = {name: [PatientRef.parse(patient).virtual.parameters.warp for patient in cohort_patients(name)]
             for name in COHORTS}  # fmt: skip
    assert sorted(warps.pop("bones")) == list(range(1, 21))
    assert not any(chain.from_iterable(warps.values()))


def test_every_pose_is_as_frequent_in_each_split_of_diverse():
    for split in SPLITS:
        parameters = [PatientRef.parse(patient).virtual.parameters for patient in cohort_patients(f"diverse/{split}")]
        assert set(Counter(item.arms for item in parameters).values()) == {len(parameters) // 4}
        covers = Counter(item.covers for item in parameters)
        assert {key: 32 * count // len(parameters) for key, count in covers.items()} == {
            "hips": 8, "thighs": 12, "chest": 4, "head_neck": 4, "abdomen": 4
        }  # fmt: skip
        pairs = {(item.arms, item.covers) for item in parameters[:32]}
        assert len(pairs) == 20


def rounded(value):
    """The value with numbers to a millionth: the last bits of drawn numbers depend on numpy and the processor."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    # Adding 0 turns -0 into 0.
    return round(value, 6) + 0.0 if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("reference", "digest"),
    [
        ("standard", "6bc0a5f16f03a9b6"), ("wide", "f0f87411fa4997b6"), ("broad", "4a5b70d53da59376"),
        ("diverse", "c3ddbd760369eda6"), ("poses", "7305e3fdca2849b5"), ("bodies", "cd30e84558b11130"),
        ("bones", "cec42934abda3816"),
    ],
)  # fmt: skip
def test_names_and_parameters_of_a_cohort_are_frozen(reference, digest):
    patients = [
        [name, rounded(PatientRef.parse(name).virtual.parameters.to_json())] for name in cohort_patients(reference)
    ]
    found = content_hash(patients)[:16]
    assert found == digest, f"the patients of {reference} changed: raise its version and say so in the CHANGELOG"


def test_the_standard_cohort_has_the_papers_sizes():
    assert [len(cohort_patients(f"standard/{split}")) for split in SPLITS] == [50, 10, 10]
    assert cohort_patients("standard") == tuple(
        chain.from_iterable(cohort_patients(f"standard/{split}") for split in SPLITS)
    )


def test_the_names_of_a_split_are_fixed():
    assert cohort_patients("standard/test")[0] == "virtual:3000"
    assert cohort_patients("standard/train")[-1] == "virtual:1049"


def test_no_imported_patient_may_have_the_name_of_a_cohort():
    for name in COHORTS:
        with pytest.raises(ValueError, match="reserved"):
            check_imported_name(name)
    with pytest.raises(ValueError, match="RESERVED_NAMES"):
        dataclasses.replace(STANDARD, name="new")


@pytest.mark.parametrize(
    ("reference", "message"),
    [("standart", "Did you mean 'standard'"), ("standard/tset", "Did you mean 'test'"), ("standard/", "split")],
)
def test_an_unknown_cohort_or_split_gets_the_nearest_one(reference, message):
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        cohort_patients(reference)


@given(st.integers(1, 70))
def test_some_patients_are_taken_from_each_split_in_proportion(number):
    names = some_of_each_split(STANDARD, number)
    assert len(set(names)) == number
    counts = {split: len(set(names) & set(STANDARD.names(split))) for split in SPLITS}
    assert number < 3 or min(counts.values()) >= 1
    assert number < 7 or all(abs(counts[s] - number * len(STANDARD.seeds[s]) / 70) < 1.5 for s in SPLITS)


@pytest.mark.parametrize("number", [0, 71])
def test_more_patients_than_the_cohort_has_are_refused(number):
    with pytest.raises(ValueError, match="expected 1 to 70"):
        some_of_each_split(STANDARD, number)
