import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_procedure import Careless

import infalign_edu as ia
from infalign_edu.order_statistics import rank_probabilities_from_pdf, rank_weights, subset_rank_weights

T = np.linspace(0, 1, 41)
counts = st.integers(1, 12)
fixed = st.one_of(
    st.just(ia.Standard()),
    counts.map(ia.BestOfN),
    counts.map(ia.WorstOfN),
    counts.flatmap(lambda n: st.integers(1, n).map(lambda k: ia.KthBest(k=k, n=n))),
    counts.flatmap(lambda n: st.integers(1, n).map(lambda m: ia.TopM(m=m, n=n))),
)
mixtures = st.tuples(st.floats(0.01, 0.99), fixed, fixed).map(lambda x: ia.Mixture([x[0], 1 - x[0]], [x[1], x[2]]))
poisson = st.floats(0, 20).map(ia.BestOfPoisson)
procedures = st.one_of(fixed, poisson, mixtures)


@given(procedures)
def test_cdf_runs_from_0_to_1_and_pdf_is_its_derivative(p):
    assert p.cdf(0.0) == pytest.approx(0, abs=1e-12) and p.cdf(1.0) == pytest.approx(1, abs=1e-12)
    assert (np.diff(p.cdf(T)) >= -1e-12).all() and (p.pdf(T) >= 0).all()
    t, h = np.linspace(0.05, 0.95, 19), 1e-6
    assert (p.cdf(t + h) - p.cdf(t - h)) / (2 * h) == pytest.approx(p.pdf(t), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 32, 128])
def test_closed_forms(n):
    assert ia.BestOfN(n).cdf(T) == pytest.approx(T**n, abs=1e-15)
    assert ia.BestOfN(n).pdf(T) == pytest.approx(n * T ** (n - 1), abs=1e-12)
    assert ia.WorstOfN(n).cdf(T) == pytest.approx(1 - (1 - T) ** n, abs=1e-15)
    assert ia.WorstOfN(n).pdf(T) == pytest.approx(n * (1 - T) ** (n - 1), abs=1e-12)


@given(counts)
def test_best_and_worst_are_mirror_images(n):
    assert ia.WorstOfN(n).cdf(T) == pytest.approx(1 - ia.BestOfN(n).cdf(1 - T), abs=1e-14)


def test_order_statistics_agree_where_they_describe_one_procedure():
    same = [
        (ia.KthBest(1, 5), ia.BestOfN(5)),
        (ia.KthBest(5, 5), ia.WorstOfN(5)),
        (ia.TopM(1, 5), ia.BestOfN(5)),
        (ia.TopM(5, 5), ia.Standard()),
        (ia.BestOfN(1), ia.Standard()),
        (ia.BestOfPoisson(0.0), ia.Standard()),
    ]
    for a, b in same:
        assert a.cdf(T) == pytest.approx(b.cdf(T), abs=1e-13) and a.pdf(T) == pytest.approx(b.pdf(T), abs=1e-12)


def test_kth_best_is_the_binomial_tail():
    k, n, t = 3, 7, 0.6  # the 3rd best of 7 is below t if at least 5 of the 7 are
    tail = sum(math.comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(n - k + 1, n + 1))
    assert ia.KthBest(k, n).cdf(t) == pytest.approx(tail, abs=1e-14)


def test_best_of_poisson_is_the_average_of_best_of_n():
    mu, t = 3.0, 0.7
    average = sum(math.exp(-mu) * mu**j / math.factorial(j) * t ** (j + 1) for j in range(60))
    assert ia.BestOfPoisson(mu).cdf(t) == pytest.approx(average, abs=1e-14)


@given(fixed, st.integers(0, 6))
def test_rank_weights_against_every_subset(p, extra):
    n, M = p.max_n, min(p.max_n + extra, 13)
    shown = np.zeros(M)
    for subset in itertools.islice(itertools.combinations(range(M), n), 2000):
        for k, chance in enumerate(p.rank_probabilities, start=1):
            shown[subset[n - k]] += chance
    if math.comb(M, n) <= 2000:
        assert p.rank_weights(M) == pytest.approx(shown / math.comb(M, n), abs=1e-12)


@given(st.one_of(fixed, mixtures), st.integers(0, 2000))
def test_rank_weights_are_a_distribution_whose_mean_rank_is_right(p, extra):
    M = p.max_n + extra
    w = p.rank_weights(M)
    assert w.shape == (M,) and (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)
    t = (np.arange(4000) + 0.5) / 4000
    expected_quantile = 1 - p.cdf(t).mean()  # E of the shown uniform draw
    assert w @ (np.arange(1, M + 1) / (M + 1)) == pytest.approx(expected_quantile, abs=1e-6)


def test_rank_weights_stay_exact_for_thousands_of_samples():
    w = ia.BestOfN(16).rank_weights(4096)
    exact = [math.comb(i - 1, 15) / math.comb(4096, 16) for i in (16, 2000, 4096)]
    assert w[[15, 1999, 4095]] == pytest.approx(exact, rel=1e-9, abs=0)
    assert ia.BestOfN(2048).rank_weights(4096)[-1] == pytest.approx(0.5, rel=1e-9)


def test_own_procedure_gets_its_rank_weights_from_its_pdf():
    mine = Careless()
    assert isinstance(mine, ia.Procedure)
    assert rank_weights(mine, 2) == pytest.approx([0.25, 0.75], abs=1e-9)
    assert ia.Mixture([0.5, 0.5], [mine, ia.Standard()]).rank_weights(2) == pytest.approx([0.375, 0.625], abs=1e-9)


