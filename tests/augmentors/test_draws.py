"""Tests of draws that depend on (seed, epoch, sample) alone."""

import pytest
import torch

from loopwright.augmentors import uniform_draws
from loopwright.augmentors.draws import noise_like, philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_published_answers_of_philox(counter: str, key: str, expected: str) -> None:
    """Known answers that its authors give out with Random123."""
    words = [torch.tensor([int(word, 16)]) for word in counter.split()]
    low, high = (int(word, 16) for word in key.split())
    found = philox((words[0], words[1], words[2], words[3]), (low, high))
    assert [f"{word:08x}" for word in found[0].tolist()] == expected.split()


def test_a_sample_s_draws_do_not_depend_on_its_batch() -> None:
    samples = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    whole = uniform_draws(7, 3, samples, 10)
    assert whole.shape == (1000, 10)
    assert torch.equal(uniform_draws(7, 3, samples[100:117], 10), whole[100:117])
    assert torch.equal(uniform_draws(7, torch.tensor(3), samples, 4), whole[:, :4])
    large = torch.tensor([2**40 + 5, 5])
    assert not torch.equal(*uniform_draws(7, 3, large, 8))


def test_draws_are_uniform_and_unrelated() -> None:
    samples = torch.arange(20_000)
    first = uniform_draws(1, 1, samples, 4)
    assert 0 <= float(first.min()) < float(first.max()) < 1
    counts = torch.histc(first, bins=20, min=0, max=1)
    expected = first.numel() / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 50  # chi-squared, 19 degrees
    others = [uniform_draws(2, 1, samples, 4), uniform_draws(1, 2, samples, 4), first.roll(1, 0)]
    for other in others:
        together = torch.stack([first.flatten(), other.flatten()])
        assert abs(float(torch.corrcoef(together)[0, 1])) < 0.02


def test_no_generator_is_touched() -> None:
    state = torch.get_rng_state()
    uniform_draws(0, 1, torch.arange(5), 3)
    assert torch.equal(state, torch.get_rng_state())


def test_noise_is_spread_over_pixels_and_differs_by_draw() -> None:
    images = torch.zeros(2, 3, 40, 40)
    noise = noise_like(images, torch.tensor([0.25, 0.26]))
    assert noise.shape == images.shape
    assert abs(float(noise.mean()) - 0.5) < 0.01
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.05
    assert torch.equal(noise_like(images[:1], torch.tensor([0.25])), noise[:1])
