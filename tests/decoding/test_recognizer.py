import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import tiny_config, tiny_model
from tests.recognizers import (
    RATE,
    SMALL,
    EverythingIsSpeech,
    babble,
    lhotse_features,
    plain_search,
    plain_text,
    spoken,
    talkative,
    talkative_ctc,
    tokenizer,
    write_exported,
)
from todm.config.keys import Config
from todm.data.online_features import OnlineFilterbank, filterbank
from todm.decoding.recognizer import Recognizer
from todm.decoding.search import SearchOptions, search_utterances
from todm.decoding.transcript import Transcript
from todm.model.frontend import subsampled_length
from todm.model.transducer import Transducer
from todm.results.export_files import BPE, CONF, FACTS, MODEL, TOKENS, VOCABULARY
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from todm.supernet.budget import within_budget
from todm.supernet.exported import load_model
from todm.supernet.extract import extract
from todm.training.experiment import describe
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.voice_activity import speech_stretches

LARGEST = "h0-2f0-3 h0-2f0-3 h0-2f0-3"
SUBNETS = [LARGEST, SMALL, "h0f0 - h0-1f0-2", "- - -"]
VARIANTS = [(), ("model.stack=2",), ("model.gating=false",)]
RATES = ("model.rates=[2,1,4]",)
CAUSAL = "model.direction=causal"
TAIL = "model.tail_frames=45"
SECONDS = [
    2.5,
    0.8,
    1.61,
    0.07,
    0.05,
    0.0,
]  # the last three: a frame of the encoder, none, and nothing at all
SILENCE = np.zeros(RATE, np.float32)
CPU = torch.device("cpu")


def entries_of(*architectures: str) -> list[SubnetEntry]:
    return [
        SubnetEntry(f"net-{i}", Subnet.parse(architecture), 0, 0, 0, "by hand")
        for i, architecture in enumerate(architectures)
    ]


@functools.cache
def made(*overrides: str) -> tuple[Config, Transducer]:
    """No test changes a model."""
    config = tiny_config(*overrides)
    return config, talkative(config)


def make_recognizer(
    *overrides: str, beam: int = 0, chunk_frames: int = 16, entries: list[SubnetEntry] | None = None
) -> Recognizer:
    config, model = made(*overrides)
    return Recognizer(
        config, model, tokenizer(), entries or entries_of(*SUBNETS), beam, chunk_frames
    )


def in_pieces(samples: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    bounds = list(
        itertools.accumulate(itertools.islice(itertools.cycle(sizes), len(samples)), initial=0)
    )
    return [samples[a:b] for a, b in zip(bounds, bounds[1:]) if a < len(samples)]


def streamed(
    recognizer: Recognizer, samples: np.ndarray, sizes: tuple[int, ...] = (1, 7, 160, 401, 3333)
) -> Transcript:
    stream = recognizer.stream(endpoints=False)
    for piece in in_pieces(samples, sizes):
        stream.accept(piece)
    return stream.finish()


# Features


def rustle(samples: int) -> np.ndarray:
    """Noise whose level changes every 50 ms: unlike pure tones it leaves no bin to rounding
    errors."""
    rng = np.random.default_rng(samples)
    return (
        rng.normal(size=samples)
        * np.repeat(rng.uniform(0.003, 0.3, samples // 800 + 1), 800)[:samples]
    ).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.025, 0.05, 0.333, 1.0, 2.00007])
@pytest.mark.parametrize("level", [1.0, 1e-3, 0.0])
def test_the_filterbank_is_that_of_stage_2(seconds, level):
    samples = np.float32(level) * rustle(round(seconds * RATE))
    got, expected = filterbank(samples), lhotse_features(samples)
    assert got.shape == expected.shape and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "samples, frames",
    [(0, 0), (1, 0), (79, 0), (80, 1), (100, 1), (239, 1), (240, 2), (16000, 100)],
)
def test_frames_are_centred_on_every_10_ms(samples, frames):
    assert filterbank(rustle(samples)).shape == (frames, 80)


@pytest.mark.parametrize("sizes", [(1,), (7, 160, 401), (3999, 1, 0, 80), (10**6,)])
@pytest.mark.parametrize("samples", [50, 100, 500, 4321])
def test_features_of_audio_as_it_arrives_are_those_of_the_whole(samples, sizes):
    audio, fbank, got = rustle(samples), OnlineFilterbank(), []
    for piece in in_pieces(audio, sizes):
        fbank.accept(piece)
        got.append(fbank.take())
    fbank.finish()
    got.append(fbank.take())
    assert fbank.take().shape == (0, 80)
    got = torch.cat(got)
    assert len(got) == (samples + 80) // 160
    torch.testing.assert_close(got, filterbank(audio), atol=1e-5, rtol=0)
    if samples > 400:
        torch.testing.assert_close(got, lhotse_features(audio), atol=1e-3, rtol=0)


def test_frames_come_as_soon_as_their_window_is_there():
    """The window of frame 9 is centred on sample 1520 and ends 200 later."""
    fbank, audio = OnlineFilterbank(), rustle(2000)
    fbank.accept(audio[:1719])
    assert len(fbank.take()) == 9
    fbank.accept(audio[1719:1720])
    assert len(fbank.take()) == 1


