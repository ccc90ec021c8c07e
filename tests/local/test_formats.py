"""Every format, layout and size of the table in docs/own-corpus.md, with few utterances."""

from dataclasses import replace

import pytest

from tests.local.formats import FORMATS, LAYOUTS, as_folder, table, trials, try_corpus, write_tone
from utils.ffmpeg import MissingFfmpeg, ffmpeg


def test_every_format_layout_and_size_is_heard_right(tmp_path):
    tried = list(trials(tmp_path, short=True))
    try:
        ffmpeg()
        without = 0
    except MissingFfmpeg:
        without = 1
    assert len(tried) == len(FORMATS) - without + len(LAYOUTS) + 4
    assert all(t.good for t in tried), table(tried)


def test_what_is_lost_or_misheard_is_seen(tmp_path):
    tones = [write_tone(tmp_path / "audio", i, "FLAC") for i in range(3)]
    source = as_folder(tmp_path, tones)
    assert try_corpus("all", source, tones, tmp_path).good
    wrong = [tones[0], replace(tones[1], pitch=tones[1].pitch + 5), tones[2]]
    misheard = try_corpus("another pitch", source, wrong, tmp_path)
    assert (misheard.kept, misheard.right, misheard.good) == (3, 2, False)
    tones[2].path.unlink()
    lost = try_corpus("a lost one", source, tones, tmp_path)
    assert (lost.given, lost.kept, lost.right, lost.good) == (3, 2, 2, False)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_tones_are_told_apart_at_every_rate(tmp_path, channels):
    tone = write_tone(tmp_path / "audio", 40, "WAV, 8 bits", 8000, channels)
    source = as_folder(tmp_path, [tone])
    assert try_corpus("one", source, [tone], tmp_path).good
    assert not try_corpus("one", source, [replace(tone, pitch=487.0)], tmp_path).good
