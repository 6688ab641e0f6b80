"""A sweep under a random killer: python tests/soak.py [--trials 200] [--seed N] [--minutes 40]
[--folder PATH]

Trains a study of synthetic images twice: undisturbed; and while drivers, their workers and the
tracking server are killed or interrupted at random moments, a dead driver being started again as a
user would. Then it compares: one sound record for each trial, each with the numbers of the
undisturbed run's; no claim, no checkpoint, no process left; and a view that a sync completes. The
seed is printed; it repeats the killer's choices, though not the moments they fall in.

Exit codes: 0 all of that held, 1 something did not.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
from mlflow import MlflowClient
from mlflow_servers import Server, mlflow_server
from study_fixtures import clean_environment

from dh2l.data import read_manifest
from study.cli.console import INTERRUPTED, SOME_FAILED
from study.records.arrays import read_arrays
from study.records.leases import Claims
from study.records.paths import Places
from study.spec.plan import Plan, make_plan
from study.spec.study_file import find_study
from study.state.load import read_state

STUDY = """\
title: A sweep under a random killer
config: {{dataset: soak, epochs: 3, batch_size: 20, metric: cosine}}
columns: [{{name: soak}}]
rows:
  - arm: baseline+l2
  - {{arm: E, set: {{lambda_e: 0.1}}}}
  - {{arm: E, metric: angular2, set: {{lambda_e: 0.1}}}}
  - {{arm: E+H, set: {{lambda_e: 0.1, lambda_l: 0.1}}}}
seeds: [{seeds}]
"""
ROWS = 4
PLANTED = ("branching=[2,2]", "n_train=20", "n_test=10", "channels=1")
OFTEN = """\
import dh2l.training.trainer

