"""Published 4M checkpoints and tokenizers, read and written: the same numbers under the published names."""
