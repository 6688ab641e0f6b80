"""The command line: `dh2l-study`. Heavy libraries are imported by the commands that need them."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dh2l.errors import DataError, UserError, unknown_name
from study.places import Places, shipped_studies

if TYPE_CHECKING:
    from study.plan import Plan
    from study.states import Standing

COMPLETE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare regularisers on hierarchies of hyperspheres: from a study file to an accuracy table.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare, list and verify data sets.")
mlflow_app = typer.Typer(no_args_is_help=True, help="The MLflow view of the records.")
app.add_typer(data_app, name="data")
app.add_typer(mlflow_app, name="mlflow")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one of the study's values, e.g. epochs=2."),
]
ResultsOption = Annotated[Path, typer.Option("--results", envvar="DH2L_RESULTS", help="Folder of records and tables.")]
DataOption = Annotated[Path, typer.Option("--data", envvar="DH2L_DATA", help="Folder of prepared data sets.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RESULTS, DATA = Path("results"), Path("data")


def main() -> None:
    """Run a command. A user's mistake becomes a sentence on stderr and exit code 2."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        err.print(f"[bold red]error:[/bold red] {_escape(str(error))}")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to go on")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """List the shipped studies."""
    from study.space import StudyFile

    rows = [(name, StudyFile(path).study) for name, path in shipped_studies().items()]
    if as_json:
        _print_json([{"name": name, "title": s.title, "cost": s.cost} for name, s in rows])
        return
    table = Table("study", "title", "cost", box=None)
    for name, study in rows:
        table.add_row(name, study.title, study.cost)
    out.print(table)


@app.command()
def plan(
    study: StudyArgument,
    set_: SetOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
) -> None:
    """Show a study's trials and which of them are done. Trains nothing."""
    from study.running import missing_trials

    now = _standing(study, set_, Places.of(results, data))
    if as_json:
        _print_json(
            {
                "study": now.plan.name,
                "combinations": now.plan.combinations,
                "counts": now.counts,
                "trials": [
                    {"identity": i, "state": state.value, "config": now.plan.configs[i].canonical()}
                    for i, state in now.states.items()
                ],
            }
        )
        return
    out.print(_plan_line(now.plan))
    table = Table("trial", "state", box=None)
    for identity, state in now.states.items():
        table.add_row(identity, _styled(state.value))
    out.print(table)
    to_run = missing_trials(now)
    out.print(
        f"{_counts(now)}; `run` would train {len(to_run)} ({sum(c.epochs for c in to_run)} epochs)",
    )


@app.command()
def run(
    study: StudyArgument,
    set_: SetOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster; default: Ray on this machine.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(min=0.01, help="CPUs, and so threads, of a trial.")] = 1.0,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(min=0.0, help="GPUs of a trial, fractions allowed; default: 1 where there are any."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Train only the I-th of N shares, in this process, without Ray."),
    ] = None,
    track: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Show the run in MLflow.")] = True,
) -> None:
    """Train what a study misses, then render its table. Run again, it trains only what is missing."""
    from study import tables
    from study.observer import Observers
    from study.progress import RunProgress
    from study.running import missing_trials, run_here, run_plan
    from study.states import standing

    places = Places.of(results, data)
    share = _shard(shard)
    now = _standing(study, set_, places, write=True)
    missing = [c.identity for c in missing_trials(now)]
    missing = share.of(list(now.plan.configs)) if share else missing
    missing = [i for i in missing if i in now.missing]
    out.print(f"{_plan_line(now.plan)} {_counts(now)}.")
    progress = RunProgress(out, len(now.plan.configs) - len(now.missing), now.plan.configs, missing)
    live = None
    if track and not share:
        from study.tracking import LiveView

        live = LiveView(places, now.plan.name)
    interrupted = False
    try:
        with progress.shown():
            if share:
                run_here(
                    (now.plan.configs[i] for i in missing),
                    places,
                    progress,
                    threads=max(1, int(cpus_per_trial)),
                )
            elif missing:
                from study.cluster import Resources

                out.print("starting Ray ...")
                observer = Observers([progress, live] if live else [progress])
                interrupted = run_plan(now, places, Resources(address, cpus_per_trial, gpus_per_trial), observer)
    except KeyboardInterrupt:
        interrupted = True
    now = standing(now.plan, places)
    files = tables.save(now, places.table(now.plan.name))
    out.print(f"\n{tables.to_markdown(now)}", markup=False)
    if live:
        live.close(now)
    _closing(now, places, files, live.problem if live else None, tracked=live is not None)
    if interrupted:
        raise KeyboardInterrupt
    failed = set(now.counts) & {"failed", "diverged", "conflict"}
    if failed or (not share and missing_trials(now)):
        raise typer.Exit(SOME_FAILED)


