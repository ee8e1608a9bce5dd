"""Running again the step at which a declared run stopped, from what its folder holds."""

from pathlib import Path

from loopwright.config_file import ConfigSource, read_config_file
from loopwright.errors import CheckpointError, ConfigurationError, RunFolderError
from loopwright.experiment import Experiment
from loopwright.experiment_config import component_paths
from loopwright.forensics import Replay, find_step
from loopwright.problems import write_path
from loopwright.run_record import CONFIG_FILE


def replay_declared(
    folder: str | Path, *, config: str | None = None, device: str | None = None
) -> Replay:
    """Run the step again at which a declared run stopped.

    Args:
        folder: The folder of the run, or `forensics` in it.
        config: The YAML file that declares the run, where its parts are code of the user's.
        device: Where to run it; by default as declared.

    Raises:
        RunFolderError: There is no such step.
        ConfigurationError: The run was not declared, or its own configuration names code.
        CheckpointError: The step is damaged, or does not fit what is declared.
    """
    try:
        step = find_step(folder)
    except CheckpointError as error:
        raise RunFolderError(str(error)) from None
    where = step.parent / CONFIG_FILE if config is None else Path(config)
    source = read_config_file(where)
    if "trainer" in source.values:
        raise ConfigurationError(
            f"{step.parent} was trained by a Trainer, which only its program can make. There, make "
            f"it as for training and call loopwright.forensics.replay({str(folder)!r}, trainer)."
        )
    if config is None:
        _refuse_code(source, step)
    return Experiment.from_source(source).replay(step, device=device)


def _refuse_code(source: ConfigSource, step: Path) -> None:
    """Import nothing that a folder names, which may come from anywhere."""
    for _, path, raw in component_paths(source.values):
        name = raw.get("type") if isinstance(raw, dict) else raw
        if isinstance(name, str) and ":" in name:
            raise ConfigurationError(
                f"{source.name}: {write_path(path)} names code, {name!r}, which is not imported "
                f"because a folder says so. Give the file: loopwright replay {step.parent} "
                f"--config FILE ({source.name} itself, if you trust it)."
            )
