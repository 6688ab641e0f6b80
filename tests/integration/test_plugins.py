"""Users' plugins: what a file or a module may register, who gets it, and what its edits make
new.
"""

import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from study_fixtures import CommandLine, clean_environment, command, done, write_study
from tiny_data import EH, run, tiny_config

from dh2l import plugins
from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError
from dh2l.pairwise.penalties import pairwise_penalty
from dh2l.registry import register as registry
from dh2l.registry.entries import METRICS, MODELS
from dh2l.registry.register import source_hash
from study.execution.estimate.gpu_sharing import SharingTask, side_by_side
from study.execution.trial import train_one_step
from study.records.paths import Places
from study.records.store import RecordStore

pytestmark = pytest.mark.usefixtures("forgotten")

OWN = """\
from dh2l.registry import penalty, regulariser

SHARPNESS = 4


@penalty("sharp", label="sharp cosine")
def sharp(cos):
    return (SHARPNESS * cos).exp() / SHARPNESS


@regulariser("spread")
def spread(vectors, *, power=2.0, scope="all"):
    lengths = [w.norm(dim=1) for w in vectors.of(scope)]
    return sum((n / n.mean().detach() - 1).abs().pow(power).mean() for n in lengths)
"""
STUDY = """\
title: A user's own
config: {dataset: digits, epochs: 1, batch_size: 256}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E, metric: sharp, set: {lambda_e: 0.1}}
  - {arm: spread, set: {spread_power: 1.5}, search: {lambda_spread: {grid: [0.01, 0.1]}}}
seeds: [0]
"""


def plugin_file(folder: Path, text: str = OWN, name: str = "own.py") -> Path:
    """A user's file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_registers_what_it_defines_under_the_hash_of_its_bytes(tmp_path: Path) -> None:
    plugin = plugins.load(str(plugin_file(tmp_path)))
    assert (
        plugin.hash
        == source_hash(OWN.encode())
        == METRICS["sharp"].source
        == registry.REGULARISERS["spread"].source
    )
    assert METRICS["sharp"].display_label == "sharp cosine"
    assert registry.REGULARISERS["spread"].fields == {
        "lambda_spread": 0.0,
        "spread_power": 2.0,
        "spread_scope": "all",
    }
    W = torch.tensor([[1.0, 0], [0, 1]])
    assert pairwise_penalty("sharp", W).tolist() == [[0, 0.25], [0.25, 0]]
    config = TrainConfig.parse(
        {"metric": "sharp", "lambda_e": 1, "lambda_spread": 0.5, "spread_power": 3}
    )
    assert config.arm == "E+spread"
    assert config.canonical()["sources"] == {"sharp": plugin.hash, "spread": plugin.hash}


def test_loading_the_same_source_twice_does_nothing(tmp_path: Path) -> None:
    first = plugins.load(str(plugin_file(tmp_path)))
    function = METRICS["sharp"].function
    assert plugins.load(str(tmp_path / "own.py")) == first
    plugins.load(str(plugin_file(tmp_path, name="copy.py")))
    assert METRICS["sharp"].function is function


def test_a_worker_runs_the_text_that_it_was_sent(tmp_path: Path) -> None:
    """Not the file, which may have changed by then, or be on another machine."""
    sent = pickle.dumps(plugins.load(str(plugin_file(tmp_path))))
    for name in ("sharp", "spread"):
        METRICS.pop(name, None)
        registry.REGULARISERS.pop(name, None)
    del sys.modules[f"dh2l_plugin_{source_hash(OWN.encode())}"]
    (tmp_path / "own.py").unlink()
    plugin: plugins.Plugin = pickle.loads(sent)  # noqa: S301 our own
    plugin.load()
    plugin.load()
    assert METRICS["sharp"].source == plugin.hash


def test_what_a_file_defines_may_be_a_dataclass_and_may_be_pickled(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n\n\n@dataclass\nclass Point:\n    x: 'int' = 3\n"
    plugin = plugins.load(str(plugin_file(tmp_path, text)))
    point = sys.modules[f"dh2l_plugin_{plugin.hash}"].Point(5)
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301 our own


def test_a_class_may_be_a_model_and_a_partial_a_penalty(tmp_path: Path) -> None:
    text = (
        "from functools import partial\nfrom dh2l.registry import model, penalty\n\n\n"
        "@model('small')\nclass Small:\n    pass\n\n\ndef power(cos, n):\n    return cos ** n\n\n\n"
        "penalty('cubed')(partial(power, n=3))\n"
    )
    plugin = plugins.load(str(plugin_file(tmp_path, text)))
    assert MODELS["small"].source == METRICS["cubed"].source == plugin.hash


MODEL = """\
from torch import nn

