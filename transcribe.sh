#!/usr/bin/env bash
# Speech to text with an experiment or an exported subnet: ./transcribe.sh exp/mini speech.wav (--help tells the rest)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
"$TODM_ROOT/local/setup.sh" >&2
exec python -m egs.librispeech.todm.transcribe "$@"
