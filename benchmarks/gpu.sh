#!/usr/bin/env bash
# All that a GPU is needed for, on one GPU, in under ten minutes, without network and without vLLM:
#   benchmarks/gpu.sh [CHECK...]        tests marked `gpu`, throughput beside peers, memory, rollbacks, mSFT against proportional
#   benchmarks/gpu.sh --cpu [CHECK...]  the same path in tiny sizes on a CPU, to see that the script itself works; its numbers mean nothing
# CHECKs, by name: these alone, for instance those that a run before found no time for.
# Needs a Python (PYTHON, default python3) with torch 2.11 or later, transformers 5.17 or later and what `needs` lists, in a clone
# or a copy of it. transformers' Trainer is always there; TRL and Liger take part where they are installed (extra `bench`).
# JSON goes to benchmarks/results/ (OUT), named after the hardware, at most eight files. No check begins after, or goes on beyond,
# WITHIN seconds; what matters most comes first.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-benchmarks/results} within=${WITHIN:-570} begun=$SECONDS done=()
needs="torch transformers accelerate peft safetensors numpy scipy pydantic jinja2 yaml pytest hypothesis"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

checks=on_gpu asked=() known=()
[ "${1:-}" != --cpu ] || { checks=on_cpu; shift; }
[ $# -eq 0 ] || asked=("$@")
missing=$("$python" -c 'import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))' $needs) || exit 2
if [ -n "$missing" ]; then
  echo "gpu.sh: $python has no ${missing// /, }; all of these are dependencies of this package" >&2; exit 2
elif [ $checks = on_cpu ]; then
  export HARNESS_DEVICE=cpu CUDA_VISIBLE_DEVICES= ; within=${WITHIN:-1500}
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: $python sees no CUDA device; --cpu tries the script in tiny sizes" >&2; exit 2
fi
name=$("$python" benchmarks/hardware.py --name) || exit 2
mkdir -p "$out"

# check NAME SECONDS COMMAND...: its last lines, its status, its time; a failure is remembered and the next one still runs.
# What is left of all the time bounds it too; 124 is the status of what took too long, or had no time left to begin.
check() {
  local label=$1 limit=$2 started=$SECONDS status=0 left; shift 2
  if [ "$listing" ]; then known+=("$label"); return; fi
  [ ${#asked[@]} -eq 0 ] || [[ " ${asked[*]} " = *" $label "* ]] || return
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

on_cpu() {
  check tests 300 "$python" -m pytest tests/test_gpu.py -m "gpu and not vllm"
  bench throughput-tiny 400 throughput.py --models tiny --rows short --modes lora --batch 4 --rounds 1 --peers harness,hf --out "$out/throughput-$name.json"
  bench memory 200 loss_memory.py --hidden 128 --layers 1 --vocabulary 1000 --examples 2 --length 20 --supervised 8 --budget 0 --out "$out/memory-$name.json"
  bench rollback 200 rollback.py --model tiny --batch 8 --repeats 3 --out "$out/rollback-$name.json"
  bench duel 300 duel.py --budget 0.05x --out "$out/duel-$name.json"
}

on_gpu() {
  check tests 200 "$python" -m pytest tests/test_gpu.py tests/test_fork_memory.py -m "gpu and not vllm"
  bench throughput-0.5b 180 throughput.py --models qwen2.5-0.5b --rows short,long --modes full,lora --batch 32 --rounds 10 --present --out "$out/throughput-$name-0.5b.json"
  bench duel 120 duel.py --budget 0.5x --out "$out/duel-$name.json"
  bench rollback 120 rollback.py --model qwen2.5-0.5b --batch 32 --repeats 2 --out "$out/rollback-$name.json"
  bench memory 60 loss_memory.py --hidden 512 --layers 8 --examples 16 --budget 0 --out "$out/memory-$name.json"
  bench throughput-1.5b 180 throughput.py --models qwen2.5-1.5b --rows short,long --batch 32 --rounds 5 --present --out "$out/throughput-$name-1.5b.json"
  bench throughput-small 90 throughput.py --models pocket,smollm2-135m --rows short --batch 32 --rounds 10 --present --out "$out/throughput-$name-small.json"
  HARNESS_COMPILE=1 bench throughput-compiled 120 throughput.py --models qwen2.5-0.5b --rows short --batch 32 --rounds 10 --warm 4 --peers harness --out "$out/throughput-$name-compiled.json"
  check ledger 90 "$python" -m pytest tests/test_flops_proof.py -k "qwen2 or llama"  # on the host; on the GPU it is one of `tests`
}

listing=1; $checks; listing=
for label in ${asked[@]+"${asked[@]}"}; do
  [[ " ${known[*]} " = *" $label "* ]] || { echo "gpu.sh: unknown check '$label'; there are ${known[*]}" >&2; exit 2; }
done
$checks
"$python" benchmarks/hardware.py --summary "$out/gpu-$name.json" ${asked:+--add} "${done[@]}"
status=$?
echo "== $((SECONDS - begun)) s"
exit $status
