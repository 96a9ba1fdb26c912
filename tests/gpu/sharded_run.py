"""`fourm_run.py` with FSDP2 over one process, where the trainer does without: `python sharded_run.py DATA RUN JSON`."""

import torch
import torch.distributed as dist

from fourm_engine.train import parallel, step
from tests.pretrain import fourm_run

if __name__ == "__main__":
    parallel.is_sharded = step.is_sharded = lambda *_: True
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    fourm_run.main()
    dist.destroy_process_group()