dh2l.training.trainer.train.__kwdefaults__["checkpoint_seconds"] = 0.0  # a checkpoint after every epoch
"""
MARK = "DH2L_SOAK"
"""Variable of the environment by which every process of a soak is known, whoever its parent is."""
BLOWS = ["driver", "worker", "server", "interrupt"]
LOOK_S, LATER_S = 0.2, 1.0
"""How often the killer looks, and how long it may hold back, in seconds."""
LEAVING_S = 60.0
"""How long what a killed driver left behind may take to end by itself."""
TIMED = {"history.time", "history.seconds", "history.images_per_s"}


class Soak:
    """One soak: its folder, its processes, and what the killer does to them."""

    def __init__(self, folder: Path, trials: int, seed: int, say: Callable[[str], None]) -> None:
        if trials % ROWS:
            raise ValueError(f"{trials} trials must be a multiple of {ROWS}")
        self.mark, self.random, self.say = uuid4().hex, random.Random(seed), say  # noqa: S311 no secret
        self.data, self.study, self.plugin = (
            folder / "data",
            folder / "soak.yaml",
            folder / "often.py",
        )
        planted = [word for value in PLANTED for word in ("--planted", value)]
        prepare = ["data", "prepare", "soak", *planted, "--data", str(self.data)]
        subprocess.run(
            [sys.executable, "-m", "study", *prepare], env=clean_environment(), check=True
        )
        seeds = ", ".join(map(str, range(trials // ROWS)))
        self.study.write_text(STUDY.format(seeds=seeds), encoding="utf-8")
        self.plugin.write_text(OFTEN, encoding="utf-8")
        self.calm, self.rough = (Places.of(folder / name, self.data) for name in ("calm", "rough"))
        self.blows = Counter[str]()
        self._hit = set[str]()
        self._log = (folder / "driver.log").open("ab")

    def close(self) -> None:
        """Close the log of the drivers."""
        self._log.close()

    @property
    def plan(self) -> Plan:
        """The study's plan."""
        return make_plan(find_study(str(self.study)), lambda name: read_manifest(name, self.data))

    def start(
        self, places: Places, *words: str, server: Server | None = None
    ) -> "subprocess.Popen[bytes]":
        """A driver, in a session of its own as a terminal's command is."""
        where = [
            "--results",
            str(places.results),
            "--data",
            str(self.data),
            "--plugin",
            str(self.plugin),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "study", "run", str(self.study), *where, *words],
            stdout=self._log,
            stderr=self._log,
            env=clean_environment(
                **{MARK: self.mark}, **({"MLFLOW_TRACKING_URI": server.uri} if server else {})
            ),
            start_new_session=True,
        )

    def undisturbed(self) -> None:
        """Train everything in peace, one trial after the other in each of two processes."""
        shards = [self.start(self.calm, "--shard", f"{i}/2") for i in (1, 2)]
        if any(shard.wait() for shard in shards):
            raise RuntimeError("the undisturbed run failed; see driver.log")

    def disturbed(self, server: Server, end: float) -> None:
        """Run until a driver ends well, under blows, each of which falls soon after a certain
        number of records.

        Raises:
            TimeoutError: none has by `end`, of the monotonic clock.
        """
        trials = len(self.plan.choosing)
        blows = max(len(BLOWS), trials // 5)
        more = blows - len(BLOWS)
        deck = [*self.random.sample(BLOWS, len(BLOWS)), *self.random.choices(BLOWS, k=more)]
        early = self.random.choices(
            range(trials // 4), k=len(BLOWS)
        )  # so that one of each kind falls
        after = sorted([*early, *self.random.choices(range(trials), k=more)])
        driver = self.start(self.rough, server=server)
        drivers = 1
        while True:
            try:
                code = driver.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    driver.kill()
                    raise TimeoutError(
                        "the time is over, and no driver has come to the end"
                    ) from None
                if deck and len(list(self.rough.trials.glob("*.json"))) >= after[0]:
                    time.sleep(self.random.uniform(0, LATER_S))
                    if self._strike(deck[0], driver, server):
                        self.blows[deck.pop(0)] += 1
                        after.pop(0)
                continue
            if code == 0:
                self.say(f"{drivers} drivers; blows: {dict(self.blows)}")
                return
            if code not in (-signal.SIGKILL, -signal.SIGINT, INTERRUPTED, SOME_FAILED):
                raise RuntimeError(f"a driver ended with exit code {code}; see driver.log")
            driver, drivers = self.start(self.rough, server=server), drivers + 1

    def _strike(self, blow: str, driver: "subprocess.Popen[bytes]", server: Server) -> bool:
        """Strike; returns whether something was hit: of workers, one in the middle of a trial."""
        match blow:
            case "driver":
                driver.kill()
            case "interrupt":
                driver.send_signal(signal.SIGINT)
            case "worker":
                claims = Claims(self.rough.claims)
                alive = sorted(
                    (i, claim.pid) for i, claim in claims.everyone().items() if claims.alive(i)
                )
                if not alive:
                    return False
                identity, pid = self.random.choice(alive)
                with suppress(psutil.Error):
                    worker = psutil.Process(pid)
                    worker.kill()
                    worker.wait(timeout=60)
                if (
                    claims.read(identity) is None
                    or (self.rough.trials / f"{identity}.json").exists()
                ):
                    return False  # it had ended its trial
                self._hit.add(identity)
            case _:
                server.kill()
                time.sleep(self.random.uniform(0, LATER_S))
                server.launch()
        return True

    def wrong(self, server: Server) -> list[str]:
        """Describe what is not as it should be, a sentence each."""
        plan, places = self.plan, self.rough
        now, calm = read_state(plan, places), read_state(plan, self.calm)
        found = list(now.found.warnings())
        if now.counts != {"done": len(plan.choosing)}:
            found.append(f"{len(plan.choosing)} trials should be done, but there are {now.counts}")
        files = list(places.trials.glob("*.json"))
        if len(files) != len(plan.choosing):
            found.append(
                f"there should be {len(plan.choosing)} records, and there are {len(files)}"
            )
        for identity, record in now.found.records.items():
            other = calm.found.records[identity]
            one, two = (
                read_arrays(record, now.found.paths[identity]),
                read_arrays(other, calm.found.paths[identity]),
            )
            same = one.keys() == two.keys() and all(
                np.array_equal(one[k], two[k], equal_nan=one[k].dtype.kind == "f")
                for k in one.keys() - TIMED
            )
            if record.numbers() != other.numbers() or not same:
                found.append(f"{identity} has other numbers than undisturbed")
            if identity in self._hit and not record.provenance.retries:
                found.append(f"{identity} lost its worker and was never begun again")
        folders = (
            places.local / name for name in ("running", "checkpoints", "set-aside", "repeated")
        )
        found += [f"left: {path}" for folder in folders for path in folder.glob("*")]
        found += [
            f"no {blow} was struck: this was no soak" for blow in BLOWS if not self.blows[blow]
        ]
        return [*found, *self._processes(), *self._view(server, plan)]

    def _processes(self) -> Iterable[str]:
        deadline = time.monotonic() + LEAVING_S
        while left := [process for process in psutil.process_iter() if self._ours(process)]:
            if time.monotonic() > deadline:
                return [
                    f"process {process.pid} is left: {' '.join(process.cmdline())[:200]}"
                    for process in left
                ]
            time.sleep(0.5)
        return []

    def _ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(MARK) == self.mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def _view(self, server: Server, plan: Plan) -> Iterable[str]:
        words = [str(self.study), "--results", str(self.rough.results), "--data", str(self.data)]
        command = [sys.executable, "-m", "study", "mlflow", "sync", *words]
        subprocess.run(
            command,
            env=clean_environment(MLFLOW_TRACKING_URI=server.uri),
            check=True,
            stdout=self._log,
        )
        client = MlflowClient(tracking_uri=server.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, "tags.`dh2l.kind` = 'trial'", max_results=10_000)
        shown = Counter((run.data.tags["dh2l.key"], run.info.status) for run in runs)
        if shown != Counter((identity, "FINISHED") for identity in plan.choosing):
            return [f"MLflow shows {shown.most_common(3)} … {len(shown)} in all"]
        return []


def soak(
    folder: Path, trials: int, seed: int, minutes: float, say: Callable[[str], None]
) -> list[str]:
    """Run a soak; returns what did not hold, a sentence each."""
    end = time.monotonic() + 60 * minutes
    say(f"seed {seed}: {trials} trials in {folder}")
    it = Soak(folder, trials, seed, say)
    try:
        it.undisturbed()
        say("undisturbed: done")
        with mlflow_server(folder) as server:
            it.disturbed(server, end)
            server.wait()
            return it.wrong(server)
    finally:
        it.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    started = time.monotonic()
    wrong = soak(
        folder, options.trials, options.seed, options.minutes, lambda line: print(line, flush=True)
    )
    for sentence in wrong:
        print(f"wrong: {sentence}")
    print(
        f"{'failed' if wrong else 'held'} after {time.monotonic() - started:.0f} s; seed "
        f"{options.seed}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
