"""The one training loop: what is to be learned (`task`), how (`config`), the loop itself, checkpoints, metrics."""
