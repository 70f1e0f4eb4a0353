"""What `gmpo-mm data countdown` does, from a checkout: python data_tools/countdown.py --help"""

from gmpo_mm.datasets.countdown import app
from gmpo_mm.datasets.preparing import run_tool

if __name__ == "__main__":
    run_tool(app)
