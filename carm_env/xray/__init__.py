"""X-ray formation: from a CT volume and the C-arm's place to an image."""

from carm_env.xray.camera import XRayCamera, XRaySettings
from carm_env.xray.projector import Projector
from carm_env.xray.separable import SeparableProjector
from carm_env.xray.window import Window

__all__ = ["Projector", "SeparableProjector", "Window", "XRayCamera", "XRaySettings"]
