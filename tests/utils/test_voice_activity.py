"""Speech is found, everything else is not, and long speech is cut in places where words end."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from tests.joined import join_recordings
from tests.recognizers import RATE, EverythingIsSpeech, spoken
from utils import voice_activity
from utils.errors import UserError
from utils.voice_activity import WINDOW, Endpoints, VoiceActivity, speech_stretches

SENTENCES = [
    "PLEASE SET A TIMER FOR TEN MINUTES",
    "WHAT IS THE WEATHER LIKE IN LONDON TODAY",
    "CALL ANNA ON FIVE ONE FOUR ZERO",
]


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    return [
        spoken(text, voice)
        for text, voice in zip(SENTENCES, ("en-us", "en-us+f3", "en-gb-scotland"))
    ]


def in_pieces(samples: np.ndarray, size: int = 8000) -> list[np.ndarray]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]


def probabilities(samples: np.ndarray, size: int = 8000) -> list[float]:
    detector = VoiceActivity()
    return [
        p for piece in in_pieces(samples, size) for p in detector.accept(piece)
    ] + detector.finish()


def stretches_of(
    samples: np.ndarray, longest: float, size: int = 8000
) -> list[tuple[int, np.ndarray]]:
    return list(speech_stretches(in_pieces(samples, size), longest))


def not_speech() -> dict[str, np.ndarray]:
    rng, time = np.random.default_rng(0), np.arange(6 * RATE) / RATE
    notes = np.repeat(rng.choice([262, 330, 392, 440, 523], len(time) // 4000), 4000)
    return {
        "silence": np.zeros(len(time)),
        "direct current": np.full(len(time), 0.5),
        "clicks": (np.arange(len(time)) % 8000 == 0) * 0.9,
        **{
            f"noise {level}": rng.normal(0, level, len(time))
            for level in (1e-4, 1e-3, 1e-2, 0.1, 0.5)
        },
        **{f"tone {hertz}": 0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (100, 440, 3000)},
        "beeps": 0.3 * np.sin(2 * np.pi * notes * time),
        "trembling noise": rng.normal(0, 0.2, len(time)) * (0.5 + 0.5 * np.sin(8 * np.pi * time)),
    }


@pytest.mark.parametrize("name", not_speech())
def test_what_nobody_says_is_not_speech(name):
    assert stretches_of(not_speech()[name].clip(-1, 1).astype(np.float32), 5.0) == []


def test_speech_is_found_loud_and_soft(utterances):
    for samples in utterances:
        for level in (1.0, 0.1):
            ((start, stretch),) = stretches_of(level * samples, 10.0)
            assert (
                start == 0 and len(stretch) >= len(samples) - WINDOW
            )  # its room is shorter than what is left at the ends


@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
def test_probabilities_do_not_depend_on_the_pieces(utterances, size):
    samples = utterances[0][: RATE + 100]
    got = probabilities(samples, size)
    assert len(got) == -(-len(samples) // WINDOW) and got == pytest.approx(
        probabilities(samples), abs=1e-5
    )


def test_probabilities_are_those_of_the_package(utterances, tmp_path):
    """silero-vad's own wrapper, in a process of its own, since it sets the threads of torch."""
    code = (
        "import sys, numpy as np, torch\nfrom silero_vad import load_silero_vad\nx = "
        "torch.from_numpy(np.load(sys.argv[1]))\n"
        "print(*load_silero_vad(onnx=True).audio_forward(x[None], 16000)[0].tolist())"
    )
    np.save(tmp_path / "speech.npy", utterances[1])
    theirs = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "speech.npy"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert probabilities(utterances[1]) == pytest.approx(
        [float(p) for p in theirs.stdout.split()], abs=1e-4
    ), theirs.stderr


@pytest.mark.parametrize(
    "pause, noise",
    [((0, 0), 0.0), ((0.25, 1.0), 0.0), ((0.25, 1.0), 1e-3), ((2.0, 5.0), 0.0), ((2.0, 5.0), 1e-3)],
)
@pytest.mark.parametrize("longest", [2.5, 6.0])
def test_stretches_cover_all_speech_in_order_and_none_is_too_long(
    utterances, pause, noise, longest
):
    samples, spans = join_recordings(utterances * 3, pause, noise)
    covered, end = np.zeros(len(samples), bool), 0
    for start, stretch in stretches_of(samples, longest):
        assert start >= end and 0 < len(stretch) <= longest * RATE
        np.testing.assert_array_equal(stretch, samples[start : start + len(stretch)])
        end = start + len(stretch)
        covered[start:end] = True
    for begin, end in spans:  # without their room of 0.1 s
        assert covered[begin + 1600 : end - 1600].all()
    if pause[0] > 1:
        assert covered.sum() < sum(e - b for b, e in spans) + len(spans) * RATE


