#!/usr/bin/env bash
# What it shows: super-resolution as a specialisation: a trained model learns a larger instance of a modality, then to
#                draw it from the small one.
# The command:   bash examples/scenes/super-resolution.sh   (after `make demo`)
# The result:    a table as in docs/super-resolution.md, printed at the end
#
# Interrupt it at any point; run it again to continue.
set -euo pipefail
here="$(dirname "$0")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a model this small gains nothing from threads
data=data/scenes-192
codec="{encoder: {blocks: 0, mlp_ratio: 2}, decoder: {blocks: 2, mlp_ratio: 2, post_mlp: false}}"

python "$here/render.py" --out "$data" --train 1500 --val 60 --size 192 --seed 0 --jobs 1
# Crops of what is rendered at 192 pixels: the model sees parts of scenes, too, as the tiles of a larger picture are.
fourm extend runs/demo --add rgb@128 --out runs/demo-128 "data.train=$data/train" "data.val=$data/val" \
  "data.tokens=$data/tokens" data.views=2 data.augment=true "data.crop_scale=[0.4,1.0]" \
  "modalities.settings.rgb@128={plugin: rgb, image_size: 128, patch_size: 8, codebook_size: 1024, tokenizer: $codec}" \
  "tokenizers.spaces.rgb@128={steps: 2500, batch_size: 4, lr: 1.5e-3, warmup: 60}" "tokenizers.folder=$data/tokenizers" \
  train.steps=60 train.warmup=10 train.batch_size=8
fourm train "$here/super-resolution.yaml"
python -m benchmarks.super_resolution runs/super-resolution "$data/val" --sheet runs/super-resolution/sheet.png
