"""Subtitles, worked out by hand."""

from utils.subtitles import Cue, cues, subtitles


def test_a_pause_begins_a_cue_and_a_cue_lingers_for_a_second():
    words = [(0.0, "one"), (0.4, "two"), (1.6, "three"), (5.0, "four")]
    assert cues(words, 5.3) == [
        Cue(0.0, 1.4, "one two"),
        Cue(1.6, 2.6, "three"),
        Cue(5.0, 5.3, "four"),
    ]


def test_a_cue_has_two_lines_at_most_and_lasts_seven_seconds():
    """Words of nine letters, half a second apart: eight of them and seven spaces are 79 characters;
    words of one letter end after seven seconds."""
    long = [(0.5 * i, "x" * 9) for i in range(10)]
    first, second = cues(long, 10)
    assert len(first.text.split()) == 8 and first.end == second.start == 4.0
    short = cues([(0.5 * i, "x") for i in range(20)], 20)
    assert [len(cue.text.split()) for cue in short] == [14, 6]


def test_two_lines_at_most_whatever_the_words_are():
    """Words of 30, 30 and 22 letters would need three."""
    words = [(0.1 * i, "x" * n) for i, n in enumerate((30, 30, 22))]
    assert [len(cue.text.split()) for cue in cues(words, 3.0)] == [2, 1]


def test_chinese_has_no_spaces_and_breaks_anywhere():
    words = [(0.1 * i, "\u4f60") for i in range(50)]
    [cue] = cues(words, 6.0)
    assert cue.text == "\u4f60" * 50
    assert "\u4f60" * 42 + "\n" + "\u4f60" * 8 in subtitles(words, 6.0, "srt")


def test_a_word_at_the_very_end_is_shown_for_a_moment():
    assert cues([(2.0, "a")], 2.0) == [Cue(2.0, 2.2, "a")]


def test_srt():
    assert subtitles([(3661.5, "R&B <3"), (3662.0, "ok")], 4000, "srt") == (
        "1\n01:01:01,500 --> 01:01:03,000\nR&B <3 ok\n"
    )


def test_vtt_escapes_and_wraps():
    words = [(0.1 * i, word) for i, word in enumerate(["a<b", *["y" * 10] * 4])]
    assert subtitles(words, 1.0, "vtt") == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.000\na&lt;b "
        + " ".join(["y" * 10] * 3)
        + "\n"
        + "y" * 10
        + "\n"
    )


def test_nothing_said():
    assert subtitles([], 3.0, "srt") == "" and subtitles([], 3.0, "vtt") == "WEBVTT\n"
