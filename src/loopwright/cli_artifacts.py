"""The commands that use what was trained: predict, evaluate, serve; and schema and doctor."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from loopwright.cli_exits import exit_codes
from loopwright.errors import ConfigurationError

if TYPE_CHECKING:
    import typer

    from loopwright.artifact import Artifact

TOKEN = "LOOPWRIGHT_TOKEN"


def add_artifact_commands(app: "typer.Typer") -> None:
    """Add the commands to the command line."""
    import typer

    artifact_argument = typer.Argument(help="The file that Experiment.save wrote.")
    trust_option = typer.Option(
        "--trust",
        metavar="PACKAGE.MODULE:NAME",
        help="Import this code of the artifact's own; can be given again.",
    )
    debug_option = typer.Option("--debug", help="Show the traceback of errors.")
    json_option = typer.Option("--json", help="Print JSON.")

    @app.command()
    def predict(
        artifact: Annotated[str, artifact_argument],
        image: Annotated[
            list[str] | None, typer.Option("--image", help="An image; can be given again.")
        ] = None,
        csv: Annotated[str | None, typer.Option(help="A table, one row per sample.")] = None,
        json: Annotated[str | None, typer.Option(help='A file of {"inputs": [...]}.')] = None,
        npy: Annotated[str | None, typer.Option(help="An array, one row per sample.")] = None,
        trust: Annotated[list[str] | None, trust_option] = None,
        device: Annotated[str | None, typer.Option(help="Where to predict.")] = None,
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Predict with ARTIFACT: one line of JSON for each sample."""
        with exit_codes(debug=debug):
            given = {"image": image, "csv": csv, "json": json, "npy": npy}
            _predict(artifact, given, trust or [], device)

    @app.command()
    def evaluate(
        artifact: Annotated[str, artifact_argument],
        trust: Annotated[list[str] | None, trust_option] = None,
        as_json: Annotated[bool, json_option] = False,
        seal: Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="Seal the test part in FILE, or compare with what is sealed there: a model "
                "that trained on its samples is refused, and evaluations are counted.",
            ),
        ] = None,
        device: Annotated[str | None, typer.Option(help="Where to evaluate.")] = None,
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Evaluate ARTIFACT on the test part of its data set."""
        with exit_codes(debug=debug):
            _evaluate(artifact, trust or [], device, seal, as_json=as_json)

    @app.command()
    def serve(
        artifact: Annotated[str, artifact_argument],
        host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="The port; 0 for any that is free.")] = 8000,
        max_megabytes: Annotated[
            int, typer.Option(min=1, help="The largest request, in MiB.")
        ] = 16,
        max_batch_size: Annotated[
            int, typer.Option(min=1, help="Samples that go through the model at once.")
        ] = 256,
        trust: Annotated[list[str] | None, trust_option] = None,
        device: Annotated[str | None, typer.Option(help="Where to predict.")] = None,
        debug: Annotated[bool, debug_option] = False,
    ) -> None:
        """Serve ARTIFACT over HTTP.

        Where the environment variable LOOPWRIGHT_TOKEN is set, clients have to send that token.
        """
        with exit_codes(debug=debug):
            _serve(
                _open(artifact, trust or [], device),
                host,
                port,
                max_bytes=max_megabytes * 2**20,
                max_batch_size=max_batch_size,
            )

    @app.command()
    def schema() -> None:
        """Print the JSON schema of a configuration file, for editors."""
        with exit_codes(debug=False):
            from loopwright.experiment_config import ExperimentSpec

            typer.echo(_dump(ExperimentSpec.model_json_schema(), indent=2))

    @app.command()
    def doctor(as_json: Annotated[bool, json_option] = False) -> None:
        """Print versions, devices, and which extras are missing."""
        with exit_codes(debug=False):
            _doctor(as_json=as_json)


def _open(path: str, trusted: Iterable[str], device: str | None) -> "Artifact":
    from loopwright.artifact import read_artifact
    from loopwright.device import pick_device

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    artifact = read_artifact(path, trusted=tuple(trusted))
    artifact.fitted.model.to(pick_device(device))
    return replace(artifact, fitted=replace(artifact.fitted, device=device))


def _predict(
    path: str, given: Mapping[str, Any], trusted: Iterable[str], device: str | None
) -> None:
    chosen = [name for name, value in given.items() if value]
    if len(chosen) != 1:
        found = " and ".join(f"--{name}" for name in chosen) or "none"
        raise ConfigurationError(f"Expected one of --image, --csv, --json, --npy; got {found}.")
    fitted = _open(path, trusted, device).fitted
    name = chosen[0]
    try:
        outputs = fitted.outputs(_read_inputs(name, given[name], fitted.features))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--{name}: {error}") from error
    names = fitted.class_names
    probabilities = fitted.as_probabilities(outputs) if fitted.is_probabilistic else None
    for row, prediction in enumerate(fitted.as_predictions(outputs)):
        line = {"prediction": prediction.tolist()}
        if names:
            line["label"] = names[prediction]
        if probabilities is not None:
            line["probabilities"] = probabilities[row].tolist()
        print(_dump(line))


def _read_inputs(kind: str, value: Any, features: Any) -> Any:
    import numpy as np

    from loopwright.inputs import from_csv, from_images, from_json

    if kind == "image":
        return from_images((Path(each).read_bytes() for each in value), features)
    if kind == "csv":
        return from_csv(Path(value).read_text(encoding="utf-8"), features)
    if kind == "json":
        return from_json(Path(value).read_bytes())
    return np.load(value, allow_pickle=False)


def _evaluate(
    path: str, trusted: Iterable[str], device: str | None, seal: str | None, *, as_json: bool
) -> None:
    from loopwright.experiment import Experiment
    from loopwright.sealed import Seal

    experiment = Experiment.load(path, trusted=tuple(trusted), device=device)
    sealed = None
    if seal is not None:
        sealed = Seal(seal, experiment.samples("test"), experiment.labels("test"))
    if sealed is not None:
        declared = experiment.spec.dataset.samples.complete()
        for part in (name for name in declared if name != "test"):
            sealed.check(experiment.samples(part), f"The {part} part of {path}")
    metrics = experiment.evaluate()
    if sealed is not None:
        print(sealed.count(path, metrics), file=sys.stderr)
    if as_json:
        print(_dump(metrics))
    else:
        _print_table(metrics)


def _serve(
    artifact: "Artifact", host: str, port: int, *, max_bytes: int, max_batch_size: int
) -> None:
    from loopwright.extras import require
    from loopwright.serving import make_server

    token = os.environ.get(TOKEN)
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        print(
            f"Anyone who reaches {host} may use this server. Set {TOKEN} to ask for a token.",
            file=sys.stderr,
        )
    app = make_server(artifact, token=token, max_bytes=max_bytes, max_batch_size=max_batch_size)
    require("uvicorn", "serve").run(app, host=host, port=port, access_log=False)


def _doctor(*, as_json: bool) -> None:
    from loopwright.environment import describe_environment

    environment = describe_environment()
    extras = _extras(metadata.requires("loopwright") or [])
    found = {
        "python": environment["python"],
        "platform": environment["platform"],
        **environment["versions"],
        "cpu": environment["cpu"]["model"],
        "cores": environment["cpu"]["cores"],
        "memory_gib": round((environment["memory_bytes"] or 0) / 2**30, 1),
        "devices": environment["devices"],
        "missing_extras": {extra: missing for extra, missing in extras.items() if missing},
    }
    if as_json:
        print(_dump(found))
        return
    missing = found.pop("missing_extras")
    _print_table(found)
    for extra, packages in missing.items():
        print(f'{extra}: {", ".join(packages)} missing; pip install "loopwright[{extra}]"')


def _extras(requirements: Iterable[str]) -> dict[str, list[str]]:
    """Return the packages of each extra that are not installed."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match is None or match[2] in ("dev", "docs"):
            continue
        missing = extras.setdefault(match[2], [])
        try:
            metadata.version(match[1])
        except metadata.PackageNotFoundError:
            missing.append(match[1])
    return extras


def _print_table(values: Mapping[str, Any]) -> None:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        print(f"{name:<{width}}  {shown}")


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)
