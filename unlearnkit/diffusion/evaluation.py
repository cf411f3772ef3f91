# SPDX-License-Identifier: BSD-3-Clause
"""Two generators in one call: what is left of the forgotten class, and what the others lost.

Legend: N images, C channels, H x W pixels, K classes, D features, P images a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor, nn

from unlearnkit.data import as_loader, aside, in_order, labels, tree_map
from unlearnkit.diffusion._calls import Call
from unlearnkit.diffusion._notes import notes, scale, small
from unlearnkit.diffusion._result import ClassShare, GeneratorEvaluation
from unlearnkit.diffusion.metrics import plain_frechet, seen_by
from unlearnkit.diffusion.sampling import generate, steps_of
from unlearnkit.exceptions import DataError, SmallSampleWarning, warn
from unlearnkit.metrics import Evaluation, Score, mean_interval
from unlearnkit.metrics.classification import check_logits

__all__ = ["GeneratorEvaluation", "evaluate_generator"]

SPLITS = 5  # divisions of the real images into halves, over which distances are averaged

MEANINGS = {
    "forgotten_share": (
        "of the images made for the forgotten classes, the share that the classifier takes for them; the paper's UA "
        "is 1 less it"
    ),
    "kept_accuracy": "the same of the other classes: as high as before is good",
    "frechet": (
        "Fréchet distance of the other classes' images to real ones, in this classifier's features: as low as "
        "before is good; 'real', of real images to other real ones, is what a perfect generator would have"
    ),
}


class Seen(NamedTuple):
    """What the classifier says of images: its classes [N], its features [N, D], and what they should be [N]."""

    found: NDArray[np.int64]
    features: NDArray[np.float64]
    classes: NDArray[np.int64]


def evaluate_generator(
    before: nn.Module,
    after: nn.Module,
    scheduler: Any,
    classifier: nn.Module,
    *,
    forget: int | Sequence[int],
    classes: int | Sequence[int] | Mapping[int, Any],
    per_class: int = 50,
    real: Any = None,
    oracle: nn.Module | None = None,
    shape: Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float = 0.0,
    null: Any = None,
    call: Call | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 128,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: int | RandomState | None = 0,
    progress: bool = False,
) -> GeneratorEvaluation:
    """Make images of every class with a generator before and after, and let a classifier look at them.

    Image i of both starts from the same noise.

    Parameters
    ----------
    before, after : nn.Module
        Diffusion models; all models are left as they were found.
    scheduler : scheduler of the diffusers library
    classifier : nn.Module
        Of these classes, of images in the generator's range; see :func:`class_share`.
    forget : int or sequence of int
        The classes that `after` is to have forgotten.
    classes : int, sequence of int, or mapping
        All classes to make images of: how many there are, which, or by class the condition of one image, such
        as its prompt's embedding [L, E].
    per_class : int
        P, images of each. The paper's code makes 500 of the forgotten class.
    real : (X, y), DataLoader or Dataset, optional
        Real images in the generator's range, best ones that no model was trained on. At most 2 P of each
        class are used, drawn at random: to see how right the classifier is, and for the Fréchet distance.
    oracle : nn.Module, optional
        A generator trained without the forgotten classes: its figures become the others' ``target``.
    shape, steps, guidance, null, call, batch_size
        As of :func:`generate`.
    decode : callable, optional
        Makes images of what the generator makes, of latents for example.
    confidence, n_bootstrap
        Of the intervals; see :func:`unlearnkit.metrics.mean_interval`.
    random_state : int, RandomState or None
        Of the noise, and of all else that draws.
    progress : bool
        Show a bar for each model.

    Returns
    -------
    GeneratorEvaluation

    Raises
    ------
    DataError
        If `forget` is no part of `classes` or all of it, a kept class has fewer than two real images, or
        something else does not fit.

    Warns
    -----
    SmallSampleWarning
        If there are fewer than 30 images of the forgotten classes, or for the Fréchet distance fewer images
        than features.

    Notes
    -----
    For the Fréchet distance the real images of the kept classes are halved: one half is the reference, and
    from each class as many images are taken as of it. The other half stands in for a perfect generator, so
    that all distances have the same number of images, the same classes and the same bias
    (:func:`frechet_distance`). Five divisions are averaged. It has no interval.
    """
    gone, keys = _classes(forget, classes)
    if not isinstance(per_class, int) or per_class < 1:
        raise DataError(f"per_class must be a whole number of 1 or more, got {per_class!r}.")
    seed = (
        random_state
        if isinstance(random_state, int)
        else int(check_random_state(random_state).randint(2**31))
    )
    made_for = torch.tensor(keys).repeat_interleave(per_class)  # [N]
    condition = _condition(classes, keys, per_class) if isinstance(classes, Mapping) else made_for
    rows = None if real is None else _real(real, keys, gone, 2 * per_class, seed)
    models = {"before": before, "after": after} | ({} if oracle is None else {"oracle": oracle})
    images: dict[str, Tensor] = {}
    for name, model in models.items():
        made = generate(
            model,
            scheduler,
            condition,
            shape=shape,
            steps=steps,
            guidance=guidance,
            null=null,
            call=call,
            batch_size=batch_size,
            random_state=seed,
            progress=progress,
        )
        images[name] = _decoded(made, decode, batch_size).cpu()
    seen = {name: _look(classifier, made, made_for, batch_size) for name, made in images.items()}
    if rows is not None:
        seen["real"] = _look(classifier, *rows, batch_size)
    distances, n = _distances(seen, keys, gone, per_class, seed)
    settings = {"confidence": confidence, "n_bootstrap": n_bootstrap, "random_state": seed}
    scores = {
        name: Evaluation(_scores(one, gone, distances.get(name), n, settings)) for name, one in seen.items()
    }
    if "oracle" in scores:
        scores |= {name: _aimed(scores[name], scores["oracle"]) for name in ("before", "after")}
    wide = seen["after"].features.shape[1]
    for line in small(scores, wide, n):
        warn(line, SmallSampleWarning)
    return GeneratorEvaluation(
        scores=scores,
        per_class={name: _by_class(one, keys, settings) for name, one in seen.items()},
        forget=gone,
        settings={
            "scheduler": type(scheduler).__name__,
            "steps": steps_of(scheduler, steps),
            "guidance": guidance,
            "per_class": per_class,
            "classifier": type(classifier).__name__,
            **settings,
        },
        notes=tuple(notes(scores, wide, n, confidence, scale(images["before"], rows))),
        images=images,
        classes=made_for,
    )


def _classes(forget: Any, classes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the forgotten classes, and all."""
    single = int | np.integer
    keys = tuple(map(int, range(classes) if isinstance(classes, single) else classes))
    gone = tuple(map(int, [forget] if isinstance(forget, single) else forget))
    if not gone or not set(gone) < set(keys) or len(set(keys)) < len(keys):
        raise DataError(
            f"forget must be some of classes, and not all; got forget={[*gone]} and classes={[*keys]}: classes are all "
            "those that images are made of, the forgotten among them."
        )
    return gone, keys


