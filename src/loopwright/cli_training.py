"""The commands that run what a file declares: train, lr-find and replay."""

import os
import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.cli_exits import EXIT_FAILED, exit_codes, leaving_on_signals
from loopwright.errors import ConfigurationError, RunInterrupted
from loopwright.extras import require_installed

if TYPE_CHECKING:
    import typer

    from loopwright.experiment import Experiment
    from loopwright.json_events import JsonEvents


def add_training_commands(app: "typer.Typer") -> None:
    """Add the commands to the command line."""
    _add_train(app)
    _add_lr_find(app)
    _add_replay(app)


def _add_train(app: "typer.Typer") -> None:
    import typer

    @app.command()
    def train(
        config: Annotated[str, typer.Argument(help="The YAML file that declares the run.")],
        overrides: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="KEY=VALUE",
                help="Set a value, such as model.training.epochs=3; can be given again.",
            ),
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="Where to train: cpu, cuda, cuda:1, mps.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="The seed of the run.")] = None,
        folder: Annotated[
            str | None,
            typer.Option(help="The run's own folder, empty or new; or a URL to keep a copy at."),
        ] = None,
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Go on with the run in --folder, or with the newest unfinished one of this "
                "name; without one, start anew.",
            ),
        ] = False,
        allow_changes: Annotated[
            bool,
            typer.Option(
                "--allow-changes",
                help="With --resume: go on although the configuration is another one.",
            ),
        ] = False,
        save: Annotated[
            str | None,
            typer.Option(
                metavar="FILE", help="Save what was trained, for predict, evaluate and serve."
            ),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Write a JSON object per line to standard output.")
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Train the model that CONFIG declares, and test it.

        Exit codes: 0 finished, 1 failed, 2 mistake in usage or configuration, 75 stopped by
        SIGTERM, SIGHUP or SIGUSR1 and resumable, 130 stopped by SIGINT (Ctrl-C).
        """
        events = _open_events() if as_json else None
        with exit_codes(debug=debug, events=events), leaving_on_signals():
            if allow_changes and not resume:
                raise ConfigurationError("--allow-changes belongs to --resume; add it.")
            given = {"device": device, "seed": seed, "folder": folder}
            _train(
                config,
                overrides or [],
                {k: v for k, v in given.items() if v is not None},
                resume=resume,
                allow_changes=allow_changes,
                save=save,
                events=events,
            )


def _train(
    config: str,
    overrides: list[str],
    options: dict[str, Any],
    *,
    resume: bool,
    allow_changes: bool,
    save: str | None,
    events: "JsonEvents | None",
) -> None:
    _look_for_code_here()
    from loopwright.console import ConsoleProgressCallback, print_summary
    from loopwright.json_events import JsonEventsCallback

    experiment = read_experiment(config, overrides, options)
    if save is not None and not os.access(os.path.dirname(save) or ".", os.W_OK):
        raise ConfigurationError(f"--save {save}: its folder is not there or cannot be written to.")
    progress = ConsoleProgressCallback()
    told = [progress] if events is None else [JsonEventsCallback(events)]
    try:
        with nullcontext() if events is None else redirect_stdout(sys.stderr):
            results = experiment.train(
                callbacks=told, verbose=False, resume=resume, allow_changes=allow_changes
            )
    except (RunInterrupted, KeyboardInterrupt) as error:
        if experiment.run_folder is not None:
            options = options | {"folder": experiment.run_folder}
            error.add_note(f"Go on with: {resuming_command(config, overrides, options)}")
        raise
    finally:
        progress.close()
    if save is not None:
        experiment.save(save)
    if events is None:
        print_summary(results)
    else:
        events.write_end(results)


def _open_events() -> "JsonEvents":
    from loopwright.json_events import JsonEvents

    return JsonEvents(sys.stdout)


def resuming_command(config: str, overrides: list[str], options: dict[str, Any]) -> str:
    """Return the command that goes on with a run, secrets masked."""
    from loopwright.config_file import mask_override

    words = ["loopwright", "train", config, "--resume"]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for override in overrides for word in ("--set", mask_override(override))]
    return shlex.join(words)


def _add_lr_find(app: "typer.Typer") -> None:
    import typer

    @app.command("lr-find")
    def lr_find(
        config: Annotated[str, typer.Argument(help="The YAML file that declares the run.")],
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Set a value; can be given again."),
        ] = None,
        plot: Annotated[
            str, typer.Option(help="Where the plot is written; its ending decides the format.")
        ] = "lr-find.svg",
        method: Annotated[
            str | None,
            typer.Option(help="max_acc, min_loss, max_range, laplace or sobel."),
        ] = None,
        lr_min: Annotated[float, typer.Option(help="The first rate.")] = 1e-6,
        lr_max: Annotated[float, typer.Option(help="The last rate.")] = 1.0,
        batches: Annotated[int, typer.Option(help="Batches that the search takes.")] = 100,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Search for a learning rate for the run that CONFIG declares.

        Exit codes: 0 found, 1 failed, 2 mistake in usage or configuration.
        """
        with exit_codes(debug=debug), leaving_on_signals():
            options: dict[str, Any] = {"lr_min": lr_min, "lr_max": lr_max, "max_batches": batches}
            if method is not None:
                options["lr_select_method"] = method
            _lr_find(config, overrides or [], plot, options)


def _lr_find(config: str, overrides: list[str], plot: str, options: dict[str, Any]) -> None:
    require_installed(("matplotlib",), "plots")
    _look_for_code_here()
    experiment = read_experiment(config, overrides, {})
    try:
        finder = experiment.find_rate(num_epochs=options["max_batches"], **options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    low, high = finder.get_lr_range()
    finder.save_plot(plot)
    print(f"learning rate from {low:.3g} to {high:.3g} ({finder.lr_select_method}); see {plot}")


def _add_replay(app: "typer.Typer") -> None:
    import typer

    @app.command()
    def replay(
        folder: Annotated[str, typer.Argument(help="The folder of the run.")],
        config: Annotated[
            str | None,
            typer.Option(help="The YAML file that declares the run, where it names your code."),
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")
        ] = None,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of errors.")
        ] = False,
    ) -> None:
        """Run the step again at which the loss of a run was not finite, and tell where it began.

        Exit codes: 0 found, 1 failed or finite this time, 2 mistake in usage.
        """
        found = False
        with exit_codes(debug=debug):
            found = _replay(folder, config, device)
        if not found:
            raise typer.Exit(EXIT_FAILED)


def _replay(folder: str, config: str | None, device: str | None) -> bool:
    """Print what was found, and return whether anything was."""
    _look_for_code_here()
    from loopwright.replaying import replay_declared

    found = replay_declared(folder, config=config, device=device)
    sys.stdout.write(f"{found}\n")
    return found.place is not None


def read_experiment(config: str, overrides: list[str], options: dict[str, Any]) -> "Experiment":
    """Return what a file declares, changed by overrides and by options, which are keys of `run`."""
    from loopwright.config_file import apply_overrides, read_config_file, set_value
    from loopwright.experiment import Experiment

    source = read_config_file(config)
    apply_overrides(source, overrides)
    for name, value in options.items():
        set_value(source, ("run", name), value, place=f"--{name}")
    return Experiment.from_source(source)


def _look_for_code_here() -> None:
    """Find a part written package.module:Name where the command was given, as python -m does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
