"""The planner's table of parameters is that of the installed coremltools."""

from benchmarks.parameter_order import parameter_order
from lowering.planner.targets import load_data


def test_the_table_is_that_of_the_release():
    assert load_data("parameter_order.json")["parameters"] == parameter_order()


def test_later_versions_come_first():
    order = parameter_order()
    assert order["conv"][:2] == ["x", "weight"]
    assert order["resize_nearest_neighbor"][0] == "x"
    assert order["topk"][-2:] == ["return_indices", "output_indices_dtype"]
