"""Hounsfield units of the tissues of a virtual patient, with their sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """A tissue's appearance in CT at 120 kV without contrast medium.

    Attributes:
        hu: mean Hounsfield units.
        texture_std_hu: standard deviation of the painted texture; 0 for homogeneous tissue.
        source: source of the mean.
    """

    hu: float
    texture_std_hu: float
    source: str


_DEFINITION = "air is -1000 HU by definition; slightly more between moist walls"
_PROKOP = (
    "range of unenhanced CT in M. Prokop, M. Galanski: Spiral and Multislice Computed Tomography of the Body (Thieme, "
    "2003): fat -100 to -50, kidney 20 to 40, spleen 35 to 55, liver 45 to 65, blood 45 to 65 HU"
)
_SCHNEIDER = (
    "close to the CT numbers computed from tissue compositions by W. Schneider, T. Bortfeld, W. Schlegel, Phys. Med. "
    "Biol. 45 (2000) 459 (after Woodard and White 1986, ICRU 46)"
)
_CORTEX = (
    "below the 1,500 HU and more of dense cortical bone (Schneider et al. 2000): at a resolution of millimetres a "
    "cortex includes canals and partial volume"
)
_MARROW = "between yellow and red marrow (Schneider et al. 2000)"
_LUNG = "density of ventilated lung about 0.2 g/ml in deep breath: -850 to -750 HU in M. Prokop, M. Galanski (2003)"
_PLAQUE = (
    "above the 130 HU from which calcium counts (A. S. Agatston et al., J. Am. Coll. Cardiol. 15 (1990) 827), "
    "matched to real CT by eye"
)
_MATCHED = "no published statistics; matched to real CT by eye"

TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000.0, 0.0, _DEFINITION),
    "airway": Tissue(-990.0, 0.0, _DEFINITION),
    "bowel_gas": Tissue(-960.0, 0.0, _DEFINITION),
    "sinus_air": Tissue(-960.0, 0.0, _DEFINITION),
    "lung_parenchyma": Tissue(-805.0, 20.0, _LUNG),
    "fat": Tissue(-98.0, 9.0, _PROKOP),
    "visceral_fat": Tissue(-92.0, 12.0, _PROKOP),
    "mediastinal_fat": Tissue(-82.0, 10.0, _PROKOP),
    "orbital_fat": Tissue(-85.0, 0.0, _PROKOP),
    "skin": Tissue(32.0, 0.0, _MATCHED),
    "muscle": Tissue(52.0, 14.0, _SCHNEIDER),
    "cartilage": Tissue(105.0, 10.0, _SCHNEIDER),
    "calcified_cartilage": Tissue(480.0, 0.0, _MATCHED),
    "disc": Tissue(88.0, 0.0, _MATCHED),
    "airway_wall": Tissue(55.0, 0.0, _MATCHED),
    "blood": Tissue(44.0, 5.0, _PROKOP),
    "heart_muscle": Tissue(46.0, 6.0, _SCHNEIDER),
    "lung_vessel": Tissue(38.0, 0.0, _PROKOP),
    "liver": Tissue(60.0, 6.0, _PROKOP),
    "spleen": Tissue(52.0, 5.0, _PROKOP),
    "kidney": Tissue(36.0, 4.0, _PROKOP),
    "stomach_content": Tissue(32.0, 5.0, _MATCHED),
    "bowel_content": Tissue(30.0, 12.0, _MATCHED),
    "brain": Tissue(34.0, 0.0, _PROKOP),
    "globe": Tissue(14.0, 0.0, _PROKOP),
    "skull_table": Tissue(1500.0, 0.0, _CORTEX),
    "diploe": Tissue(420.0, 90.0, _MATCHED),
    "facial_bone": Tissue(230.0, 120.0, _MATCHED),
    "nasal_septum": Tissue(500.0, 0.0, _MATCHED),
    "turbinate": Tissue(180.0, 0.0, _MATCHED),
    "petrous_bone": Tissue(1350.0, 60.0, _CORTEX),
    "end_plate": Tissue(750.0, 0.0, _CORTEX),
    "osteophyte": Tissue(800.0, 0.0, _MATCHED),
    "plaque": Tissue(700.0, 0.0, _PLAQUE),
    "hyoid": Tissue(750.0, 0.0, _MATCHED),
    "marrow": Tissue(-10.0, 0.0, _MARROW),
}
"""Tissues by name. `PatientParameters.lung_hu` sets the mean of lung parenchyma for a patient."""

AIR = TISSUES["air"].hu


def hu(name: str) -> float:
    """Returns the mean Hounsfield units of a tissue.

    >>> hu("fat")
    -98.0
    """
    return TISSUES[name].hu


def texture(name: str) -> float:
    """Returns the standard deviation of a tissue's texture, HU.

    >>> texture("fat")
    9.0
    """
    return TISSUES[name].texture_std_hu


HIGHEST = 3000.0
"""Upper limit of the volume, as in a 12-bit scanner. The lower limit is `AIR`."""
