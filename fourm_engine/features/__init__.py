"""The encoder of a trained model at work: features of samples, and an index of them that is searched."""
