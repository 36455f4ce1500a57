#!/usr/bin/env bash
# Builds _C with AddressSanitizer and UndefinedBehaviorSanitizer, and runs with it what calls the operators raw:
# the first read or write outside a tensor, and the first undefined operation, end the run with their stacks.
#
#   tools/asan.sh              build, the operators' and the layouts' tests, and a short fuzz
#   tools/asan.sh COMMAND ...  build, and COMMAND in that build's folder
#
# PYTHON   the interpreter; it has torch and the tests' packages. Default: .venv/bin/python if there, else python3
# CALLS    how many calls the fuzz tries
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
python=$(command -v "$python")
[[ $python == /* ]] || python=$root/$python
build=$root/build/asan
cxx=${CXX:-g++}

# The package beside the library: in this folder `import torchloss` finds both.
echo "building in build/asan"
# -g1 and calls in place of inline checks: the loops are long, and the compiler's time is not linear in them.
TORCHLOSS_CXXFLAGS="-O1 -g1 -DTORCHLOSS_ONE_ISA -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
export TORCHLOSS_CXXFLAGS+=" --param asan-instrumentation-with-call-threshold=0"
# Elements at odd addresses are undefined in C++, but not on the processors that PyTorch runs on: files have such tensors.
TORCHLOSS_CXXFLAGS+=" -fno-sanitize=alignment"
mkdir -p "$build"
TORCHLOSS_CUDA=0 nice "$python" setup.py -q build --build-base "$build" --build-lib "$build/lib" >"$build/log" 2>&1 ||
  { tail -n 100 "$build/log"; exit 1; }

# The sanitizers come first in the process, and libstdc++ before torch's, for they hook its exceptions. The redzones are
# wide because a wrong index lands far off. Python's small objects keep their own allocator (PYTHONMALLOC), or each would
# take two such zones, and gigabytes together; PyTorch's memory does not come from there.
run() {
  echo "== $*"
  LD_PRELOAD=$("$cxx" -print-file-name=libasan.so):$("$cxx" -print-file-name=libubsan.so):$("$cxx" -print-file-name=libstdc++.so) \
  ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:redzone=2048:max_redzone=2048:allocator_may_return_null=1:quarantine_size_mb=64 \
  UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$build/lib "$@"
}

cd "$build/lib"
if [ $# -gt 0 ]; then
  run "$@"
  exit
fi
run "$python" -c 'import torchloss; print(torchloss.__file__)'
run "$python" -m pytest -q -p no:cacheprovider "$root/tests/test_ops.py" "$root/tests/test_layouts.py" \
  -k "not opcheck and not aot_dispatch and not fake_kernels and not 2_31 and not instruction_set"
run "$python" "$root/tests/fuzz.py" --calls "${CALLS:-5000}" --seed 1