def test_features_that_were_taken_are_forgotten(monkeypatch):
    popped = []

    class Watched:
        def __init__(self, options: kaldi_native_fbank.FbankOptions):
            self.fbank = online(options)

        def __getattr__(self, name: str):
            return getattr(self.fbank, name)

        def pop(self, count: int) -> None:
            popped.append(count)
            self.fbank.pop(count)

    online = kaldi_native_fbank.OnlineFbank
    monkeypatch.setattr(kaldi_native_fbank, "OnlineFbank", Watched)
    fbank = OnlineFilterbank()
    for _ in range(10):
        fbank.accept(rustle(1600))
        fbank.take()
    assert sum(popped) == (16000 - 120) // 160


# Whole utterances


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_batch_gets_what_the_model_itself_finds_in_every_utterance(direction, subnet, beam):
    recognizer = make_recognizer(f"model.direction={direction}", beam=beam)
    recognizer.use(Subnet.parse(subnet))
    utterances = [babble(s, seed=i) for i, s in enumerate(SECONDS)]
    transcripts = recognizer.transcribe_batch(utterances)
    assert (
        len(transcripts) == len(SECONDS)
        and len(transcripts[0].tokens) > 10
        and len(set(transcripts[0].tokens)) > 4
    )
    for got, samples, seconds in zip(transcripts, utterances, SECONDS):
        hypothesis = (
            plain_search(recognizer.model, samples, subnet, beam) if seconds >= 0.07 else None
        )
        assert got.tokens == [
            tokenizer().symbols[t] for t in (hypothesis.tokens if hypothesis else [])
        ]
        assert got.timestamps == pytest.approx(
            [0.04 * f for f in (hypothesis.frames if hypothesis else [])]
        )
        assert got.text == (plain_text(hypothesis) if hypothesis else "")
        assert got.seconds == pytest.approx(seconds, abs=1e-3)
        assert recognizer.transcribe_batch([samples]) == [got]


def test_a_beam_finds_something_else_than_greedy_search():
    """Or the parameter above would mean nothing."""
    audio = [babble(3, seed=i) for i in range(5)]
    greedy, beam = (
        make_recognizer(CAUSAL).transcribe_batch(audio),
        make_recognizer(CAUSAL, beam=4).transcribe_batch(audio),
    )
    assert [t.tokens for t in greedy] != [t.tokens for t in beam]


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_nothing_and_next_to_nothing_give_an_empty_text(direction, beam):
    recognizer = make_recognizer(f"model.direction={direction}", beam=beam)
    assert recognizer.transcribe_batch([]) == []
    for samples in (0, 1, 79, 80, 800):
        assert recognizer.transcribe_batch([babble(1)[:samples]]) == [
            Transcript("", [], [], round(samples / RATE, 3))
        ]
        assert recognizer.transcribe([babble(1)[:samples]]).text == ""
    assert recognizer.transcribe([]) == Transcript("", [], [], 0.0)
    assert recognizer.transcribe([np.zeros(0, np.float32)] * 3) == Transcript("", [], [], 0.0)
    (silent,) = recognizer.transcribe_batch([SILENCE])
    assert silent.seconds == 1.0 and len(silent.tokens) == len(
        plain_search(recognizer.model, SILENCE, None, beam).tokens
    )


def test_a_transcript_stays_as_it_is_when_more_is_recognised():
    recognizer = make_recognizer(CAUSAL)
    stream = recognizer.stream(endpoints=False)
    stream.accept(babble(1))
    first = stream.transcript()
    before = replace(first, tokens=list(first.tokens), timestamps=list(first.timestamps))
    stream.accept(babble(2, seed=1))
    assert first == before and 0 < len(first.tokens) < len(stream.finish().tokens)


def test_words_by_hand():
    tokens, times = (
        ["\u2581HE", "LL", "O", "\u2581A", "\u2581", "WORLD", "S"],
        [0.04, 0.2, 0.28, 0.6, 1.0, 1.04, 1.2],
    )
    transcript = Transcript("HELLO A WORLDS", tokens, times, 2.0)
    assert transcript.words() == [
        {"word": "HELLO", "start": 0.04},
        {"word": "A", "start": 0.6},
        {"word": "WORLDS", "start": 1.0},
    ]
    assert transcript.as_dict() == {
        "text": "HELLO A WORLDS",
        "tokens": tokens,
        "timestamps": times,
        "seconds": 2.0,
        "words": transcript.words(),
        "probabilities": [],
    }
    assert Transcript("", [], [], 0.0).words() == []


def test_words_of_a_script_without_spaces_are_its_pieces():
    tokens = ["\u2581\u6211", "\u7528", "i", "Phone", "\u624b\u673a", "\u0e01", "\u0e34"]
    words = Transcript("", tokens, [0.1 * i for i in range(7)], 1.0).words()
    assert [w["word"] for w in words] == [
        *("\u6211", "\u7528", "iPhone", "\u624b\u673a"),
        "\u0e01\u0e34",  # the mark stays with its letter
    ]


def test_the_confidence_of_words_by_hand():
    """The geometric mean of the pieces: of 0.9 and 0.4 it is 0.6."""
    tokens = ["\u2581HE", "LLO", "\u2581", "A", "\u2581B"]
    transcript = Transcript(
        "HELLO A B", tokens, [0.0, 0.2, 0.4, 0.6, 0.8], 1.0, [0.9, 0.4, 1.0, 0.25, 0.0]
    )
    words = [(w["word"], w["confidence"]) for w in transcript.words()]
    assert words == [("HELLO", 0.6), ("A", 0.5), ("B", 0.0)]


