"""What the tests of the recogniser share: speech-like audio, a tokenizer, models that emit symbols,
and the plain way to a transcript."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import soxr
import torch
from lhotse import Fbank, FbankConfig

from local.espeak import speak
from local.train_bpe import train_bpe
from tests.helpers import tiny_model
from todm.config.keys import BpeConfig, Config
from todm.decoding.ctc_search import ctc_greedy_search, ctc_prefix_beam_search
from todm.decoding.transducer_search import Hypothesis, greedy_search, modified_beam_search
from todm.model.transducer import Transducer
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from todm.supernet.exported import write_model
from todm.supernet.extract import extract
from utils.tokens import BLANK, SOS_EOS, UNK, Tokenizer
from utils.voice_activity import VoiceActivity

RATE = 16000
SMALL = "h0,2f1,3 f2 h1"  # a subnet of the tiny model, none of whose blocks is a leading slice
TEXTS = ["THE CAT SAT ON THE MAT AND THE DOG RAN", "A BIRD SANG TO THE SUN", "ONE TWO SIX TEN"]


@functools.cache
def tokenizer() -> Tokenizer:
    """28 pieces, most of them letters."""
    with tempfile.TemporaryDirectory() as folder:
        return train_bpe(TEXTS * 3, BpeConfig(vocab_size=28), Path(folder))


def babble(seconds: float, seed: int = 0) -> np.ndarray:
    """Two tones in noise, others every 0.1 s, so that every part of it sounds different."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 0.02, round(seconds * RATE))
    for start in range(0, len(samples), RATE // 10):
        time = np.arange(start, min(start + RATE // 10, len(samples))) / RATE
        for frequency, level in zip(rng.uniform(150, 5000, 2), rng.uniform(0.02, 0.3, 2)):
            samples[start : start + len(time)] += level * np.sin(2 * np.pi * frequency * time)
    return samples.astype(np.float32)


def spoken(text: str, voice: str = "en-us", room: float = 0.1) -> np.ndarray:
    """Speech by espeak-ng in light noise, with so many seconds of nothing else at both ends."""
    samples, rate = speak(text, voice)
    samples = np.pad(soxr.resample(samples, rate, RATE), round(room * RATE))
    return (
        (samples + np.random.default_rng(len(text)).normal(0, 1e-3, len(samples)))
        .astype(np.float32)
        .clip(-1, 1)
    )


class EverythingIsSpeech(VoiceActivity):
    """What hears speech in ``babble``, too."""

    def _probability(self, window: np.ndarray) -> float:
        return 1.0


def lhotse_features(samples: np.ndarray) -> torch.Tensor:
    """(frames, 80), by what stage 2 uses."""
    return torch.from_numpy(Fbank(FbankConfig(num_mel_bins=80)).extract(samples, RATE))


@functools.cache
def some_features() -> torch.Tensor:
    return lhotse_features(babble(4, seed=99))


@torch.no_grad()
def talkative(config: Config, seed: int = 2) -> Transducer:
    """A random model whose symbols are about equally likely, and blank at about half of the frames
    of ``babble``."""
    model = tiny_model(config, tokenizer().vocab_size, seed).eval()
    features = some_features()
    model.encoder.frontend.set_statistics(features.mean(0).tolist(), features.std(0).tolist())
    joiner = model.joiner
    encoded = torch.cat(
        [
            model.encoder(features[None], torch.tensor([len(features)]), subnet)[0][0]
            for subnet in (None, Subnet.parse(SMALL))
        ]
    )
    projected = joiner.encoder_proj(encoded)
    joiner.encoder_proj.weight.div_(projected.std(0)[:, None])
    joiner.encoder_proj.bias.sub_(projected.mean(0)).div_(projected.std(0))
    joiner.predictor_proj.weight.mul_(0.2)
    joiner.output.weight.mul_(8)
    predicted = joiner.predictor_proj(
        model.predictor(model.predictor.start(1, torch.device("cpu")))[0]
    )
    joiner.output.bias.sub_(joiner(joiner.encoder_proj(encoded), predicted).mean(0))
    joiner.output.bias[BLANK] += 6
    joiner.output.bias[SOS_EOS] -= 50
    return model


@torch.no_grad()
def talkative_ctc(config: Config, seed: int = 2) -> Transducer:
    """A random CTC model: blank wins at about half of the frames, <unk> and <sos/eos> at some, and
    the others about equally often."""
    model = tiny_model(config, tokenizer().vocab_size, seed).eval()
    features = some_features()
    model.encoder.frontend.set_statistics(features.mean(0).tolist(), features.std(0).tolist())
    encoded = torch.cat(
        [
            model.encoder(features[None], torch.tensor([len(features)]), subnet)[0][0]
            for subnet in (None, Subnet.parse(SMALL))
        ]
    )
    head = model.heads.ctc
    head.weight.mul_(4)
    head.bias.sub_(head(encoded).mean(0))
    head.bias[[BLANK, SOS_EOS, UNK]] += torch.tensor([4.0, 2.0, 2.0])
    return model


@torch.no_grad()
def plain_search(
    model: Transducer, samples: np.ndarray, subnet: str | None = None, beam: int = 0
) -> Hypothesis:
    """One whole utterance with the model itself, from lhotse's features."""
    features = lhotse_features(samples)
    encoded, lengths = model.encoder(
        features[None], torch.tensor([len(features)]), Subnet.parse(subnet) if subnet else None
    )
    if model.is_ctc:
        log_probs = model.heads.ctc(encoded).log_softmax(-1)
        return (
            ctc_prefix_beam_search(log_probs, lengths, beam)
            if beam
            else ctc_greedy_search(log_probs, lengths)
        )[0]
    return (
        modified_beam_search(model, encoded, lengths, beam)
        if beam
        else greedy_search(model, encoded, lengths)
    )[0]


def plain_text(hypothesis: Hypothesis) -> str:
    """By SentencePiece, without double spaces."""
    return " ".join(tokenizer().decode(hypothesis.tokens).split())


def write_exported(
    folder: Path, config: Config, model: Transducer, subnet: str, chunk_frames: int = 16
) -> Path:
    """An exported folder as stage 10 writes it, but for the graphs."""
    alone = extract(model, config, Subnet.parse(subnet)).eval()
    parameters = sum(p.numel() for p in alone.encoder.parameters())
    entry = SubnetEntry("small", Subnet.parse(subnet), parameters, 0, 0, "by hand", 12.5)
    write_model(folder, alone, config, tokenizer(), chunk_frames, entry)
    return folder