from dh2l.registry import model


@model("small")
class Small(nn.Module):
    n_features = 5

    def __init__(self, request):
        super().__init__()
        self.conv = nn.Conv2d(request.in_channels, 5, 3)

    def forward(self, images):
        return self.conv(images).relu().mean(dim=(2, 3))
"""


def test_a_users_model_trains_with_every_regulariser_and_its_source_is_part_of_the_trial(
    tmp_path: Path,
) -> None:
    first = plugins.load(str(plugin_file(tmp_path, MODEL)))
    plugins.load(str(plugin_file(tmp_path, name="penalties.py")))
    config = tiny_config(**{**EH, "metric": "sharp"}, model="small", lambda_spread=0.1)
    assert config.canonical()["sources"]["small"] == first.hash
    _, result = run(config)
    assert result.vectors.shape == (7, 5)
    assert result.parameters == 3 * 5 * 9 + 5 + (7 + 4) * 5
    assert {"energy_conv", "r_p_2", "regulariser_spread"} <= result.history.keys()


@pytest.mark.parametrize("package", [False, True])
def test_a_module_is_hashed_over_its_file_and_a_package_over_all_of_its(
    package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"users_{'package' if package else 'module'}"
    if package:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(
            f"from {name}.inner import losses\n", encoding="utf-8"
        )
        (tmp_path / name / "inner" / "losses.py").write_text(OWN, encoding="utf-8")
    else:
        plugin_file(tmp_path, name=f"{name}.py")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = plugins.load(name)
    for loaded in [known for known in sys.modules if known.split(".")[0] == name]:
        del sys.modules[loaded]
    assert plugin.text is None
    assert METRICS["sharp"].source == plugin.hash
    assert (plugin.hash == source_hash(OWN.encode())) == (not package)


def test_a_module_that_is_another_on_a_worker_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin_file(tmp_path, name="users_other.py")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = plugins.load("users_other")
    plugins.Plugin("users_other", None, plugin.hash).load()
    with pytest.raises(
        UserError, match=r"the plugin users_other is another here than where the run began \(hash "
    ):
        plugins.Plugin("users_other", None, "0" * 12).load()
    del sys.modules["users_other"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:\n", ":1: the plugin {path} is not valid Python (invalid syntax)"),
        (
            "x = 1\ny = x / 0\n",
            ":2: the plugin {path} cannot be loaded: it raised ZeroDivisionError: division by zero",
        ),
        (
            "import nothing_of_this_name\n",
            ":1: the plugin {path} cannot be loaded: it raised ModuleNotFoundError: ",
        ),
        (
            "raise SystemExit(3)\n",
            ":1: the plugin {path} cannot be loaded: it raised SystemExit: 3",
        ),
        (
            OWN.replace('"sharp"', '"cosine"'),
            ":6: the plugin {path} cannot be loaded: the penalty cosine is registered already; "
            "give yours another name",
        ),
        (
            OWN.replace('"spread"', '"mma"'),
            ":11: the plugin {path} cannot be loaded: the regulariser mma is ",
        ),
        (
            OWN.replace('"spread"', '"E"'),
            ":11: the plugin {path} cannot be loaded: 'E' cannot name a regulariser",
        ),
        (
            OWN.replace("power=2.0", "power"),
            ":11: the plugin {path} cannot be loaded: the argument power of the ",
        ),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line_and_nothing_stays_registered(
    tmp_path: Path, cli: CommandLine, text: str, sentence: str
) -> None:
    before = (list(METRICS), list(registry.REGULARISERS))
    path = plugin_file(tmp_path, text)
    said = cli.mistake("schema", "--plugin", path, placed=False)
    assert said.startswith(f"{path}{sentence.format(path=path)}")
    assert (list(METRICS), list(registry.REGULARISERS)) == before
    assert f"dh2l_plugin_{source_hash(text.encode())}" not in sys.modules


@pytest.mark.parametrize(
    "name", ["no_such_module", "no_such.module", "no-such", "missing.py", "nowhere/missing"]
)
def test_a_plugin_that_is_not_there_is_a_sentence(cli: CommandLine, name: str) -> None:
    said = cli.mistake("schema", "--plugin", name, placed=False)
    if name.startswith(("missing", "nowhere")):
        assert (
            said
            == f"the plugin {name} cannot be read (No such file or directory); give a Python file"
        )
    else:
        assert said.startswith(
            f"there is no plugin '{name}': no such file, and no module of that name"
        )


def test_without_its_plugin_a_study_is_a_mistake_that_names_what_is_not_known(
    tmp_path: Path, cli: CommandLine
) -> None:
    code, _, error = cli("plan", write_study(tmp_path, STUDY))
    assert code == 2
    assert "unknown metric 'sharp'" in error
    assert "unknown config field 'lambda_spread'" in error


def test_a_study_file_cannot_name_a_plugin(tmp_path: Path, cli: CommandLine) -> None:
    study = write_study(tmp_path, f"plugin: {plugin_file(tmp_path)}\n{STUDY}")
    code, _, error = cli("plan", study)
    assert code == 2
    assert "unknown key 'plugin'" in error
    assert "sharp" not in METRICS


def test_the_schema_knows_a_plugins_names(tmp_path: Path, cli: CommandLine) -> None:
    code, printed, _ = cli("schema", "--plugin", plugin_file(tmp_path), placed=False)
    assert code == 0
    assert {"lambda_spread", "spread_power"} <= set(
        json.loads(printed)["properties"]["config"]["properties"]
    )


def test_plugins_are_also_read_from_the_environment(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = OWN.split("\n\n\n@regulariser")
    files = [
        plugin_file(tmp_path, first + "\n", "a.py"),
        plugin_file(tmp_path, first.split("\n")[0] + "\n\n\n@regulariser" + second, "b.py"),
    ]
    monkeypatch.setenv("DH2L_PLUGINS", ":".join(map(str, files)))
    code, printed, error = cli("plan", write_study(tmp_path, STUDY))
    assert code == 0, error
    assert "4 trials in 3 cells" in printed


def test_trials_side_by_side_load_the_plugin_however_long(tmp_path: Path, digits: Path) -> None:
    plugin = plugins.load(str(plugin_file(tmp_path, OWN + f"# {'long' * 50_000}\n")))
    config = TrainConfig.parse(
        {"dataset": "digits", "batch_size": 64, "metric": "sharp", "lambda_e": 0.1}
    )
    bound = bind(config, read_manifest("digits", digits))
    assert (
        side_by_side(
            SharingTask(bound, digits, device="cpu", seconds=0.2, plugins=[plugin]), 1
        ).images_per_s
        > 0
    )
    with pytest.raises(UserError, match="cannot be measured side by side"):
        side_by_side(SharingTask(bound, digits, device="cpu", seconds=0.2), 1)


def trials(study: Path, places: Places, plugin: Path) -> dict[str, str]:
    """Every trial of the study with its state, as `plan` in a process of its own says."""
    ended = command(
        "plan",
        study,
        "--results",
        places.results,
        "--data",
        places.data,
        "--json",
        "--plugin",
        plugin,
    )
    assert ended.returncode == 0, ended.stderr
    return {trial["identity"]: trial["state"] for trial in json.loads(ended.stdout)["trials"]}


def test_a_users_penalty_and_regulariser_are_rows_of_a_table_and_an_edit_makes_their_trials_new(
    tmp_path: Path, digits: Path
) -> None:
    """Through Ray, from a file outside the project; the searched weight is chosen on validation."""
    places, study, plugin = (
        Places.of(tmp_path / "results", digits),
        write_study(tmp_path, STUDY),
        plugin_file(tmp_path),
    )
    words = ["--results", places.results, "--data", places.data]
    ended = command(
        "run", study, *words, "--no-mlflow", "--plugin", plugin, environment=clean_environment()
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert ended.stderr == ""
    accuracies, evidence = (
        [line for line in part.splitlines() if line.startswith("| ")][1:]
        for part in ended.stdout.split("## Super-class")[0].split("## What each number is worth")
    )
    assert len(accuracies) == len(evidence) == 3
    assert all("(n=1)" in row for row in accuracies)
    assert accuracies[1].startswith("| sharp cosine")
    assert re.search(r"lambda_spread=0\.\d+ \(of 2\)", evidence[2])

    before = trials(study, places, plugin)
    assert list(before.values()) == ["done"] * 4
    plugin_file(tmp_path, OWN.replace("SHARPNESS = 4", "SHARPNESS = 5"))
    after = trials(study, places, plugin)
    assert [identity for identity in after if identity in before] == [
        i for i in before if "baseline" in i
    ]
    assert sorted(after.values()) == ["done", "planned", "planned", "planned"]


def test_records_of_a_plugin_that_is_not_loaded_trouble_no_other_study(
    tmp_path: Path, cli: CommandLine
) -> None:
    plugins.load(str(plugin_file(tmp_path)))
    config = TrainConfig.parse(
        {"dataset": "digits", "metric": "sharp", "lambda_e": 1, "lambda_spread": 0.5}
    )
    RecordStore(cli.places.trials).write(done(config, 90))
    for name in ("sharp", "spread"):
        METRICS.pop(name, None)
        registry.REGULARISERS.pop(name, None)
    own = STUDY.split("  - {arm: E")[0] + "seeds: [0]\n"
    for verb in ("plan", "status", "table"):
        code, _, error = cli(verb, write_study(tmp_path, own))
        assert (code, error) == (0, "")


@pytest.mark.parametrize(
    ("name", "argument", "field"),
    [("l", "power", "lambda_l"), ("batch", "size", "batch_size"), ("mma", "scope", "")],
)
def test_a_regulariser_cannot_take_a_config_field_that_there_is(
    name: str, argument: str, field: str
) -> None:
    names: dict[str, Callable[..., object]] = {}
    exec(f"def own(vectors, *, {argument}=1.0): return vectors.zero", names)  # noqa: S102 one function a case
    with pytest.raises(UserError) as caught:  # noqa: PT012 the name is refused before the function is seen, or after
        register = registry.regulariser(name)
        register(names["own"])
    said = f"the regulariser {name} would have the config field {field}, which there is already"
    assert str(caught.value) == (
        said if field else "the regulariser mma is registered already; give yours another name"
    )


def test_a_reserved_field_is_refused_after_its_regulariser_too() -> None:
    registry.regulariser("early")(lambda vectors, *, power=1.0: vectors.zero * power)
    with pytest.raises(
        UserError,
        match="the regulariser early would have the config field early_power, which there",
    ):
        registry.reserve_fields(["early_power"])
    assert "early_power" not in registry.RESERVED_FIELDS


FAULTY = """\
import torch
from torch import nn

