"""Stage 6: decodes dev and test with every selected subnet and scores the result."""

import logging
from argparse import Namespace
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.data.loaders import load_cuts
from todm.decoding.calibration import calibrate, describe_calibration
from todm.decoding.decoded_split import DecodedSplit, decode_split
from todm.decoding.search import SearchOptions
from todm.recipe.stage_main import stage_main
from todm.results.decode_results import DecodeRow, RunFacts, RunResults, SplitUtterances
from todm.results.subnets import SubnetEntry, read_subnets
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import Experiment, load_experiment
from utils.distributed import local_device
from utils.error_analysis import describe_errors
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.progress import progress
from utils.provenance import provenance
from utils.scoring import score, write_errs, write_recogs
from utils.text import TextForm, scored_units


def decode(config: Config, arguments: Namespace) -> None:
    """Decodes every chosen subnet and writes results.json (stage 6)."""
    device = local_device()
    experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    logging.info("weights: %s", experiment.weights)
    entries = chosen_subnets(config, experiment)
    results = decode_subnets(config, experiment, entries, device, config.exp_dir / "decode")
    results.write(config.exp_dir / "results.json")


@torch.no_grad()
def decode_subnets(
    config: Config,
    experiment: Experiment,
    entries: list[SubnetEntry],
    device: torch.device,
    folder: Path,
) -> RunResults:
    """Decodes dev and test with every subnet and writes recogs, errs and summaries.

    Args:
      entries: as subnets.json has them; one whose architecture came before takes its result.
      folder: what is written goes there.
    """
    warn_of_max_symbols(config, experiment)
    splits = [(s, "dev") for s in config.data.dev] + [(s, "test") for s in config.data.test]
    jobs = [(e, *s, m) for m in config.decode.methods for e in entries for s in splits]
    rows, done = [], dict[tuple, DecodedSplit]()
    operators = experiment.model.encoder.operators()
    utterances: dict[str, SplitUtterances] = {}
    for entry, split, role, method in progress(jobs, desc="decode", unit="set"):
        key = entry.subnet, split, method
        if key not in done:
            done[key] = decode_split(
                experiment, config, entry.subnet, split, method, device, operators
            )
        found = done[key]
        references, hypotheses = compared(config, found.references, found.hypotheses)
        errors = score(references, hypotheses)
        title = f"{split}-{entry.name}-{method}"
        write_recogs(folder / f"recogs-{title}.txt", references, hypotheses)
        write_errs(folder / f"errs-{title}.txt", title, errors)
        if split not in utterances:
            utterances[split] = describe_utterances(config, split, references)
        speakers = dict(zip(sorted(references), utterances[split].speakers))
        text = describe_errors(title, errors, speakers)
        write_text_atomic(folder / f"errors-{title}.md", text)
        calibration = None
        if role == "dev" and found.words:
            calibration = calibrate(errors.alignments, found.words, config.decode.form)
        if calibration:
            text = describe_calibration(title, calibration)
            write_text_atomic(folder / f"calibration-{title}.md", text)
        row = DecodeRow(
            entry,
            split,
            role,
            method,
            wer=round(errors.wer, 3),
            cer=round(errors.cer, 3),
            substitutions=errors.substitutions,
            insertions=errors.insertions,
            deletions=errors.deletions,
            words=errors.words,
            utterances=len(references),
            audio_seconds=round(found.audio_seconds, 1),
            real_time_factor=round(found.computing_seconds / max(found.audio_seconds, 1e-9), 5),
            utterance_errors=tuple(errors.of_utterance(name) for name in sorted(references)),
            oracle_wer=oracle_wer(references, found.nbest, config.decode.form),
            calibration=calibration,
        )
        rows.append(row)
    write_summaries(folder, rows)
    return RunResults(describe_run(config, experiment), utterances, tuple(rows))


