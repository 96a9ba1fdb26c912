"""Evaluation: predictions on held-out samples scored by each modality's metrics, the any-to-any matrix, the report."""
