"""Stage 6: decodes dev and test with every selected subnet and scores the result."""

import logging
import time
from argparse import Namespace
from pathlib import Path

import torch

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.data import eval_loader
from egs.librispeech.todm.experiment import Experiment, load_experiment
from egs.librispeech.todm.search import greedy_search, modified_beam_search
from egs.librispeech.todm.select_subnets import describe_subnet, read_subnets
from egs.librispeech.todm.stages import stage_main
from egs.librispeech.todm.subnet import Subnet
from utils.checkpoint import CheckpointError
from utils.distributed import local_device
from utils.files import write_json_atomic, write_text_atomic
from utils.progress import progress
from utils.provenance import provenance
from utils.scoring import score, write_errs, write_recogs
from utils.stages import StageError


@torch.no_grad()
def decode_split(experiment: Experiment, config: Config, subnet: Subnet, split: str, method: str,
                 device: torch.device) -> tuple[dict[str, str], dict[str, str], float, float]:
    """Decode one split with one subnet.

    Returns:
      References and hypotheses by utterance, seconds of audio, seconds of computing.
    """
    references, hypotheses, audio, computing = {}, {}, 0.0, 0.0
    for batch in eval_loader(config, [split], config.decode.max_duration):
        begin = time.monotonic()
        batch = batch.to(device)
        encoded, lengths = experiment.model.encoder(batch.features, batch.lengths, subnet)
        if method == "greedy":
            found = greedy_search(experiment.model, encoded, lengths, config.decode.max_symbols)
        else:
            found = modified_beam_search(experiment.model, encoded, lengths, config.decode.beam)
        computing += time.monotonic() - begin
        audio += batch.seconds
        references.update(zip(batch.ids, batch.texts))
        hypotheses.update((name, experiment.tokenizer.decode(h.tokens)) for name, h in zip(batch.ids, found))
    return references, hypotheses, audio, computing


def decode(config: Config, arguments: Namespace) -> None:
    device = local_device()
    try:
        experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    except CheckpointError as error:
        raise StageError(str(error)) from error
    logging.info("weights: %s", experiment.weights)
    entries = chosen_subnets(config, experiment)
    folder = config.exp_dir / "decode"
    splits = [(s, "dev") for s in config.data.dev] + [(s, "test") for s in config.data.test]
    jobs = [(e, *s, m) for m in config.decode.methods for e in entries for s in splits]
    results = []
    for entry, split, role, method in progress(jobs, desc="decode", unit="set"):
        subnet = Subnet.parse(entry["architecture"])
        references, hypotheses, audio, seconds = decode_split(experiment, config, subnet, split, method, device)
        errors = score(references, hypotheses)
        title = f"{split}-{entry['name']}-{method}"
        write_recogs(folder / f"recogs-{title}.txt", references, hypotheses)
        write_errs(folder / f"errs-{title}.txt", title, errors, references, hypotheses)
        results.append(entry | {"split": split, "role": role, "method": method, **errors.counts(), "utterances": len(references),
                                "audio_seconds": round(audio, 1), "real_time_factor": round(seconds / max(audio, 1e-9), 5)})
    write_summaries(folder, results)
    write_json_atomic(config.exp_dir / "results.json", describe_run(config, experiment) | {"results": results})


def chosen_subnets(config: Config, experiment: Experiment) -> list[dict]:
    """The subnets of ``decode.subnets``, else those of subnets.json, checked against the model."""
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    try:
        entries = [describe_subnet(trained, vocab_size, Subnet.parse(text), "decode.subnets") for text in config.decode.subnets]
    except ValueError as error:
        raise StageError(f"decode.subnets: {error}") from error
    entries = entries or read_subnets(config.exp_dir / "subnets.json")
    for entry in entries:
        if not Subnet.parse(entry["architecture"]).within(experiment.model.full):
            raise StageError(f"subnet {entry['name']} ({entry['architecture']}) does not fit the model of {config.exp_dir}: {experiment.model.full}")
    return entries


def write_summaries(folder: Path, results: list[dict]) -> None:
    """One wer-summary file per split: best first."""
    for split in dict.fromkeys(r["split"] for r in results):
        rows = sorted((r for r in results if r["split"] == split), key=lambda r: r["wer"])
        text = "settings\tWER\n" + "".join(f"{r['name']}-{r['method']}\t{r['wer']:.2f}\n" for r in rows)
        write_text_atomic(folder / f"wer-summary-{split}.txt", text)


def describe_run(config: Config, experiment: Experiment) -> dict:
    """What made the results: conf, weights, updates, hours, machine, commit, command."""
    trained = experiment.config
    return {
        "name": config.name, "corpus": "synthetic (espeak-ng)" if trained.data.corpus == "synthetic" and not trained.data.root else str(config.corpus_root),
        "weights": experiment.weights, "updates": experiment.update, "audio_hours_trained": round(experiment.hours, 2),
        "training_seconds": round(experiment.seconds), "seed": trained.train.seed, "largest": str(experiment.model.full),
        **provenance(),
    }


if __name__ == "__main__":
    stage_main(6, decode, __doc__)
