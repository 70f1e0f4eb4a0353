"""What stands on disk and what is shown: run directories, checkpoints, metrics, trackers, progress and locks."""
