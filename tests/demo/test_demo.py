"""The page to try a supernet on. What needs Gradio, or a browser, skips itself where there is none:
``pip install -r requirements-demo.txt playwright``, and Chromium."""

import argparse
import contextlib
import re
import shutil
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import soxr

from tests.helpers import tiny_config
from tests.recognizers import RATE, EverythingIsSpeech, babble, talkative, tokenizer
from todm.decoding.recognizer import Recognizer
from todm.decoding.transcript import Transcript
from todm.demo.app import parse_arguments, serve
from todm.demo.render import NOTHING, curve, size, speed, words_html
from todm.demo.session import Demo
from todm.results.decode_results import DecodeRow
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from utils.audio import AudioError

SUBNETS = ("h0-2f0-3 h0-2f0-3 h0-2f0-3", "h0-2f0 - h0-2f0")  # the larger first


def rows_of(entries) -> list[DecodeRow]:
    """5 % on dev and 7 % on test for the first, and 2 points more for each that follows."""
    return [
        DecodeRow(entry, split, split, "greedy", wer + 2 * i, 1, 1, 1, 60, 3, 9.0, 0.01, (1, 1, 1))
        for i, entry in enumerate(entries)
        for split, wer in (("dev", 5.0), ("test", 7.0))
    ]


@pytest.fixture(scope="module")
def demo() -> Demo:
    config = tiny_config("model.direction=causal")
    described = (
        describe_subnet(config, tokenizer().vocab_size, Subnet.parse(subnet), "by hand")
        for subnet in SUBNETS
    )
    entries = [replace(entry, name=name) for entry, name in zip(described, ("large", "small"))]
    recognizer = Recognizer(config, talkative(config), tokenizer(), entries, chunk_frames=16)
    recognizer.detector = EverythingIsSpeech
    return Demo(recognizer, rows_of(entries))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "three seconds.wav"
    soundfile.write(path, babble(3), RATE)
    return path


def test_every_position_of_the_slider_is_a_subnet(demo, recording):
    """From the smallest to the largest; each says what it says alone."""
    assert [e.encoder_params for e in demo.entries] == sorted(
        e.encoder_params for e in demo.entries
    )
    heard = set()
    for number, subnet in ((0, SUBNETS[1]), (1, SUBNETS[0]), (0, SUBNETS[1])):
        transcript, seconds = demo.transcribe(recording, number)
        assert str(demo.recognizer.subnet) == subnet and seconds > 0
        [alone] = demo.recognizer.transcribe_batch([soundfile.read(recording, dtype="float32")[0]])
        assert transcript.text == alone.text
        heard.add(transcript.text)
    assert len(heard) == 2


