"""Studies run as a user runs them, from a command line; their pages as a browser shows them."""

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import sys

import pytest


def arguments(config):
    """The command line of a study's config, without the fields that have their default."""
    args = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            args += [f"--{name}", *map(str, values)]
    return args


@pytest.fixture(scope="session")
def start():
    """``start(config, devices=1, before="")``: the study's process, ``before`` run in it first."""

    def run(config, devices=1, before=""):
        study = type(config).__module__.rpartition(".")[0]
        entry = f"import sys; from {study} import main; sys.exit(main())"
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{entry}", *arguments(config)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def finish():
    """``finish(process)``: waits for it, and refuses one that failed."""

    def wait(process):
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors

    return wait


BEYOND = """
addEventListener("load", async () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    for (const fold of page.querySelectorAll("details")) fold.open = true;
    await new Promise(done => setTimeout(done, 100));
    const scrolls = node => node && node !== page.body && (scrolls(node.parentElement) ||
      /auto|scroll/.test(frame.contentWindow.getComputedStyle(node).overflowX));
    const over = [...page.body.querySelectorAll("*")].filter(node =>
      node.getBoundingClientRect().right > width + 1 && !scrolls(node.parentElement));
    const wide = page.documentElement.scrollWidth > width ? ["the page scrolls"] : [];
    found[frame.id] = [...wide, ...over.map(node => node.outerHTML.slice(0, 80))];
  }
  document.body.textContent = `FOUND${JSON.stringify(found)}END`;
});
"""


@pytest.fixture(scope="session")
def shown(tmp_path_factory):
    """``shown(page)``: the document that a browser makes of a page, after its scripts."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    folder = tmp_path_factory.mktemp("browser")

    def show(text):
        page = folder / "page.html"
        page.write_text(text)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
        options += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
        run = subprocess.run([browser, *options], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    return show


@pytest.fixture(scope="session")
def beyond(shown):
    """``beyond(page)``: what of a page reaches beyond windows of 1280 and of 390 pixels."""

    def look(page):
        frames = "".join(
            f'<iframe id="{width}" style="width: {width}px; height: 900px; border: 0" '
            f'srcdoc="{html.escape(page)}"></iframe>'
            for width in (1280, 390)
        )
        text = shown(f"<!doctype html><meta charset=utf-8><body>{frames}<script>{BEYOND}</script>")
        return json.loads(html.unescape(re.search("FOUND(.*)END", text, re.DOTALL)[1]))

    return look
