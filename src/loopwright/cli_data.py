"""The commands that show what a run can be made of: list and preview."""

import inspect
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.errors import ConfigurationError

if TYPE_CHECKING:
    import typer

KINDS = ("augmentors", "datasets", "preprocessors")


def add_commands(app: "typer.Typer", exit_codes: Any, read_experiment: Callable[..., Any]) -> None:
    """Add the commands to the command line.

    Args:
        app: the command line.
        exit_codes: a context that turns errors into one message and an exit code.
        read_experiment: makes an experiment of a file, overrides and options.
    """
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

    Raises:
        ConfigurationError: there is no such kind.
    """
    from loopwright.augmentors import augmentors
    from loopwright.datasets import datasets
    from loopwright.preprocessors import preprocessors
    from loopwright.registry import Registry, nearest_name

    registries: dict[str, Registry[Any]] = {
        "augmentors": augmentors,
        "datasets": datasets,
        "preprocessors": preprocessors,
    }
    if kind not in registries:
        nearest = nearest_name(kind, KINDS)
        hint = f' Did you mean "{nearest}"?' if nearest else ""
        raise ConfigurationError(f"There is no list of {kind!r}. Known: {', '.join(KINDS)}.{hint}")
    registry = registries[kind]
    for name in registry:
        part = registry.get(name)
        yield {
            "name": name,
            "summary": (inspect.getdoc(part) or "").partition("\n")[0],
            "arguments": {
                each.name: _written(each) for each in inspect.signature(part).parameters.values()
            },
            "extra": part.extra,
        }


def _written(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else json.dumps(parameter.default)


def _as_text(part: dict[str, Any]) -> str:
    lines = [f"{part['name']}: {part['summary']}"]
    if part["arguments"]:
        listed = (f"{n} ({value})" for n, value in part["arguments"].items())
        lines.append(f"    {', '.join(listed)}")
    if part["extra"]:
        lines.append(f'    needs: pip install "loopwright[{part["extra"]}]"')
    return "\n".join(lines)
