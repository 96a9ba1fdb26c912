"""The 4M objective: a `Task` on packed samples of all modalities, with one cross-entropy per modality as its loss, that
exports a `FourM`."""
