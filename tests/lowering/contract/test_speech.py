"""Sound: the log-mel spectrogram by the plain formulas and in float16, texts, and word errors."""

import json
import wave

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

import lowering
from lowering.cli import main
from lowering.contract.log_mel import LogMel
from lowering.contract.sounds import features, samples_of, telling_sound
from lowering.contract.tasks.base import Wanted
from lowering.verification.words import agreement, edits

LETTERS = ("<pad>", "|", *"abcdefgh")
WHISPER = lowering.Sound.whisper(samples=8000)
KALDI = lowering.Sound.kaldi(samples=8000)
SOUNDS = {
    "whisper": WHISPER,
    "kaldi": KALDI,
    "plain": lowering.Sound(8000, mels=40, log="db", fft=512, hop=128, window="hamming"),
    "short window": lowering.Sound(
        4000, rate=8000, mels=24, fft=256, window_size=200, hop=80, scale="htk", low=50, high=3800
    ),
}


def heard(kind, samples, rate=16000):
    telling = telling_sound(samples, rate)
    return {
        "telling": telling,
        "silence": torch.zeros(samples),
        "quiet": (telling * 33).round() / 2**15,
        "loud": torch.sign(telling),
        "half silent": telling * (torch.arange(samples) > samples // 2),
    }[kind][None]


def test_whispers_own_extractor_makes_the_same():
    extractor = WhisperFeatureExtractor(chunk_length=2)
    sound = lowering.Sound.whisper(samples=32000)
    for kind in ("telling", "quiet", "half silent"):
        x = heard(kind, 32000)
        want = extractor(x[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
        torch.testing.assert_close(features(sound, x), want, rtol=1e-4, atol=1e-4)


def test_wav2vecs_own_extractor_makes_the_same():
    x = heard("telling", 8000)
    sound = lowering.Sound(8000, normalize=True)
    want = Wav2Vec2FeatureExtractor()(x[0].numpy(), sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(features(sound, x), want.input_values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SOUNDS)
def test_the_formulas_are_those_of_transformers(name):
    sound = SOUNDS[name]
    kaldi = name == "kaldi"
    bank = mel_filter_bank(
        sound.fft // 2 + 1,
        sound.mels,
        sound.low,
        sound.high or sound.rate / 2,
        sound.rate,
        "slaney" if sound.equal_area else None,
        sound.scale,
        sound.triangles_in_mel,
    )
    size = sound.window_size or sound.fft
    window = window_function(size, sound.window, periodic=not kaldi)
    x = heard("telling", sound.samples, sound.rate)
    power = spectrogram(
        x[0].numpy() * sound.gain,
        np.pad(window, ((sound.length - size) // 2,)) if sound.center else window,
        sound.length,
        sound.hop,
        sound.fft,
        power=2.0,
        center=sound.center,
        preemphasis=sound.preemphasis or None,
        remove_dc_offset=sound.remove_mean,
        mel_filters=bank,
        mel_floor=sound.floor,
    )
    want = {"ln": np.log, "log10": np.log10, "db": lambda p: 10 * np.log10(p)}[sound.log](power)
    if sound.below_peak is not None:
        want = np.maximum(want, want.max() - sound.below_peak)
    want = ((want + sound.shift) * sound.factor)[:, : sound.frames]
    np.testing.assert_allclose(features(sound, x)[0].numpy(), want, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["telling", "silence", "quiet", "loud", "half silent"])
@pytest.mark.parametrize("name", [*SOUNDS, "normalized"])
def test_the_program_computes_the_same(name, kind):
    sound = SOUNDS.get(name) or lowering.Sound(8000, normalize=True)
    x = heard(kind, sound.samples, sound.rate)
    want = features(sound, x)
    found = LogMel(sound)(x)
    # 80 dB below a frame's strongest frequency nothing is told apart any more.
    apart = (found - want).abs().max() / want.abs().max().clamp(min=1)
    assert found.shape == want.shape and apart < (2e-2 if sound.mels else 1e-4)
    assert (found - want).norm() <= 2e-3 * want.norm() + 1e-6


class Spectrogram(nn.Module):
    def forward(self, mel):
        return mel * 1.0


class Letters(nn.Module):
    """A small CTC model; with ``mels`` over a spectrogram, else over the waveform."""

    def __init__(self, mels=None):
        super().__init__()
        torch.manual_seed(1)
        self.body = (
            nn.Conv1d(mels, 32, 3, 2, 1) if mels else nn.Sequential(nn.Conv1d(1, 32, 400, 320))
        )
        self.head = nn.Conv1d(32, len(LETTERS), 1)

    def forward(self, x):
        x = x if x.ndim == 3 else x[:, None]
        return 3 * self.head(torch.relu(self.body(x))).transpose(1, 2)


def exported(folder, sound):
    x = torch.randn(sound.shape)
    return lowering.export(Spectrogram(), (x,), folder, inputs={"mel": sound})


@pytest.mark.parametrize("name", ["whisper", "kaldi"])
def test_a_spectrogram_holds_in_float16(name, tmp_path):
    sound = SOUNDS[name]
    folder = exported(tmp_path / "mel", sound)
    package = lowering.convert(folder, skip_model_load=True)
    # Kaldi's frames lose their mean, and of whole numbers near zero float16 leaves noise.
    kinds = ("loud", "half silent", "quiet")[: 2 if name == "kaldi" else 3]
    found = lowering.verify(package, folder, sounds=[heard(k, sound.samples) for k in kinds])
    assert found, found
    assert found.labels[-2:] == ("a sound that shows every difference", "silence")


def wav(path, samples, rate=16000, width=2, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels), file.setsampwidth(width), file.setframerate(rate)
        scaled = (
            (np.asarray(samples, np.float64) * (2.0 ** (8 * width - 1) - 1)).round().astype(int)
        )
        if width == 1:
            scaled += 128
        raw = scaled.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
        file.writeframes(np.repeat(raw[:, None], channels, 1).tobytes())
    return path


@pytest.mark.parametrize("form", ["inside", "apart", "frames first", "waveform"])
def test_from_a_file_to_a_text(form, tmp_path):
    mels = None if form == "waveform" else 80
    sound = lowering.Sound(8000, normalize=True) if mels is None else WHISPER
    model, shape, name = Letters(mels), sound.shape, "x"
    if form == "frames first":
        model, shape, name = nn.Sequential(_Swap(), model), (1, sound.frames, 80), "input"
    if form == "apart":
        sound = lowering.Sound.whisper(samples=8000, inside=False)
    task = lowering.Speech(LETTERS)
    folder = lowering.export(
        model, (torch.randn(shape),), tmp_path / "asr", inputs={name: sound}, task=task
    )
    package = lowering.convert(folder, skip_model_load=True, pipeline=())
    file = wav(tmp_path / "a.wav", heard("telling", 9000)[0])
    found = lowering.verify(package, folder, sounds=[file], metric="wer")
    assert found and found.agreement.metric == "wer" and found.agreement.mean == 1.0
    assert [look.name for look in found.pictures] == list(found.labels)
    made = lowering.predict(package, {name: str(file)})
    made_of = features(sound, samples_of(sound, file))
    with torch.no_grad():
        scores = model(made_of.transpose(1, 2) if form == "frames first" else made_of)
    want = task.text(task({"scores": scores}, {}))
    assert want and task.text({n: torch.from_numpy(v) for n, v in made.items()}) == want
    assert found.pictures[0].package.lines[0].text == want
    taken = lowering.open_folder(folder).contract.inputs[0].package_shape
    assert taken == ((1, 80, 50) if form == "apart" else (1, 8000))


class _Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_another_spectrogram_is_caught(tmp_path):
    folder = exported(tmp_path / "mel", WHISPER)
    for changes in ({"scale": "htk"}, {"shift": 4.2}):
        other = exported(tmp_path / next(iter(changes)), WHISPER.whisper(8000, **changes))
        package = lowering.convert(other, skip_model_load=True, pipeline=())
        with pytest.warns(UserWarning, match="another contract"):
            assert not lowering.verify(package, folder, locate=False), changes


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_files_of_every_width(width, channels, tmp_path):
    x = heard("telling", 500)[0]
    file = wav(tmp_path / "a.wav", x, width=width, channels=channels)
    found = samples_of(lowering.Sound(800), file)
    torch.testing.assert_close(found[0, :500], x, rtol=0, atol=2.0 ** (2 - 8 * width))
    assert found.shape == (1, 800) and not found[0, 500:].any()


def test_texts_and_word_errors():
    tokens = torch.tensor([[0, 2, 2, 0, 2, 3, 1, 1, 4, 0]])
    task = lowering.Speech(LETTERS, scores=True)
    found = task({"x": nn.functional.one_hot(tokens, len(LETTERS)).float() * 9}, {})
    assert task.text(found) == "aab c" and found["starts"][0].tolist() == [
        0,
        1,
        0,
        0,
        1,
        1,
        1,
        0,
        1,
        0,
    ]
    pieces = lowering.Speech(("\u2581the", "\u2581cat", "s", "<b>"), blank=3)
    said = {"tokens": torch.tensor([[0, 3, 1, 2]]), "starts": torch.tensor([[1, 0, 1, 1]])}
    assert pieces.text(said) == "the cats"
    assert edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert [agreement(*pair) for pair in (("", ""), ("a", ""), ("", "a"), ("a b", "a c"))] == [
        1,
        0,
        0,
        0.5,
    ]


@pytest.mark.parametrize(
    ("task", "shape", "words"),
    [
        (lowering.Speech(), (1, 5, 3), "labels are missing"),
        (lowering.Speech(LETTERS), (1, 5, 3), "no single output is [1, frames, 10]"),
        (lowering.Speech(LETTERS, blank=10), (1, 5, 10), "blank is 10"),
        (lowering.Speech(LETTERS, layout="encoder"), (1, 5, 10), "labels are of layout 'ctc'"),
        (lowering.Speech(layout="encoder"), (5, 10), "no single output is (1, frames, width)"),
    ],
)
def test_tasks_that_do_not_fit(task, shape, words):
    assert any(words in problem for problem in task.problems(Wanted({"y": shape}, {})))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"mels": 80, "samples": 100}, "cannot be mirrored"),
        ({"window": "kaiser"}, "window is 'kaiser'"),
        ({"high": 9000.0}, "half the rate"),
        ({"window_size": 500}, "more than fft"),
        ({"preemphasis": 0.97}, "not centred"),
        ({"floor": 0.0}, "above 0"),
        ({"hop": 0, "log": "log2"}, "log is 'log2'"),
    ],
)
def test_sounds_that_make_no_sense(given, words):
    with pytest.raises(lowering.ContractError, match=words):
        lowering.Sound(**{"samples": 8000, **given})


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asr_model.py").write_text(
        "import torch\nfrom tests.lowering.contract.test_speech import Letters\n"
        "def asr():\n    return Letters(80), (torch.randn(1, 80, 50),)\n"
    )
    (tmp_path / "letters.txt").write_text("\n".join(LETTERS))
    words = ("--sound", "x", "--task", "speech", "--labels", "letters.txt", "--accept", "wer=0.9")
    code, text = run("export", "asr_model.py:asr", "-o", "asr", *words)
    assert code == 0 and "0.5 s at 16000 Hz, 80 bands" in text, text
    assert json.loads((tmp_path / "asr" / "contract.json").read_text())["inputs"][0]["sound"]
    wav(tmp_path / "a.wav", heard("telling", 8000)[0])
    wav(tmp_path / "fast.wav", heard("telling", 8000)[0], rate=44100)
    (tmp_path / "b.wav").write_bytes(b"RIFF no sound")
    lowering.save(lowering.convert("asr", skip_model_load=True), "asr.mlpackage")
    code, text = run("verify", "asr.mlpackage", "asr", "--sounds", "a.wav")
    assert code == 0 and "wer: 1.0000 over 3" in text and "silence" in text, text
    code, text = run("predict", "asr.mlpackage", "--input", "x=a.wav")
    assert code == 0 and "starts" in text, text
    code, text = run("verify", "asr.mlpackage", "asr", "--pictures", "a.wav")
    assert code == 2 and "the model takes no pictures" in text, text
    for file, said in (("fast.wav", "44100 Hz"), ("b.wav", "cannot be read"), ("c.wav", "no such")):
        code, text = run("predict", "asr.mlpackage", "--input", f"x={file}")
        assert code == 2 and said in text, text
    code, text = run("verify", "asr.mlpackage", "asr_model.py:asr", "--sounds", "a.wav")
    assert code == 2 and "--sounds needs a folder" in text
