"""Sizes of findings by version of the anatomy: those of version 5 can be seen in frontal views."""

from __future__ import annotations

from dataclasses import dataclass

from carm_env.anatomy.parameters import Structures


@dataclass(frozen=True)
class FindingSizes:
    """Lengths in skeleton size (mm).

    Attributes:
        pleural_air_mm: depth of the air ventral, lateral and apical to the lung in a pneumothorax.
        sulcus_mm: depth of the air below the ventral lung (deep sulcus sign).
        pleura_half_mm: half the thickness of the visceral pleura.
        pleura_hu: HU of the visceral pleura.
        wire_radius_mm: radius of a sternal wire.
        wire_tilt_mm: tilt of its loop, which the frontal view shows as a flat ring.
        wire_bloom_mm: apparent extension of a sternal wire beyond its surface in the CT.
        wire_layers: parallel strands, one behind the other in a frontal view, that stand for one wire: 0.9 mm of steel
            attenuate 70 keV by a factor of about two, three times as much as a strand that is limited to 3,000 HU.
        knot_mm: length of its twisted end.
        knot_width: radius of the twisted end relative to the wire.
        rib_displacement_mm: displacement of a broken rib.
        rib_break: distance of the break from the midline, relative to that of the most lateral point of the rib.
    """

    pleural_air_mm: tuple[float, float, float]
    sulcus_mm: float
    pleura_half_mm: float
    pleura_hu: float
    wire_radius_mm: float
    wire_tilt_mm: float
    wire_bloom_mm: float
    wire_layers: int
    knot_mm: float
    knot_width: float
    rib_displacement_mm: float
    rib_break: float


SIZES: dict[Structures, FindingSizes] = {
    "4": FindingSizes((34.0, 28.0, 30.0), 22.0, 0.9, -50.0, 0.45, 5.0, 1.0, 1, 7.0, 1.4, 9.0, 0.93),
    "5": FindingSizes((46.0, 46.0, 50.0), 30.0, 1.5, 0.0, 0.45, 11.0, 0.1, 3, 12.0, 2.0, 12.0, 0.86),
}