def oracle_wer(
    references: dict[str, str], nbest: dict[str, list[str]], form: TextForm
) -> float | None:
    """The WER in percent if the best hypothesis of every utterance's list were chosen; None without
    lists.

    Args:
      references: in the form that ``nbest`` is brought into, too.
    """
    if not nbest:
        return None
    best = {
        name: min(
            map(form, nbest[name]), key=lambda text: score({name: reference}, {name: text}).total
        )
        for name, reference in references.items()
    }
    return round(score(references, best).wer, 3)


def warn_of_max_symbols(config: Config, experiment: Experiment) -> None:
    """Says where ``decode.max_symbols`` has no effect: with a net of the modified lattice."""
    wanted, rnnt_type = config.decode.max_symbols, experiment.config.loss.rnnt_type
    allowed = SearchOptions.of_method("greedy", config.decode, rnnt_type).max_symbols
    if "greedy" in config.decode.methods and allowed < wanted:
        logging.warning(
            "decode.max_symbols=%d has no effect: the model was trained with loss.rnnt_type=%s, "
            "where a frame emits %d symbol at most",
            wanted,
            rnnt_type,
            allowed,
        )


def compared(config: Config, *texts: dict[str, str]) -> list[dict[str, str]]:
    """References and hypotheses in the form in which they are compared."""
    form = config.decode.form
    return [{name: form(text) for name, text in group.items()} for group in texts]


def describe_utterances(config: Config, split: str, references: dict[str, str]) -> SplitUtterances:
    """The speaker of every utterance of a split, by id, and the number of words that count.

    An utterance whose speaker is unknown has a speaker of its own.
    """
    speakers = {cut.id: cut.supervisions[0].speaker for cut in load_cuts(config, [split])}
    names = sorted(references)
    return SplitUtterances(
        tuple(str(speakers[name] or name) for name in names),
        tuple(len(scored_units(references[name])) for name in names),
    )


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
        experiment.require(entry.subnet, f"subnet {entry.name} of {config.exp_dir}")
    return entries


def write_summaries(folder: Path, rows: list[DecodeRow]) -> None:
    """Writes a wer-summary file for every split, the lowest WER first."""
    for split in dict.fromkeys(row.split for row in rows):
        best_first = sorted((row for row in rows if row.split == split), key=lambda row: row.wer)
        text = "settings\tWER\n" + "".join(
            f"{row.name}-{row.method}\t{row.wer:.2f}\n" for row in best_first
        )
        write_text_atomic(folder / f"wer-summary-{split}.txt", text)
        asked = [row for row in best_first if row.oracle_wer is not None]
        (folder / f"oracle-wer-{split}.txt").unlink(missing_ok=True)
        if asked:
            text = "settings\tWER\toracle WER of the n best\n" + "".join(
                f"{row.name}-{row.method}\t{row.wer:.2f}\t{row.oracle_wer:.2f}\n" for row in asked
            )
            write_text_atomic(folder / f"oracle-wer-{split}.txt", text)


def describe_corpus(config: Config) -> str:
    """The corpus, for results: where it lies, or that it is synthetic speech."""
    if config.is_synthetic:
        return "synthetic (espeak-ng)"
    root = [str(config.corpus_root)] if config.splits_in_root else []
    return ", ".join([*root, *(entry.partition("=")[2] for entry in config.data.paths)])


def describe_run(config: Config, experiment: Experiment) -> RunFacts:
    """The training that results come from: conf, weights, updates, hours, machine, commit,
    command."""
    trained = experiment.config
    return RunFacts(
        name=config.name,
        corpus=describe_corpus(config),
        weights=experiment.weights,
        updates=experiment.update,
        audio_hours_trained=round(experiment.hours, 2),
        training_seconds=round(experiment.seconds, 1),
        seed=trained.train.seed,
        largest=experiment.model.full,
        **provenance(),
    )


def main() -> None:
    """Runs stage 6 from the command line."""
    stage_main(6, decode, __doc__)


if __name__ == "__main__":
    main()
