"""Steps of SGD, which a GPU can record once and replay."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from dh2l.errors import first_line
from dh2l.training.batches import Normalise, TrainBatches
from dh2l.training.objective import Loss, Objective

WARM_UP = 3
"""Steps of a batch size that run plainly before it is recorded: they choose kernels and fill
caches."""


class Step:
    """A step on the batch at its own counter, which adds up losses and right answers.

    Everything that changes from call to call is in tensors that keep their addresses, the learning
    rate too on a GPU; nothing is read back before the end of an epoch.

    Args:
        objective: the loss.
        optimizer: takes the step.
        normalise: makes the network's input of images.
        batches: the source of images.
        micro_batch: images that go through the network at a time, where a batch does not fit.

    Attributes:
        sums: of each of the loss's terms over the epoch's images, ``(T,)``.
        right: images whose class was predicted, a scalar.
        first_bad: of each term the number of the first step at which it was not finite, ``(T,)``;
            `NEVER` if none.
    """

    NEVER = torch.iinfo(torch.int64).max

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        normalise: Normalise,
        batches: TrainBatches,
        micro_batch: int | None = None,
    ) -> None:
        device, n_terms = normalise.scale.device, len(objective.terms)
        self._objective, self._optimizer, self._normalise, self._batches = (
            objective,
            optimizer,
            normalise,
            batches,
        )
        self._micro_batch = micro_batch
        self.sums = torch.zeros(n_terms, device=device)
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad = torch.zeros(n_terms, dtype=torch.int64, device=device)
        self._position, self._number = torch.zeros_like(self.right), torch.zeros_like(self.right)
        self._rate = torch.zeros((), device=device) if device.type == "cuda" else None
        self._rates = torch.zeros(len(batches.sizes), device=device)
        self._host_rates: Iterator[float] = iter(())

    def begin(self, epoch: int, rates: Sequence[float]) -> None:
        """Start an epoch, with the learning rate of each of its steps."""
        self._batches.begin(epoch)
        for counter in (self.sums, self.right, self._position, self._number):
            counter.zero_()
        self.first_bad.fill_(self.NEVER)
        if self._rate is None:
            self._host_rates = iter(rates)
        else:
            self._rates.copy_(torch.tensor(rates))
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate

    def __call__(self, size: int) -> None:
        """One step on the next `size` images."""
        images, labels = self._batches.at(self._position, size)
        self._set_rate()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._backward(images, labels)
        self._optimizer.step()
        self.sums += loss.terms * size
        self.right += (loss.logits.argmax(dim=1) == labels).sum()
        bad = torch.where(loss.terms.isfinite(), self.NEVER, self._number)
        torch.minimum(self.first_bad, bad, out=self.first_bad)
        self._objective.note(loss, size)
        self._position += size
        self._number += 1

    def _set_rate(self) -> None:
        """Set the learning rate of this step; on a GPU by a copy that a recorded step repeats."""
        if self._rate is not None:
            self._rate.copy_(self._rates.index_select(0, self._number.view(1)).view(()))
            return
        rate = next(self._host_rates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _backward(self, images: Tensor, labels: Tensor) -> Loss:
        """Compute a batch's gradients at once, or part by part and then the regularisers'."""
        n, part = len(labels), self._micro_batch
        if part is None or part >= n:
            loss = self._objective(self._normalise(images), labels)
            loss.total.backward()  # type: ignore[no-untyped-call]
            return loss
        cross_entropy, logits = torch.zeros((), device=labels.device), []
        for some, their_labels in zip(
            torch.split(images, part), torch.split(labels, part), strict=True
        ):
            mean, found = self._objective.cross_entropy(self._normalise(some), their_labels)
            share = mean * (len(their_labels) / n)
            share.backward()  # type: ignore[no-untyped-call]
            cross_entropy += share.detach()
            logits.append(found)
        loss = self._objective.regularisation(labels, cross_entropy, torch.cat(logits))
        if loss.total.requires_grad:
            loss.total.backward()  # type: ignore[no-untyped-call]
        return loss


class CudaGraphStep:
    """A step that runs plainly a few times, then replays as one CUDA graph per batch size.

    A graph launches all kernels of a step at once: a small network's are over before the host has
    launched the next one. A step that cannot be recorded goes on plainly, with the same results.

    Args:
        step: one call's work; it may use nothing but tensors that keep their addresses.
        device: a CUDA device.

    Attributes:
        problem: the reason why the step is not recorded; empty if there is none.
    """

    def __init__(self, step: Callable[[int], None], device: torch.device) -> None:
        self._step = step
        self._stream = _stream(device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._seen = Counter[int]()
        self.problem = ""

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Call steps inside the context on their own stream, the one that is recorded."""
        current = torch.cuda.current_stream(
            self._stream.device
        )  # of the trial's device, whichever is current
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def __call__(self, size: int) -> None:
        """One step, replayed where it has been recorded."""
        if size in self._graphs:
            self._graphs[size].replay()
            return
        if self._seen[size] < WARM_UP or self.problem or not self._record(size):
            self._seen[size] += 1
            self._step(size)

    def _record(self, size: int) -> bool:
        """Record a step and replay it once: recording itself computes nothing."""
        # No two graphs run at a time and none leaves anything in its memory for another, so all
        # share it.
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                self._step(size)
        except RuntimeError as error:
            # An operation that breaks a recording is reported twice; the second time, as it ends,
            # without the cause.
            self.problem = first_line(error.__context__ or error)
            return False
        self._graphs[size] = graph
        graph.replay()
        return True


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of recorded steps: one a process, because each has a cuBLAS workspace."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
