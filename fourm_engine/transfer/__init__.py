"""The encoder of a trained model learns a task with a head. In: a model, labelled samples in the formats that sets of
them have. Out: a `Task` of the one trainer, and a `TaskModel` that answers for new samples."""
