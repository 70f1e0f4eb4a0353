"""What `gmpo-mm data deepscaler` does, from a checkout: python data_tools/deepscaler.py --help"""

from gmpo_mm.data.preparing import run_tool
from gmpo_mm.data.tools.deepscaler import app

if __name__ == "__main__":
    run_tool(app)
