"""The training loop: tasks, its config, the loop, checkpoints, metrics."""
