"""Draws of scanners and X-ray systems: determinism, severity, ranges, groups."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.patients.reference import PatientRef
from carm_env.randomization.chain import ImageChain
from carm_env.randomization.draw import CHAIN_GROUPS, GROUPS, SCAN_GROUPS, DomainRandomization, draw_domain
from carm_env.randomization.scan import Scan
from carm_env.system.errors import UnknownNameError
from carm_env.xray.settings import XRaySettings

SEEDS = st.integers(0, 2**40)


@given(SEEDS)
def test_a_draw_is_reproducible_and_valid_for_a_camera(seed):
    domain = draw_domain(seed)
    assert domain == draw_domain(seed)
    assert ImageChain.from_json(domain.chain.to_json()) == domain.chain
    domain.chain.settings(XRaySettings())


@given(SEEDS)
def test_severity_0_changes_nothing(seed):
    domain = draw_domain(seed, severity=0.0)
    assert domain.scan.is_identity and domain.chain == ImageChain()


@given(SEEDS, st.floats(0.05, 1.0))
def test_a_lower_severity_is_nearer_to_the_defaults(seed, severity):
    less, whole = draw_domain(seed, severity), draw_domain(seed)
    assert abs(less.chain.rotation_deg) <= abs(whole.chain.rotation_deg) + 1e-4
    assert less.chain.rotation_deg == pytest.approx(severity * whole.chain.rotation_deg, abs=1e-3)
    assert whole.chain.crop - 1e-4 <= less.chain.crop <= 1
    assert abs(less.chain.xray["gamma"] - 0.75) <= abs(whole.chain.xray["gamma"] - 0.75) + 1e-3
    # What happens at a low severity also happens at a higher one.
    assert whole.chain.inverted or not less.chain.inverted
    assert whole.scan.couch or not less.scan.couch


@given(SEEDS)
def test_draws_stay_in_the_documented_ranges(seed):
    domain = draw_domain(seed)
    scan, chain = domain.scan, domain.chain
    assert scan.slice_mm == 0 or 1 <= scan.slice_mm <= 5
    assert scan.pixel_mm == 0 or (3.5 <= scan.pixel_mm <= 5 and 4 <= scan.slice_mm)
    assert abs(scan.hu_offset) <= 20 and 0.93 <= scan.hu_slope <= 1.07
    assert scan.field_of_view_mm == 0 or 320 <= scan.field_of_view_mm <= 500
    assert scan.above_t1_mm is None or -20 <= scan.above_t1_mm <= 260
    assert scan.below_t12_mm is None or -50 <= scan.below_t12_mm <= 120
    assert abs(chain.rotation_deg) <= 6 and 0.85 <= chain.crop <= 1
    assert max(chain.shutters) <= 0.2 and (chain.border_grey == 0 or 20 <= chain.border_grey <= 170)
    assert 70 <= chain.xray["kvp"] <= 120 and chain.xray["kvp"] % 10 == 0


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_changes_its_own_fields_alone(name):
    alone, others = set(), set()
    for seed in range(60):
        whole = {**draw_domain(seed).scan.to_json(), **draw_domain(seed).chain.to_json()}
        without = draw_domain(seed, groups=[group for group in GROUPS if group != name])
        only = draw_domain(seed, groups=[name])
        alone |= set(only.scan.to_json()) | set(only.chain.to_json())
        others |= set(without.scan.to_json()) | set(without.chain.to_json())
        rest = {**without.scan.to_json(), **without.chain.to_json()}
        assert {key: value for key, value in rest.items() if key != "xray"}.items() <= whole.items()
    assert alone - {"seed", "xray"} or "xray" in alone
    assert not (alone & others) - {"seed", "xray"}


def test_every_field_is_drawn_by_some_group():
    seen = set()
    for seed in range(80):
        domain = draw_domain(seed)
        seen |= set(domain.scan.to_json()) | set(domain.chain.to_json())
    # How the patient lies is a shift of suites, and drawn by no group.
    lying = {"askew_deg", "roll_deg"}
    assert seen == {item.name for kind in (Scan, ImageChain) for item in fields(kind)} - lying
    assert set(SCAN_GROUPS) | set(CHAIN_GROUPS) == set(GROUPS)


EXPECTED = (
    r"expected a severity from 0 to 1, or a mapping such as {'severity': 0.5, 'groups': \['window', 'polarity'\]}"
)
GROUP_LIST = "expected a list of some of window, polarity, detector, collimation, geometry"


@pytest.mark.parametrize("value", [-0.1, 1.5, 2, float("nan"), float("inf"), 10**400, "1", True, None, ["window"]])
def test_an_argument_that_is_no_severity_is_refused(value):
    with pytest.raises(ValueError, match=f"^domain_randomization is .*{EXPECTED}"):
        DomainRandomization.of_chain(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"severity": 2}, "severity of domain_randomization is 2, expected 0 to 1"),
        ({"severity": None}, "severity of domain_randomization is None"),
        ({"groups": []}, rf"groups of domain_randomization is \[\], {GROUP_LIST}"),
        ({"groups": None}, f"groups of domain_randomization is None, {GROUP_LIST}"),
        ({"groups": "window"}, f"groups of domain_randomization is 'window', {GROUP_LIST}"),
        ({"groups": 3}, f"groups of domain_randomization is 3, {GROUP_LIST}"),
        ({"groups": ["couch"]}, r"groups couch of the CT scanner.*patients='virtual:0\?scan=7\+groups:couch'"),
        ({"groups": ["window", "metal", "couch"]}, "groups metal, couch of the CT scanner.*groups:metal.couch"),
        ({"groups": [["window"]]}, "unknown group of domain_randomization"),
    ],
)
def test_wrong_groups_of_the_x_ray_system_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        DomainRandomization.of_chain(value)


def test_the_remedy_for_groups_of_the_scanner_is_a_valid_name():
    with pytest.raises(ValueError, match="scanner") as caught:
        DomainRandomization.of_chain({"groups": ["metal", "couch", "metal"]})
    name = str(caught.value).split("'")[-2]
    assert PatientRef.parse(name).scan.groups == ("couch", "metal")


def test_wrong_keys_groups_and_seeds_are_refused():
    with pytest.raises(UnknownNameError, match="groups"):
        DomainRandomization.of_chain({"group": ["window"]})
    with pytest.raises(UnknownNameError, match="window"):
        DomainRandomization.of_chain({"groups": ["windows"]})
    for groups in ("window", None):
        with pytest.raises(ValueError, match="expected a list"):
            DomainRandomization(1.0, groups)
    with pytest.raises(ValueError, match="seed is -1"):
        draw_domain(-1)
    assert DomainRandomization.of_chain({"groups": ["polarity", "window"]}).groups == ("window", "polarity")


@pytest.mark.parametrize("groups", [GROUPS, ("couch", "window"), ("couch",)])
def test_the_settings_of_an_environment_have_the_groups_of_the_x_ray_system_alone(groups):
    domain = DomainRandomization(0.5, groups)
    chosen = DomainRandomization.of_chain(domain.chain_settings)
    if domain.chain_groups:
        assert chosen == DomainRandomization(0.5, domain.chain_groups)
    else:
        assert chosen.severity == 0
