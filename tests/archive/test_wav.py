import numpy as np
import pytest
import soundfile

from scatflow.archive import open_source
from scatflow.archive import wav as module
from scatflow.archive.wav import ingest_flac, ingest_wav
from scatflow.errors import IngestError, MissingExtraError


@pytest.fixture
def wav(tmp_path):
    def make(name, samples, rate=44_100, subtype="PCM_16"):
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        return tmp_path / name

    return make


def everything(source):
    return source.read([slice(None)] * len(source.shape))


def test_a_recording_round_trips_exactly_with_its_rate(wav, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1000)
    samples = rng.integers(-(2**15), 2**15, 12_345).astype(np.int16)
    done = ingest_wav(wav("a.wav", samples), tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert (done.dims, source.dims, source.shape) == (
        source.dims,
        ("recording", "time"),
        (1, 12_345),
    )
    assert source.dtype == np.float32
    assert source.axes["time"].exact_step.denominator == 44_100
    assert source.axes["time"].rate_hz == source.attrs["sampling_rate"] == 44_100
    np.testing.assert_array_equal(everything(source)[0] * 2**15, samples)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_get_their_own_dimension(wav, tmp_path, rng, suffix):
    samples = rng.integers(-(2**15), 2**15, (5000, 2)).astype(np.int16)
    ingest_wav(wav(f"a.{suffix}", samples), tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert (source.dims, source.shape) == (("recording", "channel", "time"), (1, 2, 5000))
    np.testing.assert_array_equal(everything(source)[0].T * 2**15, samples)


def test_shorter_recordings_end_in_nan_and_their_lengths_are_kept(wav, tmp_path):
    paths = [wav("a.wav", np.full(100, 0.5)), wav("b.wav", np.full(40, 0.25))]
    ingest_wav(paths, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.coords["recording"].values.tolist() == ["a", "b"]
    assert source.coords["frames"].values.tolist() == [100, 40]
    got = everything(source)
    assert (got[0] == 0.5).all()
    assert (got[1, :40] == 0.25).all()
    assert np.isnan(got[1, 40:]).all()


def test_double_precision_is_kept(wav, tmp_path, rng):
    samples = rng.standard_normal(100)
    ingest_wav(wav("a.wav", samples, subtype="DOUBLE"), tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.dtype == np.float64
    np.testing.assert_array_equal(everything(source)[0], samples)


def test_mixed_rates_are_refused_naming_both(wav, tmp_path):
    paths = [wav("a.wav", np.zeros(9)), wav("b.wav", np.zeros(9), rate=8000)]
    with pytest.raises(IngestError, match=r"b\.wav has 8000 Hz, but .*a\.wav 44100 Hz"):
        ingest_wav(paths, tmp_path / "o.zarr")
    assert not list(tmp_path.glob("o.zarr*"))


def test_mixed_channels_are_refused(wav, tmp_path):
    paths = [wav("a.wav", np.zeros(9)), wav("b.wav", np.zeros((9, 2)))]
    with pytest.raises(IngestError, match=r"2 channel\(s\), but"):
        ingest_wav(paths, tmp_path / "o.zarr")


def test_a_folder_is_taken_with_the_folders_in_it_which_become_a_coordinate(wav, tmp_path):
    for name in ("cats", "dogs/small"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        wav(f"sounds/{name}/1.wav", np.zeros(9))
    (tmp_path / "sounds" / "dogs" / "._1.wav").write_bytes(b"of macOS")
    (tmp_path / "sounds" / "notes.txt").write_text("not a sound")
    ingest_wav(tmp_path / "sounds", tmp_path / "o.zarr")
    coords = open_source(str(tmp_path / "o.zarr")).coords
    assert coords["folder"].values.tolist() == ["cats", "dogs/small"]
    assert coords["recording"].values.tolist() == ["cats/1", "dogs/small/1"]


def test_files_of_one_folder_have_no_coordinate_of_folders(wav, tmp_path):
    ingest_wav([wav("a.wav", np.zeros(9)), wav("b.wav", np.zeros(9))], tmp_path / "o.zarr")
    assert "folder" not in open_source(str(tmp_path / "o.zarr")).coords


def test_a_folder_without_sounds_is_refused(tmp_path):
    with pytest.raises(IngestError, match=r"holds no sound files \(\.flac\)"):
        ingest_flac(tmp_path, tmp_path / "o.zarr")


@pytest.fixture
def odd(wav, tmp_path):
    """Two recordings that fit, behind one that is stereo, before one that is none."""
    wav("a.wav", np.zeros((9, 2)))
    (tmp_path / "d.wav").write_bytes(b"garbage")
    return [
        tmp_path / "a.wav",
        wav("b.wav", np.ones(9)),
        wav("c.wav", np.ones(9)),
        tmp_path / "d.wav",
    ]


def test_all_files_that_do_not_fit_are_named_at_once(odd, tmp_path):
    with pytest.raises(IngestError) as refused:
        ingest_wav(odd, tmp_path / "o.zarr")
    message = str(refused.value)
    assert "2 of 4 files do not fit" in message
    assert f"{odd[0]} has 2 channel(s), but {odd[1]} 1" in message
    assert f"{odd[3]} is no sound file" in message
    assert "--skip" in message


def test_files_that_do_not_fit_are_left_out_on_request_and_named(odd, tmp_path):
    done = ingest_wav(odd, tmp_path / "o.zarr", skip=True)
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.coords["recording"].values.tolist() == ["b", "c"]
    assert (everything(source) > 0.9).all()
    assert [note.split()[2] for note in done.notes] == [str(odd[0]), str(odd[3])]


def test_nothing_is_left_out_of_nothing(odd, tmp_path):
    with pytest.raises(IngestError, match="no sound file"):
        ingest_wav(odd[3], tmp_path / "o.zarr", skip=True)


def test_a_recording_without_samples_is_refused(wav, tmp_path):
    with pytest.raises(IngestError, match="no samples"):
        ingest_wav(wav("a.wav", np.zeros(0)), tmp_path / "o.zarr")


@pytest.mark.parametrize("content", [b"", b"hello" * 100])
def test_a_file_that_is_no_sound_is_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(IngestError, match=r"a\.wav is no sound file"):
        ingest_wav(tmp_path / "a.wav", tmp_path / "o.zarr")


def test_a_damaged_file_leaves_nothing_behind(wav, tmp_path, rng):
    path = wav("a.flac", rng.integers(-(2**15), 2**15, 50_000).astype(np.int16))
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(IngestError, match=r"a\.flac (ends|is damaged)"):
        ingest_wav(path, tmp_path / "o.zarr")
    assert not list(tmp_path.glob("o.zarr*"))


def test_a_missing_package_is_named_with_the_line_that_installs_it(wav, tmp_path, monkeypatch):
    path = wav("a.wav", np.zeros(9))
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[ingest\]"'):
        ingest_wav(path, tmp_path / "o.zarr")


def test_progress_counts_frames(wav, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 40)
    seen = []
    ingest_wav(
        wav("a.wav", np.zeros(100)), tmp_path / "o.zarr", on_progress=lambda *a: seen.append(a)
    )
    assert seen == [(40, 100), (80, 100), (100, 100)]


def test_a_file_that_was_cut_short_is_refused(wav, tmp_path, rng):
    whole = wav("a.wav", rng.integers(-99, 99, 8000).astype(np.int16))
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(IngestError, match="cut short: its header announces 16000 bytes"):
        ingest_wav(whole, tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()
