"""Fine-tuning of a trained model, for example on fewer modalities or at another size. In: a native or published model,
and the modalities to train. Out: a `Task` that trains all or some of its weights, and exports a model."""
