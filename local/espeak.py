"""espeak-ng through ctypes: the shared library and voices that the ``espeakng-loader`` wheel
carries."""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SYNCHRONOUS, UTF8, RATE, PITCH, RANGE = 2, 1, 1, 3, 4  # constants of espeak-ng's speak_lib.h
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_pieces: list[np.ndarray] = []


@_Callback
def _collect(samples: Any, count: int, _events: Any) -> int:
    if samples and count > 0:
        _pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
    return 0


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL, int]:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(
        SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0
    )
    if rate <= 0:
        raise RuntimeError(
            f"espeak-ng could not be initialised (code {rate}); reinstall espeakng-loader"
        )
    library.espeak_SetSynthCallback(_collect)
    return library, rate


def used() -> bool:
    """Whether this process has spoken: espeak-ng keeps state from one utterance to the next."""
    return _library.cache_info().currsize > 0


def variants() -> list[str]:
    """The names of the voice variants in the wheel, sorted."""
    import espeakng_loader

    return sorted(
        p.name for p in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()
    )


def speak(
    text: str, voice: str, pitch: int = 50, rate: int = 175, pitch_range: int = 50
) -> tuple[np.ndarray, int]:
    """Synthesises speech.

    Args:
      voice: ``ACCENT+VARIANT``, such as ``en-us+f3``.
      pitch: 0 to 100.
      rate: words per minute.
      pitch_range: 0 (monotone) to 100.
    Returns:
      Samples in [-1, 1], float32 (N,), and their rate in Hz.
    Raises:
      ValueError: espeak-ng does not know the voice.
      RuntimeError: espeak-ng fails.
    """
    library, sample_rate = _library()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    _pieces.clear()
    data = text.encode("utf-8")
    code = library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
    library.espeak_Synchronize()
    if code != 0 or not _pieces:
        raise RuntimeError(f"espeak-ng failed on {text!r} (code {code})")
    return np.concatenate(_pieces).astype(np.float32) / 32768.0, sample_rate
