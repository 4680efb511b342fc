"""What TensorBoard's pages show of two short runs, in a browser, with screenshots.

    python benchmarks/tensorboard_pages.py --out pictures

Needs Chromium (`apt-get install chromium`) and `pip install websockets`. Exit code 1 if a page lacks what it
should show: the loss of train and val in the first chart of Custom Scalars, val/loss in HParams.
"""
import argparse
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CONFUSION = "{type: MulticlassConfusionMatrix, args: {num_classes: 10}, name: confusion}"
TOP3 = "{type: top_k_accuracy, args: {k: 3}, name: top3}"
RATES = (0.003, 0.0003)
SIZES = (1400, 900), (1200,)  # widths and height of the window, in pixels
PAGES = ("timeseries", "scalars", "custom_scalars", "images", "hparams")
# All text of a page, also inside the shadow roots of its elements.
ALL_TEXT = """(() => { const found = []; const walk = node => {
  if (node.nodeType === 3 && node.textContent.trim()) found.push(node.textContent.trim());
  if (node.nodeName !== 'STYLE' && node.nodeName !== 'SCRIPT') {
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk); } };
  walk(document.body); return found.join('\\n'); })()"""


class Page:
    """A page of a running Chromium, by its DevTools protocol."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)

    def call(self, method: str, **params) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            pass  # an event
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, script: str):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def show(self, url: str, width: int, height: int) -> str:
        """Opens a URL and returns its text, once that has stayed the same for two seconds."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=False,
                  deviceScaleFactor=1)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        text, since, end = "", time.monotonic(), time.monotonic() + 60
        while time.monotonic() < end and (len(text) < 100 or time.monotonic() < since + 2):
            time.sleep(0.2)
            if (now := self.evaluate(ALL_TEXT) or "") != text:
                text, since = now, time.monotonic()
        return text

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def make_runs(out: Path, epochs: int) -> Path:
    """Two runs of the digits with different learning rates, both scored; returns their folder."""
    folder, train = out / "digits_lenet", [sys.executable, "train.py", "-q", "-c", "configs/digits.yaml"]
    for rate in RATES:
        options = [f"optimizer.args.lr={rate}", f"trainer.args.epochs={epochs}", "trainer.args.log_every=5",
                   f"metrics=[accuracy, {TOP3}, {CONFUSION}]", "--out", out, "--run-name", f"lr_{rate}"]
        subprocess.run([*train, *options], cwd=PROJECT, check=True)
        subprocess.run([sys.executable, "test.py", "-q", "-r", folder / f"lr_{rate}"], cwd=PROJECT,
                       check=True, stdout=subprocess.DEVNULL)
    return folder


@contextlib.contextmanager
def new_page(port: int) -> Iterator[Page]:
    """A page of the Chromium that listens at a port."""
    from websockets.sync.client import connect

    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(request) as answer:
        url = json.load(answer)["webSocketDebuggerUrl"]
    with connect(url, max_size=None) as socket:
        yield Page(socket)


@contextlib.contextmanager
def running(command: list, log: Path, folder: Path) -> Iterator[None]:
    """A program that runs inside of the block, and writes into `log`."""
    with open(log, "wb") as file, subprocess.Popen(
            command, stdout=file, stderr=file, cwd=folder) as process:
        try:
            yield
        finally:
            process.terminate()


def wait_for(file: Path, pattern: str) -> str:
    """The first group of a pattern that appears in a file within a minute."""
    for _ in range(300):
        if file.exists() and (match := re.search(pattern, file.read_text(errors="replace"))):
            return match[1]
        time.sleep(0.2)
    raise TimeoutError(f"{file}: no {pattern} in a minute")


def faults_of(texts: dict[str, str]) -> list[str]:
    """What the pages lack."""
    first = texts["custom_scalars"].partition("loss within an epoch")[0]
    wanted = {"Custom Scalars begins with the losses": re.search(r"losses\n.*?\nloss\n", first, re.DOTALL),
              "its first chart has train/loss and val/loss": "train/loss" in first and "val/loss" in first,
              "Time Series begins with train and val": texts["timeseries"].find("\ntrain\n") < (
                  texts["timeseries"].find("\nval\n")) < texts["timeseries"].find("\nwithin_epoch\n"),
              "HParams has val/loss": "val/loss" in texts["hparams"],
              "HParams has the best value": "val/loss (best)" in texts["hparams"],
              "HParams has the score of test": "z_scores/test/loss" in texts["hparams"],
              "HParams has the learning rate": "optimizer.args.lr" in texts["hparams"]}
    return [sentence for sentence, true in wanted.items() if not true]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("tensorboard_pages"), help="of the screenshots")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--logdir", type=Path, help="of runs that exist, in place of two new ones")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium in $PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        runs = args.logdir.absolute() if args.logdir else make_runs(folder / "saved", args.epochs)
        server = [sys.executable, "-m", "tensorboard.main", "--logdir", os.path.relpath(runs, folder),
                  "--port", "0", "--bind_all"]
        chromium = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                    "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"]
        with running(server, folder / "server", folder), running(chromium, folder / "browser", folder):
            port = wait_for(folder / "server", r"http://\S+:(\d+)/")
            chromium_port, texts = int(wait_for(folder / "browser", r"ws://\S+?:(\d+)/")), {}
            time.sleep(3)  # until the server has read the runs
            with new_page(chromium_port) as page:
                for width, height, name in itertools.product(*SIZES, PAGES):
                    texts[name] = page.show(f"http://127.0.0.1:{port}/#{name}", width, height)
                    page.screenshot(args.out / f"{name}_{width}.png")
    faults = faults_of(texts)
    print("\n".join(f"missing: {fault}" for fault in faults) or f"as it should be; see {args.out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
