"""More talkers for a small vocabulary: the words of train in random order, spoken by many voices of
espeak-ng.

A net that hears few talkers say few words in few orders learns the orders, and never has to tell
the words apart; in random order it has to. The utterances are synthetic speech, and a split of
train beside the user's own.
"""

import logging
import random
import unicodedata
from collections.abc import Iterable
from multiprocessing.context import SpawnContext
from pathlib import Path

import numpy as np

from local.espeak import speak
from local.synthetic import ACCENTS, VARIANTS, Voice, speak_all
from todm.config.keys import SyntheticConfig
from utils.errors import UserError
from utils.processes import in_fresh_processes

SECONDS_EACH = 1.3  # the mean of an utterance's length, about
MOST_WORDS = 6  # of an utterance; at least one
SOUND = SyntheticConfig(seed=1, snr_db=[15.0, 40.0])  # noise, levels and the seed


def make_spoken_words(
    texts: Iterable[str], hours: float, language: str, folder: Path, jobs: int
) -> float:
    """Writes utterances of random words in LibriSpeech layout.

    Args:
      texts: the transcripts whose words are spoken, each distinct word as often as any other.
      hours: of speech, about.
      language: espeak-ng's name for it; ``en`` is spoken with an American and a British accent.
      folder: of the split, which is made.
      jobs: processes.
    Returns:
      Hours of speech.
    Raises:
      UserError: no text has a word, or espeak-ng can not speak the language.
    """
    rng = random.Random(SOUND.seed)
    voices = make_voices(language, rng)
    distinct = sorted({w for text in texts for w in text.split() if any(map(str.isalnum, w))})
    try:
        # in a process of its own: espeak-ng keeps state from one utterance to the next
        [words] = in_fresh_processes(audible, [(distinct, voices[0])], 1, SpawnContext())
    except ValueError as error:
        raise UserError(f"data.spoken_language={language}: {error}") from error
    warn_of_words(distinct, words, language)
    if not words:
        raise UserError("data.spoken_words: no train transcript has a word that could be spoken")
    count = max(len(voices), round(hours * 3600 / SECONDS_EACH))
    strings = [" ".join(rng.choices(words, k=rng.randint(1, MOST_WORDS))) for _ in range(count)]
    tasks = [
        (SOUND, voice, strings[i :: len(voices)], folder / str(voice.speaker) / "1")
        for i, voice in enumerate(voices)
    ]
    try:
        return sum(speak_all(tasks, jobs)) / 3600
    except (ValueError, RuntimeError) as error:
        raise UserError(f"data.spoken_language={language}: {error}") from error


def audible(task: tuple[list[str], Voice]) -> list[str]:
    """Those of some words of which espeak-ng makes a sound.

    Raises:
      ValueError: espeak-ng does not know the voice.
    """
    words, voice = task
    return [word for word in words if peak(word, voice) > 0]


def peak(word: str, voice: Voice) -> float:
    """The highest level of a word, from 0 to 1; 0 also where espeak-ng fails on it."""
    try:
        samples, _ = speak(word.lower(), f"{voice.accent}+{voice.variant}", voice.pitch, voice.rate)
    except RuntimeError:
        return 0.0
    return float(np.abs(samples).max(initial=0.0))


def warn_of_words(words: list[str], spoken: list[str], language: str) -> None:
    """Warns of words that are left out because they have no sound, and of words that are spelt out
    because they are of another script than English."""
    lost = sorted(set(words) - set(spoken))
    if lost:
        logging.warning(
            "data.spoken_words: espeak-ng (%s) says nothing for %d of %d words, which are left "
            "out: %s",
            language,
            len(lost),
            len(words),
            ", ".join(lost[:5]),
        )
    foreign = [w for w in spoken if any(c.isalpha() and not is_latin(c) for c in w)]
    if foreign and language == "en":
        logging.warning(
            "data.spoken_language is en, and %d of %d words have letters that English lacks, which "
            "are spelt out: %s; give espeak-ng's name of the language, such as ru, or "
            "data.spoken_words=0",
            len(foreign),
            len(spoken),
            ", ".join(foreign[:5]),
        )


def is_latin(character: str) -> bool:
    """Whether a letter is one of the Latin script."""
    return unicodedata.name(character, "").startswith("LATIN")


def make_voices(language: str, rng: random.Random) -> list[Voice]:
    """A voice for each of espeak-ng's variants that sound like a person, with pitch and tempo
    drawn."""
    accents = ACCENTS if language == "en" else [language]
    return [
        Voice(
            900_000 + i,
            accents[i % len(accents)],
            variant,
            rng.randint(30, 70),
            rng.randint(130, 180),
        )
        for i, variant in enumerate(VARIANTS)
    ]
