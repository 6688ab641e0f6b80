"""Learning rates of the steps of an epoch."""

import math
from collections.abc import Callable

from dh2l.config.train_config import TrainConfig

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "rex": lambda t: (1 - t) / (1 - t / 2),
}
"""Decay from 1 at t = 0 to 0 at t = 1: linear (Li et al., arXiv 1905.04753), cosine, REX (arXiv
2107.04197)."""


def learning_rates(config: TrainConfig, epoch: int, n_steps: int) -> list[float]:
    """Compute the learning rate of each step of an epoch (D13).

    Under `schedule: steps` the rate is constant within an epoch. Under the others it rises linearly
    to `lr` over the steps of `warmup_epochs`, then decays to `lr_final` over the N steps that are
    left: step k of these has rate lr_final + (lr − lr_final)·f(k/(N − 1)).

    Args:
        config: the trial.
        epoch: the epoch, counted from 1.
        n_steps: steps of an epoch.

    Returns:
        `n_steps` rates.
    """
    if config.schedule == "steps":
        return [_stepped(config, epoch)] * n_steps
    decay = DECAYS[config.schedule]
    warm_up = config.warmup_epochs * n_steps
    last = max(1, config.epochs * n_steps - warm_up - 1)
    rates = []
    for number in range((epoch - 1) * n_steps, epoch * n_steps):
        if number < warm_up:
            rates.append(config.lr * (number + 1) / warm_up)
        else:
            rates.append(
                config.lr_final + (config.lr - config.lr_final) * decay((number - warm_up) / last)
            )
    return rates


def _stepped(config: TrainConfig, epoch: int) -> float:
    """Rate of an epoch that drops at the milestones, after a warm-up by epochs."""
    done = epoch - 1
    drops = sum(
        done >= milestone * config.epochs - 1e-9 for milestone in config.lr_milestones
    )  # 0.55·100 > 55
    rise = min(1.0, epoch / config.warmup_epochs) if config.warmup_epochs else 1.0
    return config.lr * config.lr_gamma**drops * rise
