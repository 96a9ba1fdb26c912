"""Further modalities of 4M-21 (arXiv 2406.09406), each under the name that the published models know it by."""
