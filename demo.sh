#!/usr/bin/env bash
# A local page to try a supernet on: ./demo.sh exp/mini (--help tells the rest)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh demo.sh
set -euo pipefail
_folder=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
. "$_folder/path.sh"
"$TODM_ROOT/local/setup.sh" >&2
if ! (cd "$TODM_ROOT" && python -c 'import gradio' 2>/dev/null); then  # not a gradio.py of the caller's
  echo "demo: installing Gradio into $TODM_VENV (once; see requirements-demo.txt)" >&2
  python -m pip install --quiet --disable-pip-version-check -r "$TODM_ROOT/requirements-demo.txt" >&2 || {
    echo "demo: ERROR: Gradio could not be installed; without internet, install the packages of requirements-demo.txt yourself" >&2
    exit 1
  }
fi
# Like python -m, without the caller's folder on the path: a utils.py there would be taken for ours.
exec python -c 'import sys
if sys.path[0] == "":
    del sys.path[0]
import runpy  # now: Python 3.10 would take one in the folder of the caller
runpy.run_module("todm.demo.app", run_name="__main__", alter_sys=True)' "$@"
