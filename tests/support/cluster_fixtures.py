"""Ray clusters of two nodes on this machine, and commands that stand in for a cluster's."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study_fixtures import clean_environment

TINY = """\
title: Two trials
config: {dataset: digits, epochs: 1, batch_size: 512}
columns: [{name: digits}]
rows: [{arm: baseline+l2}]
seeds: [0, 1]
"""
RAY = Path(sys.executable).parent / "ray"


def free_port(low: int = 20000, high: int = 30000) -> int:
    """A port in a range where nothing listens."""
    for port in range(low + os.getpid() % 5000, high):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.2", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def on_path(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these scripts, `ray` and `dh2l-study` are found first."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = {
        "dh2l-study": f'exec {sys.executable} -m study "$@"',
        "ray": f'exec {RAY} "$@"',
    } | scripts
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return clean_environment(
        PATH=f"{folder}{os.pathsep}{os.environ['PATH']}",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",  # else a token in the home of whoever runs the tests decides
        OMP_NUM_THREADS="1",
    )


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each."""
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    address = f"127.0.0.2:{free_port()}"  # for 127.0.0.1 Ray takes an address that others can reach
    environment = on_path(temporary / "bin")
    common = ["--block", "--num-cpus=1", f"--temp-dir={temporary}"]
    head = [
        "--head",
        f"--port={address.partition(':')[2]}",
        "--node-ip-address=127.0.0.2",
        "--include-dashboard=false",
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in (head, [f"--address={address}", "--node-ip-address=127.0.0.3"]):
            with (temporary / f"node{len(started)}.log").open("wb") as log:
                command = [str(RAY), "start", *words, *common]
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        yield address
    finally:
        for node in started:
            node.terminate()
        for node in started:
            node.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)