@app.command()
def trial(
    study: StudyArgument,
    identity: Annotated[str, typer.Argument(metavar="ID", help="A trial's identity, or enough of it to be unique.")],
    set_: SetOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: 1, as under `run`.")] = 1,
    device: Annotated[str | None, typer.Option(help="A torch device; default: the GPU where there is one.")] = None,
) -> None:
    """Train one trial in this process, without Ray or MLflow. Leaves the same record as `run`."""
    places = Places.of(results, data)
    now = _standing(study, set_, places, write=True)
    config = now.plan.configs[_find_trial(identity, list(now.plan.configs))]

    from study.progress import epoch_line
    from study.trial import run_trial

    training = run_trial(config, places, device=device, threads=threads)
    while True:
        try:
            out.print(epoch_line(config, next(training)))
        except StopIteration as stop:
            record = stop.value
            break
    store = places.trials / f"{config.identity}.json"
    if record.last is None:
        out.print(
            f"{_styled(record.state)}: {_escape(record.failure.message)}\nrecord: {store}",
        )
        raise typer.Exit(SOME_FAILED)
    out.print(
        f"{_styled(record.state)}: test {100 * record.last.test_accuracy:.2f}%\nrecord: {store}",
    )


@app.command()
def status(
    study: StudyArgument,
    set_: SetOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
) -> None:
    """Show how far a study is, what runs now, and what failed and why."""
    from study.claims import Claims

    places = Places.of(results, data)
    now = _standing(study, set_, places)
    claims = Claims(places.claims)
    running = {i: claim for i, s in now.states.items() if s == "running" and (claim := claims.read(i))}
    failures = {i: r.failure for i, r in now.found.records.items() if r.failure}
    if as_json:
        _print_json(
            {
                "study": now.plan.name,
                "counts": now.counts,
                "running": {i: claim.model_dump() for i, claim in running.items()},
                "failures": {i: failure.model_dump() for i, failure in failures.items()},
            }
        )
        return
    out.print(f"{now.plan.name}: {_counts(now)} of {len(now.states)} trials")
    for i, claim in running.items():
        accuracy = "" if claim.validation_accuracy is None else f", validation {100 * claim.validation_accuracy:.2f}%"
        out.print(
            f"  running {i}: epoch {claim.epoch}/{claim.epochs}{accuracy} (process {claim.pid} on {claim.host})",
        )
    for i, failure in failures.items():
        out.print(
            f"  {now.states[i]} {i}: {failure.kind}: {_escape(failure.message)}",
        )


@app.command()
def table(
    study: StudyArgument,
    set_: SetOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    csv: Annotated[bool, typer.Option("--csv", help="Print the cells as CSV.")] = False,
) -> None:
    """Render a study's accuracy table from the records, complete or not."""
    from study import tables

    places = Places.of(results, data)
    now = _standing(study, set_, places)
    text = tables.cell_frame(now).to_csv(index=False) if csv else tables.to_markdown(now)
    out.print(text, end="", markup=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, with which editors complete and check them."""
    from study.space import study_schema

    _print_json(study_schema())


@app.command()
def ui(
    results: ResultsOption = RESULTS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow UI on 127.0.0.1 with this project's store, until Ctrl-C."""
    places = Places.of(results, DATA)
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            f"MLFLOW_TRACKING_URI is set, so the runs are in a store of their own ({uri.split('@')[-1]}); open its UI, "
            "or unset the variable to serve the local store"
        )
    store = places.mlflow / "mlflow.db"
    if not store.exists():
        raise UserError(
            f"there is no MLflow store at {store} yet; run a study first, or `dh2l-study mlflow sync STUDY`"
        )
    from study.tracking import table_links

    address = f"http://127.0.0.1:{port}"
    out.print(f"MLflow UI: {address} (up in about half a minute; Ctrl-C ends it)")
    for name, link in table_links(places).items():
        out.print(f"  {name} as a table: {address}{link}")
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{store}",
        "--artifacts-destination",
        str(places.mlflow / "artifacts"),
    ]
    os.execve(sys.executable, command, environment)  # noqa: S606 our own fixed words


