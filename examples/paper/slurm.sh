#!/bin/bash
# Trains CONFIG on all GPUs of a Slurm job, one process each. Ten minutes before the time limit, or when Slurm preempts
# the job, the processes write a checkpoint and end; the job is queued again and resumes. It is also queued again when a
# process was lost or hung, unless it has been restarted FAULTS (20) times, for whatever reason; Slurm itself does so when
# a node fails.
#
#   sbatch --nodes=8 examples/paper/slurm.sh CONFIG [section.key=value …]
#
# from the folder that the config's paths are relative to, with the environment that has `fourm` activated.
#SBATCH --job-name=fourm
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -u

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=1

again=
stop() { # SIGTERM to the processes, not to this script: `fourm train` then saves and ends
    again=yes interrupted=yes
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap stop USR1 TERM

# shellcheck disable=SC2016  (each process has its own numbers)
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
    exec python -m fourm_engine.train "$@"' fourm-train "$@" &
step=$!
interrupted=yes
while [ -n "$interrupted" ]; do # a signal ends the wait, not the step
    interrupted=
    wait "$step"
    status=$?
done
# 75: a process was lost or hung; 137: Slurm killed the others before they could say so
case $status in 75 | 137) [ "${SLURM_RESTART_COUNT:-0}" -lt "${FAULTS:-20}" ] && again=yes ;; esac
if [ -n "$again" ] && [ "$status" -ne 0 ]; then # 0: it finished all the same
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
