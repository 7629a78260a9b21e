"""The live view in a real headless Chromium, of a stage that renders a ball."""

import threading
import time

import browser as chromium
import pytest
from small_views import stage_of, step, viewing

pytest.importorskip("viser")
pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium; on Debian: apt-get install chromium")
WORDS = "document.body.innerText"
# viser draws the picture with WebGL, whose pixels are gone after the frame unless they are kept.
KEEP = """
const inner = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, more) {
  return inner.call(this, kind, { ...more, preserveDrawingBuffer: true });
};
"""
PAUSE = "[...document.querySelectorAll('input[type=checkbox]')].at(-1).click()"  # after those of viser's settings
PIXELS = """(() => {
  const page = [...document.querySelectorAll("canvas")].sort((a, b) => b.width * b.height - a.width * a.height)[0];
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [page.width, page.height];
  const context = copy.getContext("2d");
  context.drawImage(page, 0, 0);
  const at = (x, y) => [...context.getImageData(x * copy.width, y * copy.height, 1, 1).data.slice(0, 3)];
  return [at(0.5, 0.5), at(0.5, 0.02), at(0.02, 0.5)];
})()"""


class Training:
    """A thread that trains while a test looks."""

    def __init__(self, viewer, stage):
        self.viewer, self.stage, self.over = viewer, stage, threading.Event()
        self.thread = threading.Thread(target=self.train, daemon=True)
        self.thread.start()

    def train(self):
        while not self.over.is_set():
            step(self.viewer, self.stage)
            time.sleep(0.01)

    def end(self):
        self.stage.trainer.received_sigterm = True  # which ends a pause
        self.over.set()
        self.thread.join()
        self.viewer.close()


@pytest.fixture(scope="module")
def seen(browser, tmp_path_factory):
    """A page that is open, and the training that it shows."""
    stage = stage_of(tmp_path_factory.mktemp("run"))
    training = Training(viewing(stage, port=8370, fraction=0.2), stage)
    tab = browser.open(training.viewer.panel.address, width=700, height=450, before=KEEP)
    tab.wait(f"{WORDS}.includes('Snapshot')")
    yield tab, training
    training.end()


def until(tab, what):
    """Waits until the middle, top and left pixels of the picture are as a function wants them."""
    end = time.monotonic() + chromium.SECONDS
    while not what(*(found := tab.value(PIXELS))):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def press(tab, label):
    tab.value(f"[...document.querySelectorAll('button')].find((b) => b.innerText.includes('{label}')).click()")


def test_the_page_shows_the_object_and_a_drag_turns_it(seen):
    tab, _ = seen
    (red, _, blue), top, side = until(tab, lambda middle, *_: middle[0] > 200)
    assert blue < 170 and max(top) < 30, "the front faces the camera, black is behind it"
    assert min(side) > 200, "a wide window has grey sides"
    tab.drag([200, 250], [330, 250])
    until(tab, lambda middle, *_: abs(middle[1] - 127) > 40 and middle[0] < red)


def test_words_tell_the_step_and_nothing_leaves_the_machine(seen):
    tab, training = seen
    tab.wait(f"/step \\d+.1000000/.test({WORDS}) && {WORDS}.includes('steps/s')")
    assert "Share" not in tab.value(WORDS)
    address = training.viewer.panel.address
    asked = tab.requests()
    assert asked and all(url.startswith((address, f"blob:{address}", "data:")) for url in asked)


def test_a_pause_stops_the_steps_and_a_snapshot_is_written_meanwhile(seen):
    tab, training = seen
    tab.value(PAUSE)
    tab.wait(f"{WORDS}.includes('paused')")
    before = training.stage.trainer.global_step
    folder = training.stage.run_folder / "snapshots"
    press(tab, "Snapshot")
    tab.wait(f"{WORDS}.includes('snapshots/particle0-step')")
    assert [path.name for path in folder.iterdir()] == [f"particle0-step{before:06d}.png"]
    assert training.stage.trainer.global_step == before
    tab.value(PAUSE)
    tab.wait(f"{WORDS}.includes('training')")
    time.sleep(0.2)
    assert training.stage.trainer.global_step > before


def test_the_scale_on_the_page_is_that_of_the_guidance(seen):
    tab, training = seen
    tab.value("[...document.querySelectorAll('input')].find((one) => one.value === '7.5').focus()")
    tab.press("ArrowUp", 3)
    end = time.monotonic() + chromium.SECONDS
    while training.stage.guidances[0].core.scale != pytest.approx(7.8):
        assert time.monotonic() < end, training.stage.guidances[0].core.scale
        time.sleep(0.05)


def test_an_open_page_shows_the_next_stage_on_its_port(seen, tmp_path):
    tab, training = seen
    training.end()
    following = stage_of(tmp_path, scale=2.0)
    viewer = viewing(following, port=8370)
    training.stage, training.viewer = following, viewer
    then = Training(viewer, following)
    try:
        assert viewer.panel.address.endswith(":8370")
        tab.wait("[...document.querySelectorAll('input')].some((one) => Number(one.value) === 2)")
        end = time.monotonic() + chromium.SECONDS
        while not following.rendered:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        then.end()
