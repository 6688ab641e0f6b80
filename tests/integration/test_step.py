"""The step in place against the loop that one would write, and recorded on a GPU against itself."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_fixtures import needs_gpu, no_waiting
from sphere_oracle import UNBALANCED
from tiny_data import (
    EH,
    H0,
    TIMES,
    E,
    H,
    epoch_batches,
    numbers,
    one_thread,
    run,
    tiny,
    tiny_config,
)
from torch import Tensor
from torch._inductor import config as inductor

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.models.network import build_network
from dh2l.registry.entries import MODELS, Model
from dh2l.training import step
from dh2l.training.batches import Normalise, make_splits
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.objective import Objective
from dh2l.training.step import WARM_UP, Step
from dh2l.training.trainer import train
from dh2l.training.training_state import Training

CPU = torch.device("cpu")
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "E": E,
    "H": H,
    "H0": H0,
    "E+H": {**EH, "lambda_c2": 0.1},
}
MORE: dict[str, dict[str, Any]] = {
    "augmented, in parts": {
        **H0,
        "lambda_c2": 0.1,
        "lambda_c3": 0.5,
        "constraint_form": "augmented",
        "micro_batch": 3,
    },
    "rivals": {"lambda_mma": 0.1, "lambda_orthogonality": 0.01},
    "orthogonal centres, half-space": {**EH, "metric": "half_angular2", "lambda_o": 0.1},
}


def plain_loop(
    config: TrainConfig, epochs: int
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses and final parameters of a loop without any of the fast forms: SGD written out,
    `.item()` at each step.
    """
    data = tiny()
    network = build_network(config, UNBALANCED, (8, 8, 3))
    objective = Objective(config, network, UNBALANCED)
    normalise = Normalise(data.manifest.mean, data.manifest.std, CPU)
    split = make_splits(config, data, CPU).train
    momentum = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    history = []
    for epoch in range(1, epochs + 1):
        loss_sum, right = 0.0, 0
        batches = epoch_batches(
            split, batch_size=8, padding=1, flip=True, seed=config.seed, epoch=epoch
        )
        for images, labels in batches:
            loss = objective(normalise(images), labels)
            network.zero_grad()
            loss.total.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for name, p in network.named_parameters():
                    assert p.grad is not None
                    slope = p.grad + (0 if "bn" in name else config.weight_decay) * p
                    momentum[name] = config.momentum * momentum[name] + slope
                    p.sub_(config.lr * momentum[name])
            loss_sum += loss.total.item() * len(labels)
            right += int((loss.logits.argmax(dim=1) == labels).sum().item())
        history.append({"train_loss": loss_sum / len(split), "train_accuracy": right / len(split)})
    return history, dict(network.named_parameters())


