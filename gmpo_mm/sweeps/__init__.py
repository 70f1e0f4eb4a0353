"""Variants x seeds of one configuration, each a run of its own, killed and gone on with as one (design, section 3)."""
