"""The embedded corpus: synthetic speech by espeak-ng, written in LibriSpeech layout.

Texts, voices, lengths, noise and levels follow from its seed alone.  So does the sound of most
voices; a few (f5, sandro and victor among them) have another waveform in another process, because
espeak-ng reads memory there that nothing has written.
"""

import io
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from local.espeak import speak, used
from local.sentences import distinct_sentences
from todm.config.keys import SyntheticConfig
from utils.audio import SAMPLE_RATE
from utils.files import atomic_path, write_text_atomic
from utils.processes import in_fresh_processes
from utils.progress import progress

ACCENTS = ["en-us", "en-gb-x-rp"]
# espeak-ng's variants that sound like a person: no whispers, robots or effects.
VARIANTS = """
    Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario Michael Mike
    Reed Storm adam anika announcer antonio aunty belinda benjamin boris caleb david ed edward f1 f2
    f3 f4 f5 grandma grandpa gustave ian iven john linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel
    miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis victor zac
""".split()


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker."""

    speaker: int
    accent: str
    variant: str
    pitch: int  # 0 to 100
    rate: int  # words per minute


# of one voice: how it sounds, who speaks, what, and the folder to write into
SpeakerTask = tuple[SyntheticConfig, Voice, list[str], Path]


def make_voices(config: SyntheticConfig) -> dict[str, list[Voice]]:
    """Draws the voices of every split. No variant, and so no voice, is in two splits.

    Raises:
      ValueError: more voices asked for than there are variants for dev and test.
    """
    rng = random.Random(config.seed)
    variants = VARIANTS.copy()
    rng.shuffle(variants)
    held_out = config.dev_voices + config.test_voices
    if held_out >= len(variants):
        raise ValueError(
            f"synthetic.dev_voices + synthetic.test_voices is {held_out}; at most "
            f"{len(variants) - 1} are possible"
        )
    pools = {
        "dev": variants[: config.dev_voices],
        "test": variants[config.dev_voices : held_out],
        "train": variants[held_out:],
    }
    counts = {"train": config.train_voices, "dev": config.dev_voices, "test": config.test_voices}
    first = {"train": 1000, "dev": 2000, "test": 3000}
    return {
        split: [
            Voice(
                first[split] + i,
                ACCENTS[i % len(ACCENTS)],
                pool[i % len(pool)],
                rng.randint(35, 65),
                rng.randint(140, 170),
            )
            for i in range(counts[split])
        ]
        for split, pool in pools.items()
    }


def make_sentences(config: SyntheticConfig) -> dict[str, list[str]]:
    """Draws the sentences of every split, none of them in two splits."""
    rng = random.Random(config.seed + 1)
    test = distinct_sentences(rng, config.test_utterances)
    dev = distinct_sentences(rng, config.dev_utterances, exclude=set(test))
    seconds_each = 3.2  # the mean at these rates; hours is approximate
    count = max(config.train_voices, round(config.hours * 3600 / seconds_each))
    return {
        "train": distinct_sentences(rng, count, exclude=set(test) | set(dev)),
        "dev": dev,
        "test": test,
    }


def make_corpus(
    config: SyntheticConfig, root: Path, splits: dict[str, str], jobs: int
) -> dict[str, float]:
    """Writes the corpus below ``root``.

    Args:
      root: the LibriSpeech folder to make.
      splits: the name a split has on disk, e.g. ``{"train": "train-clean-100", ...}``.
      jobs: processes.
    Returns:
      Hours of speech per split.
    Raises:
      ValueError: more voices are asked for than there are.
    """
    voices, sentences = make_voices(config), make_sentences(config)
    tasks = []
    for split, name in splits.items():
        for i, voice in enumerate(voices[split]):
            texts = sentences[split][i :: len(voices[split])]
            tasks.append((split, (config, voice, texts, root / name / str(voice.speaker) / "1")))
    hours = dict.fromkeys(splits, 0.0)
    for (split, _), seconds in zip(tasks, speak_all([task for _, task in tasks], jobs)):
        hours[split] += seconds / 3600
    _write_speakers(root, {splits[s]: voices[s] for s in splits})
    return hours


def speak_all(tasks: list[SpeakerTask], jobs: int) -> Iterator[float]:
    """Writes the utterances of some voices, in parallel; the seconds of audio of each, in order.

    Raises:
      ValueError: espeak-ng does not know a voice.
    """
    # espeak-ng keeps state from one utterance to the next: with a fresh process for every voice the
    # corpus does not depend on which process speaks which voice.
    forks = sys.platform == "linux" and not used()
    context = ForkContext() if forks else SpawnContext()
    with progress(total=sum(len(task[2]) for task in tasks), unit="utt", desc="espeak-ng") as bar:
        for task, seconds in zip(tasks, in_fresh_processes(_write_speaker, tasks, jobs, context)):
            bar.update(len(task[2]))
            yield seconds


def _write_speaker(task: SpeakerTask) -> float:
    """Writes all utterances of one voice, FLAC files and their ``.trans.txt``; returns seconds of
    audio."""
    config, voice, texts, folder = task
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(".*"):  # of a run that was killed
        unfinished.unlink()
    lines, seconds = [], 0.0
    for i, (text, samples) in enumerate(zip(texts, _utterances(config, voice, texts))):
        name = f"{voice.speaker}-1-{i:04d}"
        encoded = io.BytesIO()  # libsndfile does not say why a file could not be written
        soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        with atomic_path(folder / f"{name}.flac") as path:
            path.write_bytes(encoded.getvalue())
        lines.append(f"{name} {text}\n")
        seconds += len(samples) / SAMPLE_RATE
    write_text_atomic(folder / f"{voice.speaker}-1.trans.txt", "".join(lines))
    return seconds


def _utterances(config: SyntheticConfig, voice: Voice, texts: list[str]) -> Iterator[np.ndarray]:
    torch.set_num_threads(1)
    rng = np.random.default_rng([config.seed, voice.speaker])
    for text in texts:
        rate = int(voice.rate * rng.uniform(0.94, 1.06))
        clean, source_rate = speak(
            text.lower(), f"{voice.accent}+{voice.variant}", voice.pitch, rate
        )
        clean = resample(torch.from_numpy(clean), source_rate, SAMPLE_RATE).numpy()
        # 50 to 200 ms of room before and after
        clean = np.pad(clean, rng.integers(800, 3200, size=2))
        noise = _coloured_noise(rng, len(clean))
        low, high = config.snr_db
        snr = rng.uniform(low, high)
        scale = np.sqrt(np.mean(clean**2) / (np.mean(noise**2) + 1e-12)) * 10 ** (-snr / 20)
        noisy = clean + scale * noise
        low, high = config.level_db
        yield noisy / np.abs(noisy).max() * 10 ** (rng.uniform(low, high) / 20) * 0.99


def _coloured_noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draws white to pink noise, (length,): its power falls with frequency^slope, slope drawn from
    0 to 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (rng.uniform(0, 1) / 2)
    return np.fft.irfft(spectrum, length).astype(np.float32)


def _write_speakers(root: Path, voices: dict[str, list[Voice]]) -> None:
    lines = [";ID | SUBSET | SYNTHETIC VOICE (espeak-ng accent+variant, pitch, words per minute)\n"]
    for name, speakers in voices.items():
        for v in speakers:
            lines.append(f"{v.speaker} | {name} | {v.accent}+{v.variant}, {v.pitch}, {v.rate}\n")
    write_text_atomic(root / "SPEAKERS.TXT", "".join(lines))
