"""Recurrent language models."""

from __future__ import annotations

from typing import Annotated, Any, cast

from torch import Tensor, nn
from typing_extensions import override

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import positive, share
from mgraph.errors import InputError
from mgraph.fields import Shapes

TOKENS = "input_ids"


def lstm(
    *,
    input_shape: Shapes,
    width: Annotated[int, "units of every layer, and of the embedding"] = 200,
    layers: Annotated[int, "number of layers"] = 2,
    dropout: Annotated[float, "share dropped before, between and after the layers"] = 0.0,
    tied: Annotated[bool, "one matrix embeds tokens and predicts them"] = True,
    init: Annotated[float, "weights are drawn evenly from -init to init"] = 0.1,
    classes: Classes,
) -> nn.Module:
    """LSTM that predicts every next token: maps token numbers (N, T), or a dict with ``input_ids``, to logits.

    Zaremba et al. 2014, Recurrent Neural Network Regularization, §3.2 and §4.1: an embedding, LSTM layers, a softmax,
    dropout on all but the recurrent connections. The default has the 200 units of their small model; the medium one is
    ``width=650&dropout=0.5&init=0.05``, the large one ``width=1500&dropout=0.65&init=0.04``, 66 million parameters for
    10000 words with ``tied=false``; Garipov et al. 2018, table 3, report its perplexities. Tying the embedding and
    output matrices follows Press and Wolf 2017, Using the Output Embedding to Improve Language Models. Every example
    starts from a zero state; no state is carried from batch to batch. Logits have shape (N, T, classes).
    """
    shape = input_shape
    if isinstance(shape, dict):
        if TOKENS not in shape:
            raise InputError(f"lstm needs token numbers as {TOKENS}; the inputs are {', '.join(shape)}.")
        shape = shape[TOKENS]
    if len(shape) != 1 or not isinstance(shape[0], int):
        raise InputError(f"lstm needs sequences of token numbers, shape (T,), not {shape}; see mgraph.tasks.")
    positive("width", [width])
    positive("layers", [layers])
    share("lstm", "dropout", dropout)
    if not 0 < init < float("inf"):
        raise InputError(f"init of lstm must be above 0, not {init:g}.")
    network = _Lstm(classes, width, layers, dropout)
    if tied:
        network.head.weight = network.embedding.weight
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -init, init)
    nn.init.zeros_(network.head.bias)
    return network


class _Lstm(nn.Module):
    """A separate module for each layer, so that LLPF moves the layers one after another."""

    def __init__(self, vocabulary: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(layers))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, vocabulary)

    @override
    def forward(self, input_ids: Tensor, **others: Any) -> Tensor:
        """Map token numbers (N, T) to logits (N, T, vocabulary); an example's other entries are ignored."""
        if input_ids.is_floating_point():
            raise InputError(f"lstm needs token numbers, which are integers, not {input_ids.dtype}.")
        x = self.dropout(self.embedding(input_ids))
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return cast(Tensor, self.head(x))
