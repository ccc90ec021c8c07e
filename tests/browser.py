"""Chromium, driven through a pipe by its DevTools protocol: what a test needs of it, without a
package."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def browser_path() -> str | None:
    """The browser of this machine; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page at a time. Attributes: errors: of scripts and of the console. requests: addresses
    the page asked for, itself apart."""

    def __init__(self, seconds: float = 60):
        self.seconds, self.number, self.errors, self.requests, self.session = (
            seconds,
            0,
            [],
            [],
            None,
        )

    def __enter__(self) -> "Browser":
        self.folder = tempfile.mkdtemp()
        there, self.to = os.pipe()
        self.back, here = os.pipe()

        def wire() -> None:  # the browser reads from descriptor 3 and writes to 4
            a, b = os.dup(there), os.dup(here)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [browser_path(), *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=wire,
            close_fds=False,
        )
        os.close(there)
        os.close(here)
        self.buffer = b""
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self.session = self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self) -> dict:
        """The next message of the browser, which is noted if it is an error or a request."""
        while b"\0" not in self.buffer:
            got = os.read(self.back, 1 << 20)
            if not got:
                raise RuntimeError("the browser has ended")
            self.buffer += got
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        method, found = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(found["exceptionDetails"])
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(found["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"][:200])
        return message

    def call(self, method: str, **parameters) -> dict:
        """A command of the protocol, and its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(
        self, address: str, width: int = 1280, height: int = 900, scheme: str = "light"
    ) -> None:
        """Open a page at a width, light or dark, and wait until its pictures are drawn, as long as
        ``seconds``."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        end = time.monotonic() + self.seconds
        while not self.evaluate(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        ):
            assert time.monotonic() < end, f"{address} did not load; {self.errors}"
            time.sleep(0.1)
        time.sleep(0.3)
        self.requests = [url for url in self.requests if not url.startswith(("data:", address))]
