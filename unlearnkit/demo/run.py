# SPDX-License-Identifier: BSD-3-Clause
"""The demo from end to end: what it prints, and the files that it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from unlearnkit.demo.digits import EPOCHS, faulty_scanner, trained, whole_class
from unlearnkit.demo.page import page, picture
from unlearnkit.demo.study import Outcome, study
from unlearnkit.demo.tables import over_seeds, terminal
from unlearnkit.report import check_installed

FOLDER = "unlearnkit-demo"
SEEDS = 3


def run(
    folder: str | os.PathLike[str] = FOLDER,
    seed: int = 0,
    seeds: int = SEEDS,
    image: str | os.PathLike[str] | None = None,
    epochs: int = EPOCHS,
) -> list[list[Outcome]]:
    """Carry out two requests, print what came of them, and write a page about it.

    A faulty scanner's wrong labels are forgotten, then, by another network, a whole class.

    Parameters
    ----------
    folder : str or path-like
        Gets the edits and ``index.html``; made where it is missing.
    seed : int
        The seed that is shown in detail; it fixes data, networks and edits.
    seeds : int
        How many seeds to repeat it over, counted from `seed`.
    image : str or path-like, optional
        Where to write a picture of the outcome, such as ``demo.png``.
    epochs : int
        Length of every training.

    Returns
    -------
    list of list of Outcome
        By request, by seed.

    Raises
    ------
    ImportError
        If `image` is asked for and the extra ``report`` is not installed. Without `image` the page
        is left out then, and a line says so.
    """
    if image is not None:
        check_installed()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    studies = []
    with _one_thread():
        # The first training loads what torch defers: it would count as the original's seconds.
        trained(faulty_scanner(seed).train, seed, "warming up", epochs=1)
        for ask in (faulty_scanner, whole_class):
            outcomes = [study(ask, seed, folder, epochs)]
            print(terminal(outcomes[0]), _edit(outcomes[0]), sep="\n\n")
            outcomes += [study(ask, seed + more, folder, epochs) for more in range(1, seeds)]
            if seeds > 1:
                print(f"  {over_seeds(outcomes)}")
            print()
            studies.append(outcomes)
    if image is not None:
        picture(studies, image)
        print(f"picture: {image}")
    try:
        print(f"page: {page(studies).save(folder / 'index.html').resolve().as_uri()}")
    except ImportError as error:
        print(f"page: left out, {error}")
    return studies


def _edit(outcome: Outcome) -> str:
    size = outcome.path.stat().st_size / 1000
    exact = "every bit was right both times" if outcome.exact else "but NOT every bit was right"
    return (
        f"  {outcome.edit}\n"
        f"  saved as {outcome.path} ({size:.0f} kB)\n"
        f"  loaded, applied to the original in place, and reverted: {exact}"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors of this size gain nothing from threads, and lose where other work is waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
