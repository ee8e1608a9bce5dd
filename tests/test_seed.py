"""Seeds: derived, set on request, and given back."""

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import global_states

import loopwright
from loopwright.seed import (
    derive_seed,
    fixed_draws,
    preserved_random_states,
    random_states,
    restore_random_states,
)


def draws() -> tuple[float, ...]:
    normal = torch.randn(1).item(), float(np.random.randn()), random.gauss(0, 1)
    return (torch.rand(1).item(), float(np.random.rand()), random.random(), *normal)


def test_set_seed_seeds_all_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    with preserved_random_states():
        loopwright.set_seed(7)
        first = draws()
        loopwright.set_seed(7)
        assert draws() == first
        loopwright.set_seed(8)
        assert not set(draws()) & set(first)
        loopwright.set_seed(2**64 - 1)
        monkeypatch.setenv("RANK", "1")
        loopwright.set_seed(6, device_specific=True)
        assert draws() == first


def test_states_are_given_back_whatever_happens() -> None:
    before = global_states()
    for context in (preserved_random_states(), fixed_draws(5)):
        with suppress(KeyError), context:
            draws()
            raise KeyError
    assert global_states() == before
    states = random_states()
    expected = draws()
    restore_random_states(states)
    assert draws() == expected
    restore_random_states(states)
    assert global_states() == before


def test_fixed_draws_are_a_function_of_the_seed() -> None:
    found = []
    for seed in (5, 5, 6, 2**63 - 1):
        draws()
        with fixed_draws(seed):
            found.append(draws())
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_the_seed_of_torch_is_given_back() -> None:
    before = torch.initial_seed()
    with fixed_draws(5):
        assert torch.initial_seed() != before
    assert torch.initial_seed() == before


def test_derived_seeds() -> None:
    """Saved runs depend on these numbers."""
    assert derive_seed(0, 1, 1) == DERIVED
    seeds = {derive_seed(s, a, b) for s in range(10) for a in range(10) for b in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(2**64 - 1, 5) != derive_seed(0, 5)


DERIVED = 3672449616237960927


def test_importing_touches_no_generator() -> None:
    """P-102."""
    source = Path(__file__).parents[1] / "src"
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "import random, numpy as np, torch\n"
        "def states():\n"
        "    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()\n"
        "before = states(); threads = torch.get_num_threads()\n"
        "import loopwright.trainer, loopwright.callbacks, loopwright.ema, loopwright.finetuning\n"
        "assert states() == before\n"
        "assert torch.get_num_threads() == threads\n"
        "assert not torch.are_deterministic_algorithms_enabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
