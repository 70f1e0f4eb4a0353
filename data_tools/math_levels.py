"""What `gmpo-mm data math` does, from a checkout: python data_tools/math_levels.py --help"""

from gmpo_mm.datasets.math import app
from gmpo_mm.datasets.preparing import run_tool

if __name__ == "__main__":
    run_tool(app)
