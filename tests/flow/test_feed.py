"""What the scheduler is told of a run, and what becomes of a run whose scheduler hangs."""

import asyncio
import time

import pytest
from distributed import Client

from scatflow.flow.sight import feed
from scatflow.flow.sight.board import TOPIC
from scatflow.flow.sight.tally import Tally
from scatflow.flow.sight.watch import Run


@pytest.fixture
def client():
    words = {"n_workers": 0, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with Client(**words) as client:
        yield client


@pytest.fixture
def told():
    return Run("1", "job", "job.toml", "out.zarr", {}, str, 1)


async def never(*_, **__):
    await asyncio.sleep(3600)


def test_a_scheduler_hears_of_a_run_and_of_its_end(client, told):
    assert feed.install(client) is None
    with feed.Feed(client) as listener:
        listener.started(told, Tally(3))
    states = [event["state"] for _, event in client.get_events(TOPIC)]
    assert states == ["running", "complete"]


def test_a_run_goes_on_when_its_scheduler_does_not_answer(client, told, monkeypatch):
    monkeypatch.setattr(feed, "ANSWER_SECONDS", 2)
    monkeypatch.setattr(feed, "FEED_SECONDS", 0)
    hung = Hung()
    monkeypatch.setattr(client, "scheduler", hung)
    begun = time.monotonic()
    assert feed.install(client).startswith("TimeoutError")
    with feed.Feed(client) as listener:
        listener.started(told, Tally(3))
        asked = hung.asked
        listener.tick()  # It is left alone as long again.
        assert hung.asked == asked
    assert time.monotonic() - begun < 40


class Hung:
    """A scheduler that does not answer, and counts how often it was asked."""

    asked = 0

    def __getattr__(self, name):
        self.asked += 1
        return never
