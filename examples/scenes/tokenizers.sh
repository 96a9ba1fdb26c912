#!/usr/bin/env bash
# What it shows: the effect of parts of a tokenizer: start and restarts of a codebook, a network instead of the nearest
#                patch, several sizes.
# The command:   bash examples/scenes/tokenizers.sh codebook 1500     (or: nearest, diffusion, sizes; the number is of steps)
# The result:    a line of held-out scores for each; the tables of docs/tokenizers.md, with the numbers to expect
#
# On the scenes of `make demo-full`, which it renders if missing. One thread; a step takes about 0.05 s of a core.
set -euo pipefail
what="${1:?codebook, nearest, diffusion or sizes}" steps="${2:-800}"
here="$(dirname "$0")"
export OMP_NUM_THREADS=1
codec="encoder: {blocks: 0, mlp_ratio: 2}, decoder: {blocks: 2, mlp_ratio: 2, post_mlp: false}"

fit() { # name, token space, overrides
  local name="$1" space="$2"
  shift 2
  echo "== $name"
  fourm tokenizer fit "$here/demo-full.yaml" --space "$space" "tokenizers.folder=runs/tokenizers/$what-$steps/${name//[ ,:]/-}" \
    "tokenizers.fit.steps=$steps" "tokenizers.fit.log_every=$steps" "$@" | grep '^tokenizer'
}

render() { # folder, scenes, pixels
  [ -e "$1/scenes.json" ] || python "$here/render.py" --out "$1" --train "$2" --val 200 --size "$3" --jobs 1
}

case "$what" in
  codebook)
    render data/demo-full 10000 64
    for restart in "restart: batch" "restart_below: 0" "restart: split"; do
      for start in true false; do
        fit "k-means $start, $restart" rgb "modalities.settings.rgb.tokenizer={$codec, kmeans_start: $start, $restart}"
      done
    done
    ;;
  nearest) # needs: pip install -e examples/plugins/kmeans
    for name in rgb depth normal clip; do
      fit "nearest patch, $name" "$name" "modalities.settings.$name.tokenizer={kind: kmeans, rounds: 10}"
    done
    ;;
  diffusion) # on encoders and codebooks of `fourm tokenizer fit examples/scenes/demo-full.yaml`
    unet="decoder: {width: 64, multipliers: [1, 2]}"
    process="prediction: sample, schedule: linear, zero_terminal_snr: true, sampler: dpm_solver, steps: 4"
    for name in ${3:-rgb depth normal}; do
      from="encoder: {blocks: 0, mlp_ratio: 2}, encoder_from: data/demo-full/tokenizers/$name"
      fit "diffusion, $name" "$name" "modalities.settings.$name.tokenizer={kind: divae, $unet, diffusion: {$process}, $from}"
    done
    ;;
  sizes)
    render data/scenes-128 1000 128
    data=(data.train=data/scenes-128/train data.val=data/scenes-128/val "modalities.select=[rgb]")
    fit "at 64, adapted to 128" rgb "${data[@]}" modalities.settings.rgb.image_size=64 \
      "tokenizers.spaces.rgb.adapt={steps: $((steps / 4)), sizes: [[96, 96], [64, 128], [128, 128]]}"
    fit "at 128" rgb "${data[@]}" modalities.settings.rgb.image_size=128
    ;;
  *)
    echo "$what: codebook, nearest, diffusion or sizes" >&2
    exit 2
    ;;
esac
