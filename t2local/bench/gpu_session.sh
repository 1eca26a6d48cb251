#!/bin/sh
# All that a CUDA GPU has to show, in less than seven minutes: what is right, then what is fast.
#
#     sh t2local/bench/gpu_session.sh FOLDER [SHAPE] [VRAM_GIB]
#
# From the top of the project. Each command has a limit of its own and writes into FOLDER as it goes
# (card.txt, tests.txt, figures.jsonl, log.txt); what was cut off leaves what it had. SHAPE `tiny`
# rehearses it on any machine.
#
# The tests of `svf`, `models`, `adapt`, `training` and `bench` were seen to pass on a CPU with Python
# 3.12, PyTorch 2.11, transformers 5.17 and triton 3.6 too, but for those that write small GGUF files
# of another kind of tokenizer than Qwen's. Where nothing can be fetched, these are enough beside
# them, numba, psutil, charset-normalizer and pytest: platformdirs (0.1 MB), gguf (0.1 MB) and of
# bitsandbytes its Python files (1.4 MB) and `libbitsandbytes_cuda130.so` (3.9 MB).
set -u
out=${1:?give a folder for what is measured}
shape=${2:-llama3-8b}
vram=${3:-12}
mkdir -p "$out" || exit
python=${PYTHON:-python3}

{
    date
    timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.mem --format=csv
    timeout 60 "$python" - <<'END'
import platform

import torch

print("Python", platform.python_version(), "torch", torch.__version__)
if torch.cuda.is_available():
    card = torch.cuda.get_device_properties(0)
    print(card.name, f"sm_{card.major}{card.minor},", card.multi_processor_count, "processors,")
    print(card.L2_cache_size / 2**20, "MiB of L2,", card.total_memory / 2**30, "GiB", flush=True)
import transformers

print("transformers", transformers.__version__)
END
} >"$out/card.txt" 2>&1
cat "$out/card.txt"

tests=$(grep -rl "mark\.gpu" tests)
timeout 120 "$python" -m pytest -q -m gpu $tests >"$out/tests.txt" 2>&1
failed=$?
tail -n 3 "$out/tests.txt"

set -- --shape "$shape" --out "$out/figures.jsonl"
[ "$shape" = tiny ] || set -- "$@" --vram "$vram"
timeout 240 "$python" -m t2local bench "$@" 2>"$out/log.txt" || failed=$?
tail -n 5 "$out/log.txt"
exit $failed
