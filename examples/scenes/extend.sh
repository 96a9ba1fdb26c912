#!/usr/bin/env bash
# What it shows: a trained model learns a new modality in three ways, and what each of them forgets.
# The command:   bash examples/scenes/extend.sh
# The result:    four tables, whose numbers docs/extending.md quotes; runs/grow-normal-*/extend.json
#
# Interrupt it at any point; run it again to continue.
set -euo pipefail
here="$(dirname "$0")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # a model this small gains nothing from threads

python "$here/render.py" --out data/grow --train 800 --val 200 --size 32 --seed 0 --jobs 1
fourm tokenizer fit "$here/extend.yaml"
fourm tokenize "$here/extend.yaml"
fourm train "$here/extend.yaml"
for train in rows lora all; do
  fourm extend runs/grow --add normal --train "$train" train.steps=150 tokenizers.fit.steps=200
done
# Without replay, known modalities are forgotten.
fourm extend runs/grow --add normal --train all --out runs/grow-normal-all-no-replay extend.replay=0 train.steps=150
