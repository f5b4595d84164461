"""Multiply-adds are counted by torch's own formulas: the numbers of FlopCounterMode, fused operations included."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mgraph.network.cost import multiply_adds


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, 8), layer(8, 16, batch_first=True), nn.Linear(16, 20)

    def forward(self, x):
        return self.head(self.layer(self.embedding(x))[0])


def test_layers_are_counted_as_torch_counts_them():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    x = torch.zeros(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        module.eval()(x)
    assert multiply_adds(module, x) == counter.get_total_flops() / 2 == 2 * (8 * 3 * 9 * 36 + 288 * 5)
    assert not module.training


@pytest.mark.parametrize(("layer", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrences_are_counted_step_by_step(layer, gates):
    x = torch.zeros(1, 12, dtype=torch.int64)
    assert multiply_adds(Recurrent(layer), x) == 12 * (gates * 16 * (8 + 16) + 16 * 20)


def test_attention_is_counted():
    length, width, hidden = 12, 16, 32
    layer = nn.TransformerEncoderLayer(width, 4, hidden, batch_first=True)
    x = torch.zeros(1, length, width)
    attention = 4 * length * width**2 + 2 * length**2 * width
    assert multiply_adds(layer, x) == attention + 2 * length * width * hidden


@pytest.mark.stress
def test_counting_does_not_load_torchs_compiler():
    """That takes longer than the rest of a small command."""
    code = (
        "import sys, torch; from mgraph.network.cost import multiply_adds; "
        "multiply_adds(torch.nn.Linear(3, 4), torch.zeros(1, 3)); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