def test_a_file_that_is_no_audio(demo, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(AudioError):
        demo.transcribe(tmp_path / "a.wav", 0)


@pytest.mark.parametrize("rate, kind", [(RATE, np.float32), (48000, np.int16), (44100, np.float64)])
def test_a_microphone_of_any_rate_is_a_stream(demo, rate, kind):
    """Stereo in pieces of 0.32 s, against the stream of the whole."""
    samples = babble(4)
    demo.recognizer.use(demo.entries[1].subnet)
    expected = demo.recognizer.stream()
    expected.accept(samples)
    played = samples if rate == RATE else soxr.resample(samples, RATE, rate)
    played = np.stack([played, played], axis=1)
    if kind == np.int16:
        played = (played.clip(-1, 1) * 32767).astype(np.int16)
    listening = demo.listen(1)
    for start in range(0, len(played), rate // 3):
        transcript = listening.accept(rate, played[start : start + rate // 3].astype(kind))
    if rate == RATE:
        assert transcript.text == expected.transcript().text
    assert len(transcript.tokens) > 5 and listening.seconds > 0
    finished = listening.finish()
    assert len(finished.tokens) >= len(transcript.tokens)
    if rate == RATE:
        assert finished.text == expected.finish().text


def test_words_are_escaped_and_marked_by_doubt():
    transcript = Transcript("", ["\u2581<B>", "\u2581SURE"], [0.5, 1.25], 2.0, [0.475, 0.99])
    page = words_html(transcript)
    assert "<B>" not in page and "&lt;B&gt;" in page
    assert "title='0.50 s, confidence 0.47'" in page or "confidence 0.48" in page
    [alpha] = re.findall(r"rgb\(217 72 15 / (0\.\d+)\)", page)  # of the first alone
    assert float(alpha) == pytest.approx(0.75 / 2, abs=0.01)
    assert words_html(Transcript("", [], [], 1.0)) == NOTHING
    assert "style=" not in words_html(Transcript("", ["\u2581A"], [0.0], 1.0))


def test_speed_and_size_by_hand(demo):
    assert speed(Transcript("", [], [], 4.0), 0.1) == (
        "4.0 s of audio in **100 ms**: real-time factor **0.025**"
    )
    assert "factor **0.000**" in speed(Transcript("", [], [], 0.0), 0.1)
    smallest, largest = demo.entries
    assert "WER 5.0 % on dev, 7.0 % on test" in size(largest, demo.rows)
    assert "WER 7.0 % on dev, 9.0 % on test" in size(smallest, demo.rows)
    assert "WER" not in size(largest, [])


def test_the_curve_marks_the_chosen_subnet(demo):
    smallest, largest = demo.entries
    line, mark = curve(demo.entries, demo.rows, smallest.name).data
    assert list(line.x) == [smallest.encoder_params, largest.encoder_params]
    assert list(line.y) == [7.0, 5.0] and (mark.x[0], mark.y[0]) == (line.x[0], 7.0)
    assert not curve(demo.entries, [], smallest.name).data


def test_only_this_machine_unless_asked():
    assert parse_arguments(["exp/mini"]).host == "127.0.0.1"


# with Gradio


@pytest.fixture(scope="module")
def served(demo):
    """The address of the page."""
    pytest.importorskip("gradio", reason="needs Gradio: pip install -r requirements-demo.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = argparse.Namespace(host="127.0.0.1", port=port, open=False)
    page = serve(demo, arguments, wait=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


def test_files_of_the_machine_are_not_served(served, recording, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in ("/etc/passwd", str(secret), str(recording), "../../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{served}/gradio_api/file={quote(path)}")
        assert error.value.code in (403, 404)


def test_the_port_is_on_the_loopback_address_alone(served):
    port = int(served.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; it asks which address would be used
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((address, port), timeout=2).close()


def test_a_file_the_slider_and_the_text_in_a_browser(served, demo, recording, tmp_path):
    """A file is dropped in, and the text read back, for both ends of the slider, on a desktop and a
    phone; nothing is fetched from elsewhere, and nothing is wider than the screen."""
    expected = [demo.transcribe(recording, number)[0].text for number in (0, 1)]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    with chromium() as browser:
        for width, height in ((1280, 800), (390, 844)):
            page = browser.new_page(viewport={"width": width, "height": height})
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(served)
            page.set_input_files("#audio input[type=file]", recording)
            assert words_on(page, expected[1])
            slider = page.locator("#subnet input[type=range]")
            slider.focus()
            slider.press("Home")
            page.wait_for_function(
                "name => document.querySelector('#facts').innerText.includes(name)",
                arg=demo.entries[0].name,
            )
            page.click("#transcribe")
            assert words_on(page, expected[0])
            assert "real-time factor" in page.inner_text("#timing")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.click("button[aria-label='Clear']")
            page.set_input_files("#audio input[type=file]", broken)
            page.wait_for_function(
                "() => document.querySelector('#timing').innerText.includes('can not be read')"
            )
            elsewhere = [u for u in asked if not u.startswith((served, "data:", "blob:"))]
            assert not elsewhere
            page.close()


def test_words_come_while_the_microphone_is_on(served, demo, recording):
    """Chromium plays a file, over and over, as its microphone."""
    microphone = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}",
    )
    count = "document.querySelectorAll('#heard .todm-word').length"
    with chromium(*microphone) as browser:
        page = browser.new_page(permissions=["microphone"])
        page.goto(served)
        page.get_by_role("tab", name="While you speak").click()
        page.click("#microphone button:has-text('Record')")
        page.wait_for_function(f"() => {count} > 2", timeout=60_000)
        page.click("#microphone button:has-text('Stop')")
        page.wait_for_function("() => document.querySelector('#pace').innerText.includes('s of')")
        heard = page.evaluate(count)
        assert heard > 2 and "real-time factor" in page.inner_text("#pace")


@contextlib.contextmanager
def chromium(*flags: str):
    """Chromium by playwright, with some flags of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
        yield browser
        browser.close()


def words_on(page, text: str) -> bool:
    """Whether the words on the page become these, within some seconds."""
    script = """text => [...document.querySelectorAll('#words .todm-word')]
      .map(span => span.firstChild.textContent).join(' ') === text"""
    page.wait_for_function(script, arg=text, timeout=20_000)
    return True
