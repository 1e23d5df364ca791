"""Keras 3 models and files: captured without TensorFlow, and computed as Keras does."""

import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from keras import layers

import lowering
import passes
from frontend.capturing import capture
from frontend.errors import ProgramFileError
from frontend.keras_models import for_inference, load_keras
from lowering.cli import main
from tests.lowering.contract.shipping_models import LABELS, picture

aten = torch.ops.aten


def pictures_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 6, 3), name="photo"),
            layers.RandomFlip(),
            layers.RandomRotation(0.2),
            layers.GaussianNoise(1.0),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def wanted(model, *inputs):
    with torch.no_grad():
        return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False).numpy()


def count(program, target):
    return sum(node.target is target for node in program.graph.nodes)


def test_layers_that_train_by_default_do_nothing():
    model, x = pictures_model(), torch.rand(1, 8, 6, 3)
    optimized = passes.optimize_for_ane(model, (x,))
    np.testing.assert_allclose(optimized(x).detach(), wanted(model, x), atol=1e-5)
    package = lowering.convert(optimized, skip_model_load=True)
    assert lowering.verify(package, model, (x,))
    model.layers[-1].bias.assign_add(np.ones(5))
    assert not lowering.verify(package, model, (x,), locate=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "operator"), [(layers.LSTM, aten.lstm.input), (layers.GRU, aten.gru.input)]
)
@pytest.mark.parametrize("ends", ["all", "last", "both ways", "backwards"])
def test_recurrent_layers_stay_one_operator(kind, operator, ends, bias):
    options = {"use_bias": bias, "bias_initializer": "normal"}
    layer = kind(5, return_sequences=ends in ("all", "both ways"), **options)
    if ends == "both ways":
        layer = layers.Bidirectional(layer)
    if ends == "backwards":
        layer = kind(5, go_backwards=True, return_sequences=True, **options)
    model, x = keras.Sequential([keras.Input((7, 4)), layer]), torch.randn(1, 7, 4)
    program = capture(model, (x,))
    assert count(program, operator) == (2 if ends == "both ways" else 1)
    found = program.module()(x)
    np.testing.assert_allclose(found[0].detach(), wanted(model, x), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(5, activation="relu"),
        lambda: layers.GRU(5, reset_after=False),
        lambda: layers.SimpleRNN(5),
    ],
)
def test_other_recurrent_layers_are_unrolled(layer):
    model, x = keras.Sequential([keras.Input((4, 3)), layer()]), torch.randn(1, 4, 3)
    program = capture(model, (x,))
    assert not count(program, aten.lstm.input) and not count(program, aten.gru.input)
    np.testing.assert_allclose(program.module()(x)[0].detach(), wanted(model, x), atol=1e-6)


def test_a_package_keeps_the_lstm():
    model = keras.Sequential([keras.Input((7, 4)), layers.LSTM(5), layers.Dense(2)])
    x = torch.randn(1, 7, 4)
    package = lowering.convert(passes.optimize_for_ane(model, (x,)), skip_model_load=True)
    kinds = [op.type for op in lowering.load(package).ops]
    assert kinds.count("lstm") == 1
    assert lowering.verify(package, model, (x,))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_are_models_like_any_other(suffix, tmp_path):
    model = pictures_model()
    model.save(tmp_path / f"net{suffix}")
    picture().save(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    file, folder, package = (tmp_path / n for n in (f"net{suffix}", "net", "net.mlpackage"))
    words = ["export", file, "-o", folder, "--image", "photo", "--task", "classify"]
    for command in (
        [*words, "--labels", tmp_path / "labels.txt", "--mean", "0.5", "--std", "0.2,0.3,0.4"],
        ["convert", folder, "-o", package],
        ["verify", package, folder, "--pictures", tmp_path / "a.png"],
    ):
        result = CliRunner().invoke(main, [*map(str, command)])
        assert result.exit_code == 0, result.output
    numbers = np.asarray(picture().resize((6, 8), 2), np.float32)[None] / 255
    x = torch.from_numpy((numbers - 0.5) / np.array([0.2, 0.3, 0.4], np.float32)).float()
    scores = torch.from_numpy(wanted(model, x)).softmax(-1)[0]
    found = lowering.predict(package, {"photo": tmp_path / "a.png"})["label_probs"]
    np.testing.assert_allclose(list(found.values()), scores, rtol=1e-2)


def test_several_inputs_keep_their_names(tmp_path):
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    joined = layers.Concatenate()([layers.Dense(2)(first), second])
    model = keras.Model([first, second], layers.Dense(2)(joined))
    model.save(tmp_path / "two.keras")
    loaded, example = load_keras(tmp_path / "two.keras")
    assert list(example) == ["first", "second"]
    program = capture(loaded, kwargs=example)
    assert list(program.graph_signature.user_inputs) == ["first", "second"]
    found = program.module()(**example)[0].detach()
    np.testing.assert_allclose(found, wanted(model, *example.values()), atol=1e-6)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"no archive")
    keras.Sequential([keras.Input((None, 4)), layers.LSTM(2)]).save(tmp_path / "open.keras")
    unsafe = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)])
    unsafe.save(tmp_path / "code.keras")
    for name, words in (
        ("bad.keras", "cannot read the file"),
        ("none.keras", "no such file"),
        ("open.keras", "leaves open"),
        ("code.keras", "cannot read the file"),
    ):
        with pytest.raises(ProgramFileError, match=words) as caught:
            load_keras(tmp_path / name)
        assert caught.value.details["next step"]
        assert ("--trust" in str(caught.value)) == (name == "code.keras")
    trusted, _ = load_keras(tmp_path / "code.keras", trust=True)
    assert wanted(trusted, torch.ones(1, 4)).tolist() == [[2.0] * 4]


def test_a_torch_model_is_left_alone():
    model = torch.nn.Linear(2, 2)
    assert for_inference(model) is model


def test_another_backend_is_named(tmp_path):
    script = (
        "import sys, types; keras = types.ModuleType('keras'); "
        "keras.backend = types.SimpleNamespace(backend=lambda: 'jax'); "
        "keras.__spec__ = __import__('importlib.machinery').machinery.ModuleSpec('keras', None); "
        "sys.modules['keras'] = keras\n"
        "from frontend.keras_models import load_keras\n"
        f"load_keras({str(tmp_path / 'x.keras')!r})"
    )
    (tmp_path / "x.keras").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Keras runs on another backend" in done.stderr and "jax" in done.stderr
