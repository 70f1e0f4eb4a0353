"""What `gmpo-mm data eval_suite` does, from a checkout: python data_tools/eval_suite.py --help"""

from gmpo_mm.datasets.eval_suite import app
from gmpo_mm.datasets.preparing import run_tool

if __name__ == "__main__":
    run_tool(app)
