"""Evaluation of models and tokenizers. In: a `FourM`, or tokenizers, and held-out samples. Out: scores in each
modality's metrics, the any-to-any matrix in nats, and the report with pictures."""
