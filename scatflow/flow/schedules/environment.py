"""Which of this process's variables a scheduled run has, too: schedulers start from almost nothing.

Secrets are never among them, since units are files that others may read or keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from scatflow.flow.job import CREDENTIALS

LIBRARIES = (
    "SCATFLOW_",
    "DASK_",
    "FSSPEC_",
    "ZARR_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "NUMBA_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    "CUDA_",
    "MALLOC_",
)
"""Beginnings of the variables that scatflow, its libraries and clients of object stores heed."""

MACHINE = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "SLURM_CONF",
    "KUBECONFIG",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    *("http_proxy", "https_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables that make a process at home on this machine."""

BATCH = ("SBATCH_",)
"""Options of batch jobs that come as variables."""

SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|SIGNATURE|CONNECTION_STRING|(_|^)(KEY|SAS)"
)
SECRET_VALUE = re.compile(r"(?i)(secret|token|passw\w*|credential|key)s?[\"']?\s*[:=]")


def carried(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that a scheduled run on this machine should have.

    Examples
    --------
    >>> carried({"SCATFLOW_FFT": "mkl", "AWS_SECRET_ACCESS_KEY": "x", "EDITOR": "vi"})
    {'SCATFLOW_FFT': 'mkl'}
    """
    return {
        name: value
        for name, value in sorted(environment.items())
        if _concerns(name) and not _is_secret(name, value)
    }


def withheld(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Name the variables that scatflow's libraries heed and that hold secrets, or seem to."""
    return [n for n, v in sorted(environment.items()) if _concerns(n) and _is_secret(n, v)]


def portable(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those variables that mean the same inside a container: no paths of this machine."""
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(LIBRARIES) and not value.startswith(("/", "~"))
    }


def _concerns(name: str) -> bool:
    return name in MACHINE or name.startswith((*LIBRARIES, *BATCH))


def _is_secret(name: str, value: str) -> bool:
    """Tell whether a variable seems to hold a secret; the path of a file is none."""
    if value.startswith("/") and os.path.exists(value):
        return False
    suspect = SECRET_NAME.search(name.upper()) or SECRET_VALUE.search(value)
    return bool(suspect or CREDENTIALS.search(value))
