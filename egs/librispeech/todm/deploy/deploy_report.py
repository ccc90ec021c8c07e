"""What stage 10 tells: a model card in every exported folder, a table of all, WER against real-time
factor as a picture."""

from pathlib import Path

from todm.deploy.benchmark_client import algorithmic_latency_ms
from todm.deploy.client_check import CHECKED_SECONDS
from todm.deploy.deploy_pictures import draw_deployed
from todm.results.export_files import CTC, FACTS, graph
from todm.results.subnets import SubnetEntry
from todm.supernet.exported import load_conf
from utils.files import read_json, write_json_atomic, write_text_atomic
from utils.text import markdown_table

LICENCE = (
    "Apache-2.0 (the code that made it; the speech it was trained on may have terms of its own)"
)


def write(root: Path, facts: dict, entries: list[SubnetEntry]) -> None:
    """Cards, table, picture, and the figures of every subnet in its own export.json."""
    splits = list(dict.fromkeys((r["split"], r["role"]) for r in facts["rows"]))
    write_text_atomic(root / "report.md", report(facts, splits))
    shown = splits[-1][0]
    points = [
        {
            "mode": b["mode"],
            "precision": b["precision"],
            "rtf": b["real_time_factor"],
            "wer": find(
                facts["rows"], name=b["name"], mode=b["mode"], precision=b["precision"], split=shown
            )["wer"],
        }
        for b in facts["benchmark"]
    ]
    draw_deployed(points, root / "wer-against-rtf.png", f"{facts['name']}: {shown}, in sherpa-onnx")
    for entry in entries:
        folder = root / entry.name
        mine = {
            key: [r for r in facts[key] if r["name"] == entry.name] for key in ("rows", "benchmark")
        }
        mine |= {key: facts[key][entry.name] for key in ("graph_errors", "int8_kept_in_fp32")}
        write_json_atomic(
            folder / FACTS,
            read_json(folder / FACTS)
            | mine
            | {k: facts[k] for k in ("corpus", "weights", "updates", "commit", "machine")},
        )
        write_text_atomic(
            folder / "README.md", card(entry, facts | mine, load_conf(folder), splits)
        )


def find(rows: list[dict], **keys) -> dict:
    """The first row with these values (of several methods: the first that was asked for)."""
    return next(row for row in rows if all(row[key] == value for key, value in keys.items()))


def report(facts: dict, splits: list[tuple[str, str]]) -> str:
    """The table of all exported subnets, in Markdown."""
    rows = []
    for b in facts["benchmark"]:
        keys = {"name": b["name"], "mode": b["mode"], "precision": b["precision"]}
        in_torch = [
            facts["torch_results"].get(
                f"{b['name']}/{split}/{find(facts['rows'], **keys, split=split)['method']}"
            )
            for split, _ in splits
        ]
        rows.append(
            [
                b["name"],
                b["mode"],
                b["precision"],
                *(f"{w:.2f}" if w is not None else "" for w in in_torch),
                *(f"{find(facts['rows'], **keys, split=split)['wer']:.2f}" for split, _ in splits),
                f"{b['real_time_factor']:.4f}",
                f"{b['latency_ms']:.1f}",
                first_token(b),
                f"{b['peak_mib']:.0f}",
                f"{b['bytes'] / 1e6:.2f}",
            ]
        )
    titles = [
        "subnet",
        "mode",
        "weights",
        *(f"torch WER % {s}" for s, _ in splits),
        *(f"WER % {s}" for s, _ in splits),
        "RTF",
        "ms",
        "first token ms",
        "MiB",
        "MB on disk",
    ]
    lines = [
        f"# {facts['name']}: exported subnets in sherpa-onnx",
        "",
        markdown_table(titles, rows, left=3),
        "",
        f"WER: of the client from audio files, {facts['rows'][0]['method']} search; torch WER: of "
        "stage 6, whose stored features are compressed, so",
        "that it may differ a little. RTF: computing over audio, one thread. ms: computing for an "
        "utterance (median), streaming: for a chunk. First token: from its time stamp until it is "
        "shown (median). MiB: most memory with 30 s of audio in one piece, above",
        "the process without a model.",
        "",
        *agreement(facts),
        "",
    ]
    if kept := {
        f"{name}, {mode}": layers
        for name, modes in facts["int8_kept_in_fp32"].items()
        for mode, layers in modes.items()
        if layers
    }:
        lines += [
            "Layers that stay in fp32 in the int8 files, because int8 cost too much WER on dev:",
            "",
            *(
                f"- {who}: "
                + ", ".join(f"`{node}` ({error:.1%} of the output alone)" for node, error in layers)
                for who, layers in kept.items()
            ),
            "",
        ]
    b = facts["benchmark"][0]
    lines += [
        f"- corpus: {facts['corpus']}; weights: {facts['weights']}; {facts['updates']} updates",
        f"- benchmark: {b['rounds']} processes each, in turns, over {b['audio_seconds']} s of "
        "dev; medians",
        f"- machine: {facts['machine']}; commit {facts['commit']}",
        f"- command: `{facts['command']}`",
    ]
    return "\n".join(lines) + "\n"


def first_token(row: dict) -> str:
    """Its latency in ms; nothing for offline models, and where nothing is recognised."""
    value = row.get("first_token_ms")
    return "" if value is None else f"{value:.0f}"


