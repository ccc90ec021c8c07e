#!/usr/bin/env bash
# Train Once Deploy Many: trains a transducer supernet and decodes its subnets, stage by stage.
#
#   ./run.sh                                          everything, on the embedded corpus (conf/mini.yaml)
#   ./run.sh --stage 4 --stop-stage 6 --conf conf/librispeech-100h.yaml data.root=/corpora/LibriSpeech
#   ./run.sh --help                                   stages, confs, what each stage reads and writes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0
stop_stage=9
conf=conf/mini.yaml
world_size=
force=()
overrides=()
TODM_COMMAND="./run.sh${*:+ $*}"; export TODM_COMMAND

usage() {
  cat <<'TEXT'
Usage: ./run.sh [options] [key=value ...]

Options:
  --stage N          first stage (default 0)
  --stop-stage N     last stage (default 9)
  --conf FILE        a YAML conf; names are looked up in egs/librispeech/todm (default conf/mini.yaml)
  --force            redo stages that have finished already
  --world-size N     processes of stage 4, one per GPU (several machines: see README.md); default 1, or without a GPU
                     train.cpu_processes
  --dry-run          print what the conf would train and what that costs, from measured steps; needs no data
  --help             this text
  key=value          a value of the conf to change, e.g. train.updates=500 data.root=/corpora/LibriSpeech

TEXT
}
need_number() {
  [[ ${2:-} =~ ^[0-9]+$ ]] || { echo "run.sh: $1 needs a number, not '${2:-}'" >&2; exit 2; }
}

while [ $# -gt 0 ]; do
  case $1 in
    --stage) need_number "$1" "${2:-}"; stage=$2; shift 2 ;;
    --stop-stage) need_number "$1" "${2:-}"; stop_stage=$2; shift 2 ;;
    --conf) [ $# -gt 1 ] || { echo "run.sh: --conf needs a file" >&2; exit 2; }; conf=$2; shift 2 ;;
    --world-size) need_number "$1" "${2:-}"; world_size=$2; shift 2 ;;
    --force) force=(--force); shift ;;
    --dry-run) dry_run=1; shift ;;
    -h|--help) usage; want_help=1; shift ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "run.sh: unknown argument '$1' (./run.sh --help lists them)" >&2; exit 2 ;;
  esac
done

. ./path.sh
if [ -n "${want_help:-}" ]; then
  python -m egs.librispeech.todm.stages help 2>/dev/null || echo "Stages and confs are listed here once the first run has installed the packages; README.md has them too."
  exit 0
fi
local/setup.sh
. ./path.sh
[ "$stage" -le "$stop_stage" ] || { echo "run.sh: --stage $stage is after --stop-stage $stop_stage" >&2; exit 2; }

if [ -n "${dry_run:-}" ]; then
  exec python -m egs.librispeech.todm.dry_run --conf "$conf" ${world_size:+--world-size "$world_size"} "${overrides[@]}"
fi

run() {  # run NUMBER COMMAND...: a stage, when it is asked for
  local number=$1; shift
  if [ "$stage" -le "$number" ] && [ "$number" -le "$stop_stage" ]; then
    "$@" --conf "$conf" "${force[@]}" "${overrides[@]}"
  fi
}
train=(python -m)
if [ "$stage" -le 4 ] && [ 4 -le "$stop_stage" ]; then
  if [ "$stage" -eq 4 ]; then  # its inputs are checked here, where a message is not drowned in torchrun's own
    python -m egs.librispeech.todm.stages check --conf "$conf" "${overrides[@]}"
  fi
  world_size=${world_size:-$(python -m egs.librispeech.todm.stages processes --conf "$conf" "${overrides[@]}")}
  if [ "$world_size" -gt 1 ]; then
    cores=$(getconf _NPROCESSORS_ONLN)
    threads=${OMP_NUM_THREADS:-$((cores > world_size ? cores / world_size : 1))}
    train=(env "OMP_NUM_THREADS=$threads" torchrun --standalone --nproc-per-node "$world_size" -m)
  fi
fi

run 0 python -m local.make_corpus                               # audio in LibriSpeech layout
run 1 python -m local.prepare_manifests                         # lhotse manifests; what is dropped and why
run 2 python -m local.compute_features                          # 80-dim filterbank
run 3 python -m local.train_bpe                                 # SentencePiece, tokens.txt, final cuts
run 4 "${train[@]}" egs.librispeech.todm.train                  # the supernet
run 5 python -m egs.librispeech.todm.select_subnets             # subnets.json
run 6 python -m egs.librispeech.todm.decode                     # WER of every subnet on dev and test
run 7 python -m egs.librispeech.todm.train_individual           # table (a): models trained for one size alone
run 8 python -m egs.librispeech.todm.run_ablations              # table (b)
run 9 python -m egs.librispeech.todm.report                     # tables and pictures
run 10 python -m egs.librispeech.todm.export                    # files for sherpa-onnx, checked there