@pytest.mark.parametrize("arm", ARMS)
def test_the_epochs_of_the_fast_step_are_those_of_the_plain_loop(arm: str) -> None:
    """Channels-last, fused SGD, sums in place: the same losses within float32's rounding.

    Parameters are compared by their update. Rounding differs by processor, and ReLUs amplify it.
    """
    config = tiny_config(**ARMS[arm], lr=0.001, lr_milestones=[])
    with one_thread():
        training = Training(config, tiny(), CPU)
        expected, parameters = plain_loop(config, epochs=2)
        for epoch, metrics in enumerate(expected, start=1):
            found = training.train_epoch(epoch)
            assert found["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-3)
            assert found["train_accuracy"] == metrics["train_accuracy"]
    before = dict(build_network(config, UNBALANCED, (8, 8, 3)).named_parameters())
    for name, p in training.network.named_parameters():
        update = (parameters[name] - before[name]).norm()
        assert (p - parameters[name]).norm() <= 0.2 * update + 1e-6, name


def accumulating_loop(config: TrainConfig, part: int) -> dict[str, Tensor]:
    """The parameters after one epoch of plain SGD: each batch part by part, its gradients added up
    by hand.
    """
    data = tiny()
    network = build_network(config, UNBALANCED, (8, 8, 3))
    objective = Objective(config, network, UNBALANCED)
    normalise = Normalise(data.manifest.mean, data.manifest.std, CPU)
    split = make_splits(config, data, CPU).train
    bare = Objective(
        config.model_copy(update={"lambda_l": 0.0, "lambda_c2": 0.0, "lambda_e": 0.0}),
        network,
        UNBALANCED,
    )
    for images, labels in epoch_batches(
        split, batch_size=8, padding=1, flip=True, seed=config.seed, epoch=1
    ):
        network.zero_grad()
        for i in range(0, len(labels), part):
            mean = bare(normalise(images[i : i + part]), labels[i : i + part]).total
            (mean * len(labels[i : i + part]) / len(labels)).backward()  # type: ignore[no-untyped-call]
        loss = objective.regularisation(labels, torch.zeros(()), torch.zeros(()))
        if loss.total.requires_grad:
            loss.total.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p in network.parameters():
                assert p.grad is not None
                p.sub_(config.lr * p.grad)
    return dict(network.named_parameters())


@pytest.mark.parametrize("arm", ARMS)
def test_a_batch_in_parts_adds_up_to_the_whole_batchs_gradients(arm: str) -> None:
    """Batches of 8 and a last one of 3, in parts of 3, 3, 2 and of 3."""
    values = {**ARMS[arm], "momentum": 0.0, "weight_decay": 0.0, "lr": 0.01}
    with one_thread():
        training = Training(tiny_config(**values, micro_batch=3), tiny(), CPU)
        training.train_epoch(1)
        parameters = accumulating_loop(tiny_config(**values), 3)
        for name, p in training.network.named_parameters():
            torch.testing.assert_close(p, parameters[name], rtol=1e-3, atol=1e-5)


def test_without_batch_norm_parts_change_nothing() -> None:
    """With batch norm frozen the same network sees the same images: loss, right answers and weights
    are the whole's.
    """
    found = []
    with one_thread():
        for part in (None, 3):
            training = Training(tiny_config(**EH, lr=0.01, micro_batch=part), tiny(), CPU)
            training.network.eval()
            metrics = training.train_epoch(1)
            found.append(
                (metrics, torch.cat([p.detach().flatten() for p in training.network.parameters()]))
            )
    (whole, weights), (parts, same_weights) = found
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(same_weights, weights, rtol=1e-4, atol=1e-6)


def test_seen_means_the_whole_batch_also_in_parts() -> None:
    """Two classes of one sphere in different parts are a pair."""
    values = {**H, "metric": "cosine"}
    network = build_network(tiny_config(**values), UNBALANCED, (8, 8, 3))
    objective = Objective(tiny_config(**values), network, UNBALANCED)
    together = objective(torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 2, 2])).terms[1]
    assert (
        objective.regularisation(
            torch.tensor([0, 0, 2, 2]), torch.zeros(()), torch.zeros(())
        ).terms[1]
        == together
    )
    assert (
        objective.regularisation(torch.tensor([0, 0]), torch.zeros(()), torch.zeros(())).terms[1]
        == 0
        != together
    )


@pytest.mark.parametrize("micro_batch", [8, 100])
def test_a_part_as_large_as_the_batch_is_the_whole_bit_for_bit(micro_batch: int) -> None:
    assert numbers(run(tiny_config(**EH, micro_batch=micro_batch))[1]) == numbers(
        run(tiny_config(**EH))[1]
    )


def test_the_multipliers_of_a_step_stay_where_they_are_and_grow_once_an_epoch() -> None:
    """By ρ times the mean of the epoch's violations, each batch weighted by its images."""
    values = {
        **H0,
        "lambda_c3": 0.5,
        "constraint_form": "augmented",
        "batch_structure": "all",
        "lr": 1e-12,
    }
    with one_thread():
        training = Training(tiny_config(**values), tiny(), CPU)
        multipliers = training.objective.multipliers
        assert multipliers is not None
        place = multipliers.values.data_ptr()
        v = training.objective.values()["violation_c3"].item()
        assert v > 0
        for epoch in (1, 2, 3):
            training.train_epoch(epoch)
            assert multipliers.values.tolist() == [[pytest.approx(0.5 * v * epoch, rel=1e-4)]]
    assert multipliers.values.data_ptr() == place


COMPILED = {**EH, "model": "resnet8", "lr": 0.001, "compiled": True, "batch_size": 35}


