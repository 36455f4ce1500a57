#!/usr/bin/env bash
# Everything that only a machine with a GPU can tell, in one command; needs no network and no root.
#
#   tools/gpu_check.sh              all steps
#   tools/gpu_check.sh STEP ...     some: build tests cpu_tests memcheck racecheck initcheck synccheck
#                                         grid_bfloat16 grid_float32 big small crossover
#
# Each step but build and cpu_tests ends within MINUTES (8), of which it prints what it took: a benchmark begins no other
# case after them, and the other steps are stopped. So where a job may take ten minutes and no more, build
# elsewhere (TORCH_CUDA_ARCH_LIST=9.0), carry torchloss/_C*.so, and call the steps one by one with SKIP_BUILD=1.
#
# What the steps answer:
#   tests            every test that has "cuda" in its name: conformance, exactness and edges in all dtypes, and what only a
#                    GPU can show: CUDA graphs, other streams, same bits over runs, more than 2^31 elements
#   cpu_tests        the others
#   ...check         a selection of small odd shapes under compute-sanitizer
#   grid_...         cross entropy of 4096 and 32768 rows, V from 10 to 262144: "of copy" should be 90 % and more
#   big              its options, the other losses of rows, and pointwise losses of 10^8 elements
#   small            where launches are all that there is
#   crossover        the CPU and CUDA from 10^2 to 10^8 elements, with and without the transfer
#
# Environment: PYTHON (default python3; has torch with CUDA, pytest and, to build, ninja), SKIP_BUILD=1 (use the libraries
# that are there), OUT (where logs, JSON and SVG go; default benchmarks/results), MINUTES, WORKERS (8), PYTEST_ARGS (more
# for the tests, such as -x), SECONDS_PER_CASE (default: the set's).
# A step that cannot run here is printed as SKIPPED and counted; anything that failed makes the exit status 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
mkdir -p "${OUT:=benchmarks/results}"
OUT=$(cd "$OUT" && pwd)
export OUT PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
failed=() skipped=() skips=0

skip() { # step, reason, how many (1)
  echo "SKIPPED $1: $2"
  skipped+=("$1: $2")
  skips=$((skips + ${3:-1}))
}

fail() { # step, reason
  echo "FAILED $1: $2"
  failed+=("$1")
}

machine() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "nvidia-smi: not found"
  (nvcc --version || echo "nvcc: not found") 2>&1 | tail -n 1
  "$python" - <<'END' || fail machine "torch finds no GPU"
import platform, sys, torch
print(f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
sys.exit(not torch.cuda.is_available())
END
}

build() {
  if [ "${SKIP_BUILD:-0}" = 1 ]; then
    skip build "SKIP_BUILD=1"
    ls -l torchloss/_C*.so || fail build "there are no libraries to use"
    return
  fi
  TORCHLOSS_CUDA=1 "$python" setup.py -q build_ext --inplace >"$OUT/build.log" 2>&1 ||
    { tail -n 150 "$OUT/build.log"; fail build "see above"; }
}

run_tests() { # step, selection
  local log=$OUT/$1.log status count reason workers=()
  # shellcheck disable=SC2034
  "$python" -c "import xdist" 2>/dev/null && workers=(-n "${WORKERS:-8}")
  # Through eval, because an argument among several may be quoted itself.
  eval 'timeout "$limit" "$python" -m pytest -q -rs -k "$2" "${workers[@]}"' "${PYTEST_ARGS:-}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || fail "$1" "pytest ended with $status"
  while read -r count reason; do
    skip "$1" "$count of $reason" "$count"
  done < <(sed -nE 's/^SKIPPED \[([0-9]+)\] /\1 /p' "$log")
}
tests() { run_tests tests cuda; }
cpu_tests() { limit=0 run_tests cpu_tests "not cuda"; }

# A short selection of tests under one tool of compute-sanitizer. Memory comes straight from CUDA, not out of PyTorch's
# pool, so that reading past the end of a tensor is seen.
sanitizer() { # tool
  command -v compute-sanitizer >/dev/null || { skip "$1" "compute-sanitizer was not found"; return; }
  [ -e tests/test_cuda.py ] || { skip "$1" "there is no tests/test_cuda.py"; return; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$limit" compute-sanitizer --tool "$1" --error-exitcode 99 \
    "$python" -m pytest -q -p no:cacheprovider -m cuda -k sanitizer tests/test_cuda.py 2>&1 | tee "$OUT/$1.log" | tail -n 40
  case ${PIPESTATUS[0]} in
    0) grep -qE '[0-9]+ passed' "$OUT/$1.log" || skip "$1" "every test of the selection was skipped" ;;
    5) skip "$1" "no test is selected by -m cuda -k sanitizer" ;;
    *) fail "$1" "see above and $OUT/$1.log" ;;
  esac
}
memcheck() { sanitizer memcheck; }
racecheck() { sanitizer racecheck; }
initcheck() { sanitizer initcheck; }
synccheck() { sanitizer synccheck; }

# Not `python -m torchloss bench`, which needs more than torch.
bench() { # step, arguments
  local step=$1 svg=()
  shift
  "$python" -c "import matplotlib" 2>/dev/null && svg=(--svg "$OUT/$step.svg")
  [ ${#svg[@]} -gt 0 ] || skip "$step" "matplotlib was not found: no drawing"
  "$python" -m torchloss.bench --minutes "$minutes" --seconds "${SECONDS_PER_CASE:-0}" --json "$OUT/$step.json" \
    "${svg[@]}" "$@" 2>&1 | tee "$OUT/$step.txt"
  [ "${PIPESTATUS[0]}" = 0 ] || fail "$step" "see above"
}
grid_bfloat16() { bench grid_bfloat16 --device cuda --set grid --dtype bfloat16; }
grid_float32() { bench grid_float32 --device cuda --set grid --dtype float32; }
big() { bench big --device cuda --set big; }
small() { bench small --device cuda --set small; }
crossover() { bench crossover --device all --set scaling; }

minutes=${MINUTES:-8}
limit=$((minutes * 60))
[ $# -gt 0 ] || set -- build tests cpu_tests memcheck racecheck initcheck synccheck \
  grid_bfloat16 grid_float32 big small crossover
for step in machine "$@"; do
  printf '\n== %s\n' "$step"
  start=$SECONDS
  if declare -F "$step" >/dev/null; then "$step"; else fail "$step" "there is no such step"; fi
  printf '== %s: %d s\n' "$step" $((SECONDS - start))
done

printf '\n%d skipped%s\n' "$skips" "${skipped[*]:+ because}"
[ ${#skipped[@]} = 0 ] || printf '  %s\n' "${skipped[@]}"
printf '%d failed%s\n' ${#failed[@]} "${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
