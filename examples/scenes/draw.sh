#!/usr/bin/env bash
# What it shows: a model of the demo's data and tokenizers, specialised to drawing and editing, and how well it does.
# The command:   make demo-draw   (after `make demo`)
# The result:    runs/draw, an ordinary run; runs/draw/drawing/ with figures and pictures; docs/generation.md shows them
#
# Interrupt it at any point; run it again to continue.
set -euo pipefail
here="$(dirname "$0")"
[ -e runs/demo/finished.json ] || { echo "runs/demo is not finished; run: make demo" >&2; exit 1; }

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

cores="$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
processes=$((cores < 2 ? 1 : 2))
export OMP_NUM_THREADS=1

step "render more scenes, of which the demo's are the first"
python "$here/render.py" --out data/draw --train 20000 --val 200 --seed 0 --jobs "$processes"

step "train the recogniser that will judge, on a core beside what follows"
python "$here/recogniser.py" --out data/recogniser >data/recogniser.log 2>&1 &
recogniser=$!
trap 'kill "$recogniser" 2>/dev/null || true' EXIT

step "fit a finer tokenizer of pictures, and add its tokens to the demo's model"
fourm extend runs/demo --add rgb@fine --config "$here/draw-extend.yaml" --out runs/draw-start
wait "$recogniser" || { cat data/recogniser.log >&2; exit 1; }
tail -n 1 data/recogniser.log

step "train the model to draw"
torchrun --nproc-per-node="$processes" -m fourm_engine.train "$here/draw.yaml"

step "measure what it draws and edits"
python "$here/drawing.py" runs/draw --before runs/demo

step "done: look at runs/draw/drawing/drawn.png and edited.png"
