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
from todm.data.batches import load_cuts
from todm.decoding.decode import describe_run
from todm.deploy import benchmark_client, deploy_report
from todm.deploy.client_check import Proof, require_audio
from todm.deploy.onnx_export import (
    export_decoder,
    export_joiner,
    export_offline_encoder,
    export_streaming_encoder,
)
from todm.deploy.quantize import quantize
from todm.page.page import write_page
from todm.recipe.stage_main import stage_main
from todm.results.export_files import CTC, graph
from todm.results.subnets import SubnetEntry, read_subnets, require_within
from todm.subnet import Subnet
from todm.supernet.budget import within_budget
from todm.supernet.cost import describe_subnet
from todm.supernet.exported import write_model
from todm.supernet.extract import extract
from todm.training.experiment import Experiment, load_experiment
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.progress import progress


def export(config: Config, arguments: Namespace) -> None:
    torch.set_num_threads(
        1
    )  # small nets and short chunks: threads would mostly wait for each other
    experiment = load_experiment(
        config.exp_dir, config.decode.weights, config.decode.range, torch.device("cpu")
    )
    entries = chosen_entries(config, experiment)
    root = config.exp_dir / "export"
    logging.info("weights: %s; %d subnets into %s", experiment.weights, len(entries), root)
    proof = Proof(config, experiment, entries, root)
    for split in [*config.data.dev, *config.data.test]:
        require_audio(split, load_cuts(config, [split]))
    for entry in progress(entries, desc="export", unit="subnet"):
        if arguments.force or proof.finished(entry) is None:
            write_subnet(root / entry.name, config, experiment, entry)
    proof.run()
    measured = benchmark_client.run(config, root, proof.variants())
    facts = describe_run(config, experiment).as_dict() | {
        "torch_results": torch_results(config),
        "pieces": experiment.tokenizer.vocab_size,
        **proof.as_dict(),
        "benchmark": measured,
    }
    write_json_atomic(root / "results.json", facts)
    deploy_report.write(root, facts, entries)
    print(f"\n{(root / 'report.md').read_text(encoding='utf-8')}", flush=True)
    write_page(config, shlex.join([arguments.conf, *arguments.overrides]))
    logging.info(
        "exported folders, a model card in each: %s; table: %s; picture: %s",
        root,
        root / "report.md",
        root / "wer-against-rtf.png",
    )


def chosen_entries(config: Config, experiment: Experiment) -> list[SubnetEntry]:
    """``export.subnets``, the one within ``export.budget``, or all of subnets.json; checked against
    the model.

    Raises:
      UserError: an unknown or unfitting subnet, or a budget that none meets.
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
        require_within(entry, experiment.model.full, config.exp_dir)
    return chosen


def named_entry(name: str, known: list[SubnetEntry], experiment: Experiment) -> SubnetEntry:
    """A subnet of subnets.json by name, or any by its architecture."""
    for entry in known:
        if name in (entry.name, str(entry.subnet)):
            return entry
    try:
        subnet = Subnet.parse(name)
    except ValueError:
        raise UserError(
            f"export.subnets: no subnet {name!r}; there are: {', '.join(e.name for e in known)}"
        ) from None
    if not subnet.within(experiment.model.full):
        raise UserError(f"export.subnets: {name} does not fit the model: {experiment.model.full}")
    return describe_subnet(
        experiment.config, experiment.tokenizer.vocab_size, subnet, "export.subnets"
    )


def distinct_names(chosen: list[SubnetEntry], known: list[SubnetEntry]) -> list[SubnetEntry]:
    """Each architecture once, under a name that is no other's, here or in subnets.json: names are
    folders."""
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
    """All files of one subnet but its card; what an earlier export left there is removed first."""
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
    if experiment.config.model.direction == "causal":
        export_streaming_encoder(
            model, folder / graph("streaming-encoder", "fp32"), config.export.chunk_frames, comment
        )
    export_decoder(model, folder / graph("decoder", "fp32"))
    export_joiner(model, folder / graph("joiner", "fp32"))
    for part in ("decoder", "joiner"):
        quantize(folder / graph(part, "fp32"), folder / graph(part, "int8"))


def torch_results(config: Config) -> dict[str, dict]:
    """Stage 6's WER by subnet name, split and method: what the client's stands beside."""
    results = read_json(config.exp_dir / "results.json")["results"]
    return {f"{r['name']}/{r['split']}/{r['method']}": r["wer"] for r in results}


if __name__ == "__main__":
    stage_main(10, export, __doc__)
