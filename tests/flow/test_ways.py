"""Ways of running that need hardware, packages or services which are not here: what can be checked.

What is asked of each library is checked against its own words wherever it is installed.
"""

import gc
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
import zarr
from distributed import Client, LocalCluster

import scatflow
from scatflow.errors import ClusterError
from scatflow.flow import plan
from scatflow.flow.cluster import MODULES, connect, cuda, gateway, join, kubernetes, mpi, ready
from scatflow.flow.job import parse
from scatflow.flow.profiles import KINDS, Address, parse_profile

ROOT = Path(__file__).parents[2]

JOB = """
name = "One Day, 2010"
[source]
store = "archive.zarr"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
[output]
store = "out.zarr"
[run]
cluster = "place.toml"
memory = "1 GiB"
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(profile):
        Path("place.toml").write_text(profile)
        return parse(JOB, Path("job.toml"))

    return make


def absent(monkeypatch, package):
    """Have a package missing, whether it is installed or not."""
    monkeypatch.setitem(sys.modules, package, None)


def needs(package, *programs):
    lacking = [package] if importlib.util.find_spec(package) is None else []
    lacking += [program for program in programs if shutil.which(program) is None]
    why = f"not run: {', '.join(lacking)} missing"
    return [pytest.mark.ways, pytest.mark.skipif(bool(lacking), reason=why)]


def test_every_kind_of_profile_has_a_module_that_connects():
    assert set(MODULES) == set(KINDS)


@pytest.mark.parametrize(
    ("profile", "package", "extra"),
    [
        ('kind = "cuda"', "dask_cuda", "cuda12"),
        ('kind = "kubernetes"\nimage = "scatflow"\nworkers = 1', "dask_kubernetes.operator", ""),
        ('kind = "gateway"\naddress = "http://127.0.0.1:9"\nworkers = 1', "dask_gateway", ""),
        ('kind = "slurm"\nworkers = 1\ntls = "off"', "dask_jobqueue", "hpc"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    job, monkeypatch, profile, package, extra
):
    absent(monkeypatch, package)
    found = job(profile)
    with (
        pytest.raises(ClusterError, match=rf"scatflow\[{extra or found.profile.kind}\]"),
        connect(found),
    ):
        pass


def test_mpi_says_what_to_install_before_anything_else_is_done(job, monkeypatch):
    absent(monkeypatch, "dask_mpi")
    with pytest.raises(ClusterError, match=r"scatflow\[mpi\]"):
        join(job('kind = "mpi"'))


def test_ranks_that_were_not_told_apart_are_told_how_to_start(job):
    with (
        pytest.raises(ClusterError, match=r"mpirun -n 6 scatflow run job.toml"),
        connect(job('kind = "mpi"')),
    ):
        pass


@pytest.mark.parametrize("kind", ["local", "cuda"])
def test_a_scratch_folder_that_is_not_there_is_named_with_what_to_do(kind, job, tmp_path):
    lost = tmp_path / "lost"
    with (
        pytest.raises(ClusterError, match=r"scratch = .*lost.* is not there.*mkdir -p"),
        connect(job(f'kind = "{kind}"\nworkers = 1\nscratch = "{lost}"')),
    ):
        pass


def test_more_workers_than_memory_holds_are_refused(job):
    with (
        pytest.raises(ClusterError, match=r"90000 workers would take \d+ GiB.* leave workers out"),
        connect(job('kind = "local"\nworkers = 90000')),
    ):
        pass


@pytest.mark.parametrize("kind", ["local", "cuda", "address"])
def test_certificates_that_are_none_are_told(kind, job):
    certificates = "\n".join(["[tls]", *(f'{n} = "place.toml"' for n in ("ca", "cert", "key"))])
    more = 'address = "tls://127.0.0.1:9"' if kind == "address" else "workers = 1"
    found = job(f'kind = "{kind}"\n{more}\n{certificates}')
    with pytest.raises(ClusterError, match=r"\[tls\]: .*no certificate.* files in PEM"):
        ready.security(found.profile.tls)


def test_an_address_that_wants_certificates_is_told_where_they_go(job):
    with (
        pytest.raises(ClusterError, match=r"need certificates, a table \[tls\]"),
        connect(job('kind = "address"\naddress = "tls://127.0.0.1:9"')),
    ):
        pass


def test_an_address_of_another_machine_is_no_place_for_the_scheduler(job):
    text = 'kind = "slurm"\nworkers = 1\nhost = "192.0.2.77"\ntls = "off"'
    with (
        pytest.raises(ClusterError, match=r"host = '192\.0\.2\.77' in the profile is no address"),
        connect(job(text)),
    ):
        pass


def test_other_kinds_have_nobody_to_join(job):
    assert join(job('kind = "threads"')) is None


# --- GPUs -----------------------------------------------------------------------------------------


class LocalCUDACluster:
    """Takes what dask-cuda's takes, as of 26.10; the rest goes to Dask's LocalCluster."""

    def __init__(
        self,
        CUDA_VISIBLE_DEVICES=None,
        n_workers=None,
        threads_per_worker=1,
        memory_limit="auto",
        device_memory_limit="default",
        enable_cudf_spill=False,
        cudf_spill_stats=0,
        local_directory=None,
        protocol=None,
        enable_tcp_over_ucx=None,
        enable_infiniband=None,
        enable_nvlink=None,
        enable_rdmacm=None,
        rmm_pool_size=None,
        rmm_maximum_pool_size=None,
        rmm_managed_memory=False,
        rmm_async=False,
        rmm_allocator_external_lib_list=None,
        rmm_release_threshold=None,
        rmm_log_directory=None,
        rmm_track_allocations=False,
        log_spilling=False,
        pre_import=None,
        **kwargs,
    ):
        pass


def gpus(monkeypatch, n, visible=None):
    monkeypatch.setattr(cuda.nvml, "device_get_count", lambda: n)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_a_worker_of_each_gpu_is_told_what_the_profile_states(job):
    found = job('kind = "cuda"\nrmm_pool = "20 GiB"\ndevice_memory = "30 GiB"\nscratch = "/tmp"')
    words = cuda.arguments(found, range(2))
    own = set(inspect.signature(LocalCUDACluster).parameters) - {"kwargs"}
    from distributed import LocalCluster, Nanny

    handed_on = set(words) - own - set(inspect.signature(LocalCluster).parameters)
    assert handed_on <= set(inspect.signature(Nanny).parameters)
    assert words["resources"] == {"GPU": 1.0}
    assert words["CUDA_VISIBLE_DEVICES"] == [0, 1]
    assert (words["rmm_pool_size"], words["device_memory_limit"]) == ("20 GiB", "30 GiB")
    assert (words["protocol"], words["host"]) == ("tcp", "127.0.0.1")
    assert words["dashboard_address"].startswith("127.0.0.1:")
    assert words["memory_limit"] == 1.5 * 2**30


@pytest.mark.parametrize(
    *(
        ["more", "n", "visible", "found"],
        [
            ("", 2, None, [0, 1]),
            ("gpus = [1]", 2, None, [1]),
            ("workers = 1", 2, None, [0]),
            ("", 4, "2,3", ["2", "3"]),
            ("", 1, "GPU-5ebe9f43", ["GPU-5ebe9f43"]),
        ],
    )
)
def test_each_gpu_gets_a_worker(job, monkeypatch, more, n, visible, found):
    gpus(monkeypatch, n, visible)
    assert list(cuda.devices(job(f'kind = "cuda"\n{more}').profile)) == found


@pytest.mark.parametrize(
    ("more", "n", "visible", "words"),
    [
        ("", 0, None, "There is no GPU here .*nvidia-smi"),
        ("", 2, "", "CUDA_VISIBLE_DEVICES is empty"),
        ("gpus = [0, 2]", 2, None, r"gpus = \[0, 2\]: this machine has GPU 0 to 1, and not \[2\]"),
        ("workers = 3", 2, None, "workers = 3, and there are 2 GPU"),
    ],
)
def test_gpus_that_are_not_there_are_told_of(job, monkeypatch, more, n, visible, words):
    gpus(monkeypatch, n, visible)
    with pytest.raises(ClusterError, match=words):
        cuda.devices(job(f'kind = "cuda"\n{more}').profile)


def test_a_plan_says_that_gpus_would_stay_idle(job):
    assert plan._devices(job('kind = "local"')) == []
    (note,) = plan._devices(job('kind = "local"\ndevice = "cuda"'))
    assert 'place.toml has device = "cuda"' in note


# --- Kubernetes -----------------------------------------------------------------------------------

KUBERNETES = """
kind = "kubernetes"
image = "scatflow:0.1.0"
workers = 3
threads = 2
namespace = "archive"
service_account = "reader"
node_selector = { pool = "big" }
environment = { AWS_REGION = "eu-central-1" }
device = "cuda"
"""


def test_the_manifest_states_what_the_profile_does(job):
    told = kubernetes.manifest(job(KUBERNETES))
    name = told["metadata"]["name"]
    assert re.fullmatch(r"scatflow-one-day-2010-[0-9a-f]{6}", name)
    worker = told["spec"]["worker"]
    assert worker["replicas"] == 3
    assert worker["spec"]["serviceAccountName"] == "reader"
    assert worker["spec"]["nodeSelector"] == {"pool": "big"}
    (container,) = worker["spec"]["containers"]
    assert container["image"] == "scatflow:0.1.0"
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "1536Mi"},
        "limits": {"memory": "1536Mi", "nvidia.com/gpu": "1"},
    }
    assert "--resources GPU=1" in " ".join(container["args"])
    assert {"name": "AWS_REGION", "value": "eu-central-1"} in container["env"]
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
    assert yaml.safe_load(yaml.safe_dump(told)) == told
    service = told["spec"]["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == name
    ports = [p["name"] for p in told["spec"]["scheduler"]["spec"]["containers"][0]["ports"]]
    assert [p["targetPort"] for p in service["ports"]] == ports


def test_names_of_clusters_are_short_enough_and_differ(job):
    names = {kubernetes._name("x" * 200), kubernetes._name("x" * 200), kubernetes._name("-é-")}
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= kubernetes.NAME_LENGTH


def closed(schema):
    """Return a schema that refuses what Kubernetes would silently leave out."""
    if not isinstance(schema, dict):
        return [closed(part) for part in schema] if isinstance(schema, list) else schema
    more = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**more, **{key: closed(part) for key, part in schema.items()}}


class TestOperator:
    pytestmark = needs("dask_kubernetes")

    def test_the_manifest_keeps_to_the_schema_of_the_operator(self, job):
        import dask_kubernetes.operator
        from dask_kubernetes.operator.validation import validate_cluster_name
        from jsonschema import Draft7Validator

        (file,) = Path(dask_kubernetes.operator.__file__).parent.rglob("crds/daskcluster.yaml")
        (version,) = yaml.safe_load(file.read_text())["spec"]["versions"]
        schema = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
        told = kubernetes.manifest(job(KUBERNETES))
        validate_cluster_name(told["metadata"]["name"])
        assert [e.message for e in Draft7Validator(schema).iter_errors(told["spec"])] == []
        told["spec"]["worker"]["spec"]["serviceaccountName"] = "reader"  # It would see this.
        assert len(list(Draft7Validator(schema).iter_errors(told["spec"]))) == 1

    # dask-kubernetes leaves what it could not start to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_machine_without_a_cluster_is_told_so(self, job, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", "/nowhere")
        with (
            pytest.raises(ClusterError, match=r"Kubernetes gives no cluster: .*credentials"),
            connect(job(KUBERNETES)),
        ):
            pass
        gc.collect()


QUIET = {
    "processes": False,
    "protocol": "tcp://",
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
}


def test_a_run_to_which_no_worker_comes_ends_and_says_where_to_look(monkeypatch):
    with (
        LocalCluster(n_workers=0, **QUIET) as empty,
        Client(empty) as client,
    ):
        check = ready.Awaited(client, "00:01:00", kubernetes.LOOK)
        check()  # There is time yet.
        now = time.monotonic()
        monkeypatch.setattr(ready, "time", SimpleNamespace(monotonic=lambda: now + 61))
        with pytest.raises(ClusterError, match=r"within 00:01:00 .*kubectl get pods"):
            check()


def test_a_run_whose_workers_came_once_goes_on_without_them(monkeypatch):
    with (
        LocalCluster(n_workers=1, **QUIET) as cluster,
        Client(cluster) as client,
    ):
        check = ready.Awaited(client, "00:01:00", gateway.LOOK)
        client.scheduler_info()
        check()
        cluster.scale(0)
        now = time.monotonic()
        monkeypatch.setattr(ready, "time", SimpleNamespace(monotonic=lambda: now + 61))
        check()


# --- gateways and MPI -----------------------------------------------------------------------------


class TestGateway:
    pytestmark = needs("dask_gateway")

    def test_a_gateway_that_does_not_answer_is_told_of(self, job):
        text = 'kind = "gateway"\naddress = "http://127.0.0.1:9"\nauth = "basic"\nworkers = 1'
        with (
            pytest.raises(ClusterError, match=r"The gateway at http://127.0.0.1:9 cannot be used"),
            connect(job(text)),
        ):
            pass
        assert gateway._gateway().Gateway


def test_dask_mpi_is_told_to_keep_its_dashboards_on_this_machine(job):
    words = mpi.arguments(job('kind = "mpi"\ninterface = "lo"'))
    assert words["dashboard_address"] == "127.0.0.1:0"
    assert (words["nthreads"], words["interface"]) == (2, "lo")
    if importlib.util.find_spec("dask_mpi"):
        from dask_mpi import initialize

        assert set(words) <= set(inspect.signature(initialize).parameters)


class TestMpi:
    pytestmark = needs("dask_mpi", "mpirun")

    def mpirun(self, n):
        words = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(n), sys.executable]
        return subprocess.run(
            [*words, "-m", "scatflow.cli", "run", "job.toml"],
            capture_output=True,
            text=True,
            timeout=200,
        )

    def test_ranks_share_a_run(self, job):
        job('kind = "mpi"\ninterface = "lo"')
        Path("job.toml").write_text(JOB)
        group = zarr.open_group("archive.zarr", mode="w", zarr_format=3)
        group.create_array(
            "x", shape=(4, 4096), dtype="float32", chunks=(1, 4096), dimension_names=["s", "time"]
        )[...] = np.ones((4, 4096), "float32")
        done = self.mpirun(4)
        assert done.returncode == 0, done.stderr
        assert "2 workers are ready" in done.stdout
        assert "Complete" in done.stdout
        assert "Traceback" not in done.stderr

    def test_too_few_ranks_are_told_how_many_there_have_to_be(self, job):
        job('kind = "mpi"')
        Path("job.toml").write_text(JOB)
        done = self.mpirun(2)
        assert done.returncode != 0
        assert "Start 3 or more" in done.stderr


# --- the image ------------------------------------------------------------------------------------


def test_the_image_has_what_all_targets_need_and_no_root():
    text = (ROOT / "cluster" / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(words) <= {"FROM", "ARG", "COPY", "RUN", "ENV", "USER", "WORKDIR", "CMD"}
    assert words[0] == "FROM"
    assert words.count("FROM") == 1
    assert "USER 1000" in lines
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    declared = (ROOT / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


def test_the_profile_for_kubernetes_names_the_image_of_this_version():
    found = parse_profile((ROOT / "cluster" / "kubernetes.toml").read_text(), Path("k"))
    assert f"-t {found.image} " in (ROOT / "cluster" / "Containerfile").read_text()
    assert found.image == f"scatflow:{scatflow.__version__.partition('.dev')[0]}"
    assert not isinstance(found, Address)
