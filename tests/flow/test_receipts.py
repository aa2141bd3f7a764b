"""Receipts reach the client by themselves, and are fetched where they did not."""

import pytest
from distributed import Client

from scatflow.flow import block as block_module
from scatflow.flow.block import Receipt
from scatflow.flow.receipts import TOPIC, Received, send


class Scheduler:
    """Passes on, at once, what a worker logs: the worker and the client at the same time."""

    def subscribe_topic(self, topic, hear):
        assert topic == TOPIC
        self.hear = hear

    def get_current_task(self):
        return "task-1"

    def log_event(self, topic, message):
        assert topic == TOPIC
        self.hear((0.0, message))


def test_receipts_are_taken_once_and_those_of_other_runs_are_left_alone():
    scheduler, receipts = Scheduler(), [Receipt(3), Receipt(4)]
    received = Received(scheduler, "this run")
    send(scheduler, "another run", receipts)
    assert received.take("task-1") is None
    send(scheduler, "this run", receipts)
    assert received.take("task-1") == receipts
    assert received.take("task-1") is None


@pytest.mark.usefixtures("small_blocks")
def test_a_run_asks_for_no_receipts(place, noise, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("receipts were fetched")

    monkeypatch.setattr(Client, "gather", refuse)
    place.archive(noise)
    code, said = place.run(workers=1)
    assert code == 0, said


@pytest.mark.usefixtures("small_blocks")
def test_a_run_fetches_receipts_that_got_lost(place, noise, monkeypatch):
    fetched, real = [], Client.gather

    def gather(self, futures, *words, **named):
        fetched.extend(futures)
        return real(self, futures, *words, **named)

    monkeypatch.setattr(block_module, "send", lambda *_: None)
    monkeypatch.setattr(Client, "gather", gather)
    place.archive(noise)
    code, said = place.run(workers=1)
    assert code == 0, said
    assert fetched
