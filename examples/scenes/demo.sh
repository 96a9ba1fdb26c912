#!/usr/bin/env bash
# What it shows: the whole path, from raw files of seven modalities to an any-to-any model and its report.
# The command:   make demo        (or: bash examples/scenes/demo.sh demo 2000 200 300)
# The result:    runs/demo/evaluation/report.html
#
# Apart from rendering scenes and training the small contrastive model for their feature maps, these are the commands for
# your data. Interrupt it at any point; run it again to continue.
set -euo pipefail
name="$1" train_scenes="$2" val_scenes="$3" clip_steps="$4"
here="$(dirname "$0")"
config="$here/$name.yaml" data="data/$name"
# A model keeps its vocabulary: with a plugin uninstalled, train another model on the rest.
have=" $(fourm plugins list --json | python -c '
import json, sys
print(*(plugin["name"] for plugin in json.load(sys.stdin) if plugin["state"] == "ok"))') "
installed() { case "$have" in *" $1 "*) ;; *) false ;; esac; }
absent=""
for modality in rgb depth normal semseg boxes caption clip; do
  installed "$modality" || absent="$absent-without-$modality"
done
run="runs/$name$absent"

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

# Small models on a CPU: one single-threaded process per core beats one process with many threads.
cores="$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
gpu=0
# Importing torch takes seconds: it is asked only where the system knows of a GPU.
if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || [ -e /dev/kfd ]; then
  gpu="$(python -c 'import torch; print(int(torch.cuda.is_available()))')"
fi
if [ "$gpu" = 1 ]; then
  processes=1
else
  processes=$((cores < 2 ? 1 : 2))
  export OMP_NUM_THREADS=1
fi

step "render the scenes"
python "$here/render.py" --out "$data" --train "$train_scenes" --val "$val_scenes" --seed 0 --jobs "$processes"

# A small contrastive model, which then labels the pictures.
features() {
  python "$here/train_clip.py" --data "$data/train" --out "$data/clip_model" --steps "$clip_steps" --seed 0
  if installed rgb && installed clip; then
    fourm label "$config" --from rgb --to clip --model "$data/clip_model"
  else
    echo "rgb or clip is not installed: nothing to label"
  fi
}

# The tokenizers of some token spaces, one after the other; captions and boxes share one.
fit() {
  local space chosen=()
  for space; do
    if installed "$space" || { [ "$space" = text ] && { installed caption || installed boxes; }; }; then
      chosen+=(--space "$space")
    fi
  done
  if [ ${#chosen[@]} != 0 ]; then fourm tokenizer fit "$config" "${chosen[@]}"; fi
}

if [ "$processes" = 1 ]; then
  step "train the small contrastive model, then let it label the pictures"
  features
  step "fit the tokenizers"
  fourm tokenizer fit "$config"
else
  step "fit the tokenizers, on one core after training a small contrastive model that labels the pictures"
  # Both cores have as much to do. Each is a job of its own, so that it can be stopped as a whole.
  set -m
  { features; fit clip text rgb; } &
  one=$!
  fit depth normal semseg &
  other=$!
  set +m
  trap 'kill -TERM -- "-$one" "-$other" 2>/dev/null; wait' EXIT
  wait "$other" && wait "$one" || {
    status=$?
    echo "tokenizers are missing, see above; run the same command again to go on" >&2
    exit "$status"
  }
  trap - EXIT
fi

step "tokenize everything once"
fourm tokenize "$config"

step "train the model"
torchrun --nproc-per-node="$processes" -m fourm_engine.train "$config" run="$run"

step "evaluate on the held-out scenes"
python "$here/report.py" "$run" --jobs "$processes"

step "done: open $run/evaluation/report.html"
