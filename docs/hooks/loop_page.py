"""Writes the page of the loop from the map that the package itself holds, at every build."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from loopwright.events import TrainerCallback
from loopwright.loop_map import EVALUATION, TRAINING, Line, render
from loopwright.trainer import Trainer

PAGE = """# The loop

What happens in a run, in the order in which it happens. A name without a prefix is a method of the
[`Trainer`][loopwright.trainer.Trainer]; a name that begins with `on_` is an event, which every
callback that has such a method hears. The page is written from the code
([`loopwright.loop_map`][loopwright.loop_map]), and a test compares the map with what a run does.
[`trainer.explain()`][loopwright.trainer.Trainer.explain] prints it for one trainer, with what is
overridden and the callbacks that will run.

## Training

```text
{training}
```

## Evaluation

```text
{evaluation}
```

## Methods of the trainer

| Method | What it does |
| --- | --- |
{hooks}

## Events

| Event | When it happens |
| --- | --- |
{events}
"""


def first_sentence(method: Callable[..., Any]) -> str:
    """Return the first sentence of a method's docstring, on one line."""
    text = inspect.getdoc(method) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".") + "."


def table(kind: str, owner: type, lines: Iterable[Line]) -> str:
    """Return a row for each hook or event, in the order of the map, each name once."""
    names = dict.fromkeys(line.name for line in lines if line.kind == kind)
    methods = [getattr(owner, name) for name in names]
    return "\n".join(
        f"| [`{each.__name__}`][{each.__module__}.{each.__qualname__}] | {first_sentence(each)} |"
        for each in methods
    )


def loop_page() -> str:
    """Return the whole page as Markdown."""
    both = (*TRAINING, *EVALUATION)
    return PAGE.format(
        training=render(TRAINING),
        evaluation=render(EVALUATION),
        hooks=table("hook", Trainer, both),
        events=table("event", TrainerCallback, both),
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add loop.md, which exists only while the site is built."""
    files.append(File.generated(config, "loop.md", content=loop_page()))
    return files
