"""A second patient, and batches of views that mix patients and slicing axes."""

import numpy as np
import pytest

from carm_env.volume import Volume

pytest.importorskip("torch")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ANGLES = {
    "aligned": [(0, 0, "AP"), (0, 0, "PA"), (90, 0, "AP"), (-90, 0, "PA"), (0, 90, "AP")],
    "oblique": [(20, 0, "AP"), (0, -25, "PA"), (30, 15, "AP"), (44, 0, "AP"), (46, -20, "PA"), (75, 10, "AP")],
}


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="session")
def other(phantom) -> Volume:
    """A part of the phantom, on another grid and at another place."""
    hu = np.ascontiguousarray(phantom.hu[4:40, :, 10:])
    return Volume.from_origin(hu, (2.0, 3.0, 2.5), phantom.origin_lps_mm + [10, 0, 0])


@pytest.fixture(scope="session")
def mixed(phantom, other, view):
    """``mixed(size)``: volumes and views, of both patients, aligned and oblique, in one batch."""

    def build(size):
        views = [view(*angles, size=size) for angles in ANGLES["aligned"] + ANGLES["oblique"]]
        return [(phantom, other)[n % 2] for n in range(len(views))], views

    return build
