"""Device half: stored trajectories → token trees → packed batches → train step → checkpoint."""
