"""The training loop shared by all tasks. In: a `Task` (model, samples, loss) and a `TrainConfig`. Out: checkpoints,
metrics, and the trained weights, which the task exports."""
