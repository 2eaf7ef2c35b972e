"""``python -m carm_env.cli``: the same as ``carm-env``."""

import sys

from carm_env.cli import main

sys.exit(main())
