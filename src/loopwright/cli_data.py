"""The commands that show what a run can be made of: list and preview."""

import inspect
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.cli_exits import exit_codes
from loopwright.cli_training import read_experiment
from loopwright.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import typer

    from loopwright.registry import Registry

KINDS = (
    "augmentors",
    "callbacks",
    "datasets",
    "losses",
    "metrics",
    "models",
    "objectives",
    "optimizers",
    "preprocessors",
    "schedules",
    "trackers",
)


def add_data_commands(app: "typer.Typer") -> None:
    """Add the commands to the command line."""
    import typer

    @app.command("list")
    def list_parts(
        kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """List the parts of a KIND: name, what it does, arguments with defaults, the extra."""
        with exit_codes(debug=debug):
            for part in describe_parts(kind):
                typer.echo(json.dumps(part) if as_json else _as_text(part))

    @app.command()
    def preview(
        config: Annotated[str, typer.Argument(help="The YAML file that declares the run.")],
        out: Annotated[str, typer.Option(help="The image to write.")] = "preview.png",
        samples: Annotated[int, typer.Option(min=1, help="How many samples are shown.")] = 8,
        epochs: Annotated[int, typer.Option(min=1, help="How often each is augmented.")] = 4,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Set a value; can be given again."),
        ] = None,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """Write a contact sheet of CONFIG's training images: as they come, prepared, augmented."""
        with exit_codes(debug=debug):
            from loopwright.preview import write_preview

            experiment = read_experiment(config, overrides or [], {})
            write_preview(experiment, out, num_samples=samples, num_epochs=epochs)
            typer.echo(f"Wrote {out}")


def describe_parts(kind: str) -> Iterator[dict[str, Any]]:
    """Give name, summary, arguments and extra of each registered part of a kind.

    Of a part whose package is not installed only name and extra are known.

    Raises:
        ConfigurationError: there is no such kind.
    """
    from loopwright.registry import nearest_name

    if kind not in KINDS:
        nearest = nearest_name(kind, KINDS)
        hint = f' Did you mean "{nearest}"?' if nearest else ""
        raise ConfigurationError(f"There is no list of {kind!r}. Known: {', '.join(KINDS)}.{hint}")
    registry, supplied = _registries()[kind]
    for name in registry:
        extra = registry.extra_of(name)
        try:
            part = registry.get(name)
        except MissingExtraError:
            yield {"name": name, "summary": "Not installed.", "arguments": {}, "extra": extra}
            continue
        except Exception as error:  # another's package: the rest of the list is still worth seeing
            summary = f"Cannot be loaded: {error}"
            yield {"name": name, "summary": summary, "arguments": {}, "extra": extra}
            continue
        filled = {key: f"the run's {value}" for key, value in _lengths(part).items()}
        yield {
            "name": name,
            "summary": _summary(part),
            "arguments": {
                each.name: filled.get(each.name) or _written(each, supplied)
                for each in inspect.signature(_callable(part)).parameters.values()
                if each.name not in _NOT_DECLARED and each.kind is not each.VAR_KEYWORD
            },
            "extra": extra,
        }


_NOT_DECLARED = ("params", "optimizer")
"""What the run gives an optimizer and a schedule."""


def _registries() -> "dict[str, tuple[Registry[Any], tuple[str, ...]]]":
    """Return each kind's registry, with the parameters that the data fill in."""
    from loopwright.augmentors import augmentors
    from loopwright.components import losses, metrics, optimizers, schedules
    from loopwright.components.callbacks import callbacks
    from loopwright.components.objectives import objectives
    from loopwright.datasets import datasets
    from loopwright.models import models
    from loopwright.models.base import INFERRED
    from loopwright.preprocessors import preprocessors
    from loopwright.trackers import trackers

    return {
        "augmentors": (augmentors, ()),
        "callbacks": (callbacks, ()),
        "datasets": (datasets, ()),
        "losses": (losses.losses, ()),
        "metrics": (metrics.metrics, ()),
        "models": (models, INFERRED),
        "objectives": (objectives, ()),
        "optimizers": (optimizers.optimizers, ()),
        "preprocessors": (preprocessors, ()),
        "schedules": (schedules.schedules, ()),
        "trackers": (trackers, ()),
    }


def _callable(part: Any) -> Any:
    """Return what is called: of a schedule, the scheduler's class."""
    return getattr(part, "scheduler", part)


def _lengths(part: Any) -> dict[str, Any]:
    """Return the arguments of a schedule that are as long as the run."""
    return dict(getattr(part, "lengths", {}))


def _summary(part: Any) -> str:
    """Return the first sentence of a docstring."""
    first = " ".join((inspect.getdoc(_callable(part)) or "").partition("\n\n")[0].split())
    sentence, dot, _ = first.partition(". ")
    return f"{sentence}." if dot else first


def _written(parameter: inspect.Parameter, supplied: Collection[str]) -> str:
    if parameter.default is not parameter.empty:
        return json.dumps(parameter.default, default=repr)
    return "from the data" if parameter.name in supplied else "required"


def _as_text(part: dict[str, Any]) -> str:
    lines = [f"{part['name']}: {part['summary']}"]
    if part["arguments"]:
        listed = (f"{n} ({value})" for n, value in part["arguments"].items())
        lines.append(f"    {', '.join(listed)}")
    if part["extra"]:
        lines.append(f'    needs: pip install "loopwright[{part["extra"]}]"')
    return "\n".join(lines)