@pytest.mark.parametrize("direction", [CAUSAL])
def test_confidences_are_the_same_streamed_in_pieces_and_in_a_batch(direction):
    recognizer = make_recognizer(direction)
    utterances = [babble(2, seed=i) for i in range(3)]
    together = recognizer.transcribe_batch(utterances)
    for samples, expected in zip(utterances, together):
        assert len(expected.probabilities) == len(expected.tokens) > 3
        assert all(0 < p <= 1 for p in expected.probabilities)
        stream = recognizer.stream(endpoints=False)
        stream.accept(samples)
        found = stream.finish()
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert recognizer.transcribe_batch([]) == []


def test_a_first_piece_that_goes_on_with_a_word_begins_one():
    assert Transcript("ING IT", ["ING", "\u2581IT"], [0.0, 0.4], 1.0).words() == [
        {"word": "ING", "start": 0.0},
        {"word": "IT", "start": 0.4},
    ]


def test_a_space_without_letters_is_no_word():
    words = Transcript(
        "A B", ["\u2581", "\u2581A", "\u2581", "\u2581B", "\u2581"], [0.0, 0.2, 0.4, 0.6, 0.8], 1.0
    ).words()
    assert [w["word"] for w in words] == ["A", "B"]


def test_words_are_those_of_the_text():
    transcripts = make_recognizer(CAUSAL).transcribe_batch([babble(3, seed=i) for i in range(8)])
    assert sum(len(t.text.split()) for t in transcripts) > 30
    for t in transcripts:
        words = [w for w in t.words() if w["word"]]
        assert [w["word"] for w in words] == t.text.split()
        assert all(w["start"] in t.timestamps for w in words)


# Long recordings


def heard(recognizer: Recognizer, samples: np.ndarray) -> Transcript:
    recognizer.detector = EverythingIsSpeech
    return recognizer.transcribe(in_pieces(samples, (777, 8000)))


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_long_recording_is_cut_and_keeps_its_times(direction, beam):
    """Every stretch is what the model finds in it alone, and no stretch is longer than what was
    learnt."""
    recognizer = make_recognizer(f"model.direction={direction}", beam=beam)
    recognizer.longest = 2.0
    recording = babble(9.3)
    stretches = list(speech_stretches([recording], 2.0, EverythingIsSpeech))
    found = [(start, plain_search(recognizer.model, x, None, beam)) for start, x in stretches]
    got = heard(recognizer, recording)
    assert (
        len(stretches) >= 5
        and all(len(x) <= 2 * RATE for _, x in stretches)
        and got.seconds == pytest.approx(9.3)
    )
    assert (
        got.tokens == [tokenizer().symbols[t] for _, h in found for t in h.tokens]
        and len(got.tokens) > 50
    )
    assert got.timestamps == pytest.approx(
        [start / RATE + 0.04 * f for start, h in found for f in h.frames], abs=0.0051
    )
    assert (
        all(a < b for a, b in zip(got.timestamps, got.timestamps[1:])) and got.timestamps[-1] < 9.3
    )


def test_a_recording_that_fits_is_one_utterance():
    recognizer = make_recognizer()
    recognizer.longest = 4.0
    assert heard(recognizer, babble(4)) == recognizer.transcribe_batch([babble(4)])[0]


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_only_speech_becomes_words(direction):
    """The model itself hears something in noise and in silence."""
    recognizer = make_recognizer(f"model.direction={direction}")
    speech, noise = (
        spoken("PLEASE SET A TIMER"),
        np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32),
    )
    assert (
        recognizer.transcribe_batch([noise])[0].tokens
        and recognizer.transcribe_batch([speech])[0].tokens
    )
    for samples in (noise, SILENCE):
        assert recognizer.transcribe([samples]) == Transcript("", [], [], len(samples) / RATE)
    alone = recognizer.transcribe([speech])
    assert alone == recognizer.transcribe_batch([speech])[0]
    got = recognizer.transcribe(
        [np.zeros(5 * RATE, np.float32), speech, np.zeros(5 * RATE, np.float32)]
    )
    assert (
        got.tokens
        and min(got.timestamps) > 4
        and max(got.timestamps) < 6 + len(speech) / RATE
        and got.seconds > 10
    )


# Streams


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize(
    "overrides, chunk", [*itertools.product(VARIANTS, [1, 3, 8]), (RATES, 4), (RATES, 8)]
)
def test_the_encoder_step_by_step_is_the_encoder_of_the_whole(overrides, subnet, chunk):
    """Over more than one of the blocks in which the whole is computed."""
    encoder, subnet = made(CAUSAL, *overrides)[1].encoder, Subnet.parse(subnet)
    frames = 40 // chunk * chunk
    features = (
        torch.randn(2, 4 * frames + 3, 80, generator=torch.Generator().manual_seed(0)) * 3 - 8
    )
    with torch.no_grad():
        expected, lengths = encoder(features, torch.tensor([4 * frames + 3] * 2), subnet)
        states, got, operators = encoder.initial_states(2, subnet), [], encoder.operators(chunk)
        for first in range(0, 4 * frames, 4 * chunk):
            y, states = encoder.step(
                features[:, first : first + 4 * chunk + 3], states, subnet, operators
            )
            got.append(y)
    assert lengths.tolist() == [frames] * 2 and all(y.shape == (2, chunk, 16) for y in got)
    torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-5, atol=1e-5)
    assert expected.std(dim=1).mean() > 0.1