from dh2l import data
from dh2l.registry import model, penalty, regulariser


def helper(values):
    return values @ torch.zeros(3, 3)


@penalty("faulty")
def faulty(cos):
    return helper(cos) + 1


@regulariser("bad")
def bad(vectors):
    return vectors.nothing


class Small(nn.Module):
    n_features = 5

    def forward(self, images):
        if self.training:
            return images @ torch.zeros(3, 3)
        return torch.zeros(len(images), 5)


@model("late")
def late(request):
    return Small()


@model("early")
def early(request, shape):
    return Small()


@data.register("unread")
def unread(source, downloads, report):
    return {}["images"]
"""


@pytest.mark.parametrize(
    ("fields", "line", "said", "kind"),
    [
        (
            {"lambda_e": 0.1, "metric": "faulty"},
            9,
            "the penalty faulty raised RuntimeError: ",
            "UserError",
        ),
        ({"lambda_bad": 0.1}, 19, "the regulariser bad raised AttributeError: ", "UserError"),
        ({"model": "late"}, 27, "", "RuntimeError"),
        ({"model": "early"}, 36, "the model early raised TypeError: ", "UserError"),
    ],
)
def test_a_failure_in_a_users_code_has_its_line_first(
    fields: dict[str, object], line: int, said: str, kind: str, tmp_path: Path, places: Places
) -> None:
    path = plugin_file(tmp_path, FAULTY)
    plugins.load(str(path))
    config = TrainConfig.parse({"dataset": "digits", "batch_size": 512, **fields})
    failure = train_one_step(config, places, device="cpu", threads=1)
    assert failure is not None
    assert failure.kind == kind
    assert failure.message.startswith(f"{path}:{line}: {said}")
    assert failure.message.count(str(path)) == 1
    if line != 36:
        assert f'File "{path}", line {line}' in failure.traceback
    assert ("UserError: " in failure.traceback.splitlines()[-1]) == (kind == "UserError")


def test_what_a_users_code_raises_outside_of_trials_is_a_sentence_with_its_line(
    tmp_path: Path, cli: CommandLine
) -> None:
    path = plugin_file(tmp_path, FAULTY)
    said = cli.mistake(
        "data",
        "prepare",
        "unread",
        "--from",
        tmp_path,
        "--plugin",
        path,
        "--data",
        tmp_path,
        placed=False,
    )
    assert said == f"{path}:43: the plugin raised KeyError: 'images'"


def test_a_number_that_is_not_whole_is_refused_where_a_whole_one_is_meant() -> None:
    registry.regulariser("own")(lambda vectors, *, rows=2: rows * vectors.zero)
    assert TrainConfig.parse({"lambda_own": 1, "own_rows": 3}).regularisers == {
        "lambda_own": 1.0,
        "own_rows": 3,
    }
    with pytest.raises(UserError, match=r"own_rows is 2\.5, but must be a whole number"):
        TrainConfig.parse({"lambda_own": 1, "own_rows": 2.5})
