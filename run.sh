#!/usr/bin/env bash
# Train Once Deploy Many: trains a transducer supernet and decodes its subnets, stage by stage.
#
#   ./run.sh                          all of it on the embedded corpus (conf/mini.yaml)
#   ./run.sh --stage 4 --stop-stage 6 --conf conf/librispeech-100h.yaml data.root=/corpora/LibriSpeech
#   ./run.sh --help                   stages and confs, and what each stage reads and writes
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh run.sh
set -euo pipefail
# relative paths in a conf and in data.root are meant from the folder that the user stands in
TODM_CALLER=${TODM_CALLER:-$PWD}; export TODM_CALLER
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

stage=0
stop_stage=9
conf=conf/mini.yaml
options=()
overrides=()
TODM_COMMAND=./run.sh; [ $# -eq 0 ] || TODM_COMMAND+=$(printf ' %q' "$@"); export TODM_COMMAND

# The script of each stage. A stage that has finished is skipped until something that it depends on
# changes; egs/librispeech/todm/recipe/stages.py says what that is.
scripts=(
  0=local.make_corpus              # audio in LibriSpeech layout
  1=local.prepare_manifests        # lhotse manifests, and a list of what is dropped and why
  2=local.compute_features         # 80-dim log-mel filterbank
  3=local.train_bpe                # SentencePiece model, tokens.txt, final cuts
  4=todm.training.train            # the supernet, in a process per GPU (--world-size)
  5=todm.search.select_subnets     # the subnets: subnets.json
  6=todm.decoding.decode           # WER of every subnet on dev and test
  7=todm.tables.train_individual   # table (a): models trained for one size alone
  8=todm.tables.run_ablations      # tables (b) and (d): ablations and learned selections
  9=todm.tables.report             # tables, pictures and the page
  10=todm.deploy.export            # files for sherpa-onnx, checked in sherpa-onnx
)

usage() {
  cat <<'TEXT'
Usage: ./run.sh [options] [key=value ...]

Options:
  --stage N          first stage (default 0)
  --stop-stage N     last stage (default 9)
  --conf FILE        a YAML conf; names are looked up in egs/librispeech/todm (default conf/mini.yaml)
  --force            redo stages that have finished already
  --world-size N     processes of stage 4, one per GPU (several machines: docs/gpus-and-clusters.md); default 1, or without a GPU
                     train.cpu_processes
  --dry-run          print what the conf would train and what that costs, from measured steps; needs no data
  --help             this text
  key=value          a value of the conf to change, e.g. train.updates=500 data.root=/corpora/LibriSpeech

TEXT
}
wrong() { echo "run.sh: $1" >&2; exit 2; }
need_number() { [[ ${2:-} =~ ^[0-9]{1,6}$ ]] || wrong "$1 needs a number, not '${2:-}'"; }

while [ $# -gt 0 ]; do
  case $1 in
    --stage=*|--stop-stage=*|--conf=*|--world-size=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --stage) need_number "$1" "${2:-}"; stage=$2; shift 2 ;;
    --stop-stage) need_number "$1" "${2:-}"; stop_stage=$2; shift 2 ;;
    --conf) [ -n "${2:-}" ] || wrong "--conf needs a file"; conf=$2; shift 2 ;;
    --world-size) need_number "$1" "${2:-}"; [ "$2" -gt 0 ] || wrong "--world-size must be at least 1"; options+=("$1" "$2"); shift 2 ;;
    --force|--dry-run) options+=("$1"); shift ;;
    -h|--help) want_help=1; shift ;;
    -*) wrong "unknown option '$1' (./run.sh --help lists them)" ;;
    *=*) overrides+=("$1"); shift ;;
    *) wrong "unknown argument '$1'; a value of the conf is set by key=value (./run.sh --help lists the options)" ;;
  esac
done
. ./path.sh
if [ -n "${want_help:-}" ]; then
  usage
  python -m todm.recipe.help 2>/dev/null || echo "Stages and confs are listed here once the first run has installed the packages; README.md has them too."
  exit 0
fi
[ "$stage" -le 10 ] || wrong "--stage $stage: there are stages 0 to 10"
[ "$stage" -le "$stop_stage" ] || wrong "--stage $stage is after --stop-stage $stop_stage"
local/setup.sh
. ./path.sh
exec python -m utils.entry todm.recipe.run_stages "${scripts[@]/#/--script=}" --stage "$stage" --stop-stage "$stop_stage" --conf "$conf" \
  ${options[@]+"${options[@]}"} -- ${overrides[@]+"${overrides[@]}"}