def test_a_step_leaves_the_states_it_was_given_as_they_were():
    encoder = made(CAUSAL, "model.stack=2")[1].encoder
    subnet, operators = Subnet.parse(SMALL), encoder.operators(4)
    features = torch.randn(1, 19, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, states = encoder.step(features, encoder.initial_states(1, subnet), subnet, operators)
        before = [[s.clone() for s in of_block] for of_block in states]
        first, _ = encoder.step(features, states, subnet, operators)
        second, _ = encoder.step(features, states, subnet, operators)
        afresh, _ = encoder.step(features, encoder.initial_states(1, subnet), subnet, operators)
    assert all(torch.equal(a, b) for x, y in zip(states, before) for a, b in zip(x, y))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first, afresh, atol=1e-3)  # what was heard before matters


def test_a_bidirectional_model_has_no_states():
    with pytest.raises(ValueError, match="model.direction=causal"):
        tiny_model(tiny_config()).encoder.initial_states(1)


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize(
    "overrides, chunk_frames",
    [
        *itertools.product([*VARIANTS, (TAIL,)], [4, 16, 32]),
        *itertools.product([RATES, (*RATES, TAIL)], [16, 32]),
    ],
)
def test_a_stream_gives_what_the_whole_utterance_gives(overrides, chunk_frames, beam):
    recognizer = make_recognizer(CAUSAL, *overrides, beam=beam, chunk_frames=chunk_frames)
    for subnet in (LARGEST, SMALL):
        recognizer.use(subnet)
        utterances = [
            babble(seconds, seed=i)
            for i, seconds in enumerate([1.7, 0.81, 0.33, 0.07, 0.05, 0.003])
        ]
        expected = recognizer.transcribe_batch(utterances)
        assert [streamed(recognizer, samples) for samples in utterances] == expected
        assert len({token for t in expected for token in t.tokens}) > 6


@pytest.mark.parametrize(
    "overrides, chunk_frames", [*itertools.product([(), (TAIL,)], [4, 16, 32]), (RATES, 16)]
)
def test_every_length_around_a_chunk_is_decoded_to_its_end(overrides, chunk_frames):
    recognizer = make_recognizer(CAUSAL, *overrides, chunk_frames=chunk_frames)
    audio = babble(1, seed=8)
    transcripts = []
    for frames in range(5, 45, 3):
        samples = audio[: 160 * frames]
        transcripts.append(streamed(recognizer, samples, (1600,)))
        assert [transcripts[-1]] == recognizer.transcribe_batch([samples])
    assert len({len(t.tokens) for t in transcripts}) >= 3


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("beam", [0, 4])
def test_the_tail_is_silence_behind_every_utterance(direction, beam):
    """What a model with a tail recognises, the same model without one recognises when the silence
    is in the features; but what is too short for a frame of its own has none."""
    recognizer = make_recognizer(f"model.direction={direction}", TAIL, beam=beam)
    _, plain = made(f"model.direction={direction}")
    plain.load_state_dict(recognizer.model.state_dict())
    utterances = [
        babble(seconds, seed=i)
        for i, seconds in enumerate([1.7, 0.81, 0.33, 0.07, 0.9, 1.2, 0.6, 0.45])
    ]
    silence = filterbank(np.zeros(45 * 160, np.float32))
    assert silence.shape == (45, 80)
    later = 0
    for samples, got in zip(utterances, recognizer.transcribe_batch(utterances)):
        features = torch.cat([filterbank(samples), silence])
        with torch.no_grad():
            encoded, lengths = plain.encoder(features[None], torch.tensor([len(features)]))
        (hypothesis,) = search_utterances(plain, encoded, lengths, SearchOptions(beam))
        seconds = len(samples) / RATE
        assert got.text == plain_text(hypothesis) and got.timestamps == [
            round(min(0.04 * f, seconds), 2) for f in hypothesis.frames
        ]
        later += sum(f >= subsampled_length(len(features) - 45) for f in hypothesis.frames)
    assert later > 2  # the model speaks in the tail, too
    assert [t.text for t in recognizer.transcribe_batch([babble(0.05), babble(0)])] == ["", ""]


def test_a_stream_whose_audio_brings_its_silence_needs_no_tail():
    recognizer, plain = make_recognizer(CAUSAL, TAIL), make_recognizer(CAUSAL)
    samples, stream = babble(0.9), recognizer.stream(endpoints=False)
    stream.accept(samples)
    assert stream.finish(tail=False) == streamed(plain, samples) != streamed(recognizer, samples)


@pytest.mark.parametrize("sizes", [(1,), (159, 161), (100_000,), (5120, 0, 0)])
def test_the_sizes_of_the_pieces_do_not_matter(sizes):
    recognizer = make_recognizer(CAUSAL)
    samples = babble(0.9, seed=3)
    assert [streamed(recognizer, samples, sizes)] == recognizer.transcribe_batch([samples])


def test_a_stream_of_silence_and_of_nothing():
    recognizer = make_recognizer(CAUSAL)
    assert [streamed(recognizer, SILENCE)] == recognizer.transcribe_batch([SILENCE])
    assert (
        recognizer.stream(endpoints=False).finish()
        == recognizer.stream(endpoints=False).transcript()
        == Transcript("", [], [], 0.0)
    )