@mlflow_app.command("sync")
def mlflow_sync(
    study: StudyArgument, set_: SetOption = None, results: ResultsOption = RESULTS, data: DataOption = DATA
) -> None:
    """Make a study's MLflow view from its records. Twice is the same as once."""
    places = Places.of(results, data)
    now = _standing(study, set_, places)
    from study.tracking import sync_study

    try:
        uri = sync_study(now, places)
    except ConnectionError as error:
        raise UserError(f"the MLflow store cannot be written: {error}") from None
    out.print(
        f"{now.plan.name}: {len(now.found.records)} records and {len(now.plan.cells)} cells "
        f"shown in {uri.split('@')[-1]}",
    )


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="digits, cifar10, cifar100, or a name for a data set of your own.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="torchvision's files, or folders train|test/<super-class>/<class>/*."),
    ] = None,
    data: DataOption = DATA,
    size: Annotated[int | None, typer.Option(min=1, help="Resize images to SIZE × SIZE.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Augment by mirroring.")] = None,
    crop_padding: Annotated[int | None, typer.Option(min=0, help="Augment by crops after this padding.")] = None,
) -> None:
    """Prepare a data set once, so that trials only map it into memory."""
    from dh2l.data import prepare

    manifest = prepare(
        name, data, source=source, size=size, flip=flip, crop_padding=crop_padding,
        report=lambda line: out.print(line),
    )  # fmt: skip
    out.print(_describe(manifest))


@data_app.command("list")
def data_list(data: DataOption = DATA) -> None:
    """List the prepared data sets."""
    from dh2l.data import prepared

    for manifest in prepared(data):
        out.print(_describe(manifest))


@data_app.command("verify")
def data_verify(name: str, data: DataOption = DATA) -> None:
    """Rehash a prepared data set against its manifest."""
    from dh2l.data import verify

    out.print(f"sound: {_describe(verify(name, data))}")


def _standing(study: str, overrides: list[str] | None, places: Places, *, write: bool = False) -> "Standing":
    """A study's plan and the states of its trials; says what is wrong with records."""
    from dh2l.data import Manifest, prepare, read_manifest
    from study.plan import make_plan
    from study.records import RecordStore
    from study.space import find_study
    from study.states import standing

    file = find_study(study, overrides)
    manifests: dict[str, Manifest] = {}

    def manifest_of(name: str) -> Manifest:
        if name not in manifests:
            try:
                manifests[name] = read_manifest(name, places.data)
            except DataError:
                if name != "digits":
                    raise
                manifests[name] = prepare(name, places.data)  # it comes with scikit-learn: nothing to ask of the user
        return manifests[name]

    plan = make_plan(file, manifest_of)
    if write:
        places.require_writable()
    now = standing(plan, places)
    for warning in now.found.warnings():
        err.print(f"[yellow]warning:[/yellow] {_escape(warning)}")
    if write and now.found.damaged:
        RecordStore(places.trials).set_aside(now.found, places.set_aside)
        err.print(
            f"set aside in {places.set_aside}; their trials are trained again",
        )
    return now


def _shard(text: str | None) -> Any:
    from study.running import Shard

    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text!r} must read I/N with 1 ≤ I ≤ N, for instance --shard 1/4")
    return Shard(int(index), int(count))


def _find_trial(text: str, identities: list[str]) -> str:
    matches = [i for i in identities if text in i]
    if text in identities or len(matches) == 1:
        return text if text in identities else matches[0]
    if matches:
        raise UserError(
            f"{text!r} fits {len(matches)} trials, among them {matches[0]} and {matches[1]}; give more of it"
        )
    raise UserError(
        f"{unknown_name('trial', text, identities)}"
        if len(identities) < 20
        else f"unknown trial {text!r}; `dh2l-study plan` lists them"
    )


def _plan_line(plan: "Plan") -> str:
    return f"{plan.name}: {plan.combinations} combinations → {len(plan.configs)} trials in {len(plan.cells)} cells."


def _counts(now: "Standing") -> str:
    return ", ".join(f"{n} {state}" for state, n in now.counts.items())


def _styled(state: str) -> str:
    colour = {"done": "green", "failed": "red", "diverged": "red", "conflict": "red", "running": "cyan"}.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def _describe(manifest: Any) -> str:
    height, width, channels = manifest.image_shape
    tree = manifest.tree
    levels = " → ".join(str(tree.size(level)) for level in range(1, tree.depth + 1))
    mean, std = (" ".join(f"{v:.4f}" for v in values) for values in (manifest.mean, manifest.std))
    return (
        f"{manifest.name}: {manifest.n_train} training and {manifest.n_test} test images of "
        f"{height}×{width}×{channels}, classes {levels}, mean {mean}, std {std}, hash {manifest.data_hash[:12]}"
    )


def _closing(now: "Standing", places: Places, files: dict[str, Path], problem: str | None, *, tracked: bool) -> None:
    lines = [
        f"records: {places.trials}",
        f"table:   {files['markdown']} and {files['csv'].name}",
    ]
    if problem:
        lines.append(f"MLflow:  not complete ({problem}); later: dh2l-study mlflow sync {now.plan.file.document.path}")
    elif tracked:
        from study.tracking import tracking_uri

        lines.append(f"MLflow:  {tracking_uri(places).split('@')[-1]}; to open its UI: dh2l-study ui")
    for line in lines:
        out.print(line)


def _print_json(value: Any) -> None:
    out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
