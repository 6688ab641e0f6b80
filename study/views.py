"""Shared views of a study in the MLflow UI, as its Share button leaves them: the table, the search, the curves."""

from typing import Any

from study.plan import Plan

State = dict[str, Any]
"""What the UI restores of a view, by its own names."""

DEFAULTS: State = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runListHidden": False,
    "groupBy": None,
    "groupsExpanded": {},
    "hideEmptyCharts": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
"""What the UI begins with; a shared view that leaves something out is without it."""
LINE: State = {
    "type": "LINE",
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "range": {},
    "lineSmoothness": 0,
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
"""A chart of curves as the UI makes one; without its smoothness of 0, means are smoothed out of their band."""
CELL_COLUMNS = ("accuracy_percent", "std_percent", "n", "difference_percent", "p_holm", "paper_percent")
CURVES = ("validation_accuracy", "test_accuracy", "train_cross_entropy")
ORACLE = {
    "last": "test_accuracy_last",
    "best_validation": "test_accuracy_at_best_validation",
    "oracle": "test_accuracy_oracle",
}
"""What a study that chooses on test compares, by the accuracy that it reports."""


def shared_views(plan: Plan) -> dict[str, State]:
    """The views of a study by what they show; `search` only where something is searched."""
    views = {"table": _table(plan), "curves": _curves(plan)}
    return views | {"search": _search(plan, axes)} if (axes := searched_fields(plan)) else views


def link(experiment: str, key: str, state: State) -> str:
    """Address of a view within the UI."""
    mode = "&compareRunsMode=CHART" * ("compareRunCharts" in state)
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={key}{mode}"


def searched_fields(plan: Plan) -> list[str]:
    """The fields among whose values some cell chooses, in the study's order."""
    values: dict[str, set[str]] = {}
    for cell in plan.cells:
        for candidate in cell.candidates:
            for field, value in candidate.values.items():
                values.setdefault(field, set()).add(str(value))
    return [field for field, different in values.items() if len(different) > 1]


def _table(plan: Plan) -> State:
    columns = [f"tags.`{name}`" for name in ("row", "arm", "column")]
    return DEFAULTS | {
        "searchFilter": f"tags.`dh2l.kind` = 'cell' AND {_of(plan)}",
        "orderByKey": "tags.`dh2l.position`",
        "orderByAsc": True,
        "selectedColumns": columns + [f"metrics.`{name}`" for name in CELL_COLUMNS],
        "viewMaximized": True,
    }


def _search(plan: Plan, axes: list[str]) -> State:
    """Every trial as a line over the searched fields to what the rule compares, its arm first."""
    study = plan.file.study
    score = ORACLE[study.accuracy] if study.rule == "oracle" else "validation_accuracy"
    chart = {"type": "PARALLEL", "selectedParams": ["arm", *axes], "selectedMetrics": [score], "showAllRuns": True}
    return _charts(f"tags.`dh2l.kind` = 'trial' AND {_of(plan)}", score, [chart], columns=1)


def _curves(plan: Plan) -> State:
    """The curves behind the table's numbers, each the mean over a cell's seeds."""
    places = {(cell.arm, cell.row, cell.column) for cell in plan.cells}
    groups = [("param", "arm")]
    if len({place[:2] for place in places}) > len({arm for arm, *_ in places}):
        groups.append(("tag", "row"))
    if len({column for *_, column in places}) > 1:
        groups.append(("tag", "column"))
    charts = [LINE | {"metricKey": name, "selectedMetricKeys": [name]} for name in CURVES]
    keys = [{"mode": mode, "groupByData": name} for mode, name in groups]
    state = _charts(f"{_of(plan)} AND tags.shown = 'yes'", "test_accuracy", charts, columns=len(charts))
    return state | {"groupBy": {"aggregateFunction": "average", "groupByKeys": keys}, "useGroupedValuesInCharts": True}


def _of(plan: Plan) -> str:
    return f"tags.`dh2l.study` = '{plan.name}'"


def _charts(query: str, score: str, charts: list[dict[str, Any]], columns: int) -> State:
    """One section of charts beside the runs that a query finds, all of them and not only the first ten.

    The runs are sorted by a metric, for sorted by time the UI folds trials under their study and charts none.
    """
    section = {
        "uuid": "charts",
        "name": "Charts",
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": 480,
    }
    fixed = {"metricSectionId": "charts", "runsCountToCompare": 10, "deleted": False, "isGenerated": False}
    return DEFAULTS | {
        "searchFilter": query,
        "orderByKey": f"metrics.`{score}`",
        "orderByAsc": False,
        "selectedColumns": ["params.`arm`", f"metrics.`{score}`"],
        "viewMaximized": False,
        "runsHiddenMode": "SHOW_ALL",
        "runsVisibilityMap": {},
        "compareRunSections": [section],
        "compareRunCharts": [{"uuid": f"chart-{number}"} | fixed | chart for number, chart in enumerate(charts)],
    }
