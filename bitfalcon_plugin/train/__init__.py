"""The verb train: from settings to a run, its loop, its checkpoints, and several processes."""
