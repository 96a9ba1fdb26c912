"""A trained model learns something narrower, or at another size. In: a model of ours or a published one, and the
modalities that take part. Out: a `Task` that goes on from its weights, all or some of them, and exports a model."""
