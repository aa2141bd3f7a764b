"""Look at scatflow's page on Dask's dashboard in a real browser, while a run goes on.

    python benchmarks/panel.py --output docs/panel.png

Needs Chromium and `pip install playwright`. Makes an archive of noise with one bad sample, runs a
job on it, opens the page in a headless browser once blocks have ended and saves what it shows. Ends
in 1 where the browser complains or something is missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from playwright.sync_api import sync_playwright

JOB = """
name = "night of noise"
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 8
Q = [8, 1]
[output]
store = "out.zarr"
[run]
workers = 2
memory = "512 MiB"
"""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

FIGURES, SECONDS_SEEN = 5, 3

BLOCKS_SEEN = 0.6
"""Part of the blocks that has to end before the browser looks."""


def make_archive(folder: Path, stations: int, samples: int) -> None:
    group = zarr.open_group(folder / "archive.zarr", mode="w")
    array = group.create_array(
        "waveform",
        shape=(stations, samples),
        dtype="f4",
        chunks=(1, samples),
        dimension_names=["station", "time"],
    )
    rng = np.random.default_rng(0)
    for station in range(stations):
        record = rng.standard_normal(samples, dtype=np.float32)
        record[1000] = np.inf if station == stations // 4 else 0.0
        array[station] = record


def events(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_blocks(log: Path, run: subprocess.Popen) -> str:
    """Return the dashboard's address once enough blocks have ended."""
    while run.poll() is None:
        told = events(log)
        ended = sum(event["event"].startswith("block_") for event in told)
        if told and ended >= BLOCKS_SEEN * told[0]["blocks"]:
            return told[0]["dashboard"]
        time.sleep(0.2)
    raise SystemExit("the run ended before anybody looked: ask for more --stations")


def look(browser: str, address: str, picture: Path) -> list[str]:
    """Save what a browser shows of a page, and return what it complained of."""
    complaints: list[str] = []
    with sync_playwright() as driver:
        # A container's root has no sandbox; the page is our own.
        window = driver.chromium.launch(executable_path=browser, chromium_sandbox=os.geteuid() != 0)
        page = window.new_page(viewport={"width": 1240, "height": 680})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.get_by_text("night of noise to").wait_for()
        if page.locator("canvas").count() < FIGURES:
            complaints.append("figures are missing")
        if page.get_by_role("link", name="Scatflow").count() != 1:
            complaints.append("Dask's bar has no link to the page")
        page.wait_for_timeout(SECONDS_SEEN * 1000)
        page.screenshot(path=picture)
        window.close()
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("panel.png"))
    parser.add_argument("--stations", type=int, default=240)
    parser.add_argument("--samples", type=int, default=2**18)
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("no Chromium: apt install chromium, or the like")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_archive(folder, given.stations, given.samples)
        (folder / "job.toml").write_text(JOB)
        command = [sys.executable, "-m", "scatflow.cli", "run", "job.toml", "--log", "log.jsonl"]
        run = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            dashboard = wait_for_blocks(folder / "log.jsonl", run)
            page = dashboard.replace("/status", "/scatflow")
            picture = given.output.absolute()
            complaints = look(browser, page, picture)
            print(f"{page}: {picture}, {picture.stat().st_size} bytes")
            print("\n".join(complaints) or "no complaint of the browser's")
        finally:
            run.terminate()
            run.wait()
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