@pytest.fixture
def resnet8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least network of the family, which is compiled sooner."""
    monkeypatch.setitem(MODELS, "resnet8", Model("resnet8", "dh2l.models.resnet:cifar_resnet", 8))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.usefixtures("resnet8")
def test_a_compiled_trial_gives_the_numbers_of_the_plain_one_within_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (*_, expected), _ = run(tiny_config(**COMPILED | {"compiled": False}))
    (*_, found), result = run(tiny_config(**COMPILED))
    assert "not_compiled" not in result.attempts[0]
    assert any(tmp_path.rglob("*.cpp"))
    for name in ("train_loss", "validation_loss", "test_loss", "energy_conv", "r_p_2"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-3)


@pytest.mark.usefixtures("resnet8")
def test_a_trial_that_cannot_be_compiled_trains_plainly_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    _, expected = run(tiny_config(**COMPILED | {"compiled": False}))
    _, found = run(tiny_config(**COMPILED))
    assert "no-compiler" in found.attempts[0]["not_compiled"]
    assert numbers(found) == numbers(expected)


def test_everything_that_a_step_changes_stays_where_it_is() -> None:
    """The tensors of a recorded step must not move between epochs."""
    config = tiny_config(**EH)
    with one_thread():
        training = Training(config, tiny(), CPU)
        training.train_epoch(1)
        momenta = [s["momentum_buffer"] for s in training.optimizer.state.values()]
        tensors = [*training.network.state_dict().values(), *momenta]
        tensors += [value for value in vars(training.step).values() if isinstance(value, Tensor)]
        places = [t.data_ptr() for t in tensors]
        before = [t.clone() for t in tensors]
        training.train_epoch(2)
    assert [t.data_ptr() for t in tensors] == places
    assert sum(not torch.equal(a, b) for a, b in zip(tensors, before, strict=True)) > 100


def test_the_first_step_at_which_a_term_is_not_finite_is_kept() -> None:
    config = tiny_config(**E)
    with one_thread():
        training = Training(config, tiny(), CPU)
        training.begin_epoch(1)
        assert training.step.first_bad.tolist() == [Step.NEVER] * 2
        training.step(8)
        with torch.no_grad():
            training.network.conv_weights()[0][0, 0, 0, 0] = torch.inf
        training.step(8)
        training.step(8)
    assert training.step.first_bad.tolist() == [1, 1]


class FakeStream:
    """A CUDA stream as far as `CudaGraphStep` uses one, which notes whom it waits for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waited: list[FakeStream] = []

    def wait_stream(self, other: "FakeStream") -> None:
        self.waited.append(other)


class FakeCuda:
    """Recording and replaying without a GPU: what is called while a graph is recorded happens when
    it is replayed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: str = "") -> None:
        self.default = FakeStream(torch.device("cuda:1"))
        self.log: list[tuple[str, int]] = []
        self._recording: list[int] | None = None
        self._fails = fails
        monkeypatch.setattr(step, "_stream", FakeStream)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: {"cuda:1": self.default}[str(device)]
        )
        monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(self))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextmanager
    def graph(self, graph: "FakeGraph", *, pool: object, stream: FakeStream) -> Iterator[None]:
        assert stream.device == self.default.device
        graph.shares, self._recording = pool, graph.steps
        try:
            yield
        except RuntimeError:  # as torch does: the recording's end raises in place of what broke it
            raise RuntimeError("the recording ended in error")  # noqa: B904 the context is what is tested
        finally:
            self._recording = None

    def step(self, size: int) -> None:
        if self._recording is None:
            self.log.append(("plain", size))
        elif self._fails:
            raise RuntimeError(self._fails)
        else:
            self._recording.append(size)


class FakeGraph:
    """A CUDA graph: the steps that were called while it was recorded."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.steps: list[int] = []
        self.shares: object = None

    def pool(self) -> object:
        return self

    def replay(self) -> None:
        self._cuda.log += [("replayed", size) for size in self.steps]


SIZES = [8, 8, 3] * 5


