"""The network of a trial: a backbone and a classifier on its features."""

from typing import cast

import torch
from torch import Tensor, nn

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError, call_user_code
from dh2l.hierarchy.classifier import Classifier, HierarchicalClassifier, PlainClassifier
from dh2l.models.pretrained import load_weights
from dh2l.models.resnet import BUILDERS, BackboneSpec, seeded
from dh2l.pairwise.energy import convolutions
from dh2l.registry.entries import MODELS
from dh2l.seeding import generator
from dh2l.tree import ClassTree


class Network(nn.Module):
    """Images ``(B, C, H, W)`` to logits ``(B, n_classes)``.

    Args:
        backbone: images to features ``(B, n_features)``.
        classifier: features to logits.
    """

    def __init__(self, backbone: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def features(self, x: Tensor) -> Tensor:
        """Images → features ``(B, n_features)``."""
        return self.backbone(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Images → logits ``(B, n_classes)``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]

    def conv_weights(self) -> list[nn.Parameter]:
        """Weights ``(c_out, c_in, k, k)`` of the backbone's 2-d convolutions, in module order."""
        return [cast("nn.Parameter", module.weight) for module in convolutions(self.backbone)]


def build_network(
    config: TrainConfig, tree: ClassTree, image_shape: tuple[int, int, int]
) -> Network:
    """Build the network of a config, initialised from its seed, or its backbone from weights.

    Backbone and classifier draw from separate streams: the arms of a study start from the same
    backbone.

    Args:
        config: the trial.
        tree: the classes.
        image_shape: height, width and channels of what the network is given.

    Raises:
        UserError: a user's model is not a backbone, or the weights do not fit.
    """
    backbone = _build_backbone(config, image_shape)
    if config.weights is not None:
        load_weights(backbone, config)
    n_features, head = backbone.n_features, generator("classifier", config.seed)
    assert isinstance(n_features, int)  # noqa: S101 checked where a user's
    classifier: PlainClassifier | HierarchicalClassifier
    if config.hierarchical:
        classifier = HierarchicalClassifier(
            tree,
            n_features,
            centres=config.centres,
            centre_scale=config.centre_scale,
            radius=config.radius,
            radius_ratio=config.radius_ratio,
            outer_radius_factor=config.outer_radius_factor,
            generator=head,
        )
    else:
        classifier = PlainClassifier(n_features, tree.n_classes, head)
    return Network(backbone, classifier)


def _build_backbone(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    model, (height, width, channels) = MODELS[config.model], image_shape
    request = BackboneSpec(
        name=config.model,
        depth=model.depth,
        in_channels=channels,
        image_size=(height, width),
        shortcut=config.shortcut,
        generator=generator("backbone", config.seed),
    )
    if isinstance(model.build, str):
        return BUILDERS[model.build](request)
    with seeded(request.generator):
        backbone = call_user_code(f"the model {config.model}", model.build, request)
        _check_backbone(backbone, request)
    return backbone  # type: ignore[no-any-return]


def _check_backbone(backbone: object, request: BackboneSpec) -> None:
    """Refuse the result of a user's builder that is not a backbone; two black images try it."""
    name = request.name
    if not isinstance(backbone, nn.Module):
        raise UserError(
            f"the model {name} gives a {type(backbone).__name__}, but must give a torch.nn.Module"
        )
    n_features = getattr(backbone, "n_features", None)
    if not isinstance(n_features, int) or n_features < 1:
        raise UserError(
            f"the backbone of the model {name} needs the attribute n_features, a whole number ≥ "
            "1: how many features "
            + ("it gives" if n_features is None else f"it gives; it is {n_features!r}")
        )
    shape = (2, request.in_channels, *request.image_size)
    training = backbone.training
    with torch.no_grad():
        features = call_user_code(f"the model {name}", backbone.eval(), torch.zeros(shape))
    backbone.train(training)
    if not isinstance(features, Tensor) or features.shape != (2, n_features):
        found = (
            tuple(features.shape)
            if isinstance(features, Tensor)
            else f"a {type(features).__name__}"
        )
        raise UserError(
            f"the backbone of the model {name} makes {found} of images {shape}, but its n_features "
            f"is {n_features}, so it must make (2, {n_features}); pool over height and width, or "
            "correct n_features"
        )
