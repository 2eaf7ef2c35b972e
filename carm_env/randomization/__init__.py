"""Domain randomisation: what other CT scanners and other X-ray systems do to a patient and to an image.

A policy that has seen one scanner and one display takes their properties for anatomy. There are two levels, because
they act on different things and cost differently:

1. *The CT scanner* (`carm_env.randomization.scan`) changes a patient's volume: resolution, kernel, calibration, field
   of view, ends of the scan, couch, metal. It takes up to a second, so it belongs to the patient's name:
   ``virtual:1000?scan=7`` or ``my-ct?scan=7`` is that patient, scanned again (`carm_env.randomization.naming`).
   Whatever takes the name of a patient takes this one: environments, views, suites, the leaderboard, training. It is no
   option of `carm_env.anatomy.parameters.PatientParameters`, because an imported CT has none, and because the person
   stays the same: seeds, splits and the cache of built patients do not change.
2. *The X-ray system* (`carm_env.randomization.chain`) changes how an image is taken and shown: exposure, blur, window,
   polarity, shutters, rotation and crop. It costs milliseconds, so it is drawn anew for each view
   (``ViewOptions(augment=("domain",))``) or episode (``gym.make("CArmNav-v0", domain_randomization=1.0)``).

`carm_env.randomization.draw.draw_domain` draws both from a seed; that module lists every range with its source.
Severity 0 changes nothing, 1 uses the whole ranges.
"""
