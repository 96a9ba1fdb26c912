"""Evaluation: predictions on held-out samples in each modality's own metrics, the any-to-any matrix, the report."""
