#!/usr/bin/env bash
# What it shows: the whole path, from raw files of seven modalities to an any-to-any model and a report of its pictures.
# The command:   make demo        (or: bash examples/scenes/demo.sh demo 2000 200 300)
# The result:    runs/demo/evaluation/report.html
#
# Apart from rendering the scenes and training the small contrastive model behind their feature maps, these are the public
# commands that one types for data of one's own. Stop it anywhere; run again, it continues where it was.
set -euo pipefail
name="$1" train_scenes="$2" val_scenes="$3" clip_steps="$4"
here="$(dirname "$0")"
config="$here/$name.yaml" data="data/$name" run="runs/$name"
cores="$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
cuda="$(python -c 'import torch; print(int(torch.cuda.is_available()))')"

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

# Small models on a CPU: one thread a process and a process a core beat many threads in one process.
if [ "$cuda" = 0 ]; then
  export OMP_NUM_THREADS=1
  processes=$((cores < 2 ? 1 : 2))
else
  processes="$(python -c 'import torch; print(torch.cuda.device_count())')"
fi

step "render the scenes"
python "$here/render.py" --out "$data" --train "$train_scenes" --val "$val_scenes" --seed 0 --jobs "$processes"

step "train the small contrastive model, then let it label the pictures"
OMP_NUM_THREADS="$cores" python "$here/train_clip.py" --data "$data/train" --out "$data/clip_model" --steps "$clip_steps" --seed 0
fourm label "$config" --from rgb --to clip --model "$data/clip_model"

step "fit the tokenizers"
fourm tokenizer fit "$config" --jobs "$processes"

step "tokenize everything once"
torchrun --nproc-per-node="$processes" -m fourm_engine.cli tokenize "$config"

step "train the model"
torchrun --nproc-per-node="$processes" -m fourm_engine.train "$config"

step "evaluate on the held-out scenes"
OMP_NUM_THREADS="$cores" python "$here/report.py" "$run"

step "done: open $run/evaluation/report.html"
