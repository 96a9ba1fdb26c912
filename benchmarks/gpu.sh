#!/usr/bin/env bash
# All benchmarks for one GPU, as tables: at most 9 minutes on an H100.
#
#     bash benchmarks/gpu.sh > gpu.md
#
# Steps of B, L and XL (eager, compiled, checkpointing, a residual stream in bf16) beside the obvious implementation;
# generation; tokenizers.
# A benchmark that fails (on a GPU with less memory) is reported, and the rest continue. Needs a torch that sees the GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
began=$SECONDS

part() { # TITLE SECONDS MODULE ARGUMENTS…
  printf '\n## %s\n\n' "$1"
  timeout "$2" "$PYTHON" -m "benchmarks.$3" "${@:4}" || printf '\nnot measured: exit %s\n' "$?"
}

"$PYTHON" - <<'PY' || exit 1
import sys
import torch
if not torch.cuda.is_available():
    sys.exit("benchmarks/gpu.sh: torch sees no GPU; install a torch for CUDA")
print("#", torch.cuda.get_device_name(), "· torch", torch.__version__, "· CUDA", torch.version.cuda)
PY
printf '%s, commit %s\n' "$(date -u +%F)" "$(git describe --always --dirty 2>/dev/null || echo unknown)"

part "A step of 4M-L, 128 samples" 110 train_step --size L --batch 128 --steps 5 \
  --variant fast --variant compiled --variant compiled-half --variant compiled-selective --variant obvious
part "A step of 4M-XL, 4 x 48 samples" 90 train_step --size XL --batch 48 --accumulate 4 --steps 3 \
  --variant compiled-selective --variant compiled-selective-half
part "A step of 4M-L, 4 x 192 samples" 60 train_step --size L --batch 192 --accumulate 4 --steps 3 --variant compiled-half
part "Generation, 4M-B" 90 generation --size B --batch 16 --dtype bfloat16
part "Tokenizers" 60 tokenizer_speed --codec ViT --repeat 2
part "A step of 4M-B, 256 samples" 60 train_step --size B --batch 256 --steps 5 \
  --variant fast --variant compiled --variant compiled-half --variant obvious
part "A step of 4M-XL, 48 samples" 60 train_step --size XL --batch 48 --steps 3 --variant selective --variant full

printf '\n%s s in all\n' "$((SECONDS - began))"
