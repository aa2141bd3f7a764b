"""Small neighbours are read together, and each gets what it would have read itself."""

import numpy as np
import pytest

from scatflow.archive import damage
from scatflow.archive.source import Source
from scatflow.errors import OutputError, SourceError
from scatflow.flow import ledger as ledger_module
from scatflow.flow import reading
from scatflow.flow.ledger import Unreplaced
from scatflow.flow.output import make
from scatflow.flow.reading import Ahead, read

WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\n'
FRAMES = WHOLE + 'boundary = "frames"\nframe = 512\nhop = 256\n'
SEAMLESS = WHOLE + 'boundary = "seamless"\n'


@pytest.fixture
def reads(monkeypatch):
    """Return the list to which the samples of each read are added."""
    found, real = [], Source.load

    def load(self, slices, dtype=None):
        found.append([(s.start, s.stop) for s in slices])
        return real(self, slices, dtype)

    monkeypatch.setattr(Source, "load", load)
    return found


def work_of(place, transform, x, units, **chunks):
    place.archive(x, **chunks)
    return place.plan(transform=transform).work.cut_into(units)


def together(work, blocks, reads):
    """Compare what blocks read together with what each reads; return how many reads it took."""
    reads.clear()
    ahead = Ahead(blocks)
    parts = [part for block in blocks for part in work.layout.parts(block)]
    found = [ahead.read(work, part) for part in parts]
    count = len(reads)
    for part, (values, absent) in zip(parts, found, strict=True):
        alone = read(work, part)
        np.testing.assert_array_equal(values, alone.values)
        assert values.flags.c_contiguous
        assert absent == alone.absent
    return count


@pytest.mark.parametrize(
    ("transform", "units", "blocks", "expected"),
    [
        (WHOLE, (1,), range(6), 1),
        (WHOLE, (1,), [0, 1, 3, 4, 5], 2),  # Each box is read at once.
        (WHOLE, (1,), [4, 2, 0], 3),  # No two of them lie side by side.
        (FRAMES, (1, 2), range(7), 1),  # Frames overlap.
        (FRAMES, (1, 2), range(5, 9), 2),  # The first ones of another record.
    ],
)
def test_neighbours_are_read_at_once(place, noise, reads, transform, units, blocks, expected):
    x = np.concatenate([noise, noise])[:, :3840]
    work = work_of(place, transform, x, units, chunks=(2, 1000))
    assert together(work, list(blocks), reads) == expected


def test_neighbours_of_a_seamless_record_share_their_halos(place, noise, reads, monkeypatch):
    monkeypatch.setattr(reading, "TOGETHER_BYTES", 2**24)
    work = work_of(place, SEAMLESS, noise[:2], (1, 1), chunks=(1, 2**15))
    n = work.layout.cuts.counts[1]
    assert n > 1
    assert together(work, list(range(n)), reads) == 1


def test_only_small_blocks_are_read_together(place, noise, reads, monkeypatch):
    work = work_of(place, WHOLE, noise[:, :4096], (1,), chunks=(1, 4096))
    monkeypatch.setattr(reading, "TOGETHER_BYTES", 2 * 4096 * 4)
    assert together(work, [0, 1, 2, 3], reads) == 2
    monkeypatch.setattr(reading, "TOGETHER_BYTES", 4096)
    assert together(work, [0, 1, 2, 3], reads) == 4


def test_one_large_chunk_is_decoded_once_for_small_blocks(place, noise, reads, monkeypatch):
    work = work_of(place, WHOLE, noise[:, :4096], (1,), chunks=(4, 2**15))
    monkeypatch.setattr(reading, "TOGETHER_BYTES", 4 * 4096 * 4)  # Less than the chunk.
    assert together(work, [0, 1, 2, 3], reads) == 1


def test_a_damaged_chunk_fails_its_block_and_not_those_read_with_it(place, noise, reads):
    work = work_of(place, WHOLE, noise[:, :4096], (1,), chunks=(1, 4096))
    (place.path / "archive.zarr/waveform/c/2/0").write_bytes(b"damaged")
    ahead = Ahead([0, 1, 2, 3])
    for block in range(4):
        (part,) = work.layout.parts(block)
        if block == 2:
            with pytest.raises(SourceError, match="while reading waveform at station 2:3"):
                ahead.read(work, part)
        else:
            np.testing.assert_array_equal(ahead.read(work, part).values[0], noise[block, :4096])
    assert len(reads) == 5


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "waveform/c/0/3 is empty"),
        (b"damaged", r"waveform/c/0/3 is damaged \(7 bytes; "),
    ],
)
def test_the_object_that_is_damaged_is_named(place, noise, monkeypatch, data, why):
    """Also by its place in the selection, if it is among the first that are tried."""
    place.archive(noise[:1, :5120], chunks=(1, 1024))
    work = place.plan(transform=WHOLE, source="isel = { time = [1024, 5120] }").work
    file = place.path / "archive.zarr/waveform/c/0/3"
    file.write_bytes(data)
    (part,) = work.layout.parts(0)
    with pytest.raises(SourceError, match=f"reading waveform at station 0:1, time 0:4096: {why}"):
        read(work, part)
    monkeypatch.setattr(damage, "MOST_CHUNKS", 2)
    with pytest.raises(SourceError, match=r"time 0:4096\)"):
        read(work, part)


def test_an_absent_chunk_counts_for_the_block_that_lacks_it(place, noise, reads):
    x = (1000 * noise[:, :4096]).astype(np.int16)
    work = work_of(place, WHOLE, x, (1,), chunks=(1, 4096))
    (place.path / "archive.zarr/waveform/c/2/0").unlink()
    ahead = Ahead([0, 1, 2, 3])
    parts = [part for block in range(4) for part in work.layout.parts(block)]
    assert [ahead.read(work, part).absent for part in parts] == [0, 0, 4096, 0]


def test_an_unchanged_ledger_is_not_read_again_and_another_one_is_noticed(
    place, noise, monkeypatch
):
    place.archive(noise[:1, :4096])
    plan = place.plan(transform=WHOLE)
    ledger = make(plan.output, plan.work, plan.template)
    looks, real = [], ledger_module.check_unreplaced
    monkeypatch.setattr(
        ledger_module, "check_unreplaced", lambda *words: (looks.append(1), real(*words))
    )
    watch = Unreplaced(plan.output, plan.work.fingerprint)
    for _ in range(3):
        watch()
    assert len(looks) == 1
    ledger.flush(None)
    looks.clear()
    watch()
    assert len(looks) == 1
    other = place.plan(transform=WHOLE, dtype="float64")
    make(other.output, other.work, other.template)
    with pytest.raises(OutputError, match="was replaced by another run"):
        watch()
    (place.path / "out.zarr/ledger/zarr.json").unlink()
    with pytest.raises(OutputError, match="was replaced by another run"):
        watch()
