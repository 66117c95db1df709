import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.intervals import mean_interval, proportion_interval
from pipelines.evaluation.rates import average, rate


def test_intervals_are_chosen_by_what_the_values_are() -> None:
    assert rate([1.0, 0.0, 1.0]).interval == proportion_interval(2, 3)
    assert average([1.0, 2.0, 4.0]).interval == mean_interval([1.0, 2.0, 4.0])
    nearly = mean_interval([0.0] * 31 + [0.5])
    assert nearly and nearly[0] < 0 and rate([0.0] * 31 + [0.5]).interval == (0.0, nearly[1])
    assert rate([1.0, 0.0, 1.0], ["a", "b", "c"]).interval == proportion_interval(2, 3)
    empty = rate([], [], "nothing was said")
    assert (empty.value, empty.interval, empty.n, empty.why) == (None, None, 0, "nothing was said")
    with pytest.raises(ValueError, match="not between 0 and 1"):
        rate([1.5])


def test_responses_to_one_problem_count_as_one_in_the_interval() -> None:
    values, problems = [1.0, 0.0] * 20, [str(i // 2) for i in range(40)]
    assert rate(values, problems).interval == (0.5, 0.5)  # every problem has one right and one wrong response
    assert rate([1.0] * 40, problems).interval == proportion_interval(20, 20)
    together = [1.0] * 20 + [0.0] * 20
    low, high = rate(together, problems).interval or (0, 0)
    narrow = rate(together).interval or (0, 0)
    assert high - low > narrow[1] - narrow[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_rate_lies_in_its_interval_and_that_between_0_and_1(values: list[float]) -> None:
    found = rate(values)
    assert found.value is not None
    if found.interval is not None:
        assert 0 <= found.interval[0] <= found.value + 1e-12 and found.value - 1e-12 <= found.interval[1] <= 1
