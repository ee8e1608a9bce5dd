"""How a trainer takes its steps: the one interface between the loop and the forms of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loopwright.errors import CheckpointError, NotSupportedError
from loopwright.execution.auto import SECONDS_TO_LOAD, choose
from loopwright.execution.building import Built, build_forward, rehearse
from loopwright.execution.constants import Constants
from loopwright.execution.eager import EagerStepping
from loopwright.execution.obstacles import NotCapturableError, check_capturable
from loopwright.execution.program import StepProgram
from loopwright.execution.report import StepMode, StepReport
from loopwright.execution.slots import options_of, settings_of_step, structure_of
from loopwright.execution.stored import cache_folder
from loopwright.execution.torch_internals import code_in, compiled_model
from loopwright.execution.tracing import Rates
from loopwright.execution.trees import signature_of

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class Stepping(EagerStepping):
    """Takes the steps of one run, as programs where that was asked for and can be.

    Args:
        trainer: The trainer, prepared for the run.
        mode: How its steps are to be executed.
        base: `Trainer`, whose own methods are known.
    """

    def __init__(self, trainer: Trainer, mode: StepMode, base: type) -> None:
        super().__init__(trainer)
        self._mode = mode
        self._base = base
        self.report = None
        self.step = self._first_step
        self._is_restored = False
        self._programs: dict[tuple[Any, Any], StepProgram] = {}
        self._rehearsed: Built | None = None
        self._starts_up = False
        self._constants: Constants | None = None
        self._options: Any = None
        self._rates: Rates | None = None
        self._structure: Any = None
        self._is_settled = False
        self._forwards: dict[Any, tuple[Any, Callable[[Any], Any] | None]] = {}
        self._forward_structure: Any = None
        self._num_batches = 0
        if mode == "compile":
            self._adopt(StepReport(asked=mode, choice=mode, reason="it was asked for"))

    def begin_epoch(self) -> None:
        self._is_settled, self._options = False, None

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._mode != "compile":
            yield
            return
        compiled = self._trainer._compiled() or compiled_model(self._trainer.model)
        with code_in(cache_folder()), compiled:
            yield

    def evaluate(self, batch: Any) -> Any:
        return self._forward("calculate_eval_batch_loss", batch)

    def predict(self, batch: Any) -> Any:
        return self._forward("calculate_prediction", batch)

    def begin_phase(self, num_batches: int) -> None:
        self._is_settled = False
        self._forward_structure = None
        self._num_batches = num_batches

    def _forward(self, name: str, batch: Any) -> Any:
        trainer = self._trainer
        function: Callable[[Any], Any] = getattr(trainer, name)
        if self._mode == "capture" or (self._mode == "auto" and self._pays_without_gradients):
            program = self._forward_program(name, function, batch)
            if program is not None:
                return program(batch)
        with trainer.autocast():
            return function(batch)

    @property
    def _pays_without_gradients(self) -> bool:
        """Whether evaluation or prediction gain more than compiling costs.

        That rests on what was measured before step 1 and is in every checkpoint, so that a resumed
        run decides alike. Of a step, forward is taken to be a third.
        """
        report = self.report
        if report is None or report.choice != "capture":
            return False
        if report.seconds is None or report.gain is None:
            return True
        gained = report.seconds / 3 * (1 - 1 / report.gain)
        return self._num_batches * gained > SECONDS_TO_LOAD

    def _forward_program(
        self, name: str, function: Callable[[Any], Any], batch: Any
    ) -> Callable[[Any], Any] | None:
        """Return the program of batches like the first of its kind; None for others."""
        trainer = self._trainer
        if self._forward_structure is None:
            structure = structure_of(trainer)
            self._forward_structure = (structure, trainer.precision)
        key, signature = (name, self._forward_structure), signature_of(batch)
        if key not in self._forwards:
            self._forwards[key] = (signature, self._build_forward(function, batch))
        known, program = self._forwards[key]
        return program if known == signature else None

    def _build_forward(
        self, function: Callable[[Any], Any], batch: Any
    ) -> Callable[[Any], Any] | None:
        try:
            check_capturable(self._trainer, self._base, batch)
            return build_forward(self._trainer, function, batch)
        except NotCapturableError as error:
            if self._mode == "capture":
                raise NotSupportedError(
                    f"step_mode='capture' is not possible here: {error}. Use 'auto' or 'eager'."
                ) from error
            self._trainer.print(f"Evaluation and prediction run in eager mode: {error}")
            return None

    def restore(self, state: Mapping[str, Any] | None) -> None:
        if state is not None and state["asked"] == self._mode:
            self._is_restored = True
            self._adopt(StepReport.from_dict(state))

    def _adopt(self, report: StepReport) -> None:
        super()._adopt(report)
        if report.choice == "capture":
            self.step = self._captured

    def _first_step(self, batch: Any) -> Any:
        """Choose, with the first batch in hand, and take the step."""
        trainer = self._trainer
        if self._mode == "auto":
            report, built = choose(trainer, batch, self._base)
            trainer.print(f"Steps run in {report.choice} mode: {report.reason}")
        else:
            report, built = self._capture(batch)
        if built is not None:
            self._rates, self._rehearsed, self._starts_up = built.rates, built, built.starts_up
        self._adopt(report)
        trainer._keeper.log_steps(report)
        return self.step(batch)

    def _capture(self, batch: Any) -> tuple[StepReport, Built]:
        trainer = self._trainer
        try:
            check_capturable(trainer, self._base, batch)
            built = rehearse(trainer, batch, Rates(trainer))
        except NotCapturableError as error:
            raise NotSupportedError(
                f"step_mode='capture' is not possible here: {error}. Use 'auto', which says so "
                "and goes on, or 'eager'."
            ) from error
        return (
            StepReport(
                asked="capture",
                choice="capture",
                reason="it was asked for",
                reference=built.reference,
                batch=repr(signature_of(batch)),
            ),
            built,
        )

    def _captured(self, batch: Any) -> Any:
        trainer = self._trainer
        if self._starts_up:
            self._starts_up = not trainer._accumulation.completes_update
            return self._eager(batch)
        if not self._is_settled:
            reason = self._settle()
            if reason is not None:
                return self._give_up(reason, batch)
        if trainer._follows_schedules and options_of(trainer.optimizer) != self._options:
            return self._give_up(self._changed_options(), batch)
        role = trainer._accumulation.role
        program = None
        if role is not None:
            key = (signature_of(batch), role)
            program = self._programs.get(key)
            if program is None:
                try:
                    program = self._prepare(batch, key)
                except NotCapturableError as error:
                    if self._is_restored:
                        raise self._lost(error) from error
                    return self._give_up(f"the step changed: {error}", batch)
        if program is None:
            return self._eager(batch)
        return program.run(trainer, batch)

    def _settle(self) -> str | None:
        """Forget programs that were made for another structure of model and optimizer.

        That is looked at once an epoch, after each evaluation, and before each step where code that
        is not of this package runs between two steps.

        Returns:
            Why programs do not stand for the step any more; None where they do.
        """
        trainer = self._trainer
        if trainer._accumulation.num_waiting:
            return None
        structure = structure_of(trainer)
        if structure != self._structure:
            self._structure = structure
            self._programs.clear()
            if self._rates is None or not self._rates.fit(trainer):
                self._rates, self._rehearsed = Rates(trainer), None
        if self._options is None:
            self._options = options_of(trainer.optimizer)
        self._is_settled = not others_run_between_steps(trainer)
        changed = None if self._constants is None else self._constants.changed()
        if changed is not None:
            return f"{changed} was changed, a constant of a captured step"
        return next(trainer._step_obstacles(), None)

    def _prepare(self, batch: Any, key: Any) -> StepProgram | None:
        """Return a program for a batch; None where the step has to be run line by line.

        Raises:
            NotCapturableError: There is none any more.
        """
        assert self.report is not None
        assert self._rates is not None
        if repr(key[0]) != self.report.batch:
            return None
        trainer, built = self._trainer, self._rehearsed
        if built is None or built.settings != settings_of_step(trainer):
            if trainer._accumulation.num_waiting:
                return None
            built = self._rehearsed = rehearse(trainer, batch, self._rates)
        self._constants = built.constants
        program = built.programs.get(key[1])
        if program is None or not program.rebind(trainer):  # optimizers have no state yet
            self._is_settled = False
            return None
        self._programs[key] = program
        return program

    def _changed_options(self) -> str:
        now = options_of(self._trainer.optimizer)
        names = {new[0] for new, old in zip(now, self._options, strict=True) if new != old}
        return f"the schedule changes {', '.join(sorted(names))}, a constant of a captured step"

    def _give_up(self, reason: str, batch: Any) -> Any:
        """Go on line by line, for a reason that came up."""
        if self._mode == "capture":
            raise NotSupportedError(f"step_mode='capture': {reason}. Use step_mode='eager'.")
        self._adopt(StepReport(asked=self._mode, choice="eager", reason=reason))
        self._trainer.print(f"Steps run in eager mode from here on: {reason}")
        return self.step(batch)

    def _lost(self, error: NotCapturableError) -> CheckpointError:
        return CheckpointError(
            f"The run was captured, and its program cannot be made again here: {error}. Resume "
            "where it can, or with step_mode='eager' and allow_changes=True."
        )


def others_run_between_steps(trainer: Trainer) -> bool:
    """Whether code that is not of this package may change model or optimizer between steps."""
    if trainer._has_other_listeners:
        return True
    events = ("on_train_step_start", "on_train_step_end")
    listeners = [each for name in events for each in trainer.callback_handler.listeners(name)]
    owners = [getattr(each, "__func__", each).__module__ for each in listeners]
    return any(not owner.startswith("loopwright.") for owner in owners)
