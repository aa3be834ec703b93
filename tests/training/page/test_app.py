"""Tests the app in a real browser. `pytest -m browser` runs these tests with gradio, playwright and Chromium."""

import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from PIL import Image
from places import ROOT

from reversion_jax.miniature import scenes

pytestmark = pytest.mark.browser
# The environment of the other tests, but with XLA's optimisations. Without XLA's optimisations, the steps of the
# miniature model are slow.
ENVIRONMENT = {**tiny.environment(), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
STEPS = 60


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def app(folder: Path) -> Iterator[str]:
    """Runs the app for a folder and yields its address. Checks at the end that the app stops on SIGTERM."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'reversion_jax[app]'")
    line = [sys.executable, "-m", "reversion_jax.app", "--folder", str(folder), "--port", str(free_port())]
    with subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            yield re.search(r"http://\S+", said)[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            assert process.wait(60) == 0


def opened(browser, address: str):
    """Returns a tab with the page, and a list that collects errors and requests to other addresses."""
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    wrong: list[str] = []
    tab.set_default_timeout(240_000)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    here = (address, "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(here) else wrong.append(request.url))
    tab.goto(address)
    return tab, wrong


def refused(address: str, path: str) -> bool:
    """Returns whether the page refuses to serve the file `path` of this machine."""
    try:
        urllib.request.urlopen(f"{address}/gradio_api/file={urllib.parse.quote(path)}", timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code in (403, 404)
    return False


def answers_to(address: str, name: str) -> bool:
    """Returns whether the page answers a request with `name` as the host in the header."""
    request = urllib.request.Request(address, headers={"Host": name})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code != 400
    return True


def takes(address: str, path: str) -> bool:
    """Returns whether the page accepts a forged request which claims that a local file was uploaded."""
    with urllib.request.urlopen(f"{address}/config", timeout=10) as answer:
        page = json.load(answer)
    (field,) = (part["id"] for part in page["components"] if part["props"].get("elem_id") == "embedding")
    (event,) = (event for event in page["dependencies"] if [field, "upload"] in event["targets"])
    forged = {"path": path, "orig_name": "hug.pt", "meta": {"_type": "gradio.FileData"}}
    data = [forged if part == field else None for part in event["inputs"]]
    asked = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "other"}).encode()
    join = urllib.request.Request(f"{address}/gradio_api/queue/join", asked, {"Content-Type": "application/json"})
    urllib.request.urlopen(join, timeout=10).close()
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=other", timeout=20) as answers:
        told = (json.loads(line[5:]) for line in answers if line.startswith(b"data:"))
        return next(one["success"] for one in told if one["msg"] == "process_completed")


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    images, _ = scenes.exemplars("hug", 2, seed=0)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"photo{number}.png")
    return [str(tmp_path / f"photo{number}.png") for number in range(2)]


def text_of(tab, selector: str, says: str) -> str:
    """Waits until an element contains text that matches `says`. Returns the element's whole text."""
    found = tab.locator(selector)
    found.get_by_text(re.compile(says)).first.wait_for()
    return found.inner_text()


def learn(tab, pictures: list[str]) -> None:
    """Uploads pictures, writes captions, starts learning, and stops it."""
    text_of(tab, "#status", "Nothing has been learned")
    tab.get_by_label("My pictures").check()
    tab.set_input_files("#files input[type=file]", pictures)
    tab.fill("#caption-0 textarea", "a photo of red circle {} blue star, at night")
    assert "a photo of blue star <R-inv> <R> red circle, at night" in text_of(tab, "#check-0", "inverse")
    tab.fill("#caption-1 textarea", "green heart hugging pink moon")
    text_of(tab, "#check-1", "write {} in place of the relation")
    tab.fill("#name input, #name textarea", "my hug")
    tab.fill("#steps input", str(STEPS))
    tab.get_by_role("button", name="More settings").first.click()
    # There are three preview prompts because the comparison draws three prompts with the same compiled program.
    tab.get_by_label("Preview prompts").fill("red circle <R> blue star\npink moon {} red star\nblue star {} red heart")
    tab.click("#start")
    text_of(tab, "#learn-message", r"photo1.png: write \{\}")
    tab.fill("#caption-1 textarea", "green heart {} pink moon")
    text_of(tab, "#check-1", "pink moon <R-inv>")
    tab.click("#start")
    text_of(tab, "#status", r"my_hug.*step \d+ of 60")
    assert tab.locator("#start").is_disabled()
    tab.click("#stop")
    text_of(tab, "#status", r"stopped at step \d+ of 60")


def take_up(tab) -> None:
    """Resumes the run in the list and waits until it is finished."""
    assert re.search(r"my_hug · inv reversion · miniature · step \d+ of 60", text_of(tab, "#runs", "my_hug"))
    assert tab.input_value("#steps-in-all input") == str(STEPS)
    tab.click("#take-up")
    text_of(tab, "#status", "finished, 60 steps")
    tab.locator("#preview img").wait_for()
    text_of(tab, "#nearest", "Nearest words of")


def draw(tab) -> dict[str, str]:
    """Draws a comparison of three prompts. Returns each prompt by the name of its downloaded PNG."""
    tab.get_by_role("tab", name="Draw").click()
    tab.get_by_label("Compare").check()
    tab.fill("#plain input, #plain textarea", "holding around")
    tab.fill("#count input[type=number]", "1")
    tab.get_by_role("button", name="Draw", exact=True).click()
    text_of(tab, "#drawings", "direct, seed 0")
    with tab.expect_download() as download:
        tab.locator("#download").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        names = [name for name in archive.namelist() if "grid" not in name]
        return {name: Image.open(io.BytesIO(archive.read(name))).text["prompt"] for name in names}


def take_away(tab) -> set[str]:
    """Downloads the archive for other tools and returns the names of its files."""
    with tab.expect_download() as download:
        tab.locator("#take").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        return set(archive.namelist())


def test_a_user_can_learn_stop_resume_draw_download_and_look(browser, pictures, tmp_path):
    folder = tmp_path / "runs"
    with app(folder) as address:
        tab, wrong = opened(browser, address)
        learn(tab, pictures)
        run = folder / "my_hug"
        assert sorted(path.name for path in (run / "exemplars").iterdir()) == ["0.png", "1.png", "text.json"]
        assert not takes(address, "/etc/hostname")
        assert answers_to(address, "localhost:80")
        assert not answers_to(address, "example.org")
        for path in (run / "config.json", run / "exemplars" / "0.png", "/etc/hostname", pictures[0]):
            assert refused(address, str(path))
        assert (
            urllib.request.urlopen(f"{address}/gradio_api/info").read()
            == b'{"named_endpoints":{},"unnamed_endpoints":{}}'
        )
        assert wrong == []
        tab.context.close()
    with app(folder) as address:
        tab, wrong = opened(browser, address)
        take_up(tab)
        prompts = draw(tab)
        assert list(prompts.values()) == [
            "red circle <R> blue star",
            "blue star <R-inv> <R> red circle",
            "red circle holding around blue star",
        ]
        tab.get_by_role("tab", name="Look").click()
        tab.get_by_role("button", name="Look", exact=True).click()
        seen = text_of(tab, "#found", "cosine to <R-inv>")
        assert "<R-inv>" in seen
        assert "Nearest words of the model" in seen
        assert {"my_hug.safetensors", "my_hug-inv.safetensors"} < take_away(tab)
        assert tab.get_by_role("tab").all_inner_texts() == ["Learn", "Draw", "Look"]
        assert wrong == []
    assert len(list((folder / "my_hug" / "samples" / "000").glob("*.png"))) == 4
