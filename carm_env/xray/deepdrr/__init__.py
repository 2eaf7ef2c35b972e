"""The real DeepDRR as a renderer of pictures (extra ``deepdrr``, CUDA only).

DeepDRR (Unberath et al., MICCAI 2018) is free software under the GPL-3. It is called here, never
copied; a program that ships both has to honour that licence.
"""

from carm_env.xray.deepdrr.renderer import DeepDRRRenderer

__all__ = ["DeepDRRRenderer"]