@pytest.mark.parametrize("beam", [0, 4])
def test_a_stream_is_decoded_as_it_arrives(beam):
    """After every piece the text is that of all chunks that are complete: 16 frames, and 3 more
    that the last one sees."""
    recognizer = make_recognizer(CAUSAL, beam=beam)
    stream, audio, partial = recognizer.stream(endpoints=False), babble(2, seed=4), []
    for end in range(1600, len(audio) + 1, 1600):
        stream.accept(audio[end - 1600 : end])
        frames = (
            end - 120
        ) // 160  # windows of 25 ms, the first centred on sample 80, that lie before the end
        known = max((frames - 3) // 16 * 4, 0)
        (so_far,) = recognizer.transcribe_batch([audio[:end]])
        partial.append(stream.transcript())
        if beam == 0:
            assert partial[-1].timestamps == [
                t for t in so_far.timestamps if t < 0.04 * known - 1e-6
            ]
            assert partial[-1].tokens == so_far.tokens[: len(partial[-1].tokens)]
        assert all(t < 0.04 * known - 1e-6 for t in partial[-1].timestamps)
        assert partial[-1].seconds == pytest.approx(end / RATE)
    assert len({len(p.tokens) for p in partial}) > 5


def test_a_long_stream_is_not_held():
    """Of 10 s, in pieces of 50 frames, what is left waiting is less than a chunk and the 3 frames
    it looks ahead."""
    stream = make_recognizer(CAUSAL).stream(endpoints=False)
    for i in range(20):
        stream.accept(babble(0.5, seed=i))
        assert len(stream.waiting) < 16 + 3
        held = [v for v in vars(stream).values() if isinstance(v, torch.Tensor)]
        assert (
            held and sum(v.untyped_storage().nbytes() for v in held) <= (50 + 16 + 3 + 1) * 80 * 4
        )


def test_two_streams_side_by_side_do_not_mix():
    recognizer = make_recognizer(CAUSAL)
    audio = [babble(1.5, seed=i) for i in range(2)]
    streams = [recognizer.stream(endpoints=False) for _ in audio]
    for start in range(0, len(audio[0]), 1000):
        for stream, samples in zip(streams, audio):
            stream.accept(samples[start : start + 1000])
    got = [stream.finish() for stream in streams]
    assert got == recognizer.transcribe_batch(audio) and got[0].tokens != got[1].tokens


def test_a_bidirectional_model_does_not_stream():
    recognizer = make_recognizer()
    assert not recognizer.can_stream and make_recognizer(CAUSAL).can_stream
    with pytest.raises(UserError, match="model.direction=causal"):
        recognizer.stream()


def paused(recognizer: Recognizer, *parts: np.ndarray, size: int = 1600) -> Transcript:
    stream, samples = recognizer.stream(), np.concatenate(parts)
    for piece in in_pieces(samples, (size,)):
        stream.accept(piece)
    return stream.finish()


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("chunk_frames", [4, 16, 32])
def test_speech_in_a_stream_with_endpoints_is_a_whole_utterance(beam, chunk_frames):
    recognizer = make_recognizer(CAUSAL, beam=beam, chunk_frames=chunk_frames)
    speech = spoken("PLEASE SET A TIMER FOR TEN MINUTES")
    expected = recognizer.transcribe_batch([speech])[0]
    assert len(expected.tokens) > 5
    for size in (160, 1600, 10**6):
        assert paused(recognizer, speech, size=size) == expected


@pytest.mark.parametrize("kind", ["silence", "noise"])
@pytest.mark.parametrize("model", ["transducer", "ctc"])
def test_a_stream_survives_a_minute_without_speech(kind, model):
    """What follows it is recognised as if nothing had been before, and nothing is heard in
    between."""
    if model == "ctc":
        config = tiny_config(CAUSAL, "loss.objective=ctc", "loss.ctc_weight=1")
        recognizer = Recognizer(
            config, talkative_ctc(config), tokenizer(), entries_of(SMALL), 0, 16
        )
    else:
        recognizer = make_recognizer(CAUSAL)
    first, second = spoken("PLEASE SET A TIMER"), spoken("WHAT IS THE WEATHER")
    chunk = 16 * 160
    samples = 60 * RATE + (-len(first) - 60 * RATE) % chunk  # the second begins with a chunk
    rest = (
        np.zeros(samples, np.float32)
        if kind == "silence"
        else np.random.default_rng(0).normal(0, 1e-3, samples).astype(np.float32)
    )
    got = paused(recognizer, first, rest, second)
    before, after = (
        paused(recognizer, first, rest[: 5 * RATE]),
        paused(recognizer, rest[-20 * chunk :], second),
    )
    count = len(before.tokens)
    assert (
        count > 3
        and len(after.tokens) > 3
        and got.tokens[:count] == before.tokens
        and before.timestamps[-1] < len(first) / RATE + 1
    )
    moved = (len(first) + samples) / RATE - 20 * chunk / RATE
    assert got.tokens[count:] == after.tokens
    assert got.timestamps == pytest.approx(
        before.timestamps + [moved + t for t in after.timestamps], abs=0.011
    )
    assert got.seconds == pytest.approx((len(first) + samples + len(second)) / RATE, abs=0.001)


def test_a_stream_of_noise_holds_little_and_says_nothing():
    recognizer = make_recognizer(CAUSAL)
    stream = recognizer.stream()
    for _ in range(40):
        stream.accept(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32))
        assert len(stream.held) <= 4 and len(stream.endpoints.probabilities) < 10
    assert stream.finish() == Transcript("", [], [], 40.0)


