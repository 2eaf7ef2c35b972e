"""Draws of scanners and X-ray systems: determinism, severity, ranges, groups."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert scan.above_t1_mm is None or -20 <= scan.above_t1_mm <= 90
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
    assert seen == {item.name for kind in (Scan, ImageChain) for item in fields(kind)}
    assert set(SCAN_GROUPS) | set(CHAIN_GROUPS) == set(GROUPS)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "1", True])
def test_a_wrong_severity_is_refused(value):
    with pytest.raises(ValueError, match=r"severity|domain_randomization"):
        DomainRandomization.of(value)


def test_wrong_keys_groups_and_seeds_are_refused():
    with pytest.raises(UnknownNameError, match="groups"):
        DomainRandomization.of({"group": ["window"]})
    with pytest.raises(UnknownNameError, match="window"):
        DomainRandomization.of({"groups": ["windows"]})
    with pytest.raises(ValueError, match="expected a list"):
        DomainRandomization.of({"groups": "window"})
    with pytest.raises(ValueError, match="seed is -1"):
        draw_domain(-1)
    assert DomainRandomization.of({"groups": ["polarity", "window"]}).groups == ("window", "polarity")
