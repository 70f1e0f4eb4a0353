"""What `gmpo-mm data math` does, from a checkout: python data_tools/math.py --help

Python puts a script's folder before its own modules, so this file's name hides the standard library's `math` from every
script in this folder. Whoever imports `math` gets the real one from here.
"""

import os
import sys

_FOLDER = os.path.dirname(os.path.realpath(__file__))

if __name__ == "math":
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != _FOLDER]
    del sys.modules["math"]
    import math  # noqa: F401  (the import system returns what stands in sys.modules, which is the real module from now on)
elif __name__ == "__main__":
    from gmpo_mm.datasets.math import app
    from gmpo_mm.datasets.preparing import run_tool

    run_tool(app)
