"""Cluster profiles: what they accept, what they say of what they do not, and who goes first."""

import tomllib
from pathlib import Path

import pytest

from scatflow.errors import ClusterError, JobError
from scatflow.flow.job import load, parse
from scatflow.flow.profiles import KINDS, Table, parse_profile, profile

FOLDER = Path(__file__).parents[2] / "cluster"
FILES = sorted(FOLDER.glob("*.toml"))

LEAST = {
    "local": "",
    "threads": "",
    "cuda": "",
    "slurm": "workers = 2",
    "pbs": "workers = 2",
    "lsf": "workers = 2",
    "sge": "workers = 2",
    "htcondor": "workers = 2",
    "kubernetes": 'workers = 2\nimage = "scatflow"',
    "gateway": 'workers = 2\naddress = "https://gateway.example.org"',
    "mpi": "",
    "address": 'address = "tcp://host:8786"',
}
"""What a profile of each kind cannot do without."""

ALL = [  # of every kind
    ("memroy = 1", ["memroy: unknown key", "mean `memory`?"]),
    ("threads = true", ["threads: found true (boolean)", "integer, 1 to 100000"]),
    ('threads = "2"', ["threads: found '2' (string)"]),
    ("threads = 0", ["threads: found 0 (integer)"]),
    ('memory = "2 gibbons"', ["memory: found '2 gibbons'", '"2 GiB"']),
    ("memory = 1024", ["memory: found 1024 (integer)"]),
    ('memory = "1e30 GiB"', ["memory: found '1e30 GiB'"]),
    ("threads = 100000000000000000000000", ["threads: found 100000000", "1 to 100000"]),
]
PROCESSES = [
    ("minimum = 1", ["workers", "bounds"]),
    ("workers = 0", ["workers: found 0 (integer)"]),
    ('environment = { AWS_SECRET_ACCESS_KEY = "x" }', ["environment", "no secrets"]),
    ('environment = { "a b" = "x" }', ["environment", "NAME = string"]),
    ("environment = { N = 1 }", ["environment", "NAME = string"]),
    ('tls = "maybe"', ["tls: found 'maybe'", '"temporary"', '"off"']),
    ('[tls]\nca = "ca.pem"', ["2 problems", "[tls] cert is missing", "[tls] key is missing"]),
    ("spill = 1", ["spill: found 1 (integer)", "true or false"]),
    ('scratch = "/tmp/a\\nb"', ["scratch: found '/tmp/a\\nb'", "more than a line"]),
    ('environment = { N = "a\\u0000b" }', ["environment.N holds the character U+0000"]),
]
BATCH = [
    ('walltime = "1 hour"', ["walltime: found '1 hour'", "HH:MM:SS"]),
    ('walltime = "00:00:59"', ["walltime: found '00:00:59'"]),
    ('walltime = "10:00"', ["walltime: found '10:00'"]),
    ("processes = 3", ["workers = 2 is no multiple of processes = 3"]),
    ("cores = 1\nthreads = 4", ["cores = 1 for 1 process(es) of 4 thread(s)", "cores = 4"]),
    ('interface = "ib0"\nhost = "10.0.0.1"', ["interface and host", "Give one"]),
    ('directives = "--exclusive"', ["directives: found '--exclusive' (string)", "a list"]),
    ('account = "a;b"', ["account: found 'a;b'", "no ';' can be"]),
    ('account = "a\\nb"', ["account: found 'a\\nb'", "no '\\n' can be"]),
    ('host = "my host"', ["host: found 'my host'", "no ' ' can be"]),
    ('python = "/a\\nb"', ["python: found", "more than a line"]),
    ('directives = ["a = b\\nc = d"]', ["directives: found", "more than a line"]),
    ('directives = ["#SBATCH --exclusive"]', ["directives: found '#SBATCH", "a comment"]),
    ('prologue = ["a\\u0001b"]', ["prologue: found", "no script holds '\\x01'"]),
    ("[driver]\ncore = 1", ["[driver] core: unknown key", "mean `cores`?"]),
    ('[driver]\nwalltime = "soon"', ["[driver] walltime: found 'soon'", "HH:MM:SS"]),
]
OWN = {
    "cuda": [
        ('device = "cpu"', ["device: found 'cpu'", '"cuda"']),
        ("gpus = [0, 0]", ["gpus: found [0, 0]", "each GPU once"]),
        ("gpus = [0]\nworkers = 2", ["workers = 2 for 1 GPUs", "Leave workers out"]),
        ("minimum = 1\nmaximum = 2", ["minimum and maximum", "Leave them out"]),
        ('protocol = "nvlink"', ["protocol: found 'nvlink'", '"ucx"']),
        ('protocol = "ucx"\ntls = "temporary"', ["tls", '"tcp"']),
    ],
    "slurm": [('queue = "lo\\"ng"', ["queue: found 'lo\"ng'", "no '\"' can be"])],
    "sge": [("threads = 4", ["parallel_environment is missing", "qconf -spl"])],
    "htcondor": [
        ('queue = "long"', ["queue: HTCondor has none"]),
        ('directives = ["+Long"]', ["directives: found '+Long'", "name = value"]),
        ('disk = "much"', ["disk: found 'much'", '"1 GiB"']),
        ('prologue = ["a\\nb"]', ["prologue: found 'a\\nb'", "single lines"]),
        ('environment = { N = "a\\nb" }', ["environment: found 'a\\nb'", "single lines"]),
        ('[driver]\nqueue = "long"', ["queue: HTCondor has none"]),
    ],
    "kubernetes": [
        ('tls = "temporary"', ["tls", "network policy"]),
        ('image = ""', ["image: found ''", "container image"]),
        ("node_selector = { a = 1 }", ["node_selector", "table of strings"]),
        ('node_selector = { a = "b c" }', ["node_selector: 'a' = 'b c' is no label"]),
        ('namespace = "My NS"', ["namespace: found 'My NS'", "small letters"]),
        ('image = "a b"', ["image: found 'a b'"]),
        ('volumes = [{ claim = "a" }]', ["[volumes] path is missing"]),
        ('volumes = [{ claim = "A", path = "/a" }]', ["[volumes] claim: found 'A'"]),
        ('volumes = [{ claim = "a", path = "a" }]', ["[volumes] path: found 'a'", '"/data"']),
        (
            'volumes = [{ claim = "a", path = "/a" }, { claim = "b", path = "/a/" }]',
            ["volumes: /a is the path of two of them"],
        ),
    ],
    "gateway": [
        ('auth = "password"', ["auth: found 'password'", '"jupyterhub"']),
        ("minimum = 1\nmaximum = 2", ["workers", "bounds"]),
        ("options = { a = [1] }", ["options", "a table"]),
        ('address = "gateway:8000"', ["address: found 'gateway:8000'", '"https://']),
        ('address = "https://me:pass@x.org"', ["address: holds a password"]),
        ('arrival = "00:00:10"', ["arrival: found '00:00:10'", "a minute at least"]),
    ],
    "mpi": [
        ("workers = 4", ["workers: unknown key", "interface"]),
        ("interface = 1", ["interface: found 1 (integer)", '"ib0"']),
    ],
    "address": [
        ('address = "host:8786"', ["address: found 'host:8786'", '"tcp://host:8786"']),
        ("wait = -1", ["wait: found -1", "seconds"]),
        ('address = "tcp://my host:1"', ["address: found 'tcp://my host:1'"]),
        ('address = "tcp://host"', ["address: found 'tcp://host'"]),
        ('address = "tcp://host:99999"', ["address: found 'tcp://host:99999'"]),
        ('[tls]\nca = "a"\ncert = "b"\nkey = "c"', ["[tls] is for an address that begins"]),
        ("workers = 4", ["workers: unknown key"]),
    ],
    "threads": [("workers = 0.5", ["workers: found 0.5 (number)"])],
}


