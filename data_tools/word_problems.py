"""What `gmpo-mm data word_problems` does, from a checkout: python data_tools/word_problems.py --help"""

from gmpo_mm.datasets.preparing import run_tool
from gmpo_mm.datasets.word_problems import app

if __name__ == "__main__":
    run_tool(app)
