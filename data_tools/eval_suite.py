"""What `gmpo-mm data eval_suite` does, from a checkout: python data_tools/eval_suite.py --help"""

from gmpo_mm.data.preparing import run_tool
from gmpo_mm.data.tools.eval_suite import app

if __name__ == "__main__":
    run_tool(app)
