"""Networks that read one sequence of tokens and write another."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loopwright.datasets.pairs import PADDING
from loopwright.models.base import models, require_at_least, require_share
from loopwright.models.texts import check_heads, sequence_shape

Memory = tuple[Tensor, ...]
"""What a decoder gets of the sources; each part has one row for each of them."""


class Seq2Seq(nn.Module):
    """Encodes sources, and decodes with what it made of them.

    Sources [N, source_length] and targets [N, length] are numbers of tokens, int64, filled up at
    their end with `padding`.
    """

    padding: int

    def encode(self, sources: Tensor) -> Memory:
        """Return what the decoder gets of the sources."""
        raise NotImplementedError

    def decode(self, memory: Memory, targets: Tensor) -> Tensor:
        """Return logits [N, target_vocabulary, length] of the token after each of the targets."""
        raise NotImplementedError

    def forward(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Return logits [N, target_vocabulary, length] of the token after each of the targets."""
        return self.decode(self.encode(sources), targets)

    def is_padding(self, sources: Tensor) -> Tensor:
        """Return what is not attended to, bool; nothing of a source that is empty."""
        is_padding = sources == self.padding
        return is_padding & ~is_padding.all(dim=1, keepdim=True)


class RnnSeq2Seq(Seq2Seq):
    """Is a recurrent encoder in both directions, and a recurrent decoder that attends to it.

    Bahdanau et al. 2015 (https://arxiv.org/abs/1409.0473) for the encoder and the decoder's first
    state; the global attention, with the score "general", of Luong et al. 2015
    (https://arxiv.org/abs/1508.04025, section 3.1), which takes all positions at once.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int,
        layers: int,
        dropout: float,
        padding: int,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.layers = layers
        inner = dropout if layers > 1 else 0.0
        self.sources = nn.Embedding(source_vocabulary, width)
        self.targets = nn.Embedding(target_vocabulary, width)
        self.rightward = nn.GRU(width, width, layers, batch_first=True, dropout=inner)
        self.leftward = nn.GRU(width, width, layers, batch_first=True, dropout=inner)
        self.merge = nn.Linear(2 * width, width)
        self.first_state = nn.Linear(width, layers * width)
        self.decoder = nn.GRU(width, width, layers, batch_first=True, dropout=inner)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, target_vocabulary)
        self.dropout = nn.Dropout(dropout)

    def encode(self, sources: Tensor) -> Memory:
        """Return the states for each token, what is padding, and the decoder's first state."""
        is_padding = self.is_padding(sources)
        lengths = (~is_padding).sum(dim=1, keepdim=True)
        places = torch.arange(sources.shape[1], device=sources.device).expand_as(sources)
        turned = torch.where(places < lengths, lengths - 1 - places, places)[:, :, None]
        embedded = self.dropout(self.sources(sources))
        rightward, _ = self.rightward(embedded)
        leftward, _ = self.leftward(embedded.gather(1, turned.expand_as(embedded)))
        states = torch.cat([rightward, leftward.gather(1, turned.expand_as(leftward))], dim=2)
        encoded = self.merge(states)
        first = torch.tanh(self.first_state(encoded[:, 0]))
        return encoded, is_padding, first.view(len(sources), self.layers, -1)

    def decode(self, memory: Memory, targets: Tensor) -> Tensor:
        """Return logits [N, target_vocabulary, length] of the token after each of the targets."""
        encoded, is_padding, first = memory
        embedded = self.dropout(self.targets(targets))
        hidden, _ = self.decoder(embedded, first.transpose(0, 1).contiguous())
        scores = self.score(hidden) @ encoded.transpose(1, 2)
        weights = scores.masked_fill(is_padding[:, None], -torch.inf).softmax(dim=2)
        attended = torch.tanh(self.combine(torch.cat([weights @ encoded, hidden], dim=2)))
        logits: Tensor = self.head(self.dropout(attended))
        return logits.transpose(1, 2)


