"""What a run needs, whatever its stage: folder, configuration, checkpoints, signals, progress, loggers, pictures."""
