"""Requests to the page of demo.sh that no browser would send."""

import argparse
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile

from tests.torture.trials import Trial

KEPT_SECONDS = 3  # that uploads stay, instead of ten minutes
LARGEST = "1mb"
NUMBERS = (-1, -1e18, 1e18, 0.5, "x", None, [], 10**400)


def page_trials(folder: Path) -> Iterator[Trial]:
    """All trials of the page, or one that says that Gradio is missing."""
    if not find_spec("gradio"):
        yield Trial("demo.sh", True, "not tried: Gradio is not installed (requirements-demo.txt)")
        return
    from todm.demo import app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
    with (
        mock.patch.dict(os.environ, settings),
        mock.patch.multiple(app, KEPT_SECONDS=KEPT_SECONDS, LARGEST_FILE=LARGEST),
    ):
        arguments = argparse.Namespace(host="127.0.0.1", port=port, open=False)
        page = app.serve(_demo(), arguments, wait=False)
        try:
            yield from _requests(f"http://127.0.0.1:{port}", folder)
        finally:
            page.close()


def _demo() -> Any:
    from tests.torture.inputs import recognizer
    from todm.demo.session import Demo

    return Demo(recognizer(), [])


def _requests(served: str, folder: Path) -> Iterator[Trial]:
    import httpx

    secret = folder / "secret.txt"
    secret.write_text("the secret")
    with httpx.Client(base_url=served, timeout=60) as client:
        for path in (
            str(secret),
            f"..{secret}",
            "/etc/passwd",
            "../../../../etc/passwd",
            "/proc/self/environ",
        ):
            for prefix in ("/gradio_api/file=", "/file=", "/static/", "/gradio_api/stream/"):
                answer = client.get(prefix + path)
                served_it = "the secret" in answer.text or "root:" in answer.text
                yield Trial(f"GET {prefix}{path}", not served_it, f"status {answer.status_code}")
        path = folder / "sound.wav"
        soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
        uploaded = _upload(client, path.read_bytes()).json()[0]
        for number in (0, *NUMBERS):
            said = _ask(client, uploaded, number)
            held = ("real-time factor" in said) or ("error" in said and number != 0)
            yield Trial(f"the subnet {number!r:.20}", held, said[:200])
        for name, data in (("no audio", b"RIFF nothing"), ("empty", b""), ("zeros", bytes(9999))):
            said = _ask(client, _upload(client, data).json()[0], 0)
            yield Trial(f"upload of {name}", "can not be read" in said, said[:200])
        for outside in (str(secret), str(path), "/etc/passwd", f"{uploaded}/../../{secret}"):
            said = _ask(client, outside, 0)
            refused = ("error" in said or "can not be read" in said) and "real-time" not in said
            refused = refused and str(folder) not in said
            yield Trial(f"transcription of {outside}", refused, said[:200])
        with _Listener() as elsewhere:
            said = _ask(client, elsewhere.address, 0)
            yield Trial("transcription of an address", not elsewhere.asked, said[:200])
        too_large = _upload(client, bytes(3 << 20))
        kept = [p for p in (folder / "uploads").rglob("*") if p.is_file()]
        large = [p for p in kept if p.stat().st_size > 2 << 20]
        refused = too_large.status_code >= 400 and not large
        yield Trial("upload of 3 MiB where 1 is allowed", refused, f"{too_large.status_code}")
        until = time.monotonic() + 20 * KEPT_SECONDS
        while (left := _files(folder / "uploads")) and time.monotonic() < until:
            time.sleep(0.5)
        yield Trial("uploads are removed", not left, f"{len(left)} of {len(kept)} files are left")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _upload(client: Any, data: bytes) -> Any:
    return client.post("/gradio_api/upload", files={"files": ("sound.wav", data)})


def _ask(client: Any, path: str, number: object) -> str:
    """What the page answers to a request for a transcript."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    content = json.dumps({"data": [file, number]})
    asked = client.post(
        "/gradio_api/call/transcribe", content=content, headers={"Content-Type": "application/json"}
    )
    if asked.status_code != 200:
        return f"error: status {asked.status_code}"
    return str(client.get(f"/gradio_api/call/transcribe/{asked.json()['event_id']}").text)


class _Listener:
    """A server that notes whether anybody asks it for anything."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.asked.append(self.path)
                self.send_response(404)
                self.end_headers()

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/sound.wav"

    def __enter__(self) -> "_Listener":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
