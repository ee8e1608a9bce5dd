"""Random numbers as a pure function of (seed, epoch, sample), for whole batches at once."""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Return four random words for each counter: Philox4x32-10.

    Salmon and others, "Parallel random numbers: as easy as 1, 2, 3" (2011), whose constants these
    are.

    Args:
        counters: four int64 tensors of one shape, or shapes that broadcast, each of 32-bit words.
        key: two 32-bit words.

    Returns:
        int64, with a last dimension of 4, values from 0 to 2**32 - 1.
    """
    a, b, c, d = torch.broadcast_tensors(*counters)
    for _ in range(10):
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ key[0], low_c, high_a ^ d ^ key[1], low_a
        key = (key[0] + _WEYL[0]) & _LOW, (key[1] + _WEYL[1]) & _LOW
    return torch.stack((a, b, c, d), dim=-1)


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low half of a product of 32-bit words.

    In two steps of 16 bits: a product that passed 2**63 would be undefined in compiled programs.
    """
    upper, lower = word * (factor >> 16), word * (factor & 0xFFFF)
    lower = ((upper & 0xFFFF) << 16) + lower
    return (upper >> 16) + (lower >> 32), lower & _LOW


def uniform_draws(seed: int, epoch: int | Tensor, samples: Tensor, count: int) -> Tensor:
    """Return `count` numbers from 0 to below 1 for each sample, float32 [len(samples), count].

    They depend on the arguments alone: not on the batch that a sample is in, nor on the device.

    Args:
        seed: 64 bits.
        epoch: a number, or a tensor of one number, whose value may change between replays.
        samples: the number of each sample, int64.
        count: how many draws a sample gets.
    """
    blocks = torch.arange(-(-count // 4), device=samples.device)
    numbers = samples[:, None]
    epochs = torch.as_tensor(epoch, device=samples.device)
    counters = (numbers & _LOW, (numbers >> 32) & _LOW, epochs & _LOW, blocks[None])
    words = philox(counters, (seed & _LOW, (seed >> 32) & _LOW)).flatten(1)[:, :count]
    return (words >> 8).to(torch.float32) * 2.0**-24


def noise_like(images: Tensor, draws: Tensor) -> Tensor:
    """Return numbers from 0 to below 1 of the shape of the images, from one draw for each image.

    Mixes position and draw by the finaliser of MurmurHash3 (Appleby, 2011).
    """
    positions = torch.arange(images[0].numel(), device=images.device)
    words = ((draws * 2.0**24).long()[:, None] * _WEYL[0] + positions * _WEYL[1]) & _LOW
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = _product(words ^ (words >> shift), factor)[1]
    words = words ^ (words >> 16)
    return ((words >> 8).to(images.dtype) * 2.0**-24).reshape(images.shape)