def wrongs():
    for kind, model in KINDS.items():
        cases = [*ALL, *OWN.get(kind, [])]
        cases += PROCESSES if "spill" in model.model_fields else []
        cases += BATCH if "walltime" in model.model_fields else []
        yield from ((kind, text, words) for text, words in cases)


def profile_text(kind, more):
    """A profile that is right but for `more`, whose keys go before others."""
    given = tomllib.loads(more)
    least = [line for line in LEAST[kind].splitlines() if line.split(" = ")[0] not in given]
    if "minimum" in more and "maximum" not in more and "workers = 2" not in least:
        least.append("workers = 2")
    return "\n".join([f'kind = "{kind}"', *least, more])


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_least_profile_of_each_kind_is_accepted(kind):
    assert parse_profile(profile_text(kind, ""), Path("p.toml")).kind == kind


@pytest.mark.parametrize(("kind", "text", "words"), list(wrongs()))
def test_a_profile_that_is_wrong_is_told_what_is_accepted(kind, text, words):
    with pytest.raises(JobError) as caught:
        parse_profile(profile_text(kind, text), Path("p.toml"))
    for word in ["p.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "no-name"])
def test_what_may_be_a_secret_is_named_and_not_shown(name):
    text = f'kind = "local"\nenvironment = {{ {name} = "hunter2", API_KEY = "hunter2" }}'
    with pytest.raises(JobError, match=name) as problem:
        parse_profile(text, Path("mine.toml"))
    assert "hunter2" not in str(problem.value)


def test_every_kind_is_broken_in_five_ways_or_more():
    counts = {kind: sum(k == kind for k, _, _ in wrongs()) for kind in KINDS}
    assert min(counts.values()) >= 5, counts


@pytest.mark.parametrize("kind", [k for k in KINDS if LEAST[k]])
def test_what_a_kind_cannot_do_without_is_missed(kind):
    key = LEAST[kind].splitlines()[-1].split(" = ")[0]
    with pytest.raises(JobError, match=f"{key} is missing"):
        parse_profile("\n".join([f'kind = "{kind}"', *LEAST[kind].splitlines()[:-1]]), Path("p"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers = 2", ["kind: is missing", "local, threads, cuda", "address"]),
        ('kind = "slrum"', ["kind: found 'slrum'", "mean `slurm`?"]),
        ("kind = 3", ["kind: found 3"]),
        ("kind = ", ["is not valid TOML"]),
        ('kind = "local"\nkind = "local"', ["is not valid TOML"]),
    ],
)
def test_a_profile_without_a_kind_is_told_which_there_are(text, words):
    with pytest.raises(JobError) as caught:
        parse_profile(text, Path("p.toml"))
    for word in words:
        assert word in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    text = 'kind = "slurm"\nworkers = "2"\nwalltime = "soon"\nqueu = "a"'
    with pytest.raises(JobError, match="3 problems"):
        parse_profile(text, Path("p.toml"))


def test_a_profile_that_is_not_there_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=f"{tmp_path}/no.toml cannot be read: No such file"):
        profile("no.toml")