@given(st.one_of(fixed, mixtures))
def test_rank_probabilities_are_recovered_from_any_pdf(p):
    class Bare:
        max_n = p.max_n
        pdf = staticmethod(p.pdf)

    found = subset_rank_weights(rank_probabilities_from_pdf(Bare()), p.max_n)
    assert found == pytest.approx(p.rank_weights(p.max_n), abs=1e-6)


@pytest.mark.parametrize("name", ["best-of-40", "worst-of-40", "best-of-200", "50th-best-of-100", "top-50-of-100",
                                  "0.5*best-of-5+0.5*worst-of-64", "0.2*top-5-of-60+0.3*standard+0.5*7th-best-of-33"])  # fmt: skip
def test_an_own_procedure_of_many_draws_has_a_mixture_of_ranks_with_its_pdf(name):
    class Bare:
        max_n = ia.procedure(name).max_n
        pdf = staticmethod(ia.procedure(name).pdf)

    p, n, t = ia.procedure(name), Bare.max_n, np.linspace(0.01, 0.99, 99)
    chances = rank_probabilities_from_pdf(Bare())
    assert chances.min() >= 0 and chances.sum() == pytest.approx(1, abs=1e-12)
    mixed = sum(c * ia.KthBest(k, n).pdf(t) for k, c in enumerate(chances, start=1) if c)
    assert mixed == pytest.approx(p.pdf(t), abs=1e-6)  # so every expectation is that of the procedure
    if name in ("best-of-40", "worst-of-40", "best-of-200", "50th-best-of-100"):  # the only mixture with that pdf
        assert subset_rank_weights(chances, n + 9) == pytest.approx(p.rank_weights(n + 9), abs=1e-9)


def test_a_solver_that_gives_up_leaves_one_clear_error(monkeypatch):
    class Bare:
        max_n = 40
        pdf = staticmethod(ia.BestOfN(40).pdf)

    def endless(*arguments, **options):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr("scipy.optimize.nnls", endless)
    with pytest.raises(ValueError, match="procedure Bare is no rule on the ranks of 40 draws"):
        rank_probabilities_from_pdf(Bare())


def test_a_pdf_that_is_no_rank_rule_is_refused():
    class Wrong(Careless):
        def pdf(self, t):
            return np.exp(np.asarray(t)) / (np.e - 1)

    with pytest.raises(ValueError, match="no rule on the ranks of 2 draws"):
        rank_weights(Wrong(), 4)


@settings(deadline=None)
@given(st.one_of(fixed, mixtures, poisson), st.integers(0, 2**31))
def test_select_shows_what_cdf_says(p, seed):
    rng = np.random.default_rng(seed)
    shown, sizes = [], {}
    for _ in range(3000):
        n = p.draws(rng)
        sizes[n] = sizes.get(n, 0) + 1
    for n, times in sizes.items():
        u = rng.random((times, n))
        shown.append(np.take_along_axis(u, p.select(u, rng)[:, None], 1)[:, 0])
    shown = np.concatenate(shown)
    for t in (0.2, 0.5, 0.8):
        expected = float(p.cdf(t))
        error = math.sqrt(max(expected * (1 - expected), 1e-4) / len(shown))
        assert abs((shown < t).mean() - expected) < 5 * error


def test_ties_are_broken_evenly_among_the_draws():
    rng = np.random.default_rng(0)
    for p in (ia.BestOfN(4), ia.WorstOfN(4), ia.KthBest(2, 4)):
        share = np.bincount(p.select(np.zeros((8000, 4)), rng), minlength=4) / 8000
        assert share == pytest.approx(0.25, abs=0.025)


@given(procedures)
def test_names_go_there_and_back(p):
    assert ia.procedure(str(p)) == p and ia.procedure(p) is p


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ia.BestOfN(0), "n must be an integer of at least 1, got 0"),
        (lambda: ia.WorstOfN(2.5), "n must be an integer of at least 1, got 2.5"),
        (lambda: ia.BestOfN(True), "n must be an integer of at least 1, got True"),
        (lambda: ia.KthBest(k=5, n=4), "k must be at most n = 4, got 5"),
        (lambda: ia.TopM(m=0, n=4), "m must be an integer of at least 1, got 0"),
        (lambda: ia.BestOfPoisson(-1), "mu must be a finite number >= 0, got -1"),
        (lambda: ia.BestOfPoisson(float("nan")), "mu must be a finite number >= 0"),
        (lambda: ia.Mixture([0.7, 0.7], [ia.Standard()] * 2), "weights must be non-negative and sum to 1"),
        (lambda: ia.Mixture([1.0], []), "weights must hold one number a procedure"),
        (lambda: ia.BestOfN(4).cdf(1.5), r"t must lie in \[0, 1\]"),
        (lambda: ia.BestOfN(4).select([1.0, 2.0], np.random.default_rng(0)), "best-of-4 chooses among 4 rewards"),
        (lambda: ia.BestOfN(2).select([1.0, np.nan], np.random.default_rng(0)), "must not contain nan"),
        (lambda: ia.BestOfN(4).rank_weights(3), "M must be an integer of at least 4, got 3"),
        (lambda: rank_weights(ia.BestOfPoisson(2.0), 8), "must have a largest number of draws"),
        (lambda: ia.procedure("best-of-x"), "procedure must be standard, best-of-N"),
        (lambda: ia.procedure("0.5*nothing+0.5*standard"), "got 'nothing'"),
    ],
)
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
