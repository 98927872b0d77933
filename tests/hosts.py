"""Hosts made of Linux namespaces: each has its own name, address and processes, and they share this machine's files.

They see each other by name, as hosts of a cluster do, and nobody else. Killing one ends all its processes at once, as a
loss of power does. Requires root, and the commands of iproute2 and util-linux.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_COMMANDS = ("ip", "nsenter", "unshare")
_NAMESPACES = ("net", "uts", "pid", "mount", "time")
# Process 1 of a host. A shell that waits also reaps the processes that others leave behind.
_INIT = """
hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up && echo started && exec >&-
while :; do sleep 1000 & wait; done
"""


def missing() -> str | None:
    """Returns what this machine lacks, if anything."""
    if lacking := [name for name in _COMMANDS if not shutil.which(name)]:
        return f"needs the commands {', '.join(lacking)}"
    return None if os.geteuid() == 0 else "needs root, for network namespaces"


class Host:
    """A host that runs until it is killed."""

    def __init__(self, name: str, hosts_file: str) -> None:
        self.name = name
        uptime = Path("/proc/uptime").read_text().partition(".")[0]  # of this machine: that of a host starts at 0
        new = [f"--{namespace}" for namespace in _NAMESPACES] + [f"--boottime=-{uptime}", "--mount-proc"]
        command = ["unshare", *new, "--fork", "--kill-child", "bash", "-c", _INIT, "bash", name, hosts_file]
        self._unshare = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if not self._unshare.stdout.readline():
            raise RuntimeError(f"{name} does not start")
        self.pid = int(Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text())

    def start(self, command: list[str], **options: Any) -> subprocess.Popen:
        """Starts a command on the host; the options are those of `subprocess.Popen`."""
        enter = ["nsenter", f"--target={self.pid}", *(f"--{namespace}" for namespace in _NAMESPACES)]
        return subprocess.Popen([*enter, f"--wd={os.getcwd()}", *command], **options)

    def kill(self) -> None:
        """Ends all processes of the host at once."""
        self._unshare.kill()
        self._unshare.wait()


class Network:
    """Hosts of the given names, 10.0.0.1 and up, on one switch; all end with the context."""

    def __init__(self, *names: str) -> None:
        self._addresses = {name: f"10.0.0.{number}" for number, name in enumerate(names, start=1)}

    def __enter__(self) -> "Network":
        self._hosts_file = tempfile.NamedTemporaryFile("w", suffix=".hosts")
        for name, address in {"localhost": "127.0.0.1", **self._addresses}.items():
            print(address, name, file=self._hosts_file, flush=True)
        self._switch = Host("switch", self._hosts_file.name)
        self._hosts = [self._switch]
        _run(self._switch, "ip link add bridge type bridge")
        _run(self._switch, "ip link set bridge up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()
        self._hosts_file.close()

    def boot(self, name: str) -> Host:
        """Starts a host, also one that was killed before."""
        host = Host(name, self._hosts_file.name)
        self._hosts.append(host)
        # Of a host that was killed, the kernel may not have removed the cable yet.
        self._switch.start(["ip", "link", "delete", name], stderr=subprocess.DEVNULL).wait()
        cable = f"ip link add eth0 netns {host.pid} type veth peer name {name} netns {self._switch.pid}"
        subprocess.run(cable.split(), check=True)
        _run(self._switch, f"ip link set {name} master bridge up")
        _run(host, f"ip address add {self._addresses[name]}/24 dev eth0")
        _run(host, "ip link set eth0 up")
        return host


def _run(host: Host, command: str) -> None:
    if host.start(command.split()).wait():
        raise RuntimeError(f"{command} fails on {host.name}")
