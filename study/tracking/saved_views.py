"""Saved views of a study in the MLflow UI: table, search and curves.

They have the form of the views that the Share button of the UI saves.
"""

from typing import Any

from study.spec.plan import Plan

ViewState = dict[str, Any]
"""State of a view under the names that the UI gives it."""

DEFAULTS: ViewState = {
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
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}
"""Initial state of the UI, which does not add what a saved view leaves out."""
LINE_CHART: ViewState = {
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
"""Line chart of the UI. Without the smoothness of 0, means are drawn outside their range."""
CELL_COLUMNS = (
    "accuracy_percent",
    "std_percent",
    "n",
    "difference_percent",
    "p_holm",
    "paper_percent",
)
CURVE_METRICS = ("validation_accuracy", "test_accuracy", "train_cross_entropy")
ORACLE_METRICS = {
    "last": "test_accuracy_last",
    "best_validation": "test_accuracy_at_best_validation",
    "oracle": "test_accuracy_oracle",
}
"""Metrics compared by a study that selects on test, by the accuracy that it reports."""


def saved_views(plan: Plan) -> dict[str, ViewState]:
    """Return the views of a study by name; `search` only if something is searched."""
    views = {"table": _table(plan), "curves": _curves(plan)}
    axes = searched_fields(plan)
    if axes:
        views["search"] = _search(plan, axes)
    return views


def link(experiment: str, key: str, state: ViewState) -> str:
    """Return the address of a view within the UI.

    It selects the mode for training runs, because the UI opens views for language models otherwise.
    """
    query = f"workflowType=machine_learning&viewStateShareKey={key}"
    if "compareRunCharts" in state:
        query += "&compareRunsMode=CHART"
    return f"/#/experiments/{experiment}/runs?{query}"


def searched_fields(plan: Plan) -> list[str]:
    """Return the fields with more than one value among the candidates of a cell, in study order."""
    values: dict[str, set[str]] = {}
    for cell in plan.cells:
        for candidate in cell.candidates:
            for field, value in candidate.values.items():
                values.setdefault(field, set()).add(str(value))
    return [field for field, different in values.items() if len(different) > 1]


def _table(plan: Plan) -> ViewState:
    columns = [f"tags.`{name}`" for name in ("row", "arm", "column")]
    return DEFAULTS | {
        "searchFilter": f"tags.`dh2l.kind` = 'cell' AND {_of(plan)}",
        "orderByKey": "tags.`dh2l.position`",
        "orderByAsc": True,
        "selectedColumns": columns + [f"metrics.`{name}`" for name in CELL_COLUMNS],
        "viewMaximized": True,
    }


def _search(plan: Plan, axes: list[str]) -> ViewState:
    """Draw each trial as a line from its arm and searched fields to the metric that is compared."""
    study = plan.study
    score = "validation_accuracy"
    if study.rule == "oracle":
        score = ORACLE_METRICS[study.accuracy]
    chart = {
        "type": "PARALLEL",
        "selectedParams": ["arm", *axes],
        "selectedMetrics": [score],
        "showAllRuns": True,
    }
    return _charts(f"tags.`dh2l.kind` = 'trial' AND {_of(plan)}", score, [chart], columns=1)


def _curves(plan: Plan) -> ViewState:
    """Draw the curves behind the numbers of the table, each the mean over the seeds of a cell."""
    arms = {cell.key.arm for cell in plan.cells}
    rows = {(cell.key.arm, cell.key.row) for cell in plan.cells}
    groups = [("param", "arm")]
    if len(rows) > len(arms):
        groups.append(("tag", "row"))
    if len({cell.key.column for cell in plan.cells}) > 1:
        groups.append(("tag", "column"))
    charts = [
        LINE_CHART | {"metricKey": name, "selectedMetricKeys": [name]} for name in CURVE_METRICS
    ]
    query = f"{_of(plan)} AND tags.in_table = 'yes'"
    keys = [{"mode": mode, "groupByData": name} for mode, name in groups]
    state = _charts(query, "test_accuracy", charts, columns=len(charts))
    return state | {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "useGroupedValuesInCharts": True,
    }


def _of(plan: Plan) -> str:
    return f"tags.`dh2l.study` = '{plan.name}'"


def _charts(query: str, score: str, charts: list[dict[str, Any]], columns: int) -> ViewState:
    """Return a section of charts beside all the runs that a query finds, not only the first ten.

    The runs are sorted by a metric, because the UI folds runs that are sorted by time under their
    study, and draws none of them.
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
    fixed = {
        "metricSectionId": "charts",
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }
    return DEFAULTS | {
        "searchFilter": query,
        "orderByKey": f"metrics.`{score}`",
        "orderByAsc": False,
        "selectedColumns": ["params.`arm`", f"metrics.`{score}`"],
        "viewMaximized": False,
        "runsHiddenMode": "SHOW_ALL",
        "runsVisibilityMap": {},
        "compareRunSections": [section],
        "compareRunCharts": [
            {"uuid": f"chart-{number}"} | fixed | chart for number, chart in enumerate(charts)
        ],
    }