# Choosing a subnet


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("subnet", SUBNETS)
def test_a_subnet_in_use_is_the_extracted_model(subnet, direction):
    recognizer = make_recognizer(
        f"model.direction={direction}", entries=entries_of(LARGEST, subnet)
    )
    audio = [babble(2, seed=i) for i in range(3)]
    alone = extract(recognizer.model, recognizer.config, Subnet.parse(subnet))
    expected = [plain_text(plain_search(alone, samples)) for samples in audio]
    largest = [t.text for t in recognizer.transcribe_batch(audio)]
    assert largest == [plain_text(plain_search(recognizer.model, samples)) for samples in audio]
    assert (largest == expected) == (subnet == LARGEST)
    for way in ("net-1", subnet, Subnet.parse(subnet)):
        recognizer.use("net-0")
        recognizer.use(way)
        assert [t.text for t in recognizer.transcribe_batch(audio)] == expected
        assert recognizer.subnet == Subnet.parse(subnet)


def test_using_a_subnet_copies_nothing():
    recognizer = make_recognizer()
    before = {name: (p.data_ptr(), p.clone()) for name, p in recognizer.model.named_parameters()}
    for subnet in SUBNETS:
        recognizer.use(subnet)
        recognizer.transcribe_batch([babble(0.5)])
    assert all(
        p.data_ptr() == before[name][0] and torch.equal(p, before[name][1])
        for name, p in recognizer.model.named_parameters()
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("net-9", "no subnet 'net-9'; there are: net-0, net-1"),
        ("", "no subnet ''"),
        ("h2-0 - -", "no subnet"),
        ("h0f0", "does not fit"),
        ("h3f0 - -", "does not fit the model: " + LARGEST),
        ("f4 - -", "does not fit"),
        ("-", "does not fit"),
        (Subnet.parse("h0-9 - -"), "h0-9 - - does not fit"),
    ],
)
def test_a_wrong_subnet_is_refused_and_the_earlier_stays_in_use(wrong, message):
    recognizer = make_recognizer()
    audio = [babble(2)]
    recognizer.use("net-1")
    before = recognizer.transcribe_batch(audio)
    with pytest.raises(UserError, match=message):
        recognizer.use(wrong)
    assert recognizer.subnet == Subnet.parse(SMALL) and recognizer.transcribe_batch(audio) == before


@pytest.mark.parametrize("beam", [0, 4])
def test_a_stream_goes_on_with_its_own_subnet(beam):
    recognizer = make_recognizer(CAUSAL, beam=beam)
    samples = babble(2, seed=5)
    recognizer.use(SMALL)
    (small,) = recognizer.transcribe_batch([samples])
    begun = recognizer.stream(endpoints=False)
    begun.accept(samples[:15000])
    recognizer.use(LARGEST)
    (large,) = recognizer.transcribe_batch([samples])
    later = recognizer.stream(endpoints=False)
    later.accept(samples)
    begun.accept(samples[15000:])
    assert begun.finish() == small and later.finish() == large and small.tokens != large.tokens


def priced(
    name: str, params: int, score: float | None, subnet: str = LARGEST, **more
) -> SubnetEntry:
    sizes = params, params + 500, 1000 * params
    return SubnetEntry(name, Subnet.parse(subnet), *sizes, "by hand", score, **more)


KNOWN = [priced("large", 4000, 12.0), priced("middle", 2500, 10.0), priced("small", 1000, 15.0)]


@pytest.mark.parametrize(
    "budget, cost, name",
    [
        ("1", "encoder_params", "middle"),
        ("100%", "encoder_params", "middle"),
        ("1M", "encoder_params", "middle"),
        ("2.5k", "encoder_params", "middle"),
        ("2499", "encoder_params", "small"),
        ("0.5", "encoder_params", "small"),
        ("1000", "encoder_params", "small"),
        ("0.25", "encoder_params", "small"),
        ("3k", "total_params", "middle"),
        ("2.9k", "total_params", "small"),
        ("2.5M", "macs", "middle"),
        ("2.4M", "macs", "small"),
    ],
)
def test_the_best_on_dev_within_a_budget(budget, cost, name):
    for entries in (KNOWN, KNOWN[::-1]):
        assert within_budget(budget, cost, entries, "--budget").name == name


def test_the_largest_within_a_budget_where_scores_are_not_known():
    for scores in ((None, None, None), (12.0, None, 15.0), (None, 10.0, 15.0)):
        entries = [replace(entry, dev_score=score) for entry, score in zip(KNOWN, scores)]
        for order in itertools.permutations(entries):
            assert within_budget("1", "encoder_params", list(order), "--budget").name == "large"
    unknown = [replace(entry, dev_score=None) for entry in KNOWN]
    assert within_budget("3k", "encoder_params", unknown, "--budget").name == "middle"


def test_only_what_fits_needs_a_score():
    entries = [
        priced("large", 4000, None),
        priced("middle", 2500, 16.0),
        priced("small", 1000, 15.0),
    ]
    assert within_budget("3k", "encoder_params", entries, "--budget").name == "small"


def test_a_score_of_nought_is_a_score_and_of_equals_the_largest_wins():
    entries = [
        priced("large", 4000, 1.0),
        priced("middle", 2500, 0.0),
        priced("lesser", 2000, 0.0),
        priced("small", 1000, 3.0),
    ]
    for order in itertools.permutations(entries):
        assert within_budget("1", "encoder_params", list(order), "--budget").name == "middle"


@pytest.mark.parametrize(
    "budget, message",
    [
        (
            "999",
            r"--budget: no subnet fits 999 \(999 encoder parameters\); feasible: 1000 to 4000 "
            r"encoder parameters, that is 0.25 to 1",
        ),
        ("0.2", r"--budget: no subnet fits 0.2 \(800 encoder parameters\)"),
        ("some", "--budget: 'some' is not a budget"),
    ],
)
def test_a_budget_that_none_meets_names_the_feasible_range(budget, message):
    with pytest.raises(UserError, match=message):
        within_budget(budget, "encoder_params", KNOWN, "--budget")


