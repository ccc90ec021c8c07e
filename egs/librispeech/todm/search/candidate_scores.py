"""Scores of candidate subnets on dev: transducer loss on a fixed slice, and WER; each computed once
and kept in a file."""

import json
import logging
import os
import random
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.data.batches import Batch
from todm.data.loaders import eval_loader, load_cuts
from todm.decoding.decoded_split import decode_split
from todm.subnet import Subnet
from todm.training.experiment import Experiment
from todm.training.supernet_loss import SupernetLoss, Weights, make_transducer_loss
from todm.training.validation import losses_per_frame, scorable, with_targets
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.scoring import score

GROUP = 32  # candidates that share a forward pass of the frontend and the largest net


class ScoreCache:
    """Scores by architecture in a file of JSON lines, appended to as they come, so that a killed
    search goes on.

    Args:
      key: what the scores depend on beside the architecture (weights, slice); a file of another key
        is started anew.
    """

    def __init__(self, path: Path, key: dict):
        self.path, self.values = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and _json_or_none(lines[0]) == key:
            for line in lines[1:]:
                entry = _json_or_none(line)  # the last line of a killed run may be half a line
                if entry is not None:
                    self.values[entry["kind"], entry["architecture"]] = entry["score"]
            if self.values:
                logging.info("%d scores of an earlier run are in %s", len(self.values), path)
        write_text_atomic(path, json.dumps(key) + "\n" + "".join(map(_line, self.values.items())))

    def get(self, kind: str, subnet: Subnet) -> float | None:
        """A score (``kind``: ``loss`` or ``wer``); None: it has yet to be computed."""
        return self.values.get((kind, str(subnet)))

    def add(self, kind: str, scores: dict[Subnet, float]) -> None:
        """Keeps new scores, also on the disk."""
        new = {(kind, str(subnet)): value for subnet, value in scores.items()}
        self.values.update(new)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(map(_line, new.items()))
            file.flush()
            os.fsync(file.fileno())


def _line(item: tuple[tuple[str, str], float]) -> str:
    (kind, architecture), value = item
    return json.dumps({"kind": kind, "architecture": architecture, "score": value}) + "\n"


def _json_or_none(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


class CandidateScores:
    """Scores subnets of one experiment on dev.

    Attributes:
      operators: the supernet's, which are the same for every candidate.
      slice: the features (B, T, 80) and the targets of every batch that losses are computed on.
      computed: how many of each kind were computed now, not read from the cache.
    """

    def __init__(
        self,
        experiment: Experiment,
        config: Config,
        cache: ScoreCache,
        device: torch.device,
        group: int = GROUP,
    ):
        self.experiment, self.config, self.cache, self.device = experiment, config, cache, device
        self.group = group
        transducer_loss = make_transducer_loss(experiment.config.loss, config.loss.backend, device)
        self.loss = SupernetLoss(experiment.model.eval(), experiment.config, transducer_loss)
        with torch.no_grad():
            self.operators = experiment.model.encoder.operators()
        tokenizer, tail_frames = experiment.tokenizer, experiment.config.model.tail_frames
        self.slice = [
            with_targets(batch, tokenizer, tail_frames, device)
            for batch in dev_slice(config, experiment)
        ]
        if not self.slice:
            raise UserError(
                f"no utterance of {' or '.join(config.data.dev)} can score candidates: each has no "
                "token, or more tokens than encoder frames"
            )
        self.computed = {"loss": 0, "wer": 0}

    def losses(self, subnets: list[Subnet]) -> list[float]:
        """The pruned transducer loss per encoder frame of the slice, on the pruning ranges of the
        largest net."""
        weights = Weights.scoring(self.experiment.config.loss)
        new = [
            subnet for subnet in dict.fromkeys(subnets) if self.cache.get("loss", subnet) is None
        ]
        for first in range(0, len(new), self.group):
            group = new[first : first + self.group]
            _, *losses = losses_per_frame(self.loss, self.slice, group, weights, self.operators)
            self.cache.add("loss", dict(zip(group, losses)))
        self.computed["loss"] += len(new)
        return [self.cache.values["loss", str(subnet)] for subnet in subnets]

    def wer(self, subnet: Subnet) -> float:
        """The word error rate in percent over all dev sets together, by greedy search."""
        if self.cache.get("wer", subnet) is None:
            references: dict[str, str] = {}
            hypotheses: dict[str, str] = {}
            for split in self.config.data.dev:
                found = decode_split(
                    self.experiment,
                    self.config,
                    subnet,
                    split,
                    "greedy",
                    self.device,
                    self.operators,
                )
                references |= {
                    f"{name} in {split}": text for name, text in found.references.items()
                }
                hypotheses |= {
                    f"{name} in {split}": text for name, text in found.hypotheses.items()
                }
            errors = score(references, hypotheses, self.config.decode.form)
            self.cache.add("wer", {subnet: round(errors.wer, 4)})
            self.computed["wer"] += 1
        return self.cache.values["wer", str(subnet)]


def dev_slice(config: Config, experiment: Experiment) -> list[Batch]:
    """The slice of dev that losses are computed on: about ``search.proxy_seconds``, the same
    utterances at every call, without those that are too short for their tokens."""
    cuts = sorted(load_cuts(config, config.data.dev), key=lambda cut: cut.id)
    random.Random(config.search.seed).shuffle(cuts)
    chosen, seconds = set(), 0.0
    for cut in cuts:
        if seconds >= config.search.proxy_seconds:
            break
        chosen.add(cut.id)
        seconds += cut.duration
    batches = []
    for batch in eval_loader(
        config, config.data.dev, config.decode.max_duration, lambda cut: cut.id in chosen
    ):
        kept = scorable(batch, experiment.tokenizer, experiment.config.model.tail_frames)
        if kept is not None:
            batches.append(kept)
    return batches
