"""Stage 6: decodes dev and test with every selected subnet and scores the result."""

import logging
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from todm.config.keys import Config, DecodeConfig
from todm.data.batches import eval_loader, load_cuts
from todm.decoding.ctc_search import ctc_greedy_search, ctc_prefix_beam_search
from todm.decoding.transducer_search import Hypothesis, greedy_search, modified_beam_search
from todm.model.transducer import Transducer
from todm.recipe.stage_main import stage_main
from todm.results.subnets import SubnetEntry, read_subnets, require_within
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import Experiment, load_experiment
from utils.distributed import local_device
from utils.errors import UserError
from utils.files import write_json_atomic, write_text_atomic
from utils.progress import progress
from utils.provenance import provenance
from utils.scoring import errors_by_utterance, score, write_errs, write_recogs


@torch.no_grad()
def decode_split(
    experiment: Experiment,
    config: Config,
    subnet: Subnet,
    split: str,
    method: str,
    device: torch.device,
) -> tuple[dict[str, str], dict[str, str], float, float]:
    """Decode one split with one subnet.

    Returns:
      References and hypotheses by utterance, seconds of audio, seconds of computing.
    """
    references, hypotheses, audio, computing = {}, {}, 0.0, 0.0
    for batch in eval_loader(config, [split], config.decode.max_duration):
        begin = time.monotonic()
        batch = batch.to(device)
        encoded, lengths = experiment.model.encoder(batch.features, batch.lengths, subnet)
        found = search(
            experiment.model,
            encoded,
            lengths,
            method,
            replace(config.decode, max_symbols=symbols_per_frame(config, experiment)),
        )
        computing += time.monotonic() - begin
        audio += batch.seconds
        references.update(zip(batch.ids, batch.texts))
        hypotheses.update(
            (name, experiment.tokenizer.decode(h.tokens)) for name, h in zip(batch.ids, found)
        )
    return references, hypotheses, audio, computing


def symbols_per_frame(config: Config, experiment: Experiment) -> int:
    """What greedy search may emit in a frame: ``decode.max_symbols``; but 1 where every symbol
    ended its frame in training.

    Such a net has never been asked what follows a symbol in the same frame, and would go on (55 %
    WER instead of 2 %).
    """
    return 1 if experiment.config.loss.rnnt_type == "modified" else config.decode.max_symbols


def search(
    model: Transducer, encoded: Tensor, lengths: Tensor, method: str, config: DecodeConfig
) -> list[Hypothesis]:
    """Encoder output (B, T', dim) -> the hypotheses of greedy or beam search, for a transducer or a
    CTC model."""
    if model.is_ctc:
        log_probs = model.ctc_log_probs(encoded)
        return (
            ctc_greedy_search(log_probs, lengths)
            if method == "greedy"
            else ctc_prefix_beam_search(log_probs, lengths, config.beam)
        )
    if method == "greedy":
        return greedy_search(model, encoded, lengths, config.max_symbols)
    return modified_beam_search(model, encoded, lengths, config.beam)


def decode(config: Config, arguments: Namespace) -> None:
    device = local_device()
    experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    logging.info("weights: %s", experiment.weights)
    results = decode_subnets(config, experiment, chosen_subnets(config, experiment), device)
    write_json_atomic(config.exp_dir / "results.json", results)


