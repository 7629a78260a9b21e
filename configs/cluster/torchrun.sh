#!/bin/bash
# Machines without SLURM. One with all its GPUs:
#   bash configs/cluster/torchrun.sh "a pineapple" RUN [OPTIONS OF vsd fit...]
# Two of eight GPUs each, the same command on both, which see the folder RUN; NODE0 is the name of one of them:
#   nodes=2 devices=8 master=NODE0 bash configs/cluster/torchrun.sh "a pineapple" RUN
# A process that dies ends all of them, and torchrun starts them again, up to three times; they resume from the last
# checkpoint. Started by hand again: resume=1 bash configs/cluster/torchrun.sh ...
set -euo pipefail

prompt=${1:?the prompt is missing} run=${2:?the folder of the run is missing} options=("${@:3}")
nodes=${nodes:-1} devices=${devices:-$(nvidia-smi --list-gpus | wc -l)} master=${master:-localhost}
launch=(torchrun --nnodes="$nodes" --nproc-per-node="$devices" --rdzv-backend=c10d --rdzv-endpoint="$master:29500"
    --max-restarts=3 --no-python)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} WANDB_MODE=${WANDB_MODE:-offline}

source configs/cluster/stages.sh
stages
