"""What any recipe could use: configuration, stages, checkpoints, optimiser, losses, scoring."""
