"""SGD with the parameter groups of section 4.2."""

from inspect import unwrap

import torch
from torch import nn

from dh2l.config.train_config import TrainConfig
from dh2l.models.network import Network


class SGD(torch.optim.SGD):
    """Torch's SGD without the wrappers that keep its methods out of compiled code.

    The first call of one so wrapped imports torch's compiler: three seconds of every worker's
    start.
    """

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
    state_dict = unwrap(torch.optim.SGD.state_dict)
    load_state_dict = unwrap(torch.optim.SGD.load_state_dict)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    add_param_group = unwrap(torch.optim.SGD.add_param_group)


def make_optimizer(config: TrainConfig, network: Network) -> SGD:
    """Make SGD with weight decay on weights, surface vectors and centres.

    Batch norm (D14) and the logit scale have none.
    """
    exempt = {f"classifier.{name}" for name in network.classifier.no_decay}
    if not config.decay_batch_norm:
        for module_name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                exempt |= {f"{module_name}.{name}" for name, _ in module.named_parameters()}
    decayed = [p for name, p in network.named_parameters() if name not in exempt]
    free = [p for name, p in network.named_parameters() if name in exempt]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
