"""Tasks for a trained encoder with a head: classification, segmentation, regression. In: a model, and labelled samples
in the usual formats. Out: a `Task` for the trainer, and a `TaskModel` that answers for new samples."""
