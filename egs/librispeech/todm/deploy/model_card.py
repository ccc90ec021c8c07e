"""The model card in every exported folder: what the subnet is, how well and how fast it recognises,
which files a device needs, and the command that runs it."""

from pathlib import Path

from todm.config.keys import Config
from todm.deploy.benchmark_rounds import algorithmic_latency_ms
from todm.results.export_files import CTC, graph
from todm.results.export_results import ExportResults
from todm.results.export_rows import BenchmarkRow
from todm.results.subnets import SubnetEntry
from todm.supernet.exported import load_conf
from utils.files import write_text_atomic
from utils.text import markdown_table

TEMPLATE = Path(__file__).parent / "model_card.md.j2"
LICENCE = (
    "Apache-2.0 (the code that made it; the speech it was trained on may have terms of its own)"
)


def write_card(folder: Path, entry: SubnetEntry, results: ExportResults) -> None:
    """Writes the card of one subnet into its exported folder."""
    write_text_atomic(folder / "README.md", card(entry, results, load_conf(folder)))


def card(entry: SubnetEntry, results: ExportResults, config: Config) -> str:
    """The model card of one subnet, in Markdown.

    Args:
      config: the conf of the exported model.
    """
    import jinja2

    ctc, causal = config.loss.objective == "ctc", config.model.direction == "causal"
    chunk, streams = config.export.chunk_frames, causal and not ctc
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        entry=entry,
        run=results.run,
        pieces=results.pieces or config.bpe.vocab_size,
        table=table(entry, results, streams),
        ctc=ctc,
        causal=causal,
        streams=streams,
        chunk_ms=10 * chunk,
        latency_ms=f"{algorithmic_latency_ms(chunk):.1f}",
        files=listed_graphs(ctc, streams),
        licence=LICENCE,
    )


def table(entry: SubnetEntry, results: ExportResults, streams: bool) -> str:
    """Size, WER, speed and memory of a subnet: a column for every variant."""
    measured = results.measured(entry.name)
    variants, method = measured.benchmark, measured.rows[0].method
    rows = [["size on disk, MB", *(f"{each.bytes / 1e6:.2f}" for each in variants)]]
    for split in results.splits:
        wers = [results.row(each.variant, split).wer for each in variants]
        in_torch = results.torch_wer(entry.name, split, method)
        shown = "" if in_torch is None else f"{in_torch:.2f}"
        rows.append([f"WER % {split}, in sherpa-onnx", *(f"{wer:.2f}" for wer in wers)])
        rows.append([f"WER % {split}, in torch", *([shown] * len(variants))])
    rows += speed_rows(variants, streams)
    rows.append(["memory for 30 s of audio, MiB", *(f"{each.peak_mib:.0f}" for each in variants)])
    return markdown_table(["", *(f"{each.mode}, {each.precision}" for each in variants)], rows)


def speed_rows(variants: tuple[BenchmarkRow, ...], streams: bool) -> list[list[str]]:
    """The rows of real-time factor and latencies."""
    factors = [f"{each.real_time_factor:.4f}" for each in variants]
    computing = "ms for an utterance" + (", for a chunk" if streams else "")
    rows = [
        ["real-time factor, one thread", *factors],
        [computing, *(f"{each.latency_ms:.1f}" for each in variants)],
    ]
    if streams:
        first = [each.first_token_ms for each in variants]
        shown = ["" if value is None else f"{value:.0f}" for value in first]
        rows.append(["first token after, ms", *shown])
    return rows


def listed_graphs(ctc: bool, streams: bool) -> list[tuple[str, str, str]]:
    """The graphs in a folder: file names in fp32 and int8, and what each is."""
    if ctc:
        what = {CTC: "features to log-probabilities of pieces"}
    else:
        what = {"encoder": "offline: whole utterances"}
        if streams:
            what["streaming-encoder"] = "streaming"
        what |= {"decoder": "the predictor", "joiner": "the joiner"}
    return [(graph(part, "fp32"), graph(part, "int8"), words) for part, words in what.items()]
