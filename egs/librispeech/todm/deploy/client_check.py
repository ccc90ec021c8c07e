"""Stage 10's checks: graphs against torch, and dev and test decoded from audio by the client beside
torch."""

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from torch.nn.utils.rnn import pad_sequence

from todm.config.keys import Config
from todm.data.batches import load_cuts
from todm.data.frames import LOG_EPSILON, LOOK_AHEAD, NUM_MEL_BINS
from todm.data.online_features import filterbank
from todm.decoding.recognizer import Recognizer
from todm.deploy.client import Client, with_tail
from todm.deploy.onnx_export import output_layer
from todm.deploy.quantize import quantizable, quantize_within, session
from todm.model.frontend import subsampled_length
from todm.recipe.lineage import split_digest, weights_digest
from todm.recipe.stages import STAGES
from todm.results.export_files import BPE, CONF, MODEL, TOKENS, graph, parts
from todm.results.subnets import SubnetEntry
from todm.training.experiment import Experiment
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.progress import progress
from utils.scoring import Errors, score

CHECKED_SECONDS = (
    0.3,
    1.0,
    5.0,
    13.0,
    40.0,
)  # of audio that graphs are held to torch on, in one padded batch
FINDINGS = "checked.json"  # in an exported folder: all of this module's findings
TOLERANCE = 1e-4  # of an encoder's outputs
Utterances = list[tuple[str, np.ndarray, str]]  # id, samples, transcript


def audio_batches(config: Config, split: str, longest: float | None = None) -> Iterator[Utterances]:
    """Utterances of a split from their audio files, similar lengths together; ``longest``: seconds
    in all, from the first on."""
    cuts = load_cuts(config, [split])
    require_audio(split, cuts)
    if longest is not None:
        kept, total = [], 0.0
        for cut in cuts:
            if total < longest:
                kept.append(cut)
                total += cut.duration
        cuts = kept
    batch: Utterances = []
    for cut in sorted(cuts, key=lambda cut: (cut.duration, cut.id)):
        if batch and (len(batch) + 1) * cut.duration > config.decode.max_duration:
            yield batch
            batch = []
        batch.append((cut.id, cut.load_audio()[0].astype(np.float32), cut.supervisions[0].text))
    if batch:
        yield batch


def require_audio(split: str, cuts: CutSet) -> None:
    """Raise UserError where an audio file of a split is gone: features were kept, but the client
    decodes audio."""
    gone = [
        source
        for cut in cuts
        for source in (s.source for s in cut.recording.sources)
        if not Path(source).is_file()
    ]
    if gone:
        raise UserError(
            f"{len(gone)} audio files of {split} are gone, for example {gone[0]}; stage 10 "
            "decodes them in the client"
        )


