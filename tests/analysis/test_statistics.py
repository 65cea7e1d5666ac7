"""The tests behind the verdicts, against SciPy on raw samples and against slow definitions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from deepobs_func.analysis.statistics import Sample, holm, welch

VALUES = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
SAMPLES = st.lists(VALUES, min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), max_size=8)


@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=2, max_size=12))
def test_sample_is_mean_and_deviation(values: list[float]) -> None:
    sample = Sample.of(values)
    assert sample.size == len(values)
    np.testing.assert_allclose(sample.mean, np.mean(values), atol=1e-9)
    np.testing.assert_allclose(sample.sd, np.std(values, ddof=1), atol=1e-9)


def test_the_deviation_of_one_value_is_nan() -> None:
    sample = Sample.of([3.0])
    assert (sample.mean, sample.size) == (3.0, 1)
    assert math.isnan(sample.sd)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sample_with_a_diverged_run_has_no_verdict(bad: float) -> None:
    sample = Sample.of([1.0, bad, 2.0])
    assert sample.size == 3
    assert not math.isfinite(sample.mean)
    assert math.isnan(welch(sample, Sample.of([1.0, 2.0, 3.0])))
    assert math.isnan(welch(Sample.of([bad, bad]), Sample.of([1.0, 2.0, 3.0])))


@settings(deadline=None)
@given(a=SAMPLES, b=SAMPLES)
def test_welch_is_scipys_on_raw_samples(a: list[float], b: list[float]) -> None:
    assume(min(np.std(a), np.std(b)) > 1e-2)  # below, rounding decides
    expected = ttest_ind(a, b, equal_var=False).pvalue
    np.testing.assert_allclose(welch(Sample.of(a), Sample.of(b)), expected, rtol=1e-6, atol=1e-12)


@settings(deadline=None)
@given(a=SAMPLES, b=SAMPLES)
def test_welch_is_symmetric(a: list[float], b: list[float]) -> None:
    assert welch(Sample.of(a), Sample.of(b)) == pytest.approx(welch(Sample.of(b), Sample.of(a)), rel=1e-9)


def test_welch_by_hand() -> None:
    """With t = -2 / sqrt(1/3 + 4/3) and (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 50/17 degrees of freedom."""
    assert welch(Sample(2, 1, 3), Sample(4, 2, 3)) == pytest.approx(0.2208, abs=2e-4)


def test_welch_where_one_sample_has_no_spread() -> None:
    """A one-sample test then: t = -2 with 3 degrees of freedom, whose p-value is in every table."""
    assert welch(Sample(1, 0, 3), Sample(2, 1, 4)) == pytest.approx(0.1393, abs=1e-4)


@pytest.mark.parametrize(("mean", "p"), [(1.0, 1.0), (1.5, 0.0)])
def test_samples_without_spread(mean: float, p: float) -> None:
    assert welch(Sample(1.0, 0.0, 3), Sample(mean, 0.0, 4)) == p


@pytest.mark.parametrize(
    ("mean", "sd"), [(1.0, math.nan), (math.nan, math.nan), (math.inf, 1.0), (math.nan, 0.0), (math.inf, 0.0)]
)
@pytest.mark.parametrize("other", [Sample(1.0, 0.5, 3), Sample(1.0, 0.0, 3)])
def test_no_verdict_where_there_is_no_mean_or_deviation(mean: float, sd: float, other: Sample) -> None:
    sample = Sample(mean, sd, 3)
    assert math.isnan(welch(sample, other))
    assert math.isnan(welch(other, sample))


def slow_holm(p_values: list[float]) -> list[float]:
    """Adjusted p of i: the largest, over all j with p_j <= p_i, of p_j times how many are not smaller than p_j."""
    known = [p for p in p_values if not math.isnan(p)]
    steps = {p: min(1.0, p * sum(other >= p for other in known)) for p in known}
    return [math.nan if math.isnan(p) else max(steps[q] for q in known if q <= p) for p in p_values]


@settings(deadline=None)
@given(p_values=st.lists(st.floats(0, 1) | st.just(math.nan) | st.sampled_from([0.01, 0.04]), max_size=8))
def test_holm_is_the_slow_definition(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), slow_holm(p_values), rtol=1e-12)


@settings(deadline=None)
@given(p_values=P_VALUES, data=st.data())
def test_holm_does_not_depend_on_the_order(p_values: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(p_values))))
    adjusted = holm(p_values)
    assert holm([p_values[index] for index in order]) == [adjusted[index] for index in order]


@settings(deadline=None)
@given(p_values=P_VALUES, level=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float], level: float) -> None:
    """Holm, 1979: go through the p-values in ascending order and stop at the first above level / (m - i)."""
    assume(all(abs(p * k - level) > 1e-9 for p in p_values for k in range(1, len(p_values) + 1)))
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p < level} == rejected


def test_holm_of_nothing_and_of_nan_alone() -> None:
    assert holm([]) == []
    assert all(math.isnan(p) for p in holm([math.nan, math.nan]))
    assert holm([math.nan, 0.02])[1] == 0.02
