"""Finding a likely sequence of tokens, one token after the other."""

from collections.abc import Callable

import torch
from torch import Tensor


def beam_search(
    next_logits: Callable[[Tensor], Tensor],
    first: Tensor,
    *,
    max_length: int,
    end: int,
    padding: int,
    beams: int = 1,
    length_penalty: float = 1.0,
) -> Tensor:
    """Return the likeliest sequences that a search finds, int64 [N, max_length].

    At each length the `beams` likeliest sequences of a sample are kept (Sutskever et al. 2014,
    https://arxiv.org/abs/1409.3215, section 3.2); one of them is greedy search. Of those, the one
    with the largest log probability, divided by its length to the power of `length_penalty`, is
    returned (Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 7, with 0 for the 5 in
    equation 14). The first tokens are no part of it, and `padding` follows the `end`.

    Args:
        next_logits: Takes tokens [N * beams, length], and returns logits [N * beams, vocabulary].
        first: The token before each sequence, int64 [N].
        max_length: Tokens in a sequence.
        end: The token that ends a sequence.
        padding: The token that fills up.
        beams: Sequences that are kept.
        length_penalty: 0 prefers short sequences.

    Raises:
        ValueError: `max_length` or `beams` is below 1, or `end` and `padding` are one token.
    """
    if max_length < 1 or beams < 1:
        raise ValueError(f"max_length is {max_length} and beams {beams}; expected 1 or more.")
    if end == padding:
        raise ValueError(f"end and padding are both {end}; expected two tokens, to tell lengths.")
    tokens = first[:, None, None].expand(-1, beams, 1)
    scores = torch.full(tokens.shape[:2], -torch.inf, device=first.device)
    scores[:, 0] = 0  # all begin alike: one of them is enough
    is_done = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(max_length):
        logits = next_logits(tokens.flatten(0, 1))
        size = logits.shape[1]
        allowed = logits.float().log_softmax(dim=1).view(*scores.shape, size).clone()
        allowed[..., padding] = -torch.inf
        only_padding = torch.full_like(allowed, -torch.inf)
        only_padding[..., padding] = 0
        steps = torch.where(is_done[..., None], only_padding, allowed)
        scores, chosen = (scores[..., None] + steps).flatten(1).topk(beams, dim=1)
        parents, following = chosen // size, chosen % size
        tokens = tokens.gather(1, parents[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([tokens, following[..., None]], dim=2)
        is_done = is_done.gather(1, parents) | (following == end)
        if bool(is_done.all()):  # waits for the device, which saves most of the steps
            break
    sequences = tokens[..., 1:]
    lengths = (sequences != padding).sum(dim=2).clamp(min=1)
    best = (scores / lengths**length_penalty).argmax(dim=1)
    found = sequences[torch.arange(len(first), device=first.device), best]
    return torch.nn.functional.pad(found, (0, max_length - found.shape[1]), value=padding)