def agreement(facts: dict) -> list[str]:
    """How far the client's hypotheses and the graphs' outputs are torch's."""
    rows = [r for r in facts["rows"] if r["precision"] == "fp32"]
    lines = ["Hypotheses of the client in fp32 that are torch's, from the same audio:", ""]
    for mode, method, split in dict.fromkeys((r["mode"], r["method"], r["split"]) for r in rows):
        mine = [r for r in rows if (r["mode"], r["method"], r["split"]) == (mode, method, split)]
        equal, total = sum(r["equal"] for r in mine), sum(r["utterances"] for r in mine)
        lines.append(
            f"- {mode}, {method}, {split}: {equal} of {total} ({100 * equal / max(total, 1):.2f} %)"
        )
    for d in facts["differences"]:
        lines.append(
            f"- different: {d['name']}, {d['mode']}, {d['method']}, {d['id']}: torch "
            f"`{d['torch']}`, client `{d['client']}`"
        )
    worst = {
        mode: max(errors[mode] for errors in facts["graph_errors"].values())
        for mode in next(iter(facts["graph_errors"].values()))
    }
    lengths = ", ".join(f"{s:g}" for s in CHECKED_SECONDS)
    return [
        *lines,
        "",
        "Largest difference of an encoder's outputs from torch's, "
        + ", ".join(f"{m}: {e:.1e}" for m, e in worst.items())
        + f" (a padded batch of {lengths} s).",
    ]


def card(entry: SubnetEntry, facts: dict, config, splits: list[tuple[str, str]]) -> str:
    """The model card of one subnet."""
    ctc, chunk = config.loss.objective == "ctc", config.export.chunk_frames
    causal = config.model.direction == "causal"
    streams = causal and not ctc
    rows = [["size on disk, MB", *(f"{b['bytes'] / 1e6:.2f}" for b in facts["benchmark"])]]
    for split, _ in splits:
        rows.append(
            [
                f"WER % {split}, in sherpa-onnx",
                *(
                    f"{find(facts['rows'], mode=b['mode'], precision=b['precision'], split=split)['wer']:.2f}"
                    for b in facts["benchmark"]
                ),
            ]
        )
        in_torch = facts["torch_results"].get(f"{entry.name}/{split}/{facts['rows'][0]['method']}")
        rows.append(
            [
                f"WER % {split}, in torch",
                *(["" if in_torch is None else f"{in_torch:.2f}"] * len(facts["benchmark"])),
            ]
        )
    rows += [
        [
            "real-time factor, one thread",
            *(f"{b['real_time_factor']:.4f}" for b in facts["benchmark"]),
        ],
        [
            "ms for an utterance" + (", for a chunk" if streams else ""),
            *(f"{b['latency_ms']:.1f}" for b in facts["benchmark"]),
        ],
        *(
            [["first token after, ms", *(first_token(b) for b in facts["benchmark"])]]
            if streams
            else []
        ),
        ["memory for 30 s of audio, MiB", *(f"{b['peak_mib']:.0f}" for b in facts["benchmark"])],
    ]
    table = markdown_table(
        ["", *(f"{b['mode']}, {b['precision']}" for b in facts["benchmark"])], rows
    )
    offline = (
        "sherpa-onnx-offline --tokens=tokens.txt --zipformer-ctc-model=model.int8.onnx speech.wav"
        if ctc
        else "sherpa-onnx-offline --tokens=tokens.txt --encoder=encoder.int8.onnx \\\n"
        "  --decoder=decoder.int8.onnx --joiner=joiner.int8.onnx speech.wav"
    )
    streaming = (
        "\nsherpa-onnx --tokens=tokens.txt --encoder=streaming-encoder.int8.onnx \\\n"
        "  --decoder=decoder.int8.onnx --joiner=joiner.int8.onnx speech.wav"
    )
    latency = (
        f"\nStreaming: chunks of {10 * chunk} ms; a frame of audio reaches the output at most "
        f"{algorithmic_latency_ms(chunk):.1f} ms later, computing "
        "not counted.\n"
        if streams
        else ""
    )
    graphs = {"encoder": "offline: whole utterances"} | (
        {"streaming-encoder": "streaming"} if streams else {}
    )
    graphs = (
        {CTC: "features to log-probabilities of pieces"}
        if ctc
        else graphs | {"decoder": "the predictor", "joiner": "the joiner"}
    )
    listed = "".join(
        f"| `{graph(part, 'fp32')}`, `{graph(part, 'int8')}` | {what} |\n"
        for part, what in graphs.items()
    )
    return f"""# {facts["name"]} {entry.name}

A {"causal" if causal else "bidirectional"} MH-SSM {"CTC model" if ctc else "transducer"}, one subnet of a supernet trained once by the TODM recipe (arXiv 2309.01947), for sherpa-onnx: English,
16 kHz, BPE of {facts.get("pieces", config.bpe.vocab_size)} pieces. Trained on: {facts["corpus"]}; {facts["updates"]} updates ({facts["weights"]}).

| | |
|---|---:|
| parameters of the encoder | {entry.encoder_params:,} |
| parameters in all | {entry.total_params:,} |
| multiply-accumulates per second of audio | {entry.macs_per_second:,} |

{table}
{latency}
Machine: {facts["machine"]}; commit {facts["commit"]}; conf: `conf.yaml`. Subnet: `{entry.subnet}`, found by: {entry.how}.

## Files

To a device {"goes one graph, in fp32 or in int8" if ctc else "go three graphs, all in fp32 or all in int8"}, and `tokens.txt`.

| file | what |
|---|---|
{listed}| `tokens.txt` | the pieces |
| `model.safetensors`, `conf.yaml`, `bpe.model`, `export.json` | the same model for PyTorch; `./transcribe.sh FOLDER speech.wav` in the recipe uses these |

```bash
{offline}{streaming if streams else ""}
```

Licence: {LICENCE}.
"""
