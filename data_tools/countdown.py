"""What `gmpo-mm data countdown` does, from a checkout: python data_tools/countdown.py --help"""

from gmpo_mm.data.preparing import run_tool
from gmpo_mm.data.tools.countdown import app

if __name__ == "__main__":
    run_tool(app)
