"""`fourm finetune` as a program, for several processes: `python finetune_run.py CONFIG [section.key=value …]`."""

import sys

from fourm_engine.recipes.finetune_task import finetune
from fourm_engine.recipes.task_config import load_task_config

if __name__ == "__main__":
    finetune(load_task_config(sys.argv[1], sys.argv[2:]), print_fn=lambda line: None)
