"""Schedules as functions of (iteration, epoch, accuracy): their values, step by step."""

import math

import pytest

from loopwright.schedulers import functions
from loopwright.schedulers.functions import (
    DecayToEpoch,
    DecayWhenAcc,
    DecayWhenEpoch,
    EpochSet,
    ExponentialDecay,
    InvTriangular,
    LinearDecay,
    LogDecay,
    RateFunction,
    ScheduleFunction,
    Step,
    Triangular,
    Triangular2,
    Triangular2Exp,
    TriangularDecayWhenAcc,
    TriangularExp,
    TriangularMomentum,
    WarmRestart,
)

RANGE = {"lr_min": 0.1, "lr_max": 1.1, "stepsize": 2}
E = math.exp(-1)

# Values at iterations 0, 1, 2, ...
BY_ITERATION = [
    (Step(lr_min=0.1, lr_max=0.8, lr_decay=0.5, lr_decay_every=2), [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]),
    (Step(lr_min=0.3, lr_max=0.8, lr_decay=0.5, lr_decay_every=1), [0.8, 0.4, 0.3, 0.3]),
    (LinearDecay(lr_min=0.1, lr_max=0.5, num_iters=4), [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]),
    (LogDecay(lr_min=0.01, lr_max=1.0, num_iters=4), [1, 10**-0.5, 0.1, 10**-1.5, 0.01, 0.01]),
    (ExponentialDecay(lr_max=2.0, k=1.0), [2, 2 * E, 2 * E**2]),
    (WarmRestart(**RANGE), [1.1, 0.6, 1.1, 0.6, 1.1]),
    (WarmRestart(**RANGE, cycle_mult=2), [1.1, 0.6, 1.1, 0.6 + 0.125**0.5, 0.6]),
    (Triangular(**RANGE), [0.1, 0.6, 1.1, 0.6, 0.1, 0.6, 1.1, 0.6, 0.1]),
    (Triangular(**RANGE, start_iter=2), [0.1, 0.1, 0.1, 0.6, 1.1]),
    (InvTriangular(**RANGE), [1.1, 0.6, 0.1, 0.6, 1.1, 0.6]),
    (TriangularExp(**RANGE, k=1.0), [0.1, 0.1 + E / 2, 0.1 + E**2, 0.1 + E**3 / 2, 0.1]),
    (Triangular2(**RANGE), [0.1, 0.6, 1.1, 0.6, 0.1, 0.35, 0.6, 0.35, 0.1, 0.225, 0.35]),
    (Triangular2Exp(**RANGE, k=1.0), [0.1, 0.1 + E / 2, 0.1 + E**2] + [0.1 + E**3 / 2, 0.1]),
    (TriangularMomentum(mtm_min=0.5, mtm_max=0.9, stepsize=2), [0.9, 0.7, 0.5, 0.7, 0.9, 0.7]),
]


@pytest.mark.parametrize(
    ("function", "expected"), BY_ITERATION, ids=[type(f).__name__ for f, _ in BY_ITERATION]
)
def test_values_per_iteration(function: ScheduleFunction, expected: list[float]) -> None:
    """L-89, L-90, L-92, L-93: each of the list works, step by step."""
    assert [function(i) for i in range(len(expected))] == pytest.approx(expected)


# Values in epochs 0, 1, 2, ...
BY_EPOCH = [
    (EpochSet({0: 0.8, 2: 0.5, 3: 0.1}), [0.8, 0.8, 0.4, 0.04, 0.04]),
    (EpochSet({0: 0.8, 2: 0.5, 3: 0.1}, lr_value=True), [0.8, 0.8, 0.5, 0.1, 0.1]),
    (DecayWhenEpoch(lr_min=0.3, lr_max=0.8, num_epochs=2, lr_decay=0.5), [0.8, 0.8, 0.4, 0.4, 0.3]),
    (
        DecayToEpoch(initial_lr=1.0, final_lr=0.2, non_decay_time=1, decay_length=4),
        [1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2],
    ),
]


@pytest.mark.parametrize(
    ("function", "expected"), BY_EPOCH, ids=[type(f).__name__ for f, _ in BY_EPOCH]
)
def test_values_per_epoch(function: ScheduleFunction, expected: list[float]) -> None:
    """L-72, L-91, L-92, L-93: epoch schedules ask for the epoch alone."""
    assert [function(99, epoch) for epoch in range(len(expected))] == pytest.approx(expected)
    assert [function.get_lr(epoch) for epoch in range(len(expected))] == pytest.approx(expected)


