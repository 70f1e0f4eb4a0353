"""What `gmpo-mm data geometry3k` does, from a checkout: python data_tools/geometry3k.py --help"""

from gmpo_mm.data.preparing import run_tool
from gmpo_mm.data.tools.geometry3k import app

if __name__ == "__main__":
    run_tool(app)
