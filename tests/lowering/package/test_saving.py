import hashlib
import os
import shutil

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.conversion.converter import convert
from lowering.errors import SaveError
from lowering.package.saving import save
from lowering.reference import predict


def model(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64))
    return convert(net, (torch.randn(2, 32),), skip_model_load=True)


def digests(package):
    return {
        file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in package.rglob("*")
        if file.is_file()
    }


def test_equal_models_give_equal_bytes(tmp_path):
    first = save(model(), tmp_path / "a.mlpackage")
    second = save(model(), tmp_path / "b.mlpackage")
    assert digests(first) == digests(second)
    assert set(digests(first)) == {
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    }
    other = save(model(seed=1), tmp_path / "c.mlpackage")
    assert digests(first) != digests(other)


def test_the_saved_package_is_the_model(tmp_path):
    mlmodel = model()
    path = save(mlmodel, tmp_path / "m")
    assert path.name == "m.mlpackage"
    x = {"input": np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)}
    (name,) = predict(mlmodel, x)
    np.testing.assert_array_equal(predict(path, x)[name], predict(mlmodel, x)[name])
    ct.models.MLModel(str(path), skip_model_load=True)


def test_coremltools_own_save_writes_nothing_extra(tmp_path):
    mlmodel = model()
    mlmodel.save(str(tmp_path / "own.mlpackage"))
    assert set(digests(tmp_path / "own.mlpackage")) == set(
        digests(save(mlmodel, tmp_path / "ours.mlpackage"))
    )


def test_an_existing_package_is_replaced(tmp_path):
    path = save(model(), tmp_path / "m.mlpackage")
    before = digests(path)
    save(model(seed=1), path)
    assert digests(path) != before
    assert os.listdir(tmp_path) == ["m.mlpackage"]


def test_a_failure_half_way_leaves_the_old_package(tmp_path, monkeypatch):
    path = save(model(), tmp_path / "m.mlpackage")
    before = digests(path)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    broken = model(seed=1)
    with monkeypatch.context() as patch, pytest.raises(SaveError, match="No space left"):
        patch.setattr(shutil, "copytree", full_disk)
        save(broken, path)
    assert digests(path) == before
    assert os.listdir(tmp_path) == ["m.mlpackage"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SaveError, match="could not be written: Permission denied"):
            save(model(), tmp_path / "m.mlpackage")
    finally:
        tmp_path.chmod(0o700)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody may write to")
def test_unwritable_folder_as_any_user():
    with pytest.raises(SaveError, match="could not be written"):
        save(model(), "/proc/m.mlpackage")


def test_bad_paths_are_refused_before_anything_is_written(tmp_path):
    mlmodel = model()
    with pytest.raises(SaveError, match="saved as a package"):
        save(mlmodel, tmp_path / "m.mlmodel")
    with pytest.raises(SaveError, match="does not exist"):
        save(mlmodel, tmp_path / "no" / "m.mlpackage")
    (tmp_path / "notes.mlpackage").write_text("mine")
    with pytest.raises(SaveError, match="left alone"):
        save(mlmodel, tmp_path / "notes.mlpackage")
    assert (tmp_path / "notes.mlpackage").read_text() == "mine"