# --- the files of the repository ------------------------------------------------------------------


def test_there_is_a_profile_of_each_kind():
    assert {path.stem for path in FILES} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_of_the_repository_is_valid_and_tells_of_every_field(path):
    found = profile(str(path))
    text = path.read_text()
    assert found.kind == path.stem
    missing = [name for name in type(found).model_fields if f"{name}" not in text]
    assert missing == []
    commented = [line for line in text.splitlines() if line.startswith("#")]
    assert len(commented) > 5
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_profile_has_in_comments_can_be_taken_out_of_them(path):
    """Each commented setting alone: some contradict each other."""
    text = path.read_text()
    model = KINDS[path.stem]
    tried = 0
    for line in text.splitlines():
        name, _, _ = line.removeprefix("# ").partition(" = ")
        if not line.startswith("# ") or name not in model.model_fields:
            continue
        if name in ("minimum", "maximum"):
            continue  # They go together, instead of workers.
        head, _, rest = text.partition("\n[driver]")
        tables = f"\n[driver]{rest}" if rest else ""
        parse_profile(f"{head}\n{line[2:]}\n{tables}", path)
        tried += 1
    assert tried > 0


# --- who goes first -------------------------------------------------------------------------------

JOB = """
[source]
store = "a.zarr"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 5
[output]
store = "b.zarr"
[run]
cluster = "{cluster}"
workers = 2
threads = 2
memory = "1 GiB"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(JOB.format(cluster="place.toml"))
    (tmp_path / "place.toml").write_text('kind = "local"\nworkers = 3\nmemory = "3 GiB"')
    return tmp_path


def test_a_profile_goes_before_the_job_and_the_command_line_before_both(here):
    job = load("job.toml")
    assert (job.workers, job.threads, job.memory) == (3, 2, 3 * 2**30)
    assert job.override(workers=5).workers == 5
    (here / "other.toml").write_text('kind = "threads"\nthreads = 4')
    other = job.override(cluster="other.toml")
    assert (other.profile.kind, other.workers, other.threads) == ("threads", 2, 4)
    assert job.override(cluster="other.toml", workers=7).workers == 7


def test_workers_of_the_command_line_take_the_place_of_bounds(here):
    (here / "place.toml").write_text('kind = "local"\nminimum = 1\nmaximum = 4')
    job = load("job.toml")
    assert job.workers == 4
    told = job.override(workers=2)
    assert (told.workers, told.profile.minimum, told.profile.maximum) == (2, None, None)


@pytest.mark.parametrize("kind", ["mpi", "address"])
def test_workers_that_are_there_already_cannot_be_told_how_many_they_are(here, kind):
    (here / "place.toml").write_text(profile_text(kind, ""))
    with pytest.raises(JobError, match=f"--workers: the workers of a cluster of kind '{kind}'"):
        load("job.toml").override(workers=2)


def test_workers_of_the_command_line_have_to_fit_the_profile(here):
    (here / "place.toml").write_text('kind = "slurm"\nworkers = 4\nprocesses = 2')
    with pytest.raises(JobError, match="--workers: workers = 3 is no multiple"):
        load("job.toml").override(workers=3)


def test_a_profile_is_looked_for_from_the_current_directory(here, monkeypatch):
    (here / "inside").mkdir()
    monkeypatch.chdir(here / "inside")
    with pytest.raises(JobError, match=f"{here}/inside/place.toml cannot be read"):
        load("../job.toml")
    assert parse(JOB.format(cluster="../place.toml"), Path("job.toml")).workers == 3


def test_certificates_that_are_missing_are_named(here):
    from scatflow.flow.cluster.ready import security

    with pytest.raises(ClusterError, match=r"\[tls\] ca = 'ca.pem': there is no file"):
        security(
            parse_profile(
                'kind = "local"\n[tls]\nca = "ca.pem"\ncert = "c"\nkey = "k"', Path("p")
            ).tls
        )


def test_every_field_of_every_profile_says_what_it_takes():
    tables = [*KINDS.values(), *Table.__subclasses__()]
    for model in tables:
        told = {name: field.description for name, field in model.model_fields.items()}
        assert all(told.values()) or model.__name__ == "Profile", told
