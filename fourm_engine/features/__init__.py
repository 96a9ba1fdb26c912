"""Features of samples from a trained model's encoder: probes, an index to search, export to other programs."""