def test_a_budget_of_latency_needs_subnets_chosen_by_latency():
    with pytest.raises(
        UserError,
        match="--budget: the latency of these subnets is not known; use search.cost=encoder_params",
    ):
        within_budget("2.5ms", "latency", KNOWN, "--budget")
    by_size = [replace(e, cost=e.encoder_params, cost_unit="encoder parameters") for e in KNOWN]
    with pytest.raises(UserError, match="is not known"):
        within_budget("2.5ms", "latency", by_size, "--budget")
    timed = [
        replace(e, cost=c, cost_unit="ms per second of audio")
        for e, c in zip(KNOWN, (2.6, 3.0, 1.0))
    ]
    assert within_budget("2.6ms", "latency", timed, "--budget").name == "large"


def test_a_recogniser_uses_what_fits_its_budget():
    config = tiny_config()
    built = {
        text: Transducer(config, tokenizer().vocab_size, Subnet.parse(text).packed()).encoder
        for text in (LARGEST, SMALL, "h0f0 - -")
    }
    params = {text: sum(p.numel() for p in encoder.parameters()) for text, encoder in built.items()}
    scores = {LARGEST: 20.0, SMALL: 10.0, "h0f0 - -": 30.0}
    recognizer = make_recognizer(
        entries=[
            priced(f"net-{i}", params[text], scores[text], subnet=text)
            for i, text in enumerate(params)
        ]
    )
    audio = [babble(2)]
    assert recognizer.use_budget("1").name == "net-1" and recognizer.subnet == Subnet.parse(SMALL)
    assert recognizer.transcribe_batch(audio)[0].text == plain_text(
        plain_search(recognizer.model, audio[0], SMALL)
    )
    assert recognizer.use_budget(
        str(params[SMALL] - 1)
    ).name == "net-2" and recognizer.subnet == Subnet.parse("h0f0 - -")
    with pytest.raises(UserError, match="--budget"):
        recognizer.use_budget(str(params["h0f0 - -"] - 1))
    assert recognizer.subnet == Subnet.parse("h0f0 - -")
    recognizer.config = tiny_config("search.cost=macs")
    assert recognizer.use_budget(f"{params[SMALL] * 1000}").name == "net-1"


# Folders


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Config, Transducer, Path]:
    """A causal supernet, and the folder of its subnet SMALL. Tests must not change it."""
    config = tiny_config(CAUSAL, "model.stack=2")
    model = talkative(config)
    return (
        config,
        model,
        write_exported(tmp_path_factory.mktemp("exported") / "small", config, model, SMALL),
    )


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """The exported folder, to change."""
    for path in exported[2].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@torch.no_grad()
def test_an_exported_model_computes_what_the_supernet_does(exported):
    _, supernet, folder = exported
    config, model, read_tokenizer, facts = load_model(folder, CPU)
    features, lengths = (
        torch.randn(2, 200, 80, generator=torch.Generator().manual_seed(0)),
        torch.tensor([200, 90]),
    )
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])

    def outputs(net: Transducer, subnet: Subnet | None) -> torch.Tensor:
        encoded, _ = net.encoder(features, lengths, subnet)
        predicted = net.predictor.teacher_forced(tokens)
        return net.joiner(
            net.joiner.encoder_proj(encoded)[:, :, None],
            net.joiner.predictor_proj(predicted)[:, None],
        )

    torch.testing.assert_close(
        outputs(model, None), outputs(supernet, Subnet.parse(SMALL)), rtol=1e-5, atol=1e-4
    )
    assert not model.training and model.heads is None
    assert (
        str(model.full) == "h0-1f0-1 f0 h0"
        and config.model.architecture == "h0-1f0-1 f0 h0"
        and config.export.chunk_frames == 16
    )
    assert (
        read_tokenizer.proto == tokenizer().proto and read_tokenizer.symbols == tokenizer().symbols
    )
    assert (facts.entry.name, str(facts.entry.subnet), facts.entry.dev_score) == (
        "small",
        SMALL,
        12.5,
    )


def test_the_files_of_an_exported_folder(exported):
    _, supernet, folder = exported
    assert {p.name for p in folder.iterdir()} == {MODEL, CONF, BPE, TOKENS, VOCABULARY, FACTS}
    assert (folder / TOKENS).read_text().splitlines() == [
        f"{s} {i}" for i, s in enumerate(tokenizer().symbols)
    ]
    pieces = [line.split("\t") for line in (folder / VOCABULARY).read_text().splitlines()]
    assert [piece for piece, _ in pieces] == tokenizer().symbols
    scores = [float(score) for _, score in pieces]
    assert scores[:3] == [0, 0, 0] and all(score < 0 for score in scores[3:])
    alone = extract(supernet, exported[0], Subnet.parse(SMALL))
    state = load_file(folder / MODEL)
    assert state.keys() == alone.state_dict().keys() and all(
        torch.equal(v, state[k]) for k, v in alone.state_dict().items()
    )


