"""Entry point for torchrun: `torchrun --nproc-per-node=2 -m fourm_engine.train CONFIG.yaml [section.key=value …]`."""

import sys

from fourm_engine.cli import main

sys.argv.insert(1, "train")
main()
