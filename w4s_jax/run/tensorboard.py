"""TensorBoard: curves of a training run in its own folder, nothing to set up.

Callback → **tensorboard/** (updates, rounds), **tensorboard/validation/** (searches, test) → `tensorboard --logdir`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter

from w4s_jax.reports.record import Phase
from w4s_jax.run import series
from w4s_jax.run.callbacks import Callback, FinishedTurn, Metrics
from w4s_jax.run.closing import Result


class TensorBoard(Callback):
    """Writes events; training and validation are two runs of it, as each counts its own steps."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """Opens both; what stands at `purge_step` or later is hidden, as it will be made again."""
        self._train = SummaryWriter(str(folder), purge_step=purge_step)
        self._validation = SummaryWriter(str(folder / "validation"))

    def on_update(self, metrics: Metrics) -> None:
        """Plots an update; see `Callback`."""
        _add(self._train, series.of_update(metrics).named(), metrics.step)

    def on_round(self, metrics: Metrics) -> None:
        """Plots a round by its last update, so that what is hidden on resume is right; see `Callback`."""
        _add(self._train, series.of_round(metrics).named(), metrics.step)

    def on_turn(self, finished: FinishedTurn) -> None:
        """Plots a turn of a search; see `Callback`."""
        if finished.phase is not Phase.TRAINING:
            found = series.of_turn(finished)
            _add(self._validation, found.named(), found.step)

    def on_test(self, results: Sequence[Result]) -> None:
        """Plots the test scores; see `Callback`."""
        _add(self._validation, series.of_results(results).named(), 0)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Flushes both."""
        self._train.close()
        self._validation.close()


def _add(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