@pytest.mark.parametrize("beam", [0, 4])
def test_a_recogniser_of_an_exported_folder(exported, beam):
    _, supernet, folder = exported
    recognizer = Recognizer.load(str(folder), beam)
    samples = babble(2)
    expected = plain_text(plain_search(supernet, samples, SMALL, beam))
    assert (
        len(expected) > 10
        and recognizer.transcribe_batch([samples])[0].text
        == expected
        == streamed(recognizer, samples).text
    )
    assert recognizer.chunk_frames == 16 and [e.name for e in recognizer.entries] == ["small"]
    recognizer.use("h0f0 - -")  # of its own, smaller still
    assert recognizer.transcribe_batch([samples])[0].text == plain_text(
        plain_search(supernet, samples, "h0f1 - -", beam)
    )
    recognizer.use("small")
    assert recognizer.transcribe_batch([samples])[0].text == expected
    assert recognizer.use_budget("1").name == "small"


@pytest.mark.parametrize("name", [MODEL, CONF, BPE, FACTS])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    for load in (lambda: load_model(copied, CPU), lambda: Recognizer.load(copied)):
        with pytest.raises(UserError, match=f"{copied} lacks {name}; stage 10"):
            load()


def test_a_folder_of_something_else_and_no_folder(tmp_path):
    with pytest.raises(UserError, match=MODEL):
        Recognizer.load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Recognizer.load(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no such folder"):
        Recognizer.load(tmp_path / "file")


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[: len(b) // 2],
        lambda b: b[:-1],
        lambda b: b"\xff" * 1000,
        lambda b: b"x" + b[1:],
    ],
)
def test_damaged_weights_are_refused(copied, damage):
    (copied / MODEL).write_bytes(damage((copied / MODEL).read_bytes()))
    with pytest.raises(UserError, match=MODEL):
        load_model(copied, CPU)


@pytest.mark.parametrize(
    "name, left",
    [
        (CONF, b"model: [nonsense"),
        (CONF, b"modell:\n  dim: 16\n"),
        (CONF, b"\xff\xfe"),
        (BPE, b""),
        (BPE, b"\xff\xfe nonsense"),
        (BPE, 300),
        (FACTS, b""),
        (FACTS, b"\xff\xfe nonsense"),
        (FACTS, 30),
    ],
)
def test_any_other_damaged_file_is_refused_too(copied, name, left):
    """Some other content, or the first bytes of its own."""
    (copied / name).write_bytes(
        (copied / name).read_bytes()[:left] if isinstance(left, int) else left
    )
    with pytest.raises(UserError, match=name):
        Recognizer.load(copied)


@pytest.mark.parametrize(
    "overrides, architecture",
    [
        ((CAUSAL, "model.stack=2"), "h0-2f0-1 f0 h0"),
        ((CAUSAL, "model.stack=2"), "h0-1f0-1 f0 -"),
        ((CAUSAL,), SMALL),
        (("model.stack=2",), SMALL),
        ((CAUSAL, "model.stack=2", "model.dim=20"), SMALL),
        ((CAUSAL, "model.stack=2", "model.gating=false"), SMALL),
    ],
)
def test_weights_of_another_architecture_are_refused(copied, overrides, architecture):
    config = tiny_config(*overrides)
    other = write_exported(copied / "other", config, talkative(config), architecture)
    (other / MODEL).replace(copied / MODEL)
    with pytest.raises(UserError, match=f"{MODEL} does not hold the model of .*{CONF}"):
        load_model(copied, CPU)


def write_experiment(exp: Path, config: Config, subnets: list[dict] | None) -> Transducer:
    """What of an experiment's folder recognition reads."""
    model = talkative(config)
    save_checkpoint(
        exp / "checkpoints",
        7,
        describe(config, tokenizer()) | {"model": model.state_dict(), "hours": 0.0, "seconds": 0.0},
        1,
    )
    if subnets is not None:
        (exp / "subnets.json").write_text(
            json.dumps(
                {"method": "uniform", "subnets": [s.as_dict() for s in subnets], "baselines": []}
            )
        )
    return model


def test_a_recogniser_of_an_experiment(tmp_path):
    config = tiny_config(CAUSAL, "export.chunk_frames=8", "loss.ctc_weight=0.3")
    model = write_experiment(
        tmp_path,
        config,
        [priced("a", 3000, 5.0, subnet=SMALL), priced("b", 2000, 4.0, subnet="h0f0 - -")],
    )
    recognizer = Recognizer.load(tmp_path, beam=4)
    samples = babble(2)
    assert recognizer.transcribe_batch([samples])[0].text == plain_text(
        plain_search(model, samples, SMALL, 4)
    )
    assert recognizer.use_budget("1").name == "b" and recognizer.chunk_frames == 8
    assert streamed(recognizer, samples).text == plain_text(
        plain_search(model, samples, "h0f0 - -", 4)
    )


def test_an_experiment_whose_subnets_are_not_chosen_yet_is_its_largest_net(tmp_path):
    model = write_experiment(tmp_path, tiny_config(), None)
    recognizer = Recognizer.load(tmp_path)
    assert recognizer.transcribe_batch([babble(2)])[0].text == plain_text(
        plain_search(model, babble(2))
    )
    params = sum(p.numel() for p in model.encoder.parameters())
    assert (
        str(recognizer.subnet) == LARGEST
        and str(recognizer.use_budget(str(params)).subnet) == LARGEST
    )


def test_an_experiment_without_a_usable_checkpoint_is_refused(tmp_path):
    write_experiment(tmp_path, tiny_config(), None)
    path = tmp_path / "checkpoints/update-7.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="update-7.pt is damaged"):
        Recognizer.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no checkpoint in .*stage 4"):
        Recognizer.load(tmp_path)
