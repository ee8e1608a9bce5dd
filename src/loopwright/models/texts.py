"""Networks over sequences of tokens: a convolutional and a transformer classifier, and a GPT."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.models.base import models, require_at_least, require_share


@models.register("text_cnn")
def text_cnn(
    input_shape: Sequence[int],
    classes: int,
    vocabulary_size: int,
    embedding: int = 128,
    channels: int = 100,
    kernels: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
) -> nn.Module:
    """Make convolutions of several widths over embedded tokens, the largest value of each kept.

    After Kim 2014, "Convolutional Neural Networks for Sentence Classification".

    Args:
        input_shape: (length,) of a sequence of token numbers, int64.
        classes: outputs of the last layer.
        vocabulary_size: how many tokens there are.
        embedding: numbers for each token.
        channels: of each width.
        kernels: the widths, in tokens.
        dropout: the share of values dropped before the last layer.

    Raises:
        ValueError: the samples are no sequences, or shorter than a kernel.
    """
    (length,) = sequence_shape("text_cnn", input_shape)
    require_at_least(
        1, classes=classes, vocabulary_size=vocabulary_size, embedding=embedding, channels=channels
    )
    require_share(dropout=dropout)
    if not kernels or max(kernels) > length or min(kernels) < 1:
        raise ValueError(f"kernels are {list(kernels)}, expected widths from 1 to {length} tokens.")
    return TextCNN(vocabulary_size, embedding, channels, kernels, classes, dropout)


class TextCNN(nn.Module):
    """Takes token numbers (samples, length); gives (samples, classes)."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding: int,
        channels: int,
        kernels: Sequence[int],
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, channels, k) for k in kernels)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels * len(kernels), classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one row of outputs for each sequence."""
        embedded = self.embedding(tokens).transpose(1, 2)
        found = [layer(embedded).relu().amax(dim=2) for layer in self.convolutions]
        outputs: Tensor = self.head(torch.cat(found, dim=1))
        return outputs


@models.register("transformer_classifier")
def transformer_classifier(
    input_shape: Sequence[int],
    classes: int,
    vocabulary_size: int,
    width: int = 128,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.1,
    padding: int | None = None,
) -> nn.Module:
    """Make a transformer encoder over tokens, and a linear layer over the mean of its outputs.

    After Vaswani et al. 2017, "Attention Is All You Need", with normalisation before each part and
    learned positions.

    Args:
        input_shape: (length,) of a sequence of token numbers, int64.
        classes: outputs of the last layer.
        vocabulary_size: how many tokens there are.
        width: numbers for each token.
        heads: of attention; divides `width`.
        layers: blocks of attention and two linear layers.
        dropout: the share of values dropped in each block.
        padding: the token that fills sequences up: neither attended to nor part of the mean.

    Raises:
        ValueError: the samples are no sequences, or `heads` does not divide `width`.
    """
    (length,) = sequence_shape("transformer_classifier", input_shape)
    require_at_least(1, classes=classes, vocabulary_size=vocabulary_size, layers=layers)
    check_heads(width, heads)
    require_share(dropout=dropout)
    return TransformerClassifier(
        length, vocabulary_size, width, heads, layers, classes, dropout, padding
    )


class TransformerClassifier(nn.Module):
    """Takes token numbers (samples, length); gives (samples, classes)."""

    def __init__(
        self,
        length: int,
        vocabulary_size: int,
        width: int,
        heads: int,
        layers: int,
        classes: int,
        dropout: float,
        padding: int | None,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one row of outputs for each sequence."""
        embedded = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        if self.padding is None:
            pooled = self.norm(self.encoder(embedded)).mean(dim=1)
        else:
            is_padding = tokens == self.padding
            is_padding = is_padding & ~is_padding.all(dim=1, keepdim=True)  # attend to something
            encoded = self.norm(self.encoder(embedded, src_key_padding_mask=is_padding))
            kept = (~is_padding).unsqueeze(2).to(encoded.dtype)
            pooled = (encoded * kept).sum(dim=1) / kept.sum(dim=1)
        outputs: Tensor = self.head(pooled)
        return outputs


