"""Small models that float16 harms, or does not."""

import torch
from torch import nn


class Angles(nn.Module):
    """Sines of positions."""

    def forward(self, positions):
        speed = 0.5 ** torch.arange(4)
        return (positions[:, None].float() * speed).sin()


class Bias(nn.Module):
    """Scores that fall with the position."""

    def forward(self, x, positions):
        return x - 20 * positions.float()


class Table(nn.Module):
    """As ``Bias``, of positions that a table of 8 bounds."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(self, positions):
        return self.table(positions) - 20 * positions[:, None].float()


class Counter(nn.Module):
    """A buffer that is written, and the sine of what it holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x):
        self.total += x
        return self.total.sin()


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def bias():
    return Bias(), (torch.ones(3), torch.arange(3))


def fine():
    return Function(lambda x: torch.relu(x) * 2), (torch.linspace(-3, 3, 8).reshape(2, 4),)
