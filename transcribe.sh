#!/usr/bin/env bash
# Speech to text with an experiment or an exported subnet: ./transcribe.sh exp/mini speech.wav (--help tells the rest)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh transcribe.sh
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/path.sh"
for _argument in "$@"; do
  case $_argument in
    -h | --help) _python=$(command -v python || command -v python3) ;;  # needs no package: nothing is installed for it
  esac
done
[ -n "${_python:-}" ] || { "$TODM_ROOT/local/setup.sh" >&2; _python=python; }
# Like python -m, without the caller's folder on the path: a utils.py there would be taken for ours.
exec "$_python" -c 'import sys
if sys.path[0] == "":
    del sys.path[0]
import runpy  # now: Python 3.10 would take one in the folder of the caller
runpy.run_module("todm.decoding.transcribe", run_name="__main__", alter_sys=True)' "$@"
