"""What `gmpo-mm data smollm2_form` does, from a checkout: python data_tools/smollm2_form.py --help"""

from gmpo_mm.datasets.preparing import run_tool
from gmpo_mm.datasets.smollm2_form import app

if __name__ == "__main__":
    run_tool(app)