def test_values_by_accuracy() -> None:
    """L-72: each accuracy that falls back by more than the threshold lowers the rate."""
    measured = [0.5, 0.6, 0.58, 0.5, 0.7, 0.6]
    expected = [0.01, 0.01, 0.01, 0.009, 0.009, 0.0081]
    decay = DecayWhenAcc()
    assert [decay.get_lr(accuracy) for accuracy in measured] == pytest.approx(expected)
    assert [decay(0, 0, measured[: n + 1]) for n in range(6)] == pytest.approx(expected)
    assert decay(0, 0, []) == 0.01


def test_triangular_with_accuracy_asks_for_both() -> None:
    """L-72: the triangular one lowers the rate only while the accuracy is below its best."""
    function = TriangularDecayWhenAcc(lr_min=0.0, lr_max=1.0, stepsize=2)
    asked = [(0, 0.5), (1, 0.6), (2, 0.5), (3, 0.6)]
    values = [function.get_lr(iteration, accuracy) for iteration, accuracy in asked]
    assert values == pytest.approx([0.0, 0.5, 0.9, 0.5])
    with pytest.raises(TypeError, match="takes iteration, accuracy; got 1"):
        function.get_lr(3)


def test_triangular_starts_low_peaks_and_comes_back() -> None:
    """L-90."""
    function = Triangular(lr_min=1e-3, lr_max=0.5, stepsize=1000)
    assert (function(0), function(1000), function(2000)) == pytest.approx((1e-3, 0.5, 1e-3))


@pytest.mark.parametrize("schedule", [{1: 0.1}, {0: 0.1, 1.0: 2}, {"0": 0.1}, {}, [0.1], None])
def test_epoch_set_refuses_other_tables(schedule: object) -> None:
    """L-91."""
    with pytest.raises(ValueError, match=r"whole numbers as keys and a key 0"):
        EpochSet(schedule)  # type: ignore[arg-type]


@pytest.mark.parametrize("final", [0.0, 0.05, 0.5, 1.0])
def test_decay_to_epoch_never_goes_below_its_end(final: float) -> None:
    """L-92."""
    decay = DecayToEpoch(initial_lr=1.0, final_lr=final, non_decay_time=3, decay_length=7)
    values = [decay(0, epoch) for epoch in range(40)]
    assert min(values) == final
    assert values == sorted(values, reverse=True)


def test_defaults() -> None:
    """L-89."""
    rates = [kind for kind in vars(functions).values() if _is_rate(kind) and kind is not EpochSet]
    assert len(rates) == 14
    for kind in (*rates, lambda: EpochSet({0: 1.0})):
        made = kind()
        assert (made.lr_min, made.lr_max, made.stepsize, made.start_iter) == (1e-4, 1.0, 1000, 0)
        assert (made.lr_history_size, made.no_lr_history) == (0, False)


def _is_rate(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, RateFunction) and kind is not RateFunction


class Axes:
    """Notes what is drawn."""

    def __init__(self) -> None:
        self.lines: list[list[float]] = []
        self.texts: list[str] = []

    def plot(self, values: object) -> None:
        self.lines.append(list(values))  # type: ignore[call-overload]

    def set_xlabel(self, text: str) -> None:
        self.texts.append(text)

    set_ylabel = set_title = set_xlabel


def test_history_keeps_the_latest_values_and_is_drawn() -> None:
    """L-89."""
    function = Triangular(lr_min=0.0, lr_max=1.0, stepsize=2, lr_history_size=3)
    for iteration in range(5):
        function.get_lr(iteration)
    assert function.lr_history.tolist() == [1.0, 0.5, 0.0]
    axes = Axes()
    assert function.plot_history(axes, title="rate") is axes
    assert axes.lines == [[1.0, 0.5, 0.0]]
    assert axes.texts == ["iteration", "value", "rate"]


@pytest.mark.parametrize("options", [{}, {"lr_history_size": 9, "no_lr_history": True}])
def test_no_history_cannot_be_drawn(options: dict[str, int]) -> None:
    """L-89."""
    function = Triangular(**options)  # type: ignore[arg-type]
    function.get_lr(0)
    with pytest.raises(ValueError, match="Give it lr_history_size"):
        function.plot_history(Axes())


def test_calling_is_pure() -> None:
    function = Triangular(lr_history_size=5)
    function(3)
    assert len(function.lr_history) == 0
    assert function == Triangular(lr_history_size=5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Triangular, {"stepsize": 0}, "stepsize=0 has to be greater"),
        (Triangular, {"lr_min": 2.0}, "lr_min=2.0 is above lr_max=1.0"),
        (LogDecay, {"lr_min": 0.0}, "lr_min=0.0 has to be greater"),
        (DecayToEpoch, {"final_lr": 1.0}, "final_lr=1.0 is above"),
        (WarmRestart, {"cycle_mult": 0}, "cycle_mult=0 has to be greater"),
    ],
)
def test_mistakes_are_told(
    kind: type[ScheduleFunction], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)  # type: ignore[arg-type]
