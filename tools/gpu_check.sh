#!/usr/bin/env bash
# Everything that only a machine with a GPU can tell, in one command; needs no network and no root.
#
#   tools/gpu_check.sh              all steps
#   tools/gpu_check.sh STEP ...     some: build tests memcheck racecheck initcheck synccheck bench
#
# Environment: PYTHON (default python3; has torch with CUDA, pytest and, to build, ninja), SKIP_BUILD=1 (use the libraries
# that are there), OUT (where logs go; default benchmarks/results), PYTEST_ARGS (more for the step "tests", such as
# -m "not slow").
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

tests() {
  local log=$OUT/tests.log status count reason workers=()
  # shellcheck disable=SC2034
  "$python" -c "import xdist" 2>/dev/null && workers=(-n 4)
  # Through eval, because an argument among several may be quoted itself.
  eval '"$python" -m pytest -q -rs "${workers[@]}"' "${PYTEST_ARGS:-}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || fail tests "pytest ended with $status"
  while read -r count reason; do
    skip "tests" "$count of $reason" "$count"
  done < <(sed -nE 's/^SKIPPED \[([0-9]+)\] /\1 /p' "$log")
}

# A short selection of tests under one tool of compute-sanitizer. Memory comes straight from CUDA, not out of PyTorch's
# pool, so that reading past the end of a tensor is seen.
sanitizer() { # tool
  command -v compute-sanitizer >/dev/null || { skip "$1" "compute-sanitizer was not found"; return; }
  [ -e tests/test_cuda.py ] || { skip "$1" "there is no tests/test_cuda.py"; return; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 99 \
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

bench() {
  # Not `python -m torchloss bench`, which needs more than torch. The CPU and the GPU, side by side.
  local set
  for set in quick scaling main; do
    "$python" -m torchloss.bench --device all --set "$set" --json "$OUT/$set.json" 2>&1 | tee "$OUT/$set.txt" ||
      fail bench "see above"
  done
}

[ $# -gt 0 ] || set -- build tests memcheck racecheck initcheck synccheck bench
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