def test_stretches_do_not_depend_on_the_pieces(utterances):
    samples, _ = join_recordings(utterances * 2, (0.2, 2.0), 1e-3)
    expected = stretches_of(samples, 3.0)
    for size in (777, 100_000):
        got = stretches_of(samples, 3.0, size)
        assert [(s, len(x)) for s, x in got] == [(s, len(x)) for s, x in expected] and len(got) > 3


def test_cuts_fall_between_utterances_where_they_can(utterances):
    """Two fit into a stretch, three do not."""
    samples, spans = join_recordings(utterances * 3, (0, 0), 0.0)
    ends = np.array([end for _, end in spans])
    cuts = [start for start, _ in stretches_of(samples, 6.0)][1:]
    assert (
        len(cuts) >= 3 and np.mean([np.abs(ends - cut).min() < 0.25 * RATE for cut in cuts]) > 0.7
    )


def test_a_short_recording_stays_whole(utterances):
    """Its room and a pause that fits are part of it."""
    samples, _ = join_recordings(utterances[:2], (0.4, 0.4), 1e-3)
    ((start, stretch),) = stretches_of(samples, 10.0)
    assert start == 0 and len(stretch) >= len(samples) - 0.5 * RATE


@pytest.mark.parametrize("longest", [0.01, 0.1, 1.0])
def test_without_a_place_to_cut_it_ends_all_the_same(longest):
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * RATE + 7).astype(np.float32)
    got = list(speech_stretches(in_pieces(samples), longest, EverythingIsSpeech))
    np.testing.assert_array_equal(np.concatenate([x for _, x in got]), samples)
    assert all(len(x) <= max(longest * RATE, 2 * WINDOW) for _, x in got)


def test_nothing_and_next_to_nothing():
    for samples in (
        [],
        [np.zeros(0, np.float32)],
        [np.zeros(1, np.float32)],
        [np.ones(100, np.float32)],
    ):
        assert list(speech_stretches(samples, 5.0)) == []


@pytest.mark.parametrize("detector", [EverythingIsSpeech, VoiceActivity])
def test_ten_minutes_are_never_held(detector):
    """Of speech all the time, and of noise."""

    def minutes() -> Iterator[np.ndarray]:
        samples = np.random.default_rng(0).normal(0, 0.01, 8000).astype(np.float32)
        for _ in range(1200 if detector is EverythingIsSpeech else 200):
            yield samples.copy()

    tracemalloc.start()
    try:
        for _ in speech_stretches(minutes(), 5.0, detector):
            pass
        assert (
            tracemalloc.get_traced_memory()[1] < 3e6
        )  # bytes; the samples of ten minutes are 38 million
    finally:
        tracemalloc.stop()


def test_a_missing_package_is_a_sentence(monkeypatch):
    voice_activity._session.cache_clear()
    monkeypatch.setattr(voice_activity, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="silero-vad is missing"):
        VoiceActivity()


def test_the_package_is_not_imported(utterances):
    """It would import torch."""
    code = (
        "import sys, numpy\nfrom utils.voice_activity import "
        "VoiceActivity\nVoiceActivity().accept(numpy.zeros(600, 'f'))\n"
        "assert not {'torch', 'silero_vad'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# Endpoints of a stream


class Scripted(VoiceActivity):
    """Hears speech where it is told to."""

    def __init__(self, script: list[float]):
        super().__init__()
        self.script = iter(script)

    def _probability(self, window: np.ndarray) -> float:
        return next(self.script)


def verdicts(script: list[float], longest: float = 100.0, chunk: int = 5120) -> list[str]:
    endpoints, found = Endpoints(longest, Scripted(script)), []
    for begin in range(0, len(script) * WINDOW, chunk):
        endpoints.accept(np.zeros(chunk, np.float32))
        found.append(endpoints.chunk(begin, begin + chunk))
    return found


def test_an_utterance_of_a_stream_ends_in_a_long_pause():
    """Chunks of 0.32 s."""
    assert verdicts([0.0] * 20 + [1.0] * 20 + [0.0] * 50 + [1.0] * 10) == ["idle"] * 2 + [
        "speaking"
    ] * 3 + ["pause"] + ["over"] + ["idle"] * 2 + ["speaking"]


def test_a_short_pause_and_a_click_end_and_begin_nothing():
    assert verdicts([1.0] * 10 + [0.0] * 20 + [1.0] * 10) == ["speaking"] * 2 + ["pause"] + [
        "speaking"
    ]
    assert verdicts(([1.0] * 2 + [0.0] * 8) * 5) == ["idle"] * 5


def test_a_long_utterance_ends_in_a_short_pause_or_at_last_in_speech():
    short = ([1.0] * 27 + [0.1] * 3) * 5
    assert verdicts(short, longest=3.0)[:6] == ["speaking"] * 5 + [
        "last"
    ]  # after 1.92 s; the pause after 0.96 s comes too soon
    assert "last" in verdicts([1.0] * 80, longest=1.0) and "last" not in verdicts(
        [1.0] * 80, longest=2.0
    )
