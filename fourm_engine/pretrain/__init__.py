"""The 4M objective: a `Task` on packed samples of all modalities, with one cross-entropy per modality. Exports a
`FourM`."""
