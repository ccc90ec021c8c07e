#!/usr/bin/env bash
# Makes the virtual environment .venv and installs everything the recipe needs. No root. Safe to repeat.
#
#   local/setup.sh               what run.sh calls: returns at once when nothing has changed since the last success
#   local/setup.sh --locked      installs the very versions and files of requirements.lock (Linux, x86-64), no newer ones
#   local/setup.sh --kaldifeat   also builds kaldifeat (about 5 minutes on 2 cores; features.extractor=kaldifeat)
#   local/setup.sh --force       does every step again
#
# Environment variables:
#   PYTHON=python3.11       the interpreter the environment is made from
#   TODM_VENV=.venv         where the environment goes
#   FAST_RNNT_CUDA=1        build fast_rnnt with CUDA (needs nvcc); otherwise its CPU build is made
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${TODM_VENV:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
log=$venv/setup.log
plain=
trap '[ -z "$plain" ] || rm -rf "$plain"' EXIT
with_kaldifeat=0 force=0 locked=0
for arg in "$@"; do
  case $arg in
    --kaldifeat) with_kaldifeat=1 ;;
    --locked) locked=1 ;;
    --force) force=1 ;;
    *) echo "setup: unknown argument $arg (known: --locked --kaldifeat --force)" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*"; }
fail() {
  echo "setup: ERROR: $1" >&2
  [ -f "$log" ] && { echo "setup: the last lines of $log:" >&2; tail -n 15 "$log" >&2; }
  echo "setup: what to do: $2" >&2
  exit 1
}
logged() { "$@" >>"$log" 2>&1; }   # output to the log; the caller turns a failure into a message
pip_install() { logged "$venv/bin/python" -m pip install --disable-pip-version-check "$@"; }
has() { "$venv/bin/python" -c "import $1" >/dev/null 2>&1; }
has_kaldifeat() {  # its shared library lies outside the loader's path (path.sh sets that too)
  LD_LIBRARY_PATH=$(echo "$venv"/lib/python3*/site-packages/kaldifeat/lib) has kaldifeat
}

fingerprint=$(cat requirements.txt requirements-build.txt local/setup.sh | cksum)
locks=$(cat requirements*.lock | cksum)
stamp=$venv/.setup-complete
complete() {  # who asks for no locked versions is content with them, too
  case $(cat "$stamp" 2>/dev/null) in
    "$fingerprint") [ $locked = 0 ] ;;
    "$fingerprint locked $locks") ;;
    "$fingerprint locked "*) [ $locked = 0 ] ;;
    *) return 1 ;;
  esac
}
finished() { [ $force = 0 ] && complete && { [ $with_kaldifeat = 0 ] || has_kaldifeat; }; }
if finished; then exit 0; fi

# One at a time: several runs that begin at once would install into one environment.
if command -v flock >/dev/null; then
  mkdir -p "$(dirname "$venv")"
  exec 9>"$venv.lock"
  if ! flock -n 9; then
    say "another process is installing into $venv; waiting until it has finished"
    flock 9
    if finished; then exit 0; fi
  fi
fi

# ---- 1. Python and the virtual environment
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"; return 0
    fi
  done
  return 1
}
if ! [ -x "$venv/bin/python" ]; then
  python=$(find_python) || fail "no Python 3.10 to 3.13 found (3.11 is what the tests run on)" \
    "install Python 3.11, or say which one: PYTHON=/path/to/python3.11 ./run.sh"
  say "making $venv with $($python --version)"
  "$python" -m venv "$venv" || fail "'$python -m venv $venv' failed" \
    "install the venv module of that Python (Debian and Ubuntu: the package python3-venv)"
fi
: >"$log"

