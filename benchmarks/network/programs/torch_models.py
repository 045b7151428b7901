"""The same models in PyTorch: as many parameters, the same arithmetic."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.network.models import mlp, resnet, transformer


def build(name: str) -> nn.Module:
    """Returns a new model that puts out logits."""
    return {"mlp": _mlp, "resnet": ResNet, "transformer": Transformer}[name]()


def _mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(mlp.LAYERS):
        layers += [nn.Linear(mlp.WIDTH, mlp.WIDTH), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


class Convolution(nn.Sequential):
    """A convolution and its normalisation."""

    def __init__(self, before: int, filters: int, size: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(before, filters, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(filters),
        )


class Block(nn.Module):
    """Two convolutions and a short cut."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = Convolution(before, filters, 3, stride)
        self.second = Convolution(filters, filters, 3, 1)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != filters:
            self.short = Convolution(before, filters, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        y = self.second(functional.relu(self.first(x)))
        return functional.relu(y + self.short(x))


class ResNet(nn.Module):
    """See `models.resnet`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Convolution(3, 64, 3, 1)
        blocks, before = [], 64
        for filters, stride in resnet.STAGES:
            for number in range(resnet.BLOCKS):
                blocks.append(Block(before, filters, stride if number == 0 else 1))
                before = filters
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(before, resnet.TASK.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits of images with channels last."""
        x = functional.relu(self.first(x.permute(0, 3, 1, 2)))
        return self.last(self.blocks(x).mean(dim=(2, 3)))


class Transformer(nn.Module):
    """See `models.transformer`."""

    def __init__(self) -> None:
        super().__init__()
        width = transformer.WIDTH
        self.words = nn.Embedding(transformer.WORDS, width)
        layer = nn.TransformerEncoderLayer(
            width,
            transformer.HEADS,
            transformer.HIDDEN,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, transformer.LAYERS, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.last = nn.Linear(width, transformer.TASK.classes)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        return self.last(self.layers(self.words(words)).mean(dim=1))
