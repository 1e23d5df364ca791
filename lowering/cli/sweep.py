"""What ``ablate`` and ``tune`` share: where the work is done, what is kept, how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lowering.cli.common import Command
from lowering.cli.deployment_target import deployment_target_option


def sweep_options(function: Command) -> Command:
    """``--chip --deployment-target --jobs --engine --scheduler --cache --fresh``."""
    options = (
        click.option(
            "--chip",
            "chips",
            multiple=True,
            default=("M4",),
            show_default=True,
            help="Chip to predict for, such as M1 or 'A17 Pro'; may be repeated.",
        ),
        deployment_target_option("; native attention needs iOS18"),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            help="Processes on this machine. Default: one for each core.",
        ),
        click.option(
            "--engine",
            type=click.Choice(("local", "dask")),
            default="local",
            show_default=True,
            help="Processes of our own, or a Dask cluster on this machine.",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler to use instead."),
        click.option(
            "--cache",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where finished work is kept. Default: ~/.cache/ane-passes/ablation.",
        ),
        click.option("--fresh", is_flag=True, help="Measure everything anew."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@contextmanager
def sweeping(
    jobs: int | None, engine: str, scheduler: str | None, cache: Path | None, fresh: bool
) -> Iterator[dict[str, Any]]:
    """The engine, the cache and the progress of a sweep, as arguments of ``Settings``."""
    from lowering.ablation.cache import DEFAULT_CACHE, Cache
    from lowering.ablation.dask_cluster import DaskCluster
    from lowering.ablation.engines import Engine, LocalPool

    kept = Cache(cache or DEFAULT_CACHE, fresh=fresh)
    count = jobs or os.cpu_count() or 1
    chosen: Engine = (
        DaskCluster(count, scheduler)
        if scheduler is not None or engine == "dask"
        else LocalPool(count)
    )
    with chosen as running, _bar() as progress:
        yield {"engine": running, "cache": kept, "progress": progress}


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar on stderr; none where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, last="")

        def progress(done: int, known: int, last: str) -> None:
            bar.update(task, completed=done, total=known, last=last)

        yield progress