def test_every_step_runs_once_plainly_first_and_then_replayed_by_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch)
    replayed = step.CudaGraphStep(cuda.step, torch.device("cuda:1"))
    for size in SIZES:
        replayed(size)
    seen = Counter[int]()
    for (way, size), expected in zip(cuda.log, SIZES, strict=True):
        assert (way, size) == ("plain" if seen[size] < WARM_UP else "replayed", expected)
        seen[size] += 1
    first, second = replayed._graphs[8], replayed._graphs[3]
    assert (first.shares, second.shares) == (None, first)  # type: ignore[attr-defined]


def test_a_step_that_cannot_be_recorded_runs_plainly_once_each_time_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch, fails="this operation waits\nfor the host")
    replayed = step.CudaGraphStep(cuda.step, torch.device("cuda:1"))
    for size in SIZES:
        replayed(size)
    assert cuda.log == [("plain", size) for size in SIZES]
    assert replayed.problem == "this operation waits"
    assert replayed._graphs == {}


def test_the_steps_stream_and_that_of_the_trials_own_device_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch)
    replayed = step.CudaGraphStep(cuda.step, torch.device("cuda:1"))
    own = replayed._stream
    with replayed.epoch():
        assert own.waited == [cuda.default]  # type: ignore[attr-defined]
        assert cuda.default.waited == []
    assert cuda.default.waited == [own]


def cuda_run(config: TrainConfig, *, replay: bool) -> list[dict[str, float | None]]:
    """Every epoch's metrics on the GPU, with or without recorded steps."""
    with numeric_settings(config, None):
        training = Training(bind(config, tiny().manifest), tiny(), torch.device("cuda"))
        training.start_attempt({})
        if not replay:
            training.replayed = None
        results = [training.epoch(epoch).metrics for epoch in range(1, config.epochs + 1)]
        if training.replayed is not None:
            assert training.replayed.problem == ""
            assert set(training.replayed._graphs) == set(training.batches.sizes)
    return [
        {name: value for name, value in metrics.items() if name not in TIMES} for metrics in results
    ]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("arm", ARMS | MORE)
def test_replayed_steps_give_the_numbers_of_plain_ones(arm: str) -> None:
    """With deterministic kernels bit for bit, over epochs that change the learning rate, and for
    both batch sizes.
    """
    config = tiny_config(
        **(ARMS | MORE)[arm], epochs=WARM_UP + 3, deterministic=True, lr_milestones=[0.5]
    )
    assert cuda_run(config, replay=True) == cuda_run(config, replay=False)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("schedule", ["linear", "cosine", "rex"])
def test_replayed_steps_take_the_rate_of_their_own_step(schedule: str) -> None:
    """A recorded step reads its rate on the device, so that a rate that changes in every step is
    not frozen.
    """
    config = tiny_config(epochs=WARM_UP + 3, deterministic=True, schedule=schedule, warmup_epochs=1)
    assert cuda_run(config, replay=True) == cuda_run(config, replay=False)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_replayed_steps_of_lower_precision_give_the_losses_of_plain_ones(precision: str) -> None:
    config = tiny_config(**EH, epochs=WARM_UP + 3, precision=precision)
    replayed, plain = cuda_run(config, replay=True), cuda_run(config, replay=False)
    for found, expected in zip(replayed, plain, strict=True):
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=5e-2)


@pytest.mark.gpu
@needs_gpu
def test_a_resumed_run_of_replayed_steps_is_the_straight_one(tmp_path: Path) -> None:
    config = tiny_config(**EH, epochs=8, deterministic=True)
    straight = [result.metrics for result in train(config, tiny(), device="cuda")]
    first = train(config, tiny(), device="cuda", checkpoints=tmp_path, checkpoint_seconds=0)
    cut = [next(first).metrics for _ in range(4)]
    first.close()
    rest = [result.metrics for result in train(config, tiny(), device="cuda", checkpoints=tmp_path)]
    for found, expected in zip([*cut, *rest], straight, strict=True):
        assert {k: v for k, v in found.items() if k not in TIMES} == {
            k: v for k, v in expected.items() if k not in TIMES
        }


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("arm", ARMS | MORE)
def test_no_step_waits_for_the_gpu(arm: str) -> None:
    config = tiny_config(**(ARMS | MORE)[arm])
    training = Training(config, tiny(), torch.device("cuda"))
    training.train_epoch(1)
    training.begin_epoch(2)
    with no_waiting():
        for size in training.batches:
            training.step(size)
