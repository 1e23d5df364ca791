from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.layout.min_cut import FORBIDDEN, ContradictionError, CutValue, Pair, Same, Use, solve

cost = st.integers(0, 20)
label_cost = st.one_of(st.just(FORBIDDEN), cost)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 6))
    keys = list(range(count))
    values = {}
    for key in keys:
        image = draw(label_cost)
        plain = draw(cost if image is FORBIDDEN else label_cost)
        values[key] = CutValue(image, plain)
    terms = []
    for driver in keys[:-1]:
        later = keys[driver + 1 :]
        consumers = draw(st.lists(st.sampled_from(later), unique=True, max_size=3))
        if consumers:
            terms.append(Use(driver, tuple(consumers), draw(cost), draw(cost)))
        if draw(st.booleans()):
            ip, pi = draw(cost), draw(cost)
            ii = draw(st.integers(0, ip + pi))
            terms.append(Pair(driver, draw(st.sampled_from(later)), ii, ip, pi))
        if draw(st.integers(0, 4)) == 0:
            terms.append(Same(driver, draw(st.sampled_from(later))))
    return values, terms


def cost_of(values, terms, image):
    total = 0
    for key, value in values.items():
        chosen = value.image if key in image else value.plain
        if chosen is FORBIDDEN:
            return None
        total += chosen
    for term in terms:
        if isinstance(term, Same):
            if (term.one in image) != (term.other in image):
                return None
        elif isinstance(term, Pair):
            labels = (term.driver in image, term.consumer in image)
            total += {
                (True, True): term.image_image,
                (True, False): term.image_plain,
                (False, True): term.plain_image,
                (False, False): 0,
            }[labels]
        elif term.driver in image:
            total += term.to_plain if any(c not in image for c in term.consumers) else 0
        else:
            total += term.to_image if any(c in image for c in term.consumers) else 0
    return total


def brute_force(values, terms):
    found = []
    for bits in product((False, True), repeat=len(values)):
        image = {key for key, bit in zip(values, bits, strict=True) if bit}
        total = cost_of(values, terms, image)
        if total is not None:
            found.append(total)
    return min(found, default=None)


@settings(max_examples=300, deadline=None)
@given(problems())
def test_cut_is_as_cheap_as_brute_force(problem):
    values, terms = problem
    best = brute_force(values, terms)
    if best is None:
        with pytest.raises(ContradictionError):
            solve(values, terms)
        return
    image, total = solve(values, terms)
    assert total == best
    assert cost_of(values, terms, image) == best


def test_driver_pays_once_for_all_its_consumers():
    values = {"d": CutValue(0, FORBIDDEN), "a": CutValue(FORBIDDEN, 0), "b": CutValue(FORBIDDEN, 0)}
    assert solve(values, [Use("d", ("a", "b"), 7, 7)])[1] == 7


def test_ties_go_to_the_image():
    assert solve({"d": CutValue(3, 3)}, [])[0] == {"d"}


def test_contradiction_names_both_values():
    values = {"d": CutValue(0, FORBIDDEN), "a": CutValue(FORBIDDEN, 0)}
    with pytest.raises(ContradictionError) as caught:
        solve(values, [Same("d", "a")])
    assert set(caught.value.args[0]) == {"d", "a"}