def decode_subnets(
    config: Config, experiment: Experiment, entries: list[SubnetEntry], device: torch.device
) -> dict:
    """Decode dev and test with every subnet and write recogs, errs and summaries.

    Args:
      entries: as subnets.json has them; one whose architecture came before takes its result.
    Returns:
      The content of results.json.
    """
    if (
        "greedy" in config.decode.methods
        and (allowed := symbols_per_frame(config, experiment)) < config.decode.max_symbols
    ):
        logging.warning(
            "decode.max_symbols=%d has no effect: the model was trained with "
            "loss.rnnt_type=modified, where a frame emits %d symbol at most",
            config.decode.max_symbols,
            allowed,
        )
    folder = config.exp_dir / "decode"
    splits = [(s, "dev") for s in config.data.dev] + [(s, "test") for s in config.data.test]
    jobs = [(e, *s, m) for m in config.decode.methods for e in entries for s in splits]
    results, done, utterances = [], {}, {}
    for entry, split, role, method in progress(jobs, desc="decode", unit="set"):
        key = entry.subnet, split, method
        if key not in done:
            done[key] = decode_split(experiment, config, entry.subnet, split, method, device)
        references, hypotheses, audio, seconds = done[key]
        errors = score(references, hypotheses)
        title = f"{split}-{entry.name}-{method}"
        write_recogs(folder / f"recogs-{title}.txt", references, hypotheses)
        write_errs(folder / f"errs-{title}.txt", title, errors, references, hypotheses)
        utterances.setdefault(split, describe_utterances(config, split, references))
        by_utterance = errors_by_utterance(references, hypotheses)
        results.append(
            entry.as_dict()
            | {
                "split": split,
                "role": role,
                "method": method,
                **errors.counts(),
                "utterances": len(references),
                "audio_seconds": round(audio, 1),
                "real_time_factor": round(seconds / max(audio, 1e-9), 5),
                "utterance_errors": numbers_to_text(
                    by_utterance[name] for name in sorted(references)
                ),
            }
        )
    write_summaries(folder, results)
    return describe_run(config, experiment) | {"utterances": utterances, "results": results}


def describe_utterances(config: Config, split: str, references: dict[str, str]) -> dict[str, str]:
    """Speaker and words of every utterance of a split, by id, as text: what intervals are computed
    from."""
    speakers = {cut.id: cut.supervisions[0].speaker for cut in load_cuts(config, [split])}
    names = sorted(references)
    return {
        "speakers": " ".join(str(speakers[name] or name) for name in names),
        "words": numbers_to_text(len(references[name].split()) for name in names),
    }


def numbers_to_text(numbers: Iterable[int]) -> str:
    """Numbers in one line of a JSON file instead of a line each."""
    return " ".join(map(str, numbers))


def chosen_subnets(config: Config, experiment: Experiment) -> list[SubnetEntry]:
    """The subnets of ``decode.subnets``, else those of subnets.json, checked against the model."""
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    try:
        entries = [
            describe_subnet(trained, vocab_size, Subnet.parse(text), "decode.subnets")
            for text in config.decode.subnets
        ]
    except ValueError as error:
        raise UserError(f"decode.subnets: {error}") from error
    entries = entries or read_subnets(config.exp_dir / "subnets.json", baselines=True)
    for entry in entries:
        require_within(entry, experiment.model.full, config.exp_dir)
    return entries


def write_summaries(folder: Path, results: list[dict]) -> None:
    """One wer-summary file per split: best first."""
    for split in dict.fromkeys(r["split"] for r in results):
        rows = sorted((r for r in results if r["split"] == split), key=lambda r: r["wer"])
        text = "settings\tWER\n" + "".join(
            f"{r['name']}-{r['method']}\t{r['wer']:.2f}\n" for r in rows
        )
        write_text_atomic(folder / f"wer-summary-{split}.txt", text)


def describe_run(config: Config, experiment: Experiment) -> dict:
    """What made the results: conf, weights, updates, hours, machine, commit, command."""
    trained = experiment.config
    return {
        "name": config.name,
        "corpus": "synthetic (espeak-ng)"
        if trained.data.corpus == "synthetic" and not trained.data.root
        else str(config.corpus_root),
        "weights": experiment.weights,
        "updates": experiment.update,
        "audio_hours_trained": round(experiment.hours, 2),
        "training_seconds": round(experiment.seconds, 1),
        "seed": trained.train.seed,
        "largest": str(experiment.model.full),
        **provenance(),
    }


if __name__ == "__main__":
    stage_main(6, decode, __doc__)
