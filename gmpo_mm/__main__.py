"""`python -m gmpo_mm` is `gmpo-mm`."""

from gmpo_mm.cli import main

if __name__ == "__main__":
    main()