# ---- 2. Python packages. torchaudio is installed without its dependencies, so that it can not replace torch.
install_newest() {
  say "installing the packages of requirements.txt (a few minutes; log: $log)"
  pip_install --upgrade pip || fail "pip does not work in $venv" "check the network and pip's own configuration"
  sed 's/ *#.*//' requirements.txt | grep -v '^torchaudio' >"$venv/requirements.most.txt"
  pip_install -r "$venv/requirements.most.txt" || fail "a package of requirements.txt could not be installed" \
    "read the error above; then the same command goes on where it stopped"
  pip_install --no-deps "$(sed -n 's/^\(torchaudio[^ ]*\).*/\1/p' requirements.txt)" ||
    fail "torchaudio could not be installed" "read the error above; then run the same command again"
}
install_locked() {  # the CPU-only build of torch where pip knows it, as without --locked
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "the lock files are for Linux on x86-64" "leave out --locked"
  say "installing the packages of requirements.lock (a few minutes; log: $log)"
  pip_install --no-deps --require-hashes -r requirements.lock -r requirements-cpu.lock ||
    pip_install --no-deps --require-hashes -r requirements.lock -r requirements-cuda.lock ||
    fail "a package of requirements.lock could not be installed" \
      "read the error above; without --locked, other versions or builds of the packages may be installed"
}
if [ $locked = 1 ]; then install_locked; else install_newest; fi
cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "")')
if [ -z "$cuda" ]; then
  # The package index holds only CUDA builds of torchaudio. Beside a CPU torch their compiled part cannot be
  # loaded; the parts used here (resample, speed) are plain Python and work without it.
  lib=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchaudio/lib
  if compgen -G "$lib/*.so" >/dev/null && ! has torchaudio; then
    say "torch is a CPU build: removing torchaudio's compiled CUDA libraries, which could not be loaded beside it"
    rm -f "$lib"/*.so
  fi
fi
has torchaudio || fail "torchaudio is installed but 'import torchaudio' fails" \
  "run '$venv/bin/python -c \"import torchaudio\"' to see why; resampling and speed perturbation need it"
has lhotse || fail "lhotse is installed but 'import lhotse' fails" "run '$venv/bin/python -c \"import lhotse\"' to see why"

# ---- 3. Extensions compiled from source. Both want to download pybind11 while they build; they are pointed at
# a three-line CMake project that finds the installed one instead.
fast_rnnt="fast_rnnt==1.3 --hash=sha256:e8758e43e074daec17cbb8fd4c50026045b3b35ed88728854fdbe3590087f0a9"
kaldifeat="kaldifeat==1.24 --hash=sha256:71f0f696d8c3fa7e536fede7e16e4f4fe347e8f424e22449478bd9f10b9ed935"
prepare_build() {
  pip_install -r requirements-build.txt || return 1
  mkdir -p "$venv/pybind11-shim"
  [ -n "$plain" ] || plain=$(mktemp -d); ln -sfn "$venv" "$plain/venv"  # a path without spaces, at which cmake_args breaks
  printf '%s\n' 'cmake_minimum_required(VERSION 3.24)' 'set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)' \
    'find_package(pybind11 CONFIG REQUIRED)' >"$venv/pybind11-shim/CMakeLists.txt"
}
cmake_args() {
  local include pybind
  include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  pybind=$("$venv/bin/python" -m pybind11 --cmakedir)
  pybind=$plain/venv${pybind#"$venv"}
  echo "-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_STANDARD=17 -DCMAKE_CXX_FLAGS=-I$include" \
    "-DFETCHCONTENT_SOURCE_DIR_PYBIND11=$plain/venv/pybind11-shim -Dpybind11_DIR=$pybind -DCMAKE_POLICY_VERSION_MINIMUM=3.5"
}
build() {  # build "PACKAGE==VERSION --hash=..." PREFIX EXTRA_CMAKE_ARGS
  # A project's own Makefile variables are set through PREFIX_CMAKE_ARGS and PREFIX_MAKE_ARGS.
  # Ubuntu's and pyenv's compilers both honour PATH: the environment's own cmake comes first.
  printf '%s\n' "$1" >"$venv/requirements.source.txt"
  env PATH="$venv/bin:$PATH" "$2_CMAKE_ARGS=$(cmake_args) $3" "$2_MAKE_ARGS=-j$(nproc 2>/dev/null || echo 2)" \
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps \
    -r "$venv/requirements.source.txt" >>"$log" 2>&1
}
if has k2; then
  say "k2 is there: it computes the pruned RNN-T loss"
fi
if ! has fast_rnnt || [ -n "${FAST_RNNT_CUDA:-}" ]; then
  if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    say "WARNING: no C++ compiler found, so fast_rnnt cannot be built. Training works all the same, with the"
    say "WARNING: slower PyTorch loss. For the fast one: install g++ and run local/setup.sh --force"
  else
    say "building fast_rnnt, the pruned RNN-T loss (about a minute)"
    with_cuda=OFF; [ -n "${FAST_RNNT_CUDA:-}" ] && with_cuda=ON
    if ! { prepare_build && build "$fast_rnnt" FT "-DFT_BUILD_TESTS=OFF -DFT_WITH_CUDA=$with_cuda" && has fast_rnnt; }; then
      say "WARNING: fast_rnnt could not be built (log: $log). Training works all the same, with the slower"
      say "WARNING: PyTorch loss. To try again: local/setup.sh --force"
      if [ -n "$cuda" ] && ! command -v nvcc >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
        say "WARNING: torch is a build for CUDA here. Beside it, fast_rnnt needs the CUDA toolkit (nvcc) even for a CPU;"
        say "WARNING: with a CPU-only build of torch it needs none"
      fi
    fi
  fi
fi
if [ $with_kaldifeat = 1 ] && ! has_kaldifeat; then
  say "building kaldifeat (about 5 minutes on 2 cores)"
  prepare_build || fail "cmake and pybind11 could not be installed" "read the error above"
  build "$kaldifeat" KALDIFEAT "-DKALDIFEAT_BUILD_TESTS=OFF" && has_kaldifeat ||
    fail "kaldifeat could not be built" "use features.extractor=lhotse, which gives the same features"
fi
if [ $locked = 1 ]; then fingerprint+=" locked $locks"; fi
echo "$fingerprint" >"$stamp"
say "done: $venv ($("$venv/bin/python" -c 'import torch; print("torch", torch.__version__, "with CUDA" if torch.version.cuda else "CPU only")'))"
