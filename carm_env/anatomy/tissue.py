"""Hounsfield units of the tissues of a virtual patient.

The values are those of diagnostic CT at 120 kV as textbooks give them (soft tissue, fat, lung) or, for
bone at 2 mm voxels, those that looked right beside real CT once partial volume is taken into account.
"""

from __future__ import annotations

AIR = -1000.0
AIRWAY = -990.0
BOWEL_GAS = -960.0
SINUS_AIR = -960.0
FAT = -98.0
VISCERAL_FAT = -92.0
MEDIASTINAL_FAT = -82.0
ORBITAL_FAT = -85.0
SKIN = 32.0
MUSCLE = 52.0
CARTILAGE = 105.0
DISC = 88.0
AIRWAY_WALL = 55.0
BLOOD = 44.0
HEART_MUSCLE = 46.0
LUNG_VESSEL = 38.0
LIVER = 60.0
SPLEEN = 52.0
KIDNEY = 36.0
STOMACH_CONTENT = 32.0
BOWEL_CONTENT = 30.0
BRAIN = 34.0
GLOBE = 14.0

CORTICAL_BONE = 1250.0
SKULL_TABLE = 1500.0
DIPLOE = 420.0
FACIAL_BONE = 230.0
NASAL_SEPTUM = 500.0
TURBINATE = 180.0
PETROUS_BONE = 1350.0
TRABECULAR_BONE = 200.0
HYOID = 750.0
TOOTH_ENAMEL = 2150.0
TOOTH_DENTINE = 1400.0
MARROW = -10.0

HIGHEST = 3000.0
"""The largest value that a CT scanner stores; the lowest is that of air."""
