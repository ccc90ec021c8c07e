"""Augmentation in features, against the same change made of the audio."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import tiny_arguments
from todm.config.keys import AugmentConfig, FeatureConfig
from todm.config.load import load
from todm.data.augment import (
    Augmentation,
    change_tempo,
    fastest_tempo,
    frequency_warp,
    noise,
    room,
    smooth_curve,
)
from todm.data.features import make_extractor
from todm.data.frames import SILENCE
from todm.data.loaders import eval_loader, train_loader
from todm.model.frontend import subsampled_length

RATE = 16000


def fbank(samples: np.ndarray) -> Tensor:
    """The log-mel features of audio, (frames, 80)."""
    extractor = make_extractor(FeatureConfig())
    return torch.from_numpy(np.asarray(extractor.extract(samples.astype(np.float32), RATE)))


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def white(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.15, 1.25])
@pytest.mark.parametrize("hertz", [500.0, 1700.0, 3500.0])
def test_a_warped_tone_is_the_tone_at_the_warped_frequency(hertz, factor):
    warped = (fbank(tone(hertz)) @ frequency_warp(factor))[20]
    expected = fbank(tone(hertz * factor))[20]
    assert abs(int(warped.argmax()) - int(expected.argmax())) <= 1


def test_warping_keeps_the_ends_of_the_filterbank_and_undoes_nothing_at_1():
    torch.testing.assert_close(frequency_warp(1.0), torch.eye(80), atol=1e-5, rtol=0)
    for factor in (0.7, 1.4):
        matrix = frequency_warp(factor)
        # every bin is a mean of neighbours, so that a flat spectrum stays flat
        torch.testing.assert_close(matrix.sum(0), torch.ones(80))
        assert (matrix >= 0).all()
        # the last bins come from the last ones, whatever the factor
        assert matrix[76:, 79].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_tempo_moves_every_sound_in_time_and_not_in_frequency(factor):
    parts = [tone(hertz, 0.4) for hertz in (400, 1500, 3000)]
    spoken = fbank(np.concatenate(parts))
    changed = change_tempo(spoken, factor)
    assert len(changed) == round(len(spoken) / factor)
    expected = fbank(
        np.concatenate(
            [
                p[: int(len(p) / factor)] if factor > 1 else np.tile(p, 2)[: int(len(p) / factor)]
                for p in parts
            ]
        )
    )
    middle = [int((i + 0.5) * len(changed) / 3) for i in range(3)]
    assert changed[middle].argmax(1).tolist() == expected[middle].argmax(1).tolist()


def test_an_utterance_that_was_sped_up_has_a_frame_for_every_character():
    texts = ["SEVEN SEVEN", "AAA BBB", "A", "COMMANDS ARE SHORT", "BOOKKEEPER"]
    for text in texts:
        characters = text.replace(" ", "_") + "_"
        repeated = sum(a == b for a, b in zip(characters, characters[1:]))
        for frames in range(7, 500):
            factor = fastest_tempo(frames, text)
            assert factor >= 1
            if factor > 1:
                faster = round(frames / factor)
                assert subsampled_length(faster) >= len(characters) + repeated


@pytest.mark.parametrize("rt60", [0.2, 0.6])
def test_the_echo_of_a_click_loses_60_db_in_its_time(rt60):
    click = torch.zeros(100, 80)
    click[10] = 1.0
    heard = room(click, rt60, direct=3.0)
    assert torch.equal(heard[:10], torch.zeros(10, 80))
    assert torch.equal(heard[10], click[10])
    first, later = heard[11, 0], heard[11 + round(100 * rt60 / 2), 0]
    assert 10 * math.log10(first / later) == pytest.approx(30.0, abs=0.1)
    # what the room adds, together, is 3 dB below the direct sound
    whole = room(torch.nn.functional.pad(click, (0, 0, 0, 500)), rt60, direct=3.0)
    assert 10 * math.log10(whole[11:, 0].sum()) == pytest.approx(-3.0, abs=0.05)


def test_a_room_echoes_as_audio_in_a_room_does():
    """A burst of noise, convolved with noise that decays exponentially (a room's late echo)."""
    rt60, direct = 0.4, 6.0
    burst = np.concatenate([np.zeros(3200), white(0.3), np.zeros(8000)])
    response = white(1.0, seed=1) * 10 ** (-3 * np.arange(RATE) / RATE / rt60)
    # the filterbank's windows are longer than its frames: the echo begins a frame later
    response = np.concatenate([np.zeros(160), response])
    response *= 10 ** (-direct / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    heard = fbank(np.convolve(burst, response)[: len(burst)]).exp()
    ours = room(fbank(burst).exp(), rt60, direct)
    for frames in (slice(25, 48), slice(55, 62), slice(70, 80)):
        difference = 10 * torch.log10(ours[frames].mean() / heard[frames].mean())
        assert abs(float(difference)) < 1.5


def test_noise_has_its_energy_and_fluctuates_as_white_noise_does():
    made = noise(3000, mean=2.0)
    assert float(made.sum(1).mean()) == pytest.approx(2.0, rel=0.02)
    real = fbank(white(30.0)).exp()
    for bins in (slice(0, 15), slice(30, 50), slice(60, 80)):
        ours, theirs = ((x[:, bins].std(0) / x[:, bins].mean(0)).mean() for x in (made, real))
        assert float(ours) == pytest.approx(float(theirs), rel=0.35)


def test_a_microphone_and_noise_change_the_level_by_no_more_than_was_asked_for():
    speech, shifts = fbank(white(1.0)), []
    for _ in range(20):
        assert smooth_curve(6.0).abs().max() <= 2 * 6.0 * math.log(10) / 10
        louder = Augmentation(AugmentConfig(gain=10.0))(speech, "A") - speech
        assert float(louder.std()) < 1e-3
        shifts.append(float(louder.mean()))
        assert abs(float(louder.mean())) <= math.log(10)
        noisy = Augmentation(AugmentConfig(noise_prob=1.0, noise_snr=[20.0, 20.0]))(speech, "A")
        ratio = (noisy.exp() - speech.exp()).sum(1).mean() / speech.exp().sum(1).mean()
        assert float(ratio) == pytest.approx(0.01, rel=0.3)
    # and they do change it, up and down, over most of the range
    assert min(shifts) < -1 and max(shifts) > 1
    assert float(smooth_curve(6.0).abs().max()) > 0.1


def test_digital_silence_stays_finite():
    everything = AugmentConfig(warp=0.2, tempo=0.2, gain=10, channel=6, room_prob=1, noise_prob=1)
    augmented = Augmentation(everything)(torch.full((50, 80), SILENCE), "A")
    assert torch.isfinite(augmented).all()
    assert augmented.min() >= SILENCE - 1e-4


def test_train_hears_other_talkers_every_time_and_dev_never(tiny_run):
    asked = ["augment.warp=0.2", "augment.tempo=0.2", "spec_augment.enabled=false"]
    config = load("conf/mini.yaml", [*tiny_arguments(tiny_run[0]), *asked, "data.join_prob=0"])
    loader, sampler = train_loader(config)
    epochs = []
    for _ in range(2):
        sampler.start(0, 0)
        epochs.append({i: n for b in loader for i, n in zip(b.ids, b.lengths.tolist())})
    assert epochs[0].keys() == epochs[1].keys()
    assert epochs[0] != epochs[1]
    for batch in loader:
        for x, n in zip(batch.features, batch.lengths.tolist()):
            assert torch.isfinite(x[:n]).all()
    once, again = (list(eval_loader(config, ["dev"], 100.0)) for _ in range(2))
    for a, b in zip(once, again):
        assert torch.equal(a.features, b.features)


def test_the_trial_of_memory_has_the_slowest_tempo(tiny_run):
    config = load("conf/mini.yaml", [*tiny_arguments(tiny_run[0]), "augment.tempo=0.5"])
    loader, sampler = train_loader(config)
    cuts = next(iter(sampler.inner))
    frames = sorted(cut.num_frames for cut in cuts)
    longest = sorted(loader.dataset.longest(cuts).lengths.tolist())
    assert longest == [round(n * 1.5) for n in frames]
