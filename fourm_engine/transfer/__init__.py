"""Tasks for a trained encoder with a head: classification, segmentation, regression, detection. In: a model, and
labelled samples in common formats. Out: a `Task` for the trainer, and a `TaskModel` that predicts new samples."""
