"""More talkers for a small vocabulary: the words of train in random order, spoken by many voices of
espeak-ng.

A net that hears few talkers say few words in few orders learns the orders, and never has to tell
the words apart; in random order it has to. The utterances are synthetic speech, and a split of
train beside the user's own.
"""

import random
from collections.abc import Iterable
from pathlib import Path

from local.synthetic import ACCENTS, VARIANTS, Voice, speak_all
from todm.config.keys import SyntheticConfig
from utils.errors import UserError

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
    words = sorted({w for text in texts for w in text.split() if any(map(str.isalnum, w))})
    if not words:
        raise UserError("data.spoken_words: no train transcript has a word that could be spoken")
    rng = random.Random(SOUND.seed)
    voices = make_voices(language, rng)
    count = max(len(voices), round(hours * 3600 / SECONDS_EACH))
    strings = [" ".join(rng.choices(words, k=rng.randint(1, MOST_WORDS))) for _ in range(count)]
    tasks = [
        (SOUND, voice, strings[i :: len(voices)], folder / str(voice.speaker) / "1")
        for i, voice in enumerate(voices)
    ]
    try:
        return sum(speak_all(tasks, jobs)) / 3600
    except ValueError as error:
        raise UserError(f"data.spoken_language={language}: {error}") from error


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
