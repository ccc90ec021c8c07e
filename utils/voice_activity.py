"""Voice activity by silero-vad's network: it finds the speech in a recording, and stretches of it
that are short enough to be recognised."""

import functools
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from utils.audio import SAMPLE_RATE
from utils.errors import UserError

WINDOW = 512  # samples that one probability is about: 32 ms
CONTEXT = 64  # samples before them that the network also sees
SPEECH = 0.5  # probability from which on speech begins,
SILENCE = 0.35  # and below which it has ended, as silero-vad has it
MIN_SPEECH = 3  # windows above SPEECH that a stretch must have: a click is no word
# windows: a stretch begins and ends so far from what is surely speech, where it is quietest
ROOM = (6, 19)
# a pause longer than this always ends a stretch; shorter ones are part of it while it fits
PAUSE_SECONDS = 0.8
# time after speech in which a stream is still decoded: causal nets find words some time after they
# were said
HANGOVER_SECONDS = 0.6
GAP = 9  # windows, an odd number: over so many a place to cut speech is judged
LEVEL_WEIGHT = 0.02  # of a decibel beside a probability, where a place to cut speech is looked for
FLOOR = -60  # decibels of full scale below which all is equally quiet


class VoiceActivity:
    """The probability of speech in every 32 ms of a recording, as it arrives (silero-vad,
    https://github.com/snakers4/silero-vad)."""

    def __init__(self) -> None:
        self.session = _session()
        self.waiting: np.ndarray = np.zeros(0, np.float32)
        self.context: np.ndarray = np.zeros(CONTEXT, np.float32)
        self.state = np.zeros((2, 1, 128), np.float32)

    def accept(self, samples: np.ndarray) -> list[float]:
        """Takes more samples, (N,) at 16 kHz in [-1, 1].

        Returns:
          The probabilities of the windows that they complete.
        """
        self.waiting = np.concatenate([self.waiting, samples.astype(np.float32, copy=False)])
        whole = len(self.waiting) // WINDOW * WINDOW
        windows, self.waiting = self.waiting[:whole].reshape(-1, WINDOW), self.waiting[whole:]
        return [self._probability(window) for window in windows]

    def finish(self) -> list[float]:
        """Ends the recording; returns the probability of the last window, if one is begun."""
        rest = len(self.waiting)
        return self.accept(np.zeros(WINDOW - rest, np.float32)) if rest else []

    def _probability(self, window: np.ndarray) -> float:
        seen = np.concatenate([self.context, window])
        self.context = window[-CONTEXT:]
        probability, self.state = self.session.run(
            None, {"input": seen[None], "state": self.state, "sr": np.array(SAMPLE_RATE, np.int64)}
        )
        return float(probability[0, 0])


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    """silero-vad's network; its package is found but not imported, since it would import torch.

    Raises:
      UserError: the package is missing, or lacks the network.
    """
    spec = find_spec("silero_vad")
    paths = [
        Path(folder) / "data" / "silero_vad.onnx"
        for folder in (spec.submodule_search_locations or [] if spec else [])
    ]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise UserError(
            "the package silero-vad is missing, or lacks data/silero_vad.onnx; local/setup.sh "
            "installs it"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def speech_stretches(
    pieces: Iterable[np.ndarray],
    longest: float,
    detector: Callable[[], VoiceActivity] = VoiceActivity,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the stretches of a recording that hold speech, in order, as ``(first sample,
    samples)``, none longer than ``longest`` seconds.

    Together they hold all speech, with up to 0.3 s of room around it, and they do not overlap. A
    pause of more than 0.8 s ends a stretch. One that would become too long ends in its last half,
    where speech is least probable.
    """
    cutter = _Cutter(longest, detector())
    for piece in pieces:
        yield from cutter.accept(piece)
    yield from cutter.finish()


class _Cutter:
    """The stretch that is being heard, or the room before the next one."""

    def __init__(self, longest: float, detector: VoiceActivity):
        self.detector = detector
        self.most = max(round(longest * SAMPLE_RATE) // WINDOW, 2)
        self.pause = round(PAUSE_SECONDS * SAMPLE_RATE / WINDOW)
        self.first = 0  # sample of the recording that what is held begins with
        self.held: np.ndarray = np.zeros(0, np.float32)
        self.probabilities: list[float] = []  # of the windows of what is held
        self.speaking = False
        self.speech = 0  # windows with certain speech since it began

    def accept(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Takes more samples and yields the stretches that have ended."""
        self.held = np.concatenate([self.held, samples])
        for probability in self.detector.accept(samples):
            yield from self._advance(probability)

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Ends the recording and yields the last stretch."""
        for probability in self.detector.finish():
            yield from self._advance(probability)
        if self.speaking:
            yield from self._give(len(self.probabilities))

    def _advance(self, probability: float) -> Iterator[tuple[int, np.ndarray]]:
        """Goes one window further and yields the stretch that ends there, if one does."""
        self.probabilities.append(probability)
        if self.speaking or probability >= SPEECH:
            self.speaking, self.speech = True, self.speech + (probability >= SPEECH)
            windows = len(self.probabilities)
            if windows - self._last_speech() > self.pause:
                yield from self._give(windows)
                self.speaking, self.speech = False, 0
            elif windows > self.most:
                yield from self._give(self._cut())
                self.speaking = self._last_speech() > 0
        if not self.speaking:
            self._forget(len(self.probabilities) - ROOM[1])

    def _last_speech(self) -> int:
        """The window after the last one with speech."""
        return next(
            (
                i
                for i in range(len(self.probabilities), 0, -1)
                if self.probabilities[i - 1] >= SILENCE
            ),
            0,
        )

    def _cut(self) -> int:
        """The window before which a stretch that has become too long ends: of its last half, where
        speech is least probable and quiet."""
        first = self.most // 2
        badness = np.array(self.probabilities[: self.most + 1]) + LEVEL_WEIGHT * self._levels(
            0, self.most + 1
        )
        smooth = np.convolve(
            np.pad(badness, GAP // 2, mode="edge"), np.ones(GAP) / GAP, mode="valid"
        )
        return first + int(np.argmin(smooth[first : self.most + 1]))

    def _levels(self, first: int, end: int) -> np.ndarray:
        """The levels of some of the windows held, in decibels of full scale."""
        samples = self.held[first * WINDOW : end * WINDOW]
        windows = np.pad(samples, (0, (end - first) * WINDOW - len(samples))).reshape(-1, WINDOW)
        return (10 * np.log10(np.square(windows, dtype=np.float64).mean(1) + 1e-10)).clip(FLOOR)

    def _give(self, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields what is held up to a window, without long silence at its ends."""
        speech = [i for i, p in enumerate(self.probabilities[:end]) if p >= SILENCE]
        if speech and self.speech >= MIN_SPEECH:
            begin = self._quiet_before(speech[0])
            last = self._quiet_after(speech[-1] + 1, end)
            samples = self.held[begin * WINDOW : last * WINDOW]
            yield self.first + begin * WINDOW, samples
        else:
            last = end
        self._forget(last)

    def _quiet_before(self, speech: int) -> int:
        """The window that a stretch begins with whose speech begins with this one: the nearest that
        is about as quiet as any around."""
        first, end = max(speech - ROOM[1], 0), speech - ROOM[0]
        if end <= first:
            return first
        levels = self._levels(first, end)
        return first + int(np.flatnonzero(levels <= levels.min() + 3)[-1])

    def _quiet_after(self, speech: int, most: int) -> int:
        """The window before which a stretch ends whose speech ends before this one; at
        most ``most``."""
        first, end = speech + ROOM[0], min(speech + ROOM[1], most)
        if end <= first:
            return min(end, most)
        levels = self._levels(first, end)
        return first + 1 + int(np.flatnonzero(levels <= levels.min() + 3)[0])

    def _forget(self, windows: int) -> None:
        """Drops the first windows of what is held."""
        if windows > 0:
            samples = min(windows * WINDOW, len(self.held))
            self.first, self.held, self.probabilities = (
                self.first + samples,
                self.held[samples:],
                self.probabilities[windows:],
            )


class Endpoints:
    """A finder of the utterances in a stream, which says chunk by chunk where they begin and end.

    Args:
      longest: seconds of which, after half, an utterance ends in the next short pause; the longer
        it is then, the shorter a gap will do, and after one and a half of them anything.
    """

    # nobody speaks: the chunk is not decoded, but the next utterance may begin with it
    IDLE = "idle"
    # the chunk is to be decoded, and before it what was held
    SPEAKING = "speaking"
    # the chunk is held: the speaker may go on
    PAUSE = "pause"
    # the chunk is to be decoded as in SPEAKING; then the utterance is over
    LAST = "last"
    # the utterance was over before the chunk, which is as in IDLE
    OVER = "over"

    def __init__(self, longest: float, detector: VoiceActivity):
        self.detector, self.longest = detector, longest * SAMPLE_RATE
        self.probabilities: list[float] = []  # of the windows that no chunk has had yet
        self.recent: list[float] = []  # of the last ones that some had
        self.window = 0  # how many that were
        self.begin = self.last_speech = 0  # of the utterance, in samples
        self.speaking = False

    def accept(self, samples: np.ndarray) -> None:
        """Takes more samples."""
        self.probabilities += self.detector.accept(samples)

    def finish(self) -> None:
        """Ends the stream."""
        self.probabilities += self.detector.finish()

    def chunk(self, begin: int, end: int) -> str:
        """Decides what becomes of the next chunk, samples ``begin`` to ``end``: one of the
        above."""
        while self.probabilities and (self.window + 1) * WINDOW <= end:
            self._window(self.probabilities.pop(0), begin)
        if not self.speaking:
            return self.IDLE
        silent, over = end - self.last_speech, (end - self.begin) / self.longest - 0.5
        audible = silent <= HANGOVER_SECONDS * SAMPLE_RATE
        if (
            silent > PAUSE_SECONDS * SAMPLE_RATE
            or over > 0
            and np.mean(self.recent) <= max(over, SILENCE)
        ):
            self.speaking, self.recent = False, []
            return self.LAST if audible else self.OVER
        return self.SPEAKING if audible else self.PAUSE

    def _window(self, probability: float, begin: int) -> None:
        self.window += 1
        self.recent = [*self.recent[1 - MIN_SPEECH :], probability]
        if not self.speaking and len(self.recent) == MIN_SPEECH and min(self.recent) >= SPEECH:
            self.speaking, self.begin = True, begin
        if self.speaking and probability >= SILENCE:
            self.last_speech = self.window * WINDOW
