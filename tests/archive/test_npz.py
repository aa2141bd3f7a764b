import numpy as np
import pytest

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_each_file_is_stacked_with_its_labels(tmp_path, save, order):
    values = RNG.standard_normal((3, 40, 500)).astype(np.float32)
    for i, value in enumerate(values):
        save(tmp_path / f"{i}.npz", x=np.asarray(value, order=order), labels=np.arange(3))
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    ingest(
        "npz", paths, tmp_path / "o.zarr", variable="x", dims="y,time", step="1,1/50", units="m,s"
    )
    source = open_source(str(tmp_path / "o.zarr"))
    assert (source.variable, source.dims) == ("x", ("item", "y", "time"))
    assert source.axes["time"].rate_hz == 50
    np.testing.assert_array_equal(source.read([slice(None)] * 3), values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz", "o.zarr"]


def test_of_several_arrays_one_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(4), z=np.array([None]))
    with pytest.raises(IngestError, match=r"'x', 'y', 'z'.*--variable"):
        ingest("npz", tmp_path / "a.npz", tmp_path / "o.zarr")
    with pytest.raises(IngestError, match="no array 'w'"):
        ingest("npz", tmp_path / "a.npz", tmp_path / "o.zarr", variable="w")
    with pytest.raises(IngestError, match="holds object"):
        ingest("npz", tmp_path / "a.npz", tmp_path / "o.zarr", variable="z")


def test_a_damaged_archive_is_told_and_leaves_nothing(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=RNG.standard_normal(10**4))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[40000] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(IngestError, match=r"a.npz is damaged"):
        ingest("npz", tmp_path / "a.npz", tmp_path / "o.zarr")
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(IngestError, match=r"a.npz is damaged, or no .npz"):
        ingest("npz", tmp_path / "a.npz", tmp_path / "o.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
