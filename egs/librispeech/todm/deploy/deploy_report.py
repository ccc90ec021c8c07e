"""What stage 10 tells of all exported subnets together: a table, and a picture of WER against
real-time factor."""

from pathlib import Path

from todm.deploy.deploy_pictures import draw_deployed
from todm.deploy.graph_check import CHECKED_SECONDS
from todm.deploy.model_card import write_card
from todm.results.export_results import ExportFacts, ExportResults
from todm.results.export_rows import BenchmarkRow
from todm.results.subnets import SubnetEntry
from utils.files import write_text_atomic
from utils.text import markdown_table

PICTURE = "wer-against-rtf.png"


def write(root: Path, results: ExportResults, entries: list[SubnetEntry]) -> None:
    """Writes table and picture, and into the folder of every subnet its card and its part of the
    results."""
    write_text_atomic(root / "report.md", report(results))
    draw_deployed(results, results.splits[-1], root / PICTURE)
    for entry in entries:
        folder = root / entry.name
        longest = ExportFacts.read(folder).longest_seconds
        ExportFacts(entry, longest, results.measured(entry.name)).write(folder)
        write_card(folder, entry, results)


def report(results: ExportResults) -> str:
    """The table of all exported subnets with what explains it, in Markdown."""
    return "\n".join(
        [
            f"# {results.run.name}: exported subnets in sherpa-onnx",
            "",
            table(results),
            "",
            f"WER: of the client from audio files, {results.rows[0].method} search; torch WER: of "
            "stage 6, whose stored features are compressed, so",
            "that it may differ a little. RTF: computing over audio, one thread. ms: computing for "
            "an utterance (median), streaming: for a chunk. First token: from its time stamp until "
            "it is shown (median). MiB: most memory with 30 s of audio in one piece, above",
            "the process without a model.",
            "",
            *agreement(results),
            "",
            *layers_in_fp32(results),
            *origin(results),
            "",
        ]
    )


def table(results: ExportResults) -> str:
    """A row for every variant of every subnet."""
    titles = [
        *("subnet", "mode", "weights"),
        *(f"torch WER % {split}" for split in results.splits),
        *(f"WER % {split}" for split in results.splits),
        *("RTF", "ms", "first token ms", "MiB", "MB on disk"),
    ]
    return markdown_table(titles, [cells(results, row) for row in results.benchmark], left=3)


def cells(results: ExportResults, measured: BenchmarkRow) -> list[str]:
    """The cells of one variant."""
    found = [results.row(measured.variant, split) for split in results.splits]
    in_torch = [results.torch_wer(row.name, row.split, row.method) for row in found]
    return [
        *measured.variant,
        *("" if wer is None else f"{wer:.2f}" for wer in in_torch),
        *(f"{row.wer:.2f}" for row in found),
        f"{measured.real_time_factor:.4f}",
        f"{measured.latency_ms:.1f}",
        "" if measured.first_token_ms is None else f"{measured.first_token_ms:.0f}",
        f"{measured.peak_mib:.0f}",
        f"{measured.bytes / 1e6:.2f}",
    ]


def agreement(results: ExportResults) -> list[str]:
    """Lines of Markdown that say how far the client and the graphs agree with torch."""
    lines = ["Hypotheses of the client in fp32 that are torch's, from the same audio:", ""]
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    for row in results.rows:
        if row.equal is not None:
            key = row.mode, row.method, row.split
            equal, total = counts.get(key, (0, 0))
            counts[key] = equal + row.equal, total + row.utterances
    for key, (equal, total) in counts.items():
        percent = 100 * equal / max(total, 1)
        lines.append(f"- {', '.join(key)}: {equal} of {total} ({percent:.2f} %)")
    for d in results.differences:
        lines.append(
            f"- different: {d.name}, {d.mode}, {d.method}, {d.id}: torch `{d.torch}`, client "
            f"`{d.client}`"
        )
    errors = list(results.graph_errors.values())
    worst = {mode: max(of_net[mode] for of_net in errors) for mode in errors[0]}
    return [
        *lines,
        "",
        "Largest difference of an encoder's outputs from torch's, "
        + ", ".join(f"{mode}: {error:.1e}" for mode, error in worst.items())
        + f" (a padded batch of {', '.join(f'{s:g}' for s in CHECKED_SECONDS)} s).",
    ]


def layers_in_fp32(results: ExportResults) -> list[str]:
    """The layers that stay in fp32 in the int8 files, in lines of Markdown; none where there are
    none."""
    lines = [
        f"- {name}, {mode}: "
        + ", ".join(f"`{node}` ({error:.1%} of the output alone)" for node, error in layers)
        for name, modes in results.int8_kept_in_fp32.items()
        for mode, layers in modes.items()
        if layers
    ]
    title = "Layers that stay in fp32 in the int8 files, because int8 cost too much WER on dev:"
    return [title, "", *lines, ""] if lines else []


def origin(results: ExportResults) -> list[str]:
    """Lines of Markdown that say where the figures come from."""
    run, measured = results.run, results.benchmark[0]
    return [
        f"- corpus: {run.corpus}; weights: {run.weights}; {run.updates} updates",
        f"- benchmark: {measured.rounds} processes each, in turns, over {measured.audio_seconds} s "
        "of dev; medians",
        f"- machine: {run.machine}; commit {run.commit}",
        f"- command: `{run.command}`",
    ]
