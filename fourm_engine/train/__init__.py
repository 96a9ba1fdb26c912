"""The training loop, for everything that learns by gradient. In: a `Task` (model, samples, loss) and a `TrainConfig`.
Out: checkpoints, metrics, and trained weights, which the task exports."""