class Proof:
    """Everything stage 10 checks, subnet by subnet.

    Args:
      entries: the exported subnets. root: where their folders lie.
    """

    def __init__(
        self, config: Config, experiment: Experiment, entries: list[SubnetEntry], root: Path
    ):
        self.config, self.experiment, self.entries, self.root = config, experiment, entries, root
        self.ctc = experiment.model.is_ctc
        causal = experiment.config.model.direction == "causal"
        self.modes = (
            ["offline", "streaming"] if causal and not self.ctc else ["offline"]
        )  # no client streams a CTC model of ours
        self.methods = (
            ["greedy"] if self.ctc else config.export.methods
        )  # or searches it with a beam
        self.found: dict[
            str, dict
        ] = {}  # by subnet: rows, differences, graph_errors, int8_kept_in_fp32
        self._recognizers: dict[int, Recognizer] = {}

    def variants(self) -> list[tuple[str, str, str]]:
        """(subnet, mode, precision) of everything that was exported."""
        return [
            (entry.name, mode, precision)
            for entry in self.entries
            for mode in self.modes
            for precision in ("fp32", "int8")
        ]

    def key(self, entry: SubnetEntry) -> dict:
        """What a subnet's files and findings depend on: with the same key they are not made
        again."""
        chosen = ("export.subnets", "export.budget")  # which subnets there are changes none of them
        values = {
            key: value for key, value in STAGES[10].values(self.config).items() if key not in chosen
        }
        return {
            "architecture": str(entry.subnet),
            "model": self.digest,
            "update": self.experiment.update,
            "weights": self.experiment.weights,
            "data": self.data,
            **values,
        }

    def finished(self, entry: SubnetEntry) -> dict | None:
        """What an earlier run of stage 10 found of this subnet, if it went through all of it and
        its files are there."""
        folder = self.root / entry.name
        graphs = {part for mode in self.modes for part in parts(mode, self.ctc)}
        needed = [
            FINDINGS,
            MODEL,
            CONF,
            BPE,
            TOKENS,
            *(graph(part, precision) for part in graphs for precision in ("fp32", "int8")),
        ]
        if not all((folder / name).is_file() for name in needed):
            return None
        found = read_json(folder / FINDINGS)
        return found if found["key"] == self.key(entry) else None

    @cached_property
    def digest(self) -> str:
        """Of the supernet's weights."""
        return weights_digest(self.experiment.model)

    @cached_property
    def data(self) -> dict[str, str]:
        """Of the utterances of dev and test."""
        splits = [*self.config.data.dev, *self.config.data.test]
        return {split: split_digest(self.config, [split]) for split in splits}

    def run(self) -> None:
        """Check graphs, make the int8 encoders, decode; subnet by subnet, each kept in a file as
        soon as it is done."""
        todo = [entry for entry in self.entries if self.finished(entry) is None]
        with progress(
            total=len(todo) * len(self.modes), desc="check in sherpa-onnx", unit="model"
        ) as bar:
            for entry in self.entries:
                found = self.finished(entry)
                if found is None:
                    found = {
                        "key": self.key(entry),
                        "rows": [],
                        "differences": [],
                        "graph_errors": {},
                        "int8_kept_in_fp32": {},
                    }
                    for mode in self.modes:
                        self.check(entry, mode, found)
                        bar.update()
                    write_json_atomic(self.root / entry.name / FINDINGS, found)
                self.found[entry.name] = found

    def check(self, entry: SubnetEntry, mode: str, found: dict) -> None:
        """One subnet, offline or streaming."""
        found["graph_errors"][mode] = self.check_graph(entry, mode)
        dev, method = self.config.data.dev[0], self.methods[0]
        fp32 = self.decode(entry, mode, "fp32", method, dev, "dev", found)
        found["int8_kept_in_fp32"][mode] = self.quantize(entry, mode, dev, method, fp32.wer)
        for role, splits in (("dev", self.config.data.dev), ("test", self.config.data.test)):
            for split in splits:
                for each in self.methods if role == "dev" else [method]:
                    if (split, each) != (dev, method):
                        self.decode(entry, mode, "fp32", each, split, role, found)
                self.decode(entry, mode, "int8", method, split, role, found)

    def as_dict(self) -> dict:
        """The findings of all subnets together."""
        return {
            "rows": [row for found in self.found.values() for row in found["rows"]],
            "differences": [d for found in self.found.values() for d in found["differences"]],
            "graph_errors": {name: found["graph_errors"] for name, found in self.found.items()},
            "int8_kept_in_fp32": {
                name: found["int8_kept_in_fp32"] for name, found in self.found.items()
            },
        }

    def recognizer(self, entry: SubnetEntry, method: str) -> Recognizer:
        """The torch decoder on the supernet, with this subnet in use."""
        beam = self.config.decode.beam if method == "beam" else 0
        if beam not in self._recognizers:
            e = self.experiment
            self._recognizers[beam] = Recognizer(
                e.config, e.model, e.tokenizer, self.entries, beam, self.config.export.chunk_frames
            )
        self._recognizers[beam].use(entry.subnet)
        return self._recognizers[beam]

    @cached_property
    def checked_features(self) -> list[torch.Tensor]:
        """Speech of dev, strung together to the lengths that are checked."""
        samples = np.concatenate(
            [
                s
                for batch in audio_batches(
                    self.config, self.config.data.dev[0], max(CHECKED_SECONDS)
                )
                for _, s, _ in batch
            ]
        )
        samples = np.resize(samples, round(max(CHECKED_SECONDS) * 16000))
        return [filterbank(samples[: round(seconds * 16000)]) for seconds in CHECKED_SECONDS]

    @torch.inference_mode()
    def check_graph(self, entry: SubnetEntry, mode: str) -> float:
        """The largest difference between an encoder's graph and torch, over real frames."""
        recognizer, folder = self.recognizer(entry, "greedy"), self.root / entry.name
        model, features = recognizer.model, self.checked_features
        lengths = torch.tensor([len(f) for f in features])
        x = pad_sequence(features, batch_first=True, padding_value=LOG_EPSILON)
        encoded, out_lengths = model.encoder(x, lengths, recognizer.subnet)
        expected = output_layer(model)(encoded).numpy()
        part = parts(mode, self.ctc)[0]
        if mode == "offline":
            got = session(folder / graph(part, "fp32")).run(
                None, {"x": x.numpy(), "x_lens": lengths.numpy()}
            )[0]
        else:
            got = run_streaming_graph(
                folder / graph(part, "fp32"), x.numpy(), self.config.export.chunk_frames
            )
            out_lengths = subsampled_length(
                lengths
            )  # the client brings its own silence, not the model's tail
        worst = max(
            float(np.abs(got[i, :n] - expected[i, :n]).max())
            for i, n in enumerate(out_lengths.tolist())
        )
        if worst > TOLERANCE:
            logging.warning(
                "%s, %s: the graph's outputs differ from torch's by up to %.1e",
                entry.name,
                mode,
                worst,
            )
        return worst

    def quantize(
        self, entry: SubnetEntry, mode: str, dev: str, method: str, fp32_wer: float
    ) -> list[list]:
        """Make the int8 encoder; it may cost ``export.int8_tolerance`` of WER on dev. Returns the
        layers that stay in fp32, with their errors."""
        folder = self.root / entry.name
        part = parts(mode, self.ctc)[0]
        x = self.checked_features[-2][None].numpy()
        inputs = {"x": x, "x_lens": np.array([x.shape[1]])}
        if mode == "streaming":
            chunk = self.config.export.chunk_frames + LOOK_AHEAD
            pieces = x[0, : x.shape[1] // chunk * chunk].reshape(
                -1, chunk, NUM_MEL_BINS
            )  # unrelated chunks from the zero state
            shapes = {i.name: i.shape for i in session(folder / graph(part, "fp32")).get_inputs()}
            inputs = {"x": pieces} | {
                n: np.zeros((1, len(pieces), shapes[n][2]), np.float32)
                for n in ("state0", "state1")
            }
        limit = fp32_wer * (1 + self.config.export.int8_tolerance)

        def good() -> bool:
            return self.client_errors(entry, mode, "int8", method, dev)[0].wer <= limit

        source, target = (folder / graph(part, precision) for precision in ("fp32", "int8"))
        kept = quantize_within(source, target, inputs, good)
        if kept:
            logging.info(
                "%s, %s: int8 cost more than %.0f %% of WER on dev; %d of %d layers stay in fp32: "
                "%s",
                entry.name,
                mode,
                100 * self.config.export.int8_tolerance,
                len(kept),
                len(quantizable(source)),
                ", ".join(node for node, _ in kept),
            )
        return [[node, round(error, 5)] for node, error in kept]

    def client_errors(
        self, entry: SubnetEntry, mode: str, precision: str, method: str, split: str
    ) -> tuple[Errors, dict[str, str], dict[str, str]]:
        """Errors, references and hypotheses of the client over a split."""
        client = Client(
            self.root / entry.name, precision, method, mode == "streaming", self.config.decode.beam
        )
        references, hypotheses = {}, {}
        for batch in audio_batches(self.config, split):
            found = client.decode([samples for _, samples, _ in batch])
            references |= {name: text for name, _, text in batch}
            hypotheses |= {name: r.text for (name, _, _), r in zip(batch, found)}
        return score(references, hypotheses), references, hypotheses

    def torch_hypotheses(
        self, entry: SubnetEntry, mode: str, method: str, split: str
    ) -> dict[str, str]:
        """What torch makes of the same audio."""
        recognizer = self.recognizer(entry, method)
        hypotheses = {}
        for batch in audio_batches(self.config, split):
            if mode == "offline":
                found = recognizer.transcribe_batch([samples for _, samples, _ in batch])
            else:
                streams = [
                    (
                        recognizer.stream(endpoints=False),
                        with_tail(samples, recognizer.chunk_frames),
                    )
                    for _, samples, _ in batch
                ]
                for stream, samples in streams:
                    stream.accept(samples)
                found = [stream.finish(tail=False) for stream, _ in streams]
            hypotheses |= {name: t.text for (name, _, _), t in zip(batch, found)}
        return hypotheses

    def decode(
        self,
        entry: SubnetEntry,
        mode: str,
        precision: str,
        method: str,
        split: str,
        role: str,
        found: dict,
    ) -> Errors:
        """One row of what was found: WER of the client; in fp32 also how many hypotheses are
        torch's."""
        errors, references, hypotheses = self.client_errors(entry, mode, precision, method, split)
        row = {
            "name": entry.name,
            "mode": mode,
            "precision": precision,
            "method": method,
            "split": split,
            "role": role,
            **errors.counts(),
            "utterances": len(references),
        }
        if precision == "fp32":
            expected = self.torch_hypotheses(entry, mode, method, split)
            different = [name for name in references if hypotheses[name] != expected[name]]
            row |= {
                "equal": len(references) - len(different),
                "torch_wer": round(score(references, expected).wer, 3),
            }
            facts = {key: row[key] for key in ("name", "mode", "method", "split")}
            found["differences"] += [
                facts
                | {
                    "id": name,
                    "reference": references[name],
                    "torch": expected[name],
                    "client": hypotheses[name],
                }
                for name in different
            ]
        found["rows"].append(row)
        return errors


def run_streaming_graph(path: Path, x: np.ndarray, chunk: int) -> np.ndarray:
    """Feed (N, T, 80) in chunks through a streaming encoder: (N, T', J), at least as many frames as
    T has."""
    run = session(path)
    shapes = {i.name: i.shape for i in run.get_inputs()}
    states = [np.zeros((1, len(x), shapes[name][2]), np.float32) for name in ("state0", "state1")]
    x = np.pad(x, ((0, 0), (0, chunk + LOOK_AHEAD), (0, 0)), constant_values=LOG_EPSILON)
    outputs = []
    for start in range(0, x.shape[1] - chunk - LOOK_AHEAD + 1, chunk):
        out, *states = run.run(
            None,
            {
                "x": x[:, start : start + chunk + LOOK_AHEAD],
                "state0": states[0],
                "state1": states[1],
            },
        )
        outputs.append(out)
    return np.concatenate(outputs, axis=1)
