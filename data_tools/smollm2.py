"""What `gmpo-mm data smollm2` does, from a checkout: python data_tools/smollm2.py --help"""

from gmpo_mm.datasets.preparing import run_tool
from gmpo_mm.datasets.smollm2 import app

if __name__ == "__main__":
    run_tool(app)
