# Sourced by run.sh and .ci/run, and by users who want the recipe's Python in their own shell: `. ./path.sh`
TODM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
TODM_VENV=${TODM_VENV:-$TODM_ROOT/.venv}
export TODM_ROOT TODM_VENV
export PATH="$TODM_VENV/bin:$PATH"
export PYTHONPATH="$TODM_ROOT:$TODM_ROOT/egs/librispeech${PYTHONPATH:+:$PYTHONPATH}"  # utils and local; todm
# glibc hands large blocks back to the system after every use; keeping them makes a training step on a CPU faster.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}
# Threads that wait for each other spin for a moment and then sleep. A step of two threads, of which one needs 80 ms:
# 60 ms with 20,000 turns, 64 with 1,000, 95 with none; and beside another program 700, 170 and 120 ms.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
# kaldifeat (optional) keeps its shared library in a folder of its own.
for _lib in "$TODM_VENV"/lib/python3*/site-packages/kaldifeat/lib; do
  [ -d "$_lib" ] && export LD_LIBRARY_PATH="$_lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
unset _lib
