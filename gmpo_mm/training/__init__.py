"""Training: the step, the actor update, the run directory, checkpoints, metrics and trackers of the local engine."""
