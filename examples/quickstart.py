"""What `gmpo-mm quickstart` does, from a checkout: train the bundled model on the CPU, and show what it learnt.

    make quickstart                                      # installs what is missing, then runs this
    python examples/quickstart.py worker.rollout.seed=2  # any key of configs/quickstart.yaml
"""

import sys

from gmpo_mm.errors import GMPOError
from gmpo_mm.start.quickstart import main

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GMPOError as error:
        sys.exit(f"error: {error}")
