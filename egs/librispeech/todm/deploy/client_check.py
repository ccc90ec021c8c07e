"""Dev and test decoded from audio by the client, beside torch on the same audio."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from todm.decoding.decoded_split import search_options
from todm.decoding.hotwords import hotword_lines, read_hotwords
from todm.decoding.recognizer import Recognizer
from todm.deploy.client import Client, with_tail
from todm.deploy.exports import Exports
from todm.deploy.split_audio import Utterances, audio_batches
from todm.results.export_files import HOTWORDS
from todm.results.export_rows import ClientRow, Difference
from todm.results.subnets import SubnetEntry
from utils.files import write_text_atomic
from utils.scoring import Errors, score

Texts = dict[str, str]  # by the utterance's id


class Decoded(NamedTuple):
    """One decoding of a split by the client.

    Attributes:
      wer: in percent, not rounded.
      differences: utterances in which torch has another hypothesis; in fp32 alone.
    """

    wer: float
    row: ClientRow
    differences: list[Difference]


class ClientCheck:
    """Decodes with the client, and holds it to torch."""

    def __init__(self, exports: Exports):
        self.exports = exports
        self._recognizers: dict[int, Recognizer] = {}

    def recognizer(self, entry: SubnetEntry, method: str) -> Recognizer:
        """The torch decoder on the supernet, with this subnet in use."""
        config, trained = self.exports.config, self.exports.experiment
        beam = config.decode.beam if method == "beam" else 0
        if beam not in self._recognizers:
            made = Recognizer(
                trained.config,
                trained.model,
                trained.tokenizer,
                self.exports.entries,
                beam,
                config.export.chunk_frames,
            )
            # of the conf that the client decodes with, which may not be that of the training
            options = search_options(method, config, trained)
            made.options = replace(options, max_symbols=1, nbest=0)
            self._recognizers[beam] = made
        self._recognizers[beam].use(entry.subnet)
        return self._recognizers[beam]

    def hotwords(self, folder: Path) -> Path | None:
        """The hotwords of the conf as a file in an exported folder, for a client; None: it has
        none, or the model takes none."""
        decode, trained = self.exports.config.decode, self.exports.experiment
        if not decode.hotwords_file or trained.model.is_ctc:
            return None
        found = read_hotwords(
            decode.hotwords_file, trained.tokenizer, decode.hotwords_score, trained.config.text.form
        )
        write_text_atomic(folder / HOTWORDS, hotword_lines(found))
        return folder / HOTWORDS

    def client_texts(
        self, entry: SubnetEntry, mode: str, precision: str, method: str, split: str
    ) -> tuple[Texts, Texts]:
        """References of a split, and what the client recognises."""
        beam = self.exports.config.decode.beam
        folder = self.exports.folder(entry)
        client = Client(
            folder,
            precision,
            method,
            mode == "streaming",
            beam,
            blank_penalty=self.exports.config.decode.blank_penalty,
            hotwords=self.hotwords(folder) if method == "beam" else None,
        )
        references: Texts = {}
        hypotheses: Texts = {}
        for batch in audio_batches(self.exports.config, split):
            found = client.decode([samples for _, samples, _ in batch])
            references |= {name: text for name, _, text in batch}
            hypotheses |= {name: r.text for (name, _, _), r in zip(batch, found)}
        return references, hypotheses

    def client_errors(
        self, entry: SubnetEntry, mode: str, precision: str, method: str, split: str
    ) -> Errors:
        """The client's errors over a split."""
        texts = self.client_texts(entry, mode, precision, method, split)
        return score(*texts, self.exports.config.decode.form)

    def torch_texts(self, entry: SubnetEntry, mode: str, method: str, split: str) -> Texts:
        """The texts that torch recognises in the same audio."""
        recognizer = self.recognizer(entry, method)
        texts: Texts = {}
        for batch in audio_batches(self.exports.config, split):
            if mode == "offline":
                found = recognizer.transcribe_batch([samples for _, samples, _ in batch])
                texts |= {name: t.text for (name, _, _), t in zip(batch, found)}
            else:
                texts |= streamed_texts(recognizer, batch)
        return texts

    def decode(
        self, entry: SubnetEntry, mode: str, precision: str, method: str, split: str, role: str
    ) -> Decoded:
        """Decodes a split with the client; in fp32 with torch, too."""
        references, texts = self.client_texts(entry, mode, precision, method, split)
        form = self.exports.config.decode.form
        errors, differences = score(references, texts, form), []
        equal, torch_wer = None, None
        if precision == "fp32":
            expected = self.torch_texts(entry, mode, method, split)
            differences = [
                Difference(entry.name, mode, method, split, name, reference, expected[name], text)
                for name, reference in references.items()
                if (text := texts[name]) != expected[name]
            ]
            torch_wer = round(score(references, expected, form).wer, 3)
            equal = len(references) - len(differences)
        row = ClientRow(
            *(entry.name, mode, precision, method, split, role),
            wer=round(errors.wer, 3),
            substitutions=errors.substitutions,
            insertions=errors.insertions,
            deletions=errors.deletions,
            words=errors.words,
            utterances=len(references),
            equal=equal,
            torch_wer=torch_wer,
        )
        return Decoded(errors.wer, row, differences)


def streamed_texts(recognizer: Recognizer, batch: Utterances) -> Texts:
    """The texts of a batch, each utterance streamed with the silence that the client adds."""
    texts = {}
    for name, samples, _ in batch:
        stream = recognizer.stream(endpoints=False)
        stream.accept(with_tail(samples, recognizer.chunk_frames))
        texts[name] = stream.finish(tail=False).text
    return texts
