"""Stage 10: subnets as files for a device, checked in the client that runs there: ONNX for
sherpa-onnx, safetensors, model cards."""

import logging
import shlex
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.data.loaders import load_cuts
from todm.decoding.decode import describe_run
from todm.deploy import deploy_report
from todm.deploy.benchmark_rounds import benchmark
from todm.deploy.checks import Checks
from todm.deploy.exports import Exports
from todm.deploy.onnx_export import (
    export_decoder,
    export_joiner,
    export_offline_encoder,
    export_streaming_encoder,
)
from todm.deploy.quantize import quantize
from todm.deploy.split_audio import require_audio
from todm.page.page import write_page
from todm.recipe.stage_main import stage_main
from todm.results.decode_results import read_results
from todm.results.export_files import CTC, graph
from todm.results.export_results import ExportResults, Findings
from todm.results.export_rows import BenchmarkRow
from todm.results.subnets import SubnetEntry, read_subnets
from todm.subnet import Subnet
from todm.supernet.budget import within_budget
from todm.supernet.cost import describe_subnet
from todm.supernet.exported import write_model
from todm.supernet.extract import extract
from todm.training.experiment import Experiment, load_experiment
from utils.errors import UserError
from utils.progress import progress


def export(config: Config, arguments: Namespace) -> None:
    """Exports the chosen subnets, checks and measures them, and writes cards, table and page.

    What an earlier run has finished and nothing has changed since is not made again.
    """
    torch.set_num_threads(1)  # small nets and short chunks: threads would mostly wait
    experiment = load_experiment(
        config.exp_dir, config.decode.weights, config.decode.range, torch.device("cpu")
    )
    root = config.exp_dir / "export"
    exports = Exports(config, experiment, chosen_entries(config, experiment), root)
    entries = exports.entries
    logging.info("weights: %s; %d subnets into %s", experiment.weights, len(entries), root)
    for split in [*config.data.dev, *config.data.test]:
        require_audio(split, load_cuts(config, [split]))
    checks = Checks(exports)
    for entry in progress(entries, desc="export", unit="subnet"):
        if arguments.force or checks.kept.finished(entry) is None:
            write_subnet(root / entry.name, config, experiment, entry)
    findings = checks.run()
    results = collect(exports, findings, benchmark(config, root, exports.variants))
    results.write(root)
    deploy_report.write(root, results, entries)
    report = root / "report.md"
    print(f"\n{report.read_text(encoding='utf-8')}", flush=True)
    write_page(config, shlex.join([arguments.conf, *arguments.overrides]))
    message = "exported folders, a model card in each: %s; table: %s; picture: %s"
    logging.info(message, root, report, root / deploy_report.PICTURE)


def collect(
    exports: Exports, findings: dict[str, Findings], measured: tuple[BenchmarkRow, ...]
) -> ExportResults:
    """All that was found and measured, with the training that it comes from."""
    in_torch = read_results(exports.config.exp_dir / "results.json").rows
    return ExportResults(
        describe_run(exports.config, exports.experiment),
        torch_results={f"{r.name}/{r.split}/{r.method}": r.wer for r in in_torch},
        pieces=exports.experiment.tokenizer.vocab_size,
        rows=tuple(row for found in findings.values() for row in found.rows),
        differences=tuple(d for found in findings.values() for d in found.differences),
        graph_errors={name: found.graph_errors for name, found in findings.items()},
        int8_kept_in_fp32={name: found.int8_kept_in_fp32 for name, found in findings.items()},
        benchmark=measured,
    )


def chosen_entries(config: Config, experiment: Experiment) -> list[SubnetEntry]:
    """The subnets to export: those of ``export.subnets``, the one within ``export.budget``, or all
    of subnets.json.

    Raises:
      UserError: a subnet is unknown or does not fit the model, or none meets the budget.
    """
    known = read_subnets(config.exp_dir / "subnets.json")
    if config.export.budget:
        chosen = [within_budget(config.export.budget, config.search.cost, known, "export.budget")]
    elif config.export.subnets:
        chosen = distinct_names(
            [named_entry(name, known, experiment) for name in config.export.subnets], known
        )
    else:
        chosen = known
    for entry in chosen:
        experiment.require(entry.subnet, f"subnet {entry.name} of {config.exp_dir}")
    return chosen


def named_entry(name: str, known: list[SubnetEntry], experiment: Experiment) -> SubnetEntry:
    """A subnet of subnets.json by its name, or any subnet by its architecture.

    Raises:
      UserError: it is neither, or does not fit the model.
    """
    for entry in known:
        if name in (entry.name, str(entry.subnet)):
            return entry
    try:
        subnet = Subnet.parse(name)
    except ValueError:
        raise UserError(
            f"export.subnets: no subnet {name!r}; there are: {', '.join(e.name for e in known)}"
        ) from None
    experiment.require(subnet, "export.subnets")
    return describe_subnet(
        experiment.config, experiment.tokenizer.vocab_size, subnet, "export.subnets"
    )


def distinct_names(chosen: list[SubnetEntry], known: list[SubnetEntry]) -> list[SubnetEntry]:
    """Each architecture once, under a name that no other subnet has, here or in subnets.json:
    names become folders."""
    taken = {entry.name: entry.subnet for entry in known}
    distinct = {}
    for entry in chosen:
        name, count = entry.name, 1
        while taken.setdefault(name, entry.subnet) != entry.subnet:
            count += 1
            name = f"{entry.name}-{count}"
        distinct[entry.subnet] = replace(entry, name=name)
    return list(distinct.values())


def write_subnet(folder: Path, config: Config, experiment: Experiment, entry: SubnetEntry) -> None:
    """Writes the files of one subnet but for its card and its int8 encoders, which the checks make.

    What an earlier export left in the folder is removed first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    model = extract(experiment.model, experiment.config, entry.subnet).eval()
    write_model(
        folder,
        model,
        experiment.config,
        experiment.tokenizer,
        config.export.chunk_frames,
        entry,
        experiment.longest,
    )
    comment = f"{config.name} {entry.name}: subnet of a TODM supernet, {experiment.weights}"
    if model.is_ctc:
        export_offline_encoder(model, folder / graph(CTC, "fp32"), comment)
        return
    export_offline_encoder(model, folder / graph("encoder", "fp32"), comment)
    if model.encoder.can_stream(model.full):
        export_streaming_encoder(
            model, folder / graph("streaming-encoder", "fp32"), config.export.chunk_frames, comment
        )
    export_decoder(model, folder / graph("decoder", "fp32"))
    export_joiner(model, folder / graph("joiner", "fp32"))
    for part in ("decoder", "joiner"):
        quantize(folder / graph(part, "fp32"), folder / graph(part, "int8"))


def main() -> None:
    """Runs stage 10 from the command line."""
    stage_main(10, export, __doc__)


if __name__ == "__main__":
    main()
