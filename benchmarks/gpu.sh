#!/usr/bin/env bash
# All that a GPU is needed for, on one GPU, in under ten minutes, without network and without vLLM:
#   benchmarks/gpu.sh             tests marked `gpu`, throughput beside peers, memory, rollbacks, mSFT against proportional
#   benchmarks/gpu.sh --cpu       the same path in tiny sizes on a CPU, to see that the script itself works; its numbers mean nothing
# Needs a Python (PYTHON, default python3) with torch 2.11 or later, transformers 5.17 or later and what `needs` lists, in a clone
# or a copy of it. transformers' Trainer is always there; TRL and Liger take part where they are installed (extra `bench`).
# JSON goes to benchmarks/results/ (OUT), named after the hardware. No check begins after, or goes on beyond, WITHIN seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-benchmarks/results} within=${WITHIN:-570} begun=$SECONDS done=()
needs="torch transformers accelerate peft safetensors numpy scipy pydantic jinja2 yaml pytest hypothesis"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

missing=$("$python" -c 'import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))' $needs) || exit 2
if [ -n "$missing" ]; then
  echo "gpu.sh: $python has no ${missing// /, }; all of these are dependencies of this package" >&2; exit 2
elif [ "${1:-}" = --cpu ]; then
  export HARNESS_DEVICE=cpu CUDA_VISIBLE_DEVICES= ; within=${WITHIN:-1500}
elif [ $# -gt 0 ]; then
  echo "gpu.sh: unknown argument '$1'; expected --cpu or none" >&2; exit 2
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: $python sees no CUDA device; --cpu tries the script in tiny sizes" >&2; exit 2
fi
name=$("$python" benchmarks/hardware.py --name) || exit 2
mkdir -p "$out"

# check NAME SECONDS COMMAND...: its last lines, its status, its time; a failure is remembered and the next one still runs.
# What is left of all the time bounds it too; 124 is the status of what took too long, or had no time left to begin.
check() {
  local label=$1 limit=$2 started=$SECONDS status=0 left; shift 2
  left=$((within - (SECONDS - begun)))
  echo "== $label"
  if [ "$left" -gt 0 ]; then
    timeout --kill-after=5 "$((left < limit ? left : limit))" "$@" || status=$?
  else
    status=124
  fi
  done+=("$label=$status:$((SECONDS - started))")
}
bench() { check "$1" "$2" "$python" "benchmarks/$3" "${@:4}"; }

if [ "${1:-}" = --cpu ]; then
  check tests 300 "$python" -m pytest tests/test_gpu.py -m "gpu and not vllm"
  bench throughput-tiny 400 throughput.py --models tiny --rows short --modes lora --batch 4 --rounds 1 --peers harness,hf --out "$out/throughput-$name.json"
  bench memory 200 loss_memory.py --hidden 128 --layers 1 --vocabulary 1000 --examples 2 --length 20 --supervised 8 --budget 0 --out "$out/memory-$name.json"
  bench rollback 200 rollback.py --model tiny --batch 8 --repeats 3 --out "$out/rollback-$name.json"
  bench duel 300 duel.py --budget 0.05x --out "$out/duel-$name.json"
else
  check tests 120 "$python" -m pytest tests/test_gpu.py tests/test_fork_memory.py -m "gpu and not vllm"
  bench throughput-0.5b 150 throughput.py --models qwen2.5-0.5b --rows short,long --modes full,lora --batch 32 --rounds 10 --present --out "$out/throughput-$name-0.5b.json"
  bench duel 120 duel.py --budget 0.5x --out "$out/duel-$name.json"
  bench rollback 60 rollback.py --model qwen2.5-0.5b --batch 32 --out "$out/rollback-$name.json"
  bench memory 40 loss_memory.py --hidden 512 --layers 8 --examples 16 --budget 0 --out "$out/memory-$name.json"
  check ledger 60 "$python" -m pytest tests/test_flops_proof.py -k "qwen2 or llama"  # on the host; on the GPU it is one of `tests`
  bench throughput-1.5b 120 throughput.py --models qwen2.5-1.5b --rows short,long --batch 32 --rounds 5 --present --out "$out/throughput-$name-1.5b.json"
  bench throughput-small 60 throughput.py --models pocket,smollm2-135m --rows short --batch 32 --rounds 10 --present --out "$out/throughput-$name-small.json"
  HARNESS_COMPILE=1 bench throughput-compiled 90 throughput.py --models qwen2.5-0.5b --rows short --batch 32 --rounds 10 --warm 4 --peers harness --out "$out/throughput-$name-compiled.json"
fi
"$python" benchmarks/hardware.py --summary "$out/gpu-$name.json" "${done[@]}"
status=$?
echo "== $((SECONDS - begun)) s"
exit $status
