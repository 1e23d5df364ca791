"""The collector rests while a model is captured, and the caller's choices stand."""

import gc
import subprocess
import sys

import pytest

from frontend.heap import frozen_heap


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_it_rests_inside_and_is_as_before_afterwards():
    with frozen_heap():
        assert not gc.isenabled() and gc.get_freeze_count()
        with frozen_heap():
            assert not gc.isenabled()
        assert not gc.isenabled() and gc.get_freeze_count()
    assert gc.isenabled() and not gc.get_freeze_count()


def test_what_python_itself_froze_is_not_the_callers_choice():
    code = (
        "import gc; from frontend.heap import frozen_heap; before = len(gc.get_objects())\n"
        "with frozen_heap(): print(gc.get_freeze_count() / before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert float(done.stdout) > 0.9, done.stderr


def test_it_is_as_before_after_an_error():
    with pytest.raises(KeyError), frozen_heap():
        raise KeyError
    assert gc.isenabled() and not gc.get_freeze_count()


def test_choices_of_the_caller_stand():
    gc.disable()
    gc.freeze()
    with frozen_heap():
        pass
    assert not gc.isenabled() and gc.get_freeze_count()
