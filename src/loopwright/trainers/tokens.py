"""What trainers of sequences share: the loss over tokens, and tokens as texts."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_NO_TOKEN = -(2**31)  # in the place of the -100 of torch, which would be left out


def token_cross_entropy(
    logits: Tensor, targets: Tensor, padding: int | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean over tokens of the cross entropy, in nats; 0 where there are none.

    Args:
        logits: [N, vocabulary, length].
        targets: Numbers of tokens, int64 [N, length].
        padding: The token that is not counted, which may be one of torch's -100; None counts all.
        label_smoothing: The share of a target's probability that all tokens get alike (Szegedy et
            al. 2016, https://arxiv.org/abs/1512.00567, section 7).
    """
    ignored = _NO_TOKEN if padding is None else padding
    summed = functional.cross_entropy(
        logits, targets, ignore_index=ignored, label_smoothing=label_smoothing, reduction="sum"
    )
    return summed / count_tokens(targets, padding).clamp(min=1)


def count_tokens(targets: Tensor, padding: int | None = None) -> Tensor:
    """Return how many tokens are no padding: a scalar, int64."""
    return (targets != (_NO_TOKEN if padding is None else padding)).sum()


def encode_texts(texts: Iterable[str], characters: Sequence[str]) -> list[Tensor]:
    """Return texts as numbers of their characters, each int64 [length].

    Args:
        texts: The texts.
        characters: What the numbers stand for.

    Raises:
        ValueError: A text is empty, or has a character that is not known.
    """
    numbers = {character: number for number, character in enumerate(characters)}
    encoded = []
    for text in texts:
        if not text or (unknown := sorted(set(text) - set(numbers))):
            what = (
                f"has the characters {unknown}, which were not trained on" if text else "is empty"
            )
            raise ValueError(f"A text {what}. Known are {''.join(characters)!r}.")
        encoded.append(torch.tensor([numbers[character] for character in text]))
    return encoded


def decode_texts(tokens: Tensor, names: Sequence[str], special: Iterable[int] = ()) -> list[str]:
    """Return the texts of rows of tokens.

    Args:
        tokens: int64 [N, length].
        names: What the tokens stand for.
        special: Tokens that are left out.
    """
    left_out = set(special)
    return [
        "".join(names[token] for token in row if token not in left_out) for row in tokens.tolist()
    ]
