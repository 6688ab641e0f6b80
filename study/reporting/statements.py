"""Statements that every table makes: protocol, rule, seeds, data, failures."""

from collections.abc import Sequence

import pandas as pd

from dh2l.wording import listed
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.spec.schema import Study
from study.state.results import StudyResults
from study.state.selection import searches

RULES = {
    "best_validation": "highest mean validation accuracy over the seeds",
    "oracle": "chosen on test: highest mean test accuracy over the seeds",
}


EPOCHS = {
    "last": "the last epoch's",
    "best_validation": "the best validation epoch's",
    "oracle": "oracle, the best epoch's on test",
}


def statements(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """List what every rendered table states: protocol, rule, seeds, n, commits, hardware."""
    study = plan.study
    typical = [
        spec.config(any_point(spec), study.seeds[0])
        for spec in plan.cell_configs
        if study.searcher and spec.axes
    ]
    configs = [*(trial.config for trial in plan.trials.values()), *typical]
    protocols = sorted({config.protocol for config in (*plan.choosing.values(), *typical)})
    data = sorted({f"{c.dataset} ({c.data_hash[:8]})" for c in configs})
    searched = any(searches(cell) for cell in plan.cells)
    seeds = study.confirm.seeds if study.confirm else study.seeds
    lines = [
        f"Test accuracy in percent, {EPOCHS[study.accuracy]}; mean ± sample standard deviation "
        f"over {listed('seed', seeds)}; {_n(frame)}.",
        f"Protocol: {_protocol(study, protocols)}. "
        + (
            f"Selection: {RULES[study.rule]}."
            if searched
            else "Nothing is selected: every cell has one configuration."
        ),
        f"Data: {', '.join(data)}. Commit: {_all(frame['commits'])}. Hardware: "
        f"{_all(frame['hardware'])}.",
    ]
    if study.confirm:
        lines.insert(
            1,
            "Confirmed: these are trials on fresh seeds and the full training set"
            + (f", after a choice on {listed('seed', study.seeds)}." if searched else "."),
        )
    if how := _how_searched(study):
        lines.insert(-1, how)
    if plan.file.overrides:
        lines.append(
            "Changed from the file: "
            + ", ".join(f"{k}={v}" for k, v in plan.file.overrides.items())
            + "."
        )
    return lines


def failures(results: StudyResults) -> list[str]:
    """List the trials that failed or diverged, each with the reason."""
    return [
        f"{identity}: {record.state}, "
        f"{(record.failure.message or record.failure.kind).splitlines()[0]}"
        for identity, record in results.found.records.items()
        if record.failure is not None and record.state in ("failed", "diverged")
    ]


def _n(frame: pd.DataFrame) -> str:
    """Describe how many of the seeds are behind the cells."""
    least, most, planned = int(frame["n"].min()), int(frame["n"].max()), int(frame["planned"].max())
    text = f"n = {least}"
    if most > least:
        text += f" to {most}"
    if least != planned:
        text += f" of {planned}"
    return text


def _how_searched(study: Study) -> str:
    """Describe how a search differed from training every configuration to its end."""
    lines = []
    if study.searcher:
        lines.append(f"Configurations suggested by Optuna ({study.searcher.sampler}).")
    if study.scheduler:
        lines.append(
            f"Weak ones were stopped early ({study.scheduler.kind}), and lost: those that are "
            "left had full training."
        )
    return " ".join(lines)


def _protocol(study: Study, protocols: Sequence[str]) -> str:
    """Describe the protocol of the shown trials, and of those which chose if it differs."""
    if study.confirm is None:
        return ", ".join(protocols)
    return "paper" + (f" (chosen under {', '.join(protocols)})" if protocols else "")


def _all(values: "pd.Series[str]") -> str:
    return "; ".join(sorted({v for text in values for v in text.split("; ") if v})) or "none yet"
