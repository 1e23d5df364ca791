"""Pictures in reports: torch and the package side by side, differences marked."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import lowering
from lowering.cli import main
from lowering.reporting.page import page
from lowering.reporting.pictures import drawn
from lowering.reporting.text import markdown
from tests.lowering.contract.shipping_models import LABELS, exported, picture
from tests.lowering.reporting import picture_looks as of


@pytest.fixture(scope="module")
def with_pictures(report):
    outputs = replace(report.accuracy.outputs, pictures=of.all_looks())
    return replace(report, accuracy=replace(report.accuracy, outputs=outputs))


@pytest.mark.parametrize(
    ("make", "little", "much", "marked"),
    [
        (of.labels, 0.005, 0.1, ["bee"]),
        (of.labels, 0.0, 0.4, ["ant", "bee"]),
        (of.boxes, 0.001, 0.2, ["dog"]),
        (of.masks, 0, 1, ["sea", "sky"]),
        (of.numbers, 1e-3, 0.1, [f"embedding [1, 8]: {start}" for start in ("-0.9, ", "-1, ")]),
    ],
)
def test_what_differs_is_marked_and_nothing_else(make, little, much, marked):
    assert not of.shown("a", make(little)).differs
    look = of.shown("a", make(much))
    assert look.differs
    lines = (*look.torch.lines, *look.package.lines)
    texts = sorted({line.text for line in lines if line.differs})
    assert len(texts) == len(marked) and all(map(str.startswith, texts, marked))


def test_another_best_class_is_marked_however_near():
    task = lowering.Classify(LABELS)
    near = torch.tensor([[0.4, 0.401, 0.1, 0.05, 0.049]])
    sides = task.looks({"probabilities": near}, {"probabilities": near[:, [1, 0, 2, 3, 4]]})
    assert [side.lines[0].text for side in sides] == ["ant", "bee"]
    assert [side.lines[0].differs for side in sides] == [True, True]


def test_the_mask_of_the_package_has_marks_where_it_differs():
    ((_, sides),) = drawn([of.shown("a", of.masks(3))])
    for side, wrong in zip(sides, (0, 3), strict=True):
        layer = PIL.Image.open(io.BytesIO(base64.b64decode(side.mask.partition(",")[2])))
        opaque = np.asarray(layer)[..., 3] == 255
        assert opaque[:, :3].all() == bool(wrong) and not opaque[:, 3:].any()


def test_boxes_are_drawn_where_they_are():
    ((_, sides),) = drawn([of.shown("a", of.boxes(0.2))])
    torch_box, package_box = (side.boxes[1] for side in sides)
    assert (torch_box.x, torch_box.y) == pytest.approx((0.55 * 64, 0.4 * 48), abs=1e-4)
    assert package_box.x == pytest.approx(0.75 * 64, abs=1e-4)
    assert [box.differs for box in sides[1].boxes] == [False, True, False]


def test_a_page_and_a_text_of_pictures(with_pictures):
    text = page(with_pictures)
    assert text.count('<figure class="side') == 12
    assert len(re.findall(r'<span class="verdict differs">', text)) == 3
    assert "data:image/png;base64," in text
    table = markdown(with_pictures).split("## Pictures")[1].split("\n## ")[0]
    assert "| labels-off.png | 2 | bee  0.2000 | bee  0.3000 | differs |" in table
    assert "| labels.png | 2 | bee  0.2000 | bee  0.2000 |  |" in table


def test_a_report_without_pictures_says_nothing_of_them(report):
    assert 'id="pictures"' not in page(report) and "## Pictures" not in markdown(report)


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_from_a_file_to_a_page(tmp_path):
    folder = exported(tmp_path / "net")
    package = lowering.save(
        lowering.convert(folder, skip_model_load=True), tmp_path / "net.mlpackage"
    )
    (tmp_path / "photos").mkdir()
    picture().save(tmp_path / "photos" / "a<b>.png")
    code, text = run("verify", package, folder, "--pictures", tmp_path / "photos")
    assert code == 0 and "a<b>.png" in text and "package" in text, text
    code, text = run("verify", package, folder, "--pictures", tmp_path / "photos", "--json")
    first, *_ = json.loads(text)["pictures"]
    assert first["name"] == "a<b>.png" and not first["differs"]
    assert [line["text"] for line in first["torch"]] == [line["text"] for line in first["package"]]
    out = tmp_path / "report.html"
    code, text = run("report", package, folder, "--pictures", tmp_path / "photos", "-o", out)
    assert code == 0, text
    assert "a&lt;b&gt;.png" in out.read_text() and "differs</strong>" not in out.read_text()
    assert lowering.report(package, folder, pictures=[picture()]).pictures[0].name == "an image"


def test_another_preprocessing_is_seen(tmp_path):
    folder = exported(tmp_path / "net")
    wrong = exported(tmp_path / "wrong", layout="BGR")
    package = lowering.convert(wrong, skip_model_load=True)
    with pytest.warns(lowering.contract.verifying.OtherContractWarning):
        found = lowering.verify(package, folder, pictures=[picture()], locate=False)
    assert not found and found.pictures[0].differs


@pytest.mark.parametrize("model", [(), ("net.pt2",)])
def test_pictures_without_a_contract_are_refused(model, package, tmp_path):
    picture().save(tmp_path / "a.png")
    code, text = run("report", package, *model, "--pictures", tmp_path / "a.png")
    assert code == 2 and "--pictures needs a folder" in text
    with pytest.raises(lowering.errors.AnePassesError, match="pictures need the model's contract"):
        lowering.report(package, pictures=["a.png"])
