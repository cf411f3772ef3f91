# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from unlearnkit.finding._clusters import fit_clusters
from unlearnkit.finding._division import IN_A_CLUSTER, Division, divide
from unlearnkit.finding.mixture import clearer


def two(first=200, second=100, away=8.0):
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(size=(first, 2)), draw.normal(size=(second, 2)) + away])


def divided(rows, surprise, by="distance"):
    clusters = fit_clusters(rows, n_init=3)
    return divide([clusters], [(0, rows[:7]), (7, rows[7:])], None, surprise, by)


@pytest.mark.parametrize("by", ["distance", "bhattacharyya"])
@pytest.mark.parametrize("noisy", [0, 1])
def test_the_cluster_of_more_surprise_is_noisy(by, noisy):
    belongs = np.repeat([0, 1], [200, 100])
    division = divided(two(), np.where(belongs == noisy, 3.0, 0.0), by)
    np.testing.assert_allclose(division.noise, belongs == noisy, atol=1e-3)
    assert division.separation >= 1 and not division.trouble


@pytest.mark.parametrize(
    ("rows", "surprise", "said"),
    [
        (two(20, 20), [0, 5], "only 40"),
        (two(200, IN_A_CLUSTER - 1), [0, 5], f"all but {IN_A_CLUSTER - 1} "),
        (two(30, 270), [0, 5], "holds 90%"),
        (two(away=1.0), [0, 9], "overlap"),
        (two(), [1, 1], "much the same loss"),
    ],
)
def test_why_two_clusters_are_not_trusted(rows, surprise, said):
    middle = (rows.mean(1).min() + rows.mean(1).max()) / 2
    noise = np.random.default_rng(1).normal(size=len(rows))
    assert said in divided(rows, np.where(rows.mean(1) > middle, *reversed(surprise)) + noise).trouble


@pytest.mark.parametrize(("level", "is_trusted"), [(-9.0, False), (1.0, True)])
def test_labels_that_the_model_holds_to_be_right_are_not_noise(level, is_trusted):
    rows, surprise = two(), np.repeat([-3.0, 0.0], [200, 100]) + level
    division = divide([fit_clusters(rows, n_init=3)], [(0, rows)], None, surprise, "bhattacharyya", even=0.0)
    assert division.separation >= 1 and (not division.trouble) == is_trusted
    assert is_trusted or "likelier right than wrong" in division.trouble


def test_of_two_fits_the_one_that_separates_is_taken():
    """Four clouds fall into two pairs in two ways; one pair is noisy, and the other way is as likely."""
    draw = np.random.default_rng(0)
    at = np.array([(0, 0), (9, 0), (0, 9), (9, 9)])[np.arange(400) % 4]
    rows, surprise = draw.normal(size=(400, 2)) + at, (at[:, 1] > 0) + 0.1 * draw.normal(size=400)
    by_first, by_second = (fit_clusters(rows, start=(at[:, axis] > 0).astype(float)) for axis in (0, 1))
    for fits in ([by_first, by_second], [by_second, None, by_first]):
        division = divide(fits, [(0, rows)], None, surprise, "distance")
        assert ((division.noise > 0.5) == (at[:, 1] > 0)).all() and not division.trouble
    assert "much the same loss" in divide([by_first], [(0, rows)], None, surprise, "distance").trouble


def test_what_is_alike_is_not_divided():
    division = divide([None], [], None, np.zeros(5), "distance")
    assert not division.noise.any() and division.separation == 0 and "alike" in division.trouble


@pytest.mark.parametrize(
    ("attribution", "loss", "wanted"),
    [
        ((2.0, ""), (1.5, ""), "attribution"),
        ((1.0, ""), (1.4, ""), "attribution"),
        ((1.0, ""), (1.6, ""), "loss"),
        ((1.0, ""), (9.0, "x"), "attribution"),
        ((9.0, "x"), (1.0, ""), "loss"),
        ((9.0, "x"), (0.1, "x"), "loss"),
    ],
)
def test_attributions_divide_where_they_can_unless_the_loss_is_much_clearer(attribution, loss, wanted):
    divisions = {"attribution": Division(np.zeros(1), *attribution), "loss": Division(np.zeros(1), *loss)}
    assert clearer(divisions) == wanted
    assert clearer({"loss": divisions["loss"]}) == "loss"
    assert clearer({"attribution": divisions["attribution"]}) == "attribution"