@models.register("gpt")
def gpt(
    input_shape: Sequence[int],
    vocabulary_size: int,
    width: int = 128,
    heads: int = 4,
    layers: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    """Make a transformer decoder that gives, at each position, logits of the token that follows.

    After Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners", section 2.3):
    normalisation before each part, the output layer shares the embedding's weights, and layers that
    add to the residual start smaller by the root of their number.

    Args:
        input_shape: (length,) of a sequence of token numbers, int64.
        vocabulary_size: how many tokens there are.
        width: numbers for each token.
        heads: of attention; divides `width`.
        layers: blocks of attention and two linear layers.
        dropout: the share of values dropped in each block.

    Raises:
        ValueError: the samples are no sequences, or `heads` does not divide `width`.
    """
    (length,) = sequence_shape("gpt", input_shape)
    require_at_least(1, vocabulary_size=vocabulary_size, layers=layers)
    check_heads(width, heads)
    require_share(dropout=dropout)
    return GPT(length, vocabulary_size, width, heads, layers, dropout)


class GPT(nn.Module):
    """Takes token numbers (samples, length); gives logits (samples, vocabulary, length).

    The vocabulary is the second dimension, as cross entropy over many positions wants it.
    """

    def __init__(
        self,
        length: int,
        vocabulary_size: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.length = length
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                adds = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * layers) if adds else 1.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits for every position; a sequence may be shorter than those trained on."""
        positions = self.positions.weight[: tokens.shape[1]]
        hidden = self.dropout(self.tokens(tokens) + positions)
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.tokens.weight).transpose(1, 2)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return sequences (samples, length + count) that go on after `tokens`.

        Args:
            tokens: the beginnings, (samples, length), int64.
            count: tokens to add.
            temperature: divides the logits; 0 takes the likeliest token each time.
            top_k: how many of the likeliest tokens are drawn from; all where it is None.
            generator: of the draws.
        """
        for _ in range(count):
            logits = self(tokens[:, -self.length :])[:, :, -1]
            following = draw_tokens(logits, temperature, top_k, generator)
            tokens = torch.cat([tokens, following[:, None]], dim=1)
        return tokens


def draw_tokens(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return one token for each row of logits, int64 (samples,).

    Args:
        logits: (samples, vocabulary).
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: how many of the likeliest tokens are drawn from; all where it is None.
        generator: of the draws, on the device of the logits.

    Raises:
        ValueError: `temperature` is below 0, or `top_k` below 1.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature is {temperature} and top_k {top_k}; expected 0 or more, and 1 or more."
        )
    if temperature == 0:
        return logits.argmax(dim=1)
    if top_k is not None and top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    chances = (logits / temperature).softmax(dim=1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_before_attention = nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads, dropout)
        self.norm_before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm_before_attention(hidden))
        changed: Tensor = hidden + self.dropout(self.mlp(self.norm_before_mlp(hidden)))
        return changed


class _CausalAttention(nn.Module):
    """Lets each position attend to itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.share = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        samples, length, width = hidden.shape
        parts = self.qkv(hidden).view(samples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.share if self.training else 0.0, is_causal=True
        )
        joined = attended.transpose(1, 2).reshape(samples, length, width)
        changed: Tensor = self.dropout(self.out(joined))
        return changed


def sequence_shape(model: str, input_shape: Sequence[int]) -> tuple[int]:
    """Return the length of sequences; refuse what is none.

    Raises:
        ValueError: the message names the model.
    """
    if len(input_shape) != 1:
        raise ValueError(
            f"A {model} takes sequences of token numbers, (length,); a sample here has the shape "
            f"{tuple(input_shape)}. Put the tokenizer into dataset.preprocessors, or choose "
            "another model."
        )
    return (input_shape[0],)


def check_heads(width: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the width."""
    require_at_least(1, width=width, heads=heads)
    if width % heads:
        raise ValueError(f"heads is {heads}, which does not divide width, {width}.")
