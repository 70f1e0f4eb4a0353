"""What `gmpo-mm data math` does, from a checkout: python data_tools/math_levels.py --help"""

from gmpo_mm.data.preparing import run_tool
from gmpo_mm.data.tools.math import app

if __name__ == "__main__":
    run_tool(app)