def _condition(classes: Mapping[int, Any], keys: Sequence[int], per_class: int) -> Any:
    """Return the condition of all images, of one image's for each class."""

    def stacked(parts: list[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {name: stacked([part[name] for part in parts]) for name in parts[0]}
        return torch.stack(parts)

    try:
        whole = stacked([classes[key] for key in keys])
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(
            f"classes as a mapping holds for each class the condition of one image, all of one shape: {error}"
        ) from error
    return tree_map(lambda t: t.repeat_interleave(per_class, 0), whole)


def _decoded(made: Tensor, decode: Callable[[Tensor], Tensor] | None, batch_size: int) -> Tensor:
    if decode is None:
        return made
    with torch.no_grad():
        return torch.cat([decode(part).float().cpu() for part in made.split(batch_size)])


def _real(real: Any, keys: Sequence[int], gone: Sequence[int], most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return at most so many real images [M, C, H, W] of each class, and their classes [M]."""
    parts = [_pair(batch) for batch in aside(in_order(as_loader(real, name="real")))]
    if not parts:
        raise DataError("real holds no images: pass (X, y), or leave it out.")
    x, y = (torch.cat([part[at].cpu() for part in parts]) for at in (0, 1))
    draw, chosen = np.random.default_rng(seed % 2**63), []
    for key in keys:
        own = (y == key).nonzero()[:, 0]
        if len(own) < 2 and key not in gone:
            raise DataError(
                f"real holds {len(own)} images of class {key}, and the Fréchet distance takes two or more of each kept "
                "class: pass more, or leave real out."
            )
        chosen.append(own[draw.permutation(len(own))[:most]])
    rows = torch.cat(chosen)
    return x[rows], y[rows]


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        raise DataError(f"real must yield (X, y), got a mapping with the keys {[*batch]}: make pairs of it.")
    return batch[0], labels(batch)


def _look(classifier: nn.Module, images: Tensor, classes: Tensor, batch_size: int) -> Seen:
    logits, features = seen_by(classifier, images, batch_size)
    check_logits(logits, classes)
    return Seen(logits.argmax(1).numpy(), features, classes.numpy())


def _distances(
    seen: Mapping[str, Seen], keys: Sequence[int], gone: Sequence[int], per_class: int, seed: int
) -> tuple[dict[str, float], int]:
    """Return each one's Fréchet distance to half of the real images, and of how many images it is."""
    if "real" not in seen:
        return {}, 0
    kept = [key for key in keys if key not in gone]
    rows = {
        name: [np.flatnonzero(one.classes == key) for key in kept]  # of each class the rows [n]
        for name, one in seen.items()
    }
    take = [min(per_class, len(own) // 2) for own in rows["real"]]
    draw = np.random.default_rng(seed % 2**63)
    found: dict[str, list[float]] = {name: [] for name in seen}
    for _ in range(SPLITS):
        mixed = {name: [draw.permutation(own) for own in parts] for name, parts in rows.items()}
        halves = [own[n : 2 * n] for own, n in zip(mixed["real"], take, strict=True)]
        reference = seen["real"].features[np.concatenate(halves)]  # [M, D]
        for name, parts in mixed.items():
            drawn = np.concatenate([own[:n] for own, n in zip(parts, take, strict=True)])
            found[name].append(plain_frechet(seen[name].features[drawn], reference))
    return {name: float(np.mean(values)) for name, values in found.items()}, sum(take)


def _scores(
    seen: Seen, gone: Sequence[int], distance: float | None, n: int, settings: Mapping[str, Any]
) -> dict[str, Score]:
    hits, forgotten = seen.found == seen.classes, np.isin(seen.classes, gone)
    scores = {}
    for name, part in (("forgotten_share", hits[forgotten]), ("kept_accuracy", hits[~forgotten])):
        if len(part):
            group = "forgetting" if name == "forgotten_share" else "kept"
            found = mean_interval(part, **settings)
            scores[name] = Score(name, *found, len(part), MEANINGS[name], None, group)
    if distance is not None:
        scores["frechet"] = Score("frechet", distance, None, None, n, MEANINGS["frechet"], None, "kept")
    return scores


def _aimed(found: Evaluation, oracle: Evaluation) -> Evaluation:
    """Return the same scores with the oracle's values as targets."""
    return Evaluation(
        {name: replace(score, target=oracle[name]) for name, score in found.scores.items()}, found.notes
    )


def _by_class(seen: Seen, keys: Sequence[int], settings: Mapping[str, Any]) -> dict[int, ClassShare]:
    shares = {}
    for key in keys:
        own = seen.found[seen.classes == key]
        if len(own):
            taken, counts = np.unique(own, return_counts=True)
            most = int(counts.argmax())
            interval = mean_interval(own == key, **settings)
            shares[key] = ClassShare(*interval, len(own), int(taken[most]), float(counts[most] / len(own)))
    return shares
