"""What `gmpo-mm data synthetic_geometry` does, from a checkout: python data_tools/synthetic_geometry.py --help"""

from gmpo_mm.datasets.preparing import run_tool
from gmpo_mm.datasets.synthetic_geometry import app

if __name__ == "__main__":
    run_tool(app)
