"""The 4M objective. In: packed samples of all modalities. Out: a `Task` whose loss is one cross-entropy a modality, and
which exports a `FourM`."""
