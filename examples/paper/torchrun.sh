#!/bin/bash
# Trains CONFIG on all GPUs of machines without Slurm. On each machine, with the same HOST (the first machine) and NODES:
#
#   HOST=10.0.0.1 NODES=8 examples/paper/torchrun.sh CONFIG [section.key=value …]
#
# On one machine, leave out HOST and NODES. A run that loses a process resumes by itself, RESTARTS (3) times; the same
# command resumes a stopped or killed run.
set -eu
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
set -- --max-restarts="${RESTARTS:-3}" -m fourm_engine.train "$@"
if [ "${NODES:-1}" -eq 1 ]; then
    set -- --standalone --nproc-per-node="$GPUS" "$@"
else
    # Without it (torch 2.13) a machine that joins after the first start, or again, ends the run of all after a minute.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    set -- --nnodes="$NODES" --nproc-per-node="$GPUS" --rdzv-backend=c10d --rdzv-endpoint="$HOST:29500" "$@"
fi
exec torchrun "$@"
