"""What `gmpo-mm data deepscaler` does, from a checkout: python data_tools/deepscaler.py --help"""

from gmpo_mm.datasets.deepscaler import app
from gmpo_mm.datasets.preparing import run_tool

if __name__ == "__main__":
    run_tool(app)
