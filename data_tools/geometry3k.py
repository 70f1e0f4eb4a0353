"""What `gmpo-mm data geometry3k` does, from a checkout: python data_tools/geometry3k.py --help"""

from gmpo_mm.datasets.geometry3k import app
from gmpo_mm.datasets.preparing import run_tool

if __name__ == "__main__":
    run_tool(app)
