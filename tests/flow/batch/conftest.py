"""A SLURM of its own for the tests: controller, node daemons and munge on loopback, as root."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket,cred_expire=10
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=3
OverTimeLimit=0
DefMemPerCPU=256
MinJobAge=300
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Slurm:
    """A running SLURM: what its commands say, and its nodes by name."""

    def __init__(self, base, nodes=2, cpus=4, memory=12000):
        self.base, self.nodes = base, [f"node{i}" for i in range(1, nodes + 1)]
        self.environment = {**os.environ, "SLURM_CONF": str(base / "slurm.conf")}
        for folder in ("state", "munge", *(f"spool/{name}" for name in self.nodes)):
            (base / folder).mkdir(parents=True)
        base.chmod(0o755)
        (base / "munge").chmod(0o711)
        host = socket.gethostname().partition(".")[0]
        lines = [CONFIGURATION.format(host=host, port=free_port(), base=base)]
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} "
            f"CPUs={cpus} RealMemory={memory} State=UNKNOWN"
            for name in self.nodes
        ]
        lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (base / "slurm.conf").write_text("\n".join(lines) + "\n")

    def start(self):
        munge = self.base / "munge"
        with os.fdopen(os.open(munge / "key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as key:
            key.write(os.urandom(1024))
        self.command(
            "munged",
            "--force",
            f"--key-file={munge}/key",
            f"--socket={munge}/socket",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
            "--num-threads=2",
        )
        self.command("slurmctld")
        for name in self.nodes:
            self.command("slurmd", "-N", name)
        self.until(lambda: len(self.idle()) == len(self.nodes), 20, self.logs)

    def stop(self):
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            self.command("scancel", "--user=root")
            time.sleep(0.5)
        for pid in [*(self.base / f"{n}.pid" for n in self.nodes), self.base / "slurmctld.pid"]:
            self.end(pid, signal.SIGTERM)
        self.end(self.base / "munge" / "pid", signal.SIGTERM)

    def end(self, file, number):
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(file.read_text()), number)

    def kill_node(self, name):
        """End a node's daemon and all its jobs' processes, as a power cut does."""
        jobs = [j for j, _, where, _ in self.jobs() if where == name]
        pids = subprocess.run(
            ["pgrep", "-f", f"{self.base}/spool/{name}"], capture_output=True, text=True
        ).stdout.split()
        self.end(self.base / f"{name}.pid", signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return jobs

    def restart_node(self, name):
        self.command("slurmd", "-N", name)

    def command(self, *words, **more):
        """Run a command of SLURM's, or another one, and return its output."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, **more
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def idle(self):
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-t", "idle,mix,alloc", "-o", "%N"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.split()

    def jobs(self):
        """Return (id, state, node, name) of each job that waits or runs."""
        told = self.command("squeue", "-h", "-o", "%i|%T|%N|%j")
        return [tuple(line.split("|")) for line in told.splitlines()]

    def until(self, true, seconds, why=lambda: ""):
        """Wait until something is true."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, why()
            time.sleep(0.2)

    def logs(self):
        return "\n".join(
            f"== {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in self.base.glob("*.log")
        )


def missing():
    """Return why SLURM cannot be had, None where it is there."""
    lacking = [p for p in PROGRAMS if shutil.which(p) is None]
    if lacking and os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends"]):
            subprocess.run(
                ["apt-get", *words, *(PACKAGES if "install" in words else ())],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                check=True,
                capture_output=True,
                timeout=300,
            )
        lacking = [p for p in PROGRAMS if shutil.which(p) is None]
    if lacking:
        return f"SLURM's {', '.join(lacking)} are not installed"
    return None if os.geteuid() == 0 else "SLURM's daemons want root here"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if why := missing():
        pytest.skip(f"not run: {why}")
    system = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        system.start()
        yield system
    finally:
        system.stop()
