"""A headless Chromium, driven over the pipe of its DevTools protocol by the standard library alone."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-pipe"]
QUIET = ["--no-first-run", "--disable-background-networking", "--hide-scrollbars"]
SECONDS = 60


class Browser:
    """A Chromium; `open` gives a tab."""

    def __init__(self, profile: Path):
        to_browser, self.input = os.pipe()
        self.output, from_browser = os.pipe()

        def pipes():  # the protocol's places are file 3 and file 4
            commands, answers = os.dup(to_browser), os.dup(from_browser)
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        flags = [*FLAGS, *QUIET, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox does not run as root
        self.process = subprocess.Popen(
            [PROGRAM, *flags], preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.count, self.rest, self.events = 0, b"", []

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.input)
        os.close(self.output)

    def call(self, method, session=None, **parameters):
        """The result of a command; events that come meanwhile are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.input, data) :]
        number = self.count
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self):
        """The next message; an event is kept as well."""
        while b"\0" not in self.rest:
            ready, *_ = select.select([self.output], [], [], SECONDS)
            data = os.read(self.output, 1 << 20) if ready else b""
            assert data, f"Chromium is silent for {SECONDS} s, or gone"
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def open(self, page: Path | str, **view):
        return Tab(self, page, **view)


class Tab:
    """A page that is open, a file or an address.

    width, height: pixels; dark: the colour scheme; before: a script that runs first.
    """

    def __init__(self, browser, page, width=1200, height=900, dark=False, touch=False, before=""):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        if before:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events()):
            browser.receive()

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)

    def events(self):
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def value(self, script):
        """What an expression is, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script):
        """Waits until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(script):
            assert time.monotonic() < end, f"not true after {SECONDS} s: {script}"
            time.sleep(0.05)

    def press(self, key, times=1):
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                code = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(
                    key, ord(key[0])
                )
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def drag(self, start, end):
        """Moves the mouse from one point (x, y) to another with its button pressed."""
        button = {"button": "left", "clickCount": 1}
        middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", middle), ("mouseMoved", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **button)

    def click(self, query):
        self.value(f"document.querySelector({json.dumps(query)}).click()")

    def requests(self):
        """The addresses that the page has asked for."""
        sent = [event for event in self.events() if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self):
        """Errors and warnings that the page or the browser has written."""
        out = []
        for event in self.events():
            if event["method"] == "Runtime.exceptionThrown":
                out.append(event["params"]["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled":
                out.append([part.get("value") for part in event["params"]["args"]])
            elif event["method"] == "Log.entryAdded":
                out.append(event["params"]["entry"]["text"])
        return out

    def picture(self, path, whole=True):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))
