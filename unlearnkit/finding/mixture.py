# SPDX-License-Identifier: BSD-3-Clause
"""Noisy samples as one of two clusters: of what a model sees in them, or of its loss."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from unlearnkit.data import Loss, Partition
from unlearnkit.exceptions import DataError, SeparationWarning, warn
from unlearnkit.finding._clusters import Array, Clusters, Covariance, fit_clusters
from unlearnkit.finding._division import Division, divide, of_a_class
from unlearnkit.finding._look import Look, has_logits_and_hidden_layer, look
from unlearnkit.finding._rows import Rows, chunks
from unlearnkit.finding.base import Finder
from unlearnkit.importance import GradientActivation

View: TypeAlias = Literal["attribution", "loss"]

CLEARER = (
    1.5  # times as separate is the loss of tables with wrong labels, whose attributions have clusters too
)

MEMORISED = (
    "Clean data looks like this, and so do wrong labels that the model knows by heart: look with a model that was "
    "trained for a few epochs only, or pass LabelIssues(pred_probs) with probabilities from cross-validation"
)


class MixtureFinder(Finder):
    """Find noisy samples as one of two Gaussian clusters; no sample has to be known to be clean.

    Input noise shows in what the model sees in a sample, a wrong label in the loss. So two mixtures
    are fitted: one to attributions, less the mean of each sample's class, and one to the loss beside
    how sure the model is of whatever class it predicts. In each the cluster of higher loss is the
    noisy one. Attributions divide the data where their clusters lie apart, unless the loss divides
    it much more clearly. Where neither mixture's do, samples are divided by the loss alone, with a
    :class:`SeparationWarning`.

    Parameters
    ----------
    features : {"auto", "attribution", "loss"}, default="auto"
        Which of the two mixtures; ``"auto"`` as above, and the loss alone where the model has no hidden
        layer, or where `loss` alone knows how to run it and no `attribution` is given.
    attribution : estimator, optional
        With a method ``stream(model, data, loss)`` that yields features [n, D] batch by batch.
        ``GradientActivation(target="max")`` where left out.
    by_class : bool, default=True
        Take the mean of its class from each sample's attribution. Without it clusters of
        attributions are mostly groups of classes.
    pca : int or None, default=8
        Components of the attributions, at most. None: all features as they are.
    covariance : {"full", "diag"}, default="full"
        Of each cluster.
    n_init : int, default=3
        Starts of each mixture by k-means, of which the likeliest fit stays.
    from_loss : bool, default=True
        Fit from the division by loss too, and take the fit that separates better.
    threshold : float, default=0.5
        From which probability on a sample is noisy.
    max_fit : int, default=20_000
        Samples that the mixtures are fitted to, drawn at random; the others are only assigned.
    random_state : int or None, default=None
        Seeds what is drawn, so that the same samples are found again.

    Attributes
    ----------
    features_ : {"attribution", "loss"}
        What the last :meth:`find` divided by.

    Notes
    -----
    After RLAP (arXiv 2506.11615), of which :meth:`published` is the partition as its authors' code
    has it. That cannot see labels, and takes from the truth which cluster is noisy.

    A wrong label that the model knows by heart has a small loss. Look with a model that was trained for
    a few epochs, as :class:`WarmUpFinder` does. The samples of a table may fall into clusters by
    themselves: a noisy part that is most of a class is doubted, but look at what was found all the
    same. docs/noisy_data.md has figures.

    :attr:`Partition.separation` is 1 where the clusters are just to be told from each other: it is the
    smaller of two ratios, of the distance between the clusters (Mahalanobis' of attributions,
    Bhattacharyya's of losses) and of the difference of their mean losses to what noise showed at the
    least. Both are taken of the clusters' parameters: the halves of a single cloud would look
    separate by their samples. A cluster of losses whose labels the model holds to be likelier right
    than wrong, on average, is not taken for noise without a warning. A class that is noisy as a whole cannot
    be seen with ``by_class``.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import MixtureFinder
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(400, 4), torch.arange(400) % 3
    >>> X[torch.arange(400), y] += 4
    >>> wrong = torch.arange(0, 400, 5)
    >>> y[wrong] = (y[wrong] + 1) % 3
    >>> model = torch.nn.Linear(4, 3, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> found = MixtureFinder("loss", random_state=0).find(model, (X, y))
    >>> bool(found.is_noisy[wrong].float().mean() > 0.9)
    True
    """

    def __init__(
        self,
        features: Literal["auto", "attribution", "loss"] = "auto",
        attribution: Any = None,
        by_class: bool = True,
        pca: int | None = 8,
        covariance: Covariance = "full",
        n_init: int = 3,
        from_loss: bool = True,
        threshold: float = 0.5,
        max_fit: int = 20_000,
        random_state: int | None = None,
    ) -> None:
        self.features = features
        self.attribution = attribution
        self.by_class = by_class
        self.pca = pca
        self.covariance = covariance
        self.n_init = n_init
        self.from_loss = from_loss
        self.threshold = threshold
        self.max_fit = max_fit
        self.random_state = random_state

    @classmethod
    def published(cls, random_state: int | None = 42) -> MixtureFinder:
        """Return the finder with the features and the mixture of RLAP's authors.

        All units of the last hidden layer, scaled, one start, full covariances. The clean cluster is
        chosen by the loss all the same: their code takes it from the truth.
        """
        return cls(
            "attribution", by_class=False, pca=None, n_init=1, from_loss=False, random_state=random_state
        )

    def find(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Partition:
        """Divide `data` into a clean and a noisy part; the model is left as it was.

        The data is read once for the losses, and once more for attributions; twice where their rows
        would take more than 256 MiB, as they are not kept then. Memory grows with `max_fit` and
        with a few numbers a sample.

        Parameters
        ----------
        model : nn.Module
            Trained on `data`, and best not to the point where it knows its labels by heart.
        data : DataLoader, Dataset or (X, y)
            Read in the order of its indices, also where a loader shuffles.
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``, cross-entropy where left out.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Partition
            The i-th probability is that of the i-th sample of ``in_order(data)``.

        Raises
        ------
        DataError
            If a parameter is none of those it can be, the data is empty or does not fit the model,
            or a loss or feature is not finite.
        UnsupportedModuleError
            As the attribution.

        Warns
        -----
        SeparationWarning
            If the two parts are hardly to be told from each other, or the noisy one is mostly a class.
        """
        self._validate()
        seen = look(model, data, loss, progress)
        seed = self.random_state  # scikit-learn's own
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        draw = _drawn(len(seen.losses), self.max_fit, seed)  # [n], the samples fitted to
        alone = self._by_loss_alone(seen, draw, seed)
        divisions: dict[View, Division] = {}
        if self._attributes(model, data, loss):
            attribution = self.attribution or GradientActivation(target="max")
            rows = Rows(attribution, model, data, loss, len(seen.losses), draw, progress)
            divisions["attribution"] = self._by_attribution(rows, seen, draw, alone, seed)
        if self.features != "attribution":
            divisions["loss"] = self._by_loss(seen, draw, alone, seed)
        self.features_ = clearer(divisions)
        division = divisions[self.features_]
        trouble = f"{division.trouble}. {MEMORISED}" if division.trouble else ""
        if not trouble and (self.by_class or self.features_ == "loss"):
            trouble = of_a_class(division.noise >= self.threshold, seen.labels)
        if trouble:
            warn(
                f"the noisy part is hardly to be told from the rest of the samples: {trouble}.",
                SeparationWarning,
            )
        return Partition.of(
            data,
            torch.from_numpy(division.noise).float(),
            self.threshold,
            losses=seen.losses,
            separation=division.separation,
            is_separated=not trouble,
        )

    def _attributes(self, model: nn.Module, data: Any, loss: Loss | None) -> bool:
        """Tell whether attributions are to be looked at: of `auto` and by default, where the model has any."""
        if self.features == "auto" and self.attribution is None:
            return has_logits_and_hidden_layer(model, data, loss)
        return self.features != "loss"

    def _by_loss_alone(self, seen: Look, draw: Array, seed: int) -> Division:
        """Divide by the surprise, so that more of it never makes a sample less noisy."""
        values = seen.surprise[:, None]  # [N, 1]
        (clusters,) = self._fits(values[draw], None, None, seed)
        if clusters is not None:  # beyond its least and greatest probability the wider cluster would take all
            values = values.clip(*clusters.extremes())
        return divide([clusters], chunks(values), None, seen.surprise, "bhattacharyya", seen.even)

    def _by_loss(self, seen: Look, draw: Array, alone: Division, seed: int) -> Division:
        """Divide by surprise and certainty; by the surprise alone where that separates nothing."""
        if seen.certainty is None:
            return alone
        both = np.stack([seen.surprise, seen.certainty], 1)  # [N, 2]
        fits = self._fits(both[draw], None, alone.noise[draw], seed)
        division = divide(fits, chunks(both), None, seen.surprise, "bhattacharyya", seen.even)
        return alone if division.trouble else division

    def _by_attribution(self, rows: Rows, seen: Look, draw: Array, alone: Division, seed: int) -> Division:
        labels = seen.labels if self.by_class else None
        own = None if labels is None else labels[draw]
        fits = self._fits(rows.fitted, own, alone.noise[draw], seed, self.pca)
        return divide(fits, rows, labels, seen.surprise, "distance")

    def _fits(
        self, rows: Array, labels: Array | None, start: Array | None, seed: int, pca: int | None = None
    ) -> list[Clusters | None]:
        starts = [None] if start is None or not self.from_loss else [None, start]
        return [
            fit_clusters(
                rows, labels, one, pca=pca, covariance=self.covariance, n_init=self.n_init, seed=seed
            )
            for one in starts
        ]

    def _validate(self) -> None:
        for name, known in (("features", ("auto", "attribution", "loss")), ("covariance", ("full", "diag"))):
            if getattr(self, name) not in known:
                said = " or ".join(map(repr, known))
                raise DataError(f"{name} must be {said}, got {getattr(self, name)!r}.")
        for name, least in (("pca", 1), ("n_init", 1), ("max_fit", 2), ("random_state", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not (whole and least <= value < 2**32) and not (
                name in ("pca", "random_state") and value is None
            ):
                raise DataError(f"{name} must be a whole number from {least} on, got {value!r}.")
        if not isinstance(self.threshold, float | int) or not 0 < self.threshold <= 1:
            raise DataError(f"threshold must be a probability above 0, got {self.threshold!r}.")
        given = self.attribution
        if given is not None and (isinstance(given, type) or not hasattr(given, "stream")):
            raise DataError(
                "attribution must be an estimator with a method stream(model, data, loss), such as GradCAM(), got "
                f"{given!r}."
            )


def clearer(divisions: dict[View, Division]) -> View:
    """Return by what to divide: attributions where they separate, unless the loss does so much more clearly."""
    own, other = divisions.get("attribution"), divisions.get("loss")
    if own is None or other is None:
        return next(iter(divisions))
    if own.trouble or (not other.trouble and other.separation > CLEARER * own.separation):
        return "loss"
    return "attribution"


def _drawn(total: int, most: int, seed: int) -> Array:
    """Return the numbers [n] of at most `most` samples, in ascending order."""
    if total <= most:
        return np.arange(total)
    drawn = np.random.default_rng(seed).choice(total, most, replace=False, shuffle=False)
    return np.sort(drawn)
