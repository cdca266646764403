"""digits_cnn: a residual convolutional network on scikit-learn's handwritten digits.

Run: python models/recipes/digits_cnn.py
"""

from __future__ import annotations

import torch
from common import prepare, publish, train_classifier
from digits_data import FACTS, digits, shifted
from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution 3x3 without bias, then batch normalization."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
        )


class Residual(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), He et al. 2015.

    The shortcut is a 1x1 convolution where the shape changes, else the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, stride)
        self.conv2 = ConvNorm(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else ConvNorm(inputs, outputs, stride, kernel=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, inputs, h, w] -> [batch, outputs, h / stride, w / stride]."""
        return self.relu(self.conv2(self.relu(self.conv1(x))) + self.shortcut(x))


class DigitsCnn(nn.Module):
    """Stem, four residual blocks at 8x8 and 4x4, global average pooling, linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(1, 32), nn.ReLU())
        self.blocks = nn.Sequential(Residual(32, 32), Residual(32, 64), Residual(64, 80, stride=2), Residual(80, 80))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(80, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: [batch, 1, 8, 8] in 0..1 -> logits [batch, 10]."""
        return self.classifier(self.dropout(torch.flatten(self.pool(self.blocks(self.stem(image))), 1)))


def main() -> None:
    prepare(seed=1)
    train, train_labels, held, held_labels = digits()
    model = DigitsCnn()
    train_classifier(
        model,
        [torch.from_numpy(train)],
        torch.from_numpy(train_labels),
        epochs=30,
        rate=4e-3,
        decay=0.05,
        augment=lambda images: (shifted(images),),
    )
    publish("digits_cnn", model, {"image": train}, {"image": held}, held_labels, facts=FACTS)


if __name__ == "__main__":
    main()
