"""SGD as section 4.2 has it: its parameter groups, and the learning rate of each epoch."""

from inspect import unwrap

import torch
from torch import nn

from dh2l.config import TrainConfig
from dh2l.network import Network


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch, counted from 1: steps down at the milestones, after a linear warm-up (D13)."""
    done = epoch - 1
    drops = sum(done >= milestone * config.epochs - 1e-9 for milestone in config.lr_milestones)  # 0.55·100 > 55
    rise = min(1.0, epoch / config.warmup_epochs) if config.warmup_epochs else 1.0
    return config.lr * config.lr_gamma**drops * rise


class SGD(torch.optim.SGD):
    """Torch's SGD without the wrappers that keep its methods out of compiled code, where they never are here.

    The first call of one so wrapped imports torch's compiler: three seconds of every worker's start.
    """

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
    state_dict = unwrap(torch.optim.SGD.state_dict)
    load_state_dict = unwrap(torch.optim.SGD.load_state_dict)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    add_param_group = unwrap(torch.optim.SGD.add_param_group)


def make_optimizer(config: TrainConfig, network: Network) -> SGD:
    """SGD with weight decay on weights, surface vectors and centres, not on batch norm (D14) or the logit scale."""
    exempt = {f"classifier.{name}" for name in network.classifier.no_decay}
    if not config.decay_batch_norm:
        for module_name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                exempt |= {f"{module_name}.{name}" for name, _ in module.named_parameters()}
    decayed = [p for name, p in network.named_parameters() if name not in exempt]
    free = [p for name, p in network.named_parameters() if name in exempt]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
