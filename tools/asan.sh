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
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$root/.venv/bin/python" || echo python3)}
build=$root/build/asan
cxx=${CXX:-g++}

# The package beside the library: in this folder `import torchloss` finds both.
echo "building in build/asan"
export TORCHLOSS_CXXFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
mkdir -p "$build"
TORCHLOSS_CUDA=0 nice "$python" setup.py -q build --build-base "$build" --build-lib "$build/lib" >"$build/log" 2>&1 ||
  { tail -n 100 "$build/log"; exit 1; }

# The sanitizers come first in the process, and libstdc++ before torch's, for they hook its exceptions. The redzones are
# wide because a wrong index lands far off; Python's own allocator would hide tensors that lie in its arenas.
run() {
  echo "== $*"
  LD_PRELOAD=$("$cxx" -print-file-name=libasan.so):$("$cxx" -print-file-name=libubsan.so):$("$cxx" -print-file-name=libstdc++.so) \
  ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:redzone=2048:max_redzone=2048:allocator_may_return_null=1 \
  UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc "$@"
}

cd "$build/lib"
if [ $# -gt 0 ]; then
  run "$@"
  exit
fi
run "$python" -c 'import torchloss; print(torchloss.__file__)'
run "$python" -m pytest -q -p no:cacheprovider "$root/tests/test_ops.py" "$root/tests/test_layouts.py" \
  --deselect "$root/tests/test_ops.py::test_aot_dispatch_of_the_loss" -k "not beyond_2_31 and not 2_31"
run "$python" "$root/tests/fuzz.py" --calls "${CALLS:-5000}" --seed 1
