"""Pictures of every kind become the same numbers that PIL and torch make of them."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from lowering import ContractError, Image, PictureError
from lowering.contract.composed import as_image_input, pixels_in
from lowering.contract.pictures import normalised, picture_files, pixels, prepared, telling_picture
from tests.lowering.contract.shipping_models import MEAN, STD, picture


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_modes_of_pictures_are_those_of_pil(mode, layout, suffix, tmp_path):
    if (mode, suffix) == ("CMYK", "png"):
        pytest.skip("PNG has no such pictures")
    given = picture(mode)
    given.save(tmp_path / f"x.{suffix}")
    image = Image((17, 23), layout=layout)
    found = pixels(image, prepared(image, tmp_path / f"x.{suffix}"))
    rgb = given.convert("RGBA").convert("RGB") if mode == "P" else given.convert("RGB")
    want = np.asarray(rgb.convert("L") if layout == "GRAY" else rgb)
    want = want[None] if want.ndim == 2 else want.transpose(2, 0, 1)
    want = want[::-1] if layout == "BGR" else want
    np.testing.assert_array_equal(found[0].numpy(), want)


def test_sixteen_bits_become_eight_and_not_white(tmp_path):
    given = picture("I;16")
    given.save(tmp_path / "deep.png")
    image = Image((17, 23), layout="GRAY")
    found = pixels(image, prepared(image, tmp_path / "deep.png"))
    np.testing.assert_array_equal(found[0, 0].numpy(), np.asarray(given) // 257)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_exif_turns_a_picture(turn, tmp_path):
    given = picture()
    exif = given.getexif()
    exif[0x0112] = turn
    given.save(tmp_path / "turned.png", exif=exif)
    quarters = {1: 0, 3: 2, 6: 3, 8: 1}[turn]
    want = np.rot90(np.asarray(given), quarters)
    image = Image(want.shape[:2])
    found = pixels(image, prepared(image, tmp_path / "turned.png"))
    np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy(), want)


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic"])
def test_without_antialias_it_is_torch_interpolate(resize):
    given = picture(size=(41, 30))
    image = Image((11, 13), resize=resize, antialias=False)
    values = torch.from_numpy(np.array(given, dtype=np.float32)).permute(2, 0, 1)[None]
    corners = {} if resize == "nearest" else {"align_corners": False}
    want = F.interpolate(values, (11, 13), mode=resize, **corners).round().clamp(0, 255)
    assert torch.equal(pixels(image, prepared(image, given)), want)
    if resize != "nearest":
        smooth = Image((11, 13), resize=resize)
        assert not torch.equal(pixels(smooth, prepared(smooth, given)), want)


@pytest.mark.parametrize("size", [(23, 17), (17, 23), (40, 40), (9, 31)])
def test_crops(size):
    given = picture(size=size)
    centre = Image((8, 8), crop="center", edge=10)
    short = min(size)
    sides = (10 * size[0] // short, 10 * size[1] // short)
    whole = given.resize(sides, PIL.Image.Resampling.BILINEAR)
    left, top = (sides[0] - 8) // 2, (sides[1] - 8) // 2
    want = whole.crop((left, top, left + 8, top + 8))
    np.testing.assert_array_equal(np.asarray(prepared(centre, given)), np.asarray(want))
    padded = np.asarray(prepared(Image((8, 8), crop="pad", fill=7), given))
    assert padded.shape == (8, 8, 3)
    filled = (padded == 7).all(-1)
    assert filled.all(0).any() == (size[1] > size[0])
    assert filled.all(1).any() == (size[0] > size[1])


@pytest.mark.parametrize("std", [STD, (0.5, 0.5, 0.5), (1.0,), (0.01, 1.0, 100.0)])
@pytest.mark.parametrize("mean", [MEAN, (0.0,), (1.0, 0.0, -3.0)])
def test_the_split_says_the_same_as_the_formula(mean, std):
    image = Image((5, 4), mean, std)
    values = torch.randint(0, 256, image.shape).float()
    scale, _, factors = image.split()
    given = as_image_input(image, values)
    found = given * torch.tensor(factors).reshape(1, -1, 1, 1)
    torch.testing.assert_close(found, normalised(image, values), rtol=1e-5, atol=1e-5)
    assert torch.equal(pixels_in(image, given), values)
    if len(set(image.std)) == 1:
        assert set(factors) == {1.0}  # Core ML's image input says all of it
    else:
        assert np.float16(scale) == scale


def test_the_telling_picture_tells():
    image = Image((9, 12), MEAN, STD)
    base = normalised(image, pixels(image, prepared(image, telling_picture(9, 12))))
    for other in (
        Image((9, 12), tuple(m * 1.05 for m in MEAN), STD),
        Image((9, 12), MEAN, tuple(s * 0.95 for s in STD)),
        Image((9, 12), MEAN, STD, layout="BGR"),
        Image((9, 12), MEAN, STD, resize="bicubic"),
        Image((9, 12), MEAN, STD, crop="center"),
        Image((9, 12), MEAN, STD, antialias=False),
    ):
        values = pixels(other, prepared(other, telling_picture(9, 12)))
        apart = (normalised(other, values) - base).norm() / base.norm()
        assert apart > 0.02, other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (0, 4)}, "size"),
        ({"size": 4}, "size"),
        ({"std": (0.0,)}, "divided"),
        ({"std": (1.0, 1.0)}, "std"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"layout": "RGBA"}, "layout"),
        ({"resize": "cubic"}, "resize"),
        ({"crop": "pad", "resize": "none"}, "crop"),
        ({"edge": 9}, "edge"),
        ({"crop": "center", "edge": 3}, "edge"),
        ({"scale": -1}, "scale"),
        ({"fill": 300}, "fill"),
        ({"resize": "lanczos", "antialias": False}, "antialias"),
    ],
)
def test_images_that_make_no_sense(options, words):
    with pytest.raises(ContractError, match=words):
        Image(**{"size": (4, 4), **options})


def test_pictures_that_cannot_be_read(tmp_path, monkeypatch):
    image = Image((4, 4), resize="none")
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 900)  # refused from twice as many on
    PIL.Image.new("1", (60, 40)).save(tmp_path / "huge.png")
    picture().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-90])
    picture().save(tmp_path / "whole.png")
    chunk = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "chunk.png").write_bytes(chunk[:40] + b"\xff" * 30 + chunk[70:])
    for given, words in (
        (tmp_path / "no.png", "cannot be read"),
        (tmp_path / "huge.png", "cannot be read"),
        (tmp_path / "cut.jpg", "cannot be read"),
        (tmp_path / "chunk.png", "cannot be read"),
        (tmp_path / "nowhere.png", "no such picture"),
        (torch.zeros(3, 4, 4), "no picture"),
        (picture(), "another size"),
        (PIL.Image.new("F", (4, 4)), "floats"),
        (PIL.Image.fromarray(np.full((4, 4), 70000, np.int32)), "32 bits"),
    ):
        with pytest.raises(PictureError, match=words):
            prepared(image, given)
    with pytest.raises(PictureError, match="holds no pictures"):
        list(picture_files([tmp_path / "empty"]))