class TransformerSeq2Seq(Seq2Seq):
    """Is the transformer of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762).

    Normalisation stands before each part rather than after it.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        padding: int,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.sources = nn.Embedding(source_vocabulary, width)
        self.targets = nn.Embedding(target_vocabulary, width)
        shape = (width, heads, 4 * width, dropout)
        encoder = nn.TransformerEncoderLayer(*shape, batch_first=True, norm_first=True)
        decoder = nn.TransformerDecoderLayer(*shape, batch_first=True, norm_first=True)
        norms = (nn.LayerNorm(width), nn.LayerNorm(width))
        self.encoder = nn.TransformerEncoder(encoder, layers, norms[0], enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, layers, norms[1])
        self.head = nn.Linear(width, target_vocabulary)
        self.dropout = nn.Dropout(dropout)
        for weight in self.parameters():  # the layers are copies of one
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)

    def encode(self, sources: Tensor) -> Memory:
        """Return the states for each token, and what is padding."""
        is_padding = self.is_padding(sources)
        embedded = self._embed(self.sources, sources)
        return self.encoder(embedded, src_key_padding_mask=is_padding), is_padding

    def decode(self, memory: Memory, targets: Tensor) -> Tensor:
        """Return logits [N, target_vocabulary, length] of the token after each of the targets."""
        encoded, is_padding = memory
        length, device = targets.shape[1], targets.device
        follows = torch.ones(length, length, dtype=torch.bool, device=device).triu(diagonal=1)
        hidden = self.decoder(
            self._embed(self.targets, targets),
            encoded,
            tgt_mask=follows,
            memory_key_padding_mask=is_padding,
            tgt_is_causal=True,
        )
        logits: Tensor = self.head(hidden)
        return logits.transpose(1, 2)

    def _embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        embedded = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        places = sinusoids(tokens.shape[1], embedding.embedding_dim, device=tokens.device)
        dropped: Tensor = self.dropout(embedded + places.to(embedded.dtype))
        return dropped


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return positions [length, width] as sines and cosines (Vaswani et al. 2017, section 3.5).

    Args:
        length: how many positions.
        width: numbers for each; an even one.
        device: of the result.
    """
    exponents = torch.arange(0, width, 2, device=device) / width
    angles = torch.arange(length, device=device)[:, None] / 10000**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


@models.register("rnn_seq2seq")
def rnn_seq2seq(
    input_shape: Sequence[int],
    classes: int,
    vocabulary_size: int,
    width: int = 128,
    layers: int = 1,
    dropout: float = 0.0,
    padding: int = PADDING,
) -> RnnSeq2Seq:
    """Make a recurrent encoder and decoder with attention, for sequences into sequences.

    Args:
        input_shape: (length,) of a source: numbers of tokens, int64.
        classes: how many tokens targets are made of.
        vocabulary_size: how many tokens sources are made of.
        width: numbers for each token.
        layers: of each recurrent network.
        dropout: the share of values dropped at each part.
        padding: the token that fills sources up.

    Raises:
        ValueError: the samples are no sequences.
    """
    sequence_shape("rnn_seq2seq", input_shape)
    require_at_least(
        1, classes=classes, vocabulary_size=vocabulary_size, width=width, layers=layers
    )
    require_share(dropout=dropout)
    return RnnSeq2Seq(vocabulary_size, classes, width, layers, dropout, padding)


@models.register("transformer_seq2seq")
def transformer_seq2seq(
    input_shape: Sequence[int],
    classes: int,
    vocabulary_size: int,
    width: int = 128,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.1,
    padding: int = PADDING,
) -> TransformerSeq2Seq:
    """Make a transformer encoder and decoder, for sequences into sequences.

    Args:
        input_shape: (length,) of a source: numbers of tokens, int64.
        classes: how many tokens targets are made of.
        vocabulary_size: how many tokens sources are made of.
        width: numbers for each token; an even number.
        heads: of attention; divides `width`.
        layers: of the encoder, and of the decoder.
        dropout: the share of values dropped at each part.
        padding: the token that fills sources up.

    Raises:
        ValueError: the samples are no sequences, `heads` does not divide `width`, or that is odd.
    """
    sequence_shape("transformer_seq2seq", input_shape)
    require_at_least(1, classes=classes, vocabulary_size=vocabulary_size, layers=layers)
    check_heads(width, heads)
    if width % 2:
        raise ValueError(f"width is {width}; expected an even number, for sines and cosines.")
    require_share(dropout=dropout)
    return TransformerSeq2Seq(vocabulary_size, classes, width, heads, layers, dropout, padding)
