"""The page in a real browser: it loads, sorts, filters, hovers, and keeps to its width."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from benchmarks.browser import chromium, open_page, reason_without
from lowering.reporting.page import ablations_page, page
from tests.lowering.reporting.ablations import ablation
from tests.lowering.reporting.picture_looks import all_looks
from tests.lowering.reporting.test_ladder_part import ladder

if REASON := reason_without():
    pytest.skip(REASON, allow_module_level=True)
MAX_SECONDS = 2.0


@pytest.fixture(scope="module")
def address(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def wait(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.02)
    return found


def opened(driver, address):
    """Opens the page and waits for its charts; seconds it took."""
    start = time.monotonic()
    open_page(driver, address)
    return time.monotonic() - start


@pytest.fixture
def ready(driver, address):
    opened(driver, address)
    driver.get_log("browser")
    return driver


def cells(driver, table, column):
    rows = driver.find_elements("css selector", f"[data-table={table}] tbody tr")
    return [row.find_elements("css selector", "td")[column].text for row in rows]


def column_of(driver, table, label):
    heads = driver.find_elements("css selector", f"[data-table={table}] th")
    return next(i for i, head in enumerate(heads) if head.text.startswith(label)), heads


def scroll_to(driver, element):
    """Waits for the next two frames, so that no scroll event comes later."""
    driver.execute_async_script(
        "const done = arguments[1];"
        "const box = arguments[0].getBoundingClientRect();"
        "const top = window.scrollY + box.top - window.innerHeight / 2;"
        "window.scrollTo({top, behavior: 'instant'});"
        "requestAnimationFrame(() => requestAnimationFrame(() => done()));",
        element,
    )


def click(driver, element):
    scroll_to(driver, element)
    element.click()


def hover(driver, element):
    """Moves the mouse to the middle of ``element``; the driver's own move scrolls SVG parts."""
    scroll_to(driver, element)
    x, y = driver.execute_script(
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2];",
        element,
    )
    driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})


def test_it_opens_fast_and_quietly(driver, address):
    seconds = min(opened(driver, address) for _ in range(3))  # other tests run beside this one
    assert driver.get_log("browser") == []
    assert seconds < MAX_SECONDS
    # Nothing was fetched: neither from the network nor from other files.
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_every_chart_is_drawn(ready, report):
    for name in ("placement", "types", "type-prices", "growth"):
        marks = ready.find_elements("css selector", f"#chart-{name} svg path")
        assert len(marks) > 3, name
    for part in ("concat_0", "concat_1"):
        bars = ready.find_elements("css selector", f"#chart-placement .{part}_marks path")
        assert len(bars) == len(report.plan.ops)


def test_a_page_of_ablations_opens_quietly(driver, tmp_path):
    path = tmp_path / "ablations.html"
    path.write_text(ablations_page([ablation("a"), ablation("b")], "M4"), encoding="utf-8")
    driver.get_log("browser")
    opened(driver, path.as_uri())
    assert driver.get_log("browser") == []
    texts = [
        e.text for e in driver.find_elements("css selector", "#chart-overview .mark-text text")
    ]
    assert texts.count("2.00×") == 2
    assert len(driver.find_elements("css selector", "#chart-time-1 .mark-symbol path")) >= 5


def test_tables_sort_both_ways(ready, report):
    column, heads = column_of(ready, "operators", "price")
    click(ready, heads[column].find_element("css selector", "button"))
    assert heads[column].get_attribute("aria-sort") == "descending"
    shown = [float(value) for value in cells(ready, "operators", column)]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(max(op.chosen_ms for op in report.plan.ops), abs=1e-4)
    click(ready, heads[column].find_element("css selector", "button"))
    shown = [float(value) for value in cells(ready, "operators", column)]
    assert shown == sorted(shown) and heads[column].get_attribute("aria-sort") == "ascending"


def test_tables_filter_by_words_and_device(ready, report):
    box = ready.find_element("css selector", "[data-table=operators] input")
    kind, _ = column_of(ready, "operators", "type")
    box.send_keys("softmax layers.1")
    expected = [
        op for op in report.plan.ops if op.op_type == "softmax" and "layers.1" in op.source.module
    ]
    assert cells(ready, "operators", kind) == ["softmax"] * len(expected) != []
    box.clear()
    box.send_keys(" ")
    ready.find_element("css selector", "[data-table=operators] option[value=cpu]").click()
    device, _ = column_of(ready, "operators", "device")
    on_cpu = sum(op.device == "cpu" for op in report.plan.ops)
    assert cells(ready, "operators", device) == ["cpu"] * on_cpu


def test_long_tables_show_all_on_demand(ready, report):
    before = len(cells(ready, "operators", 0))
    assert before < len(report.plan.ops)
    click(ready, ready.find_element("css selector", "[data-table=operators] .more button"))
    assert len(cells(ready, "operators", 0)) == len(report.plan.ops)


def test_hovering_an_operator_of_the_strip(ready, report):
    (index,) = [i for i, op in enumerate(report.plan.ops) if op.op_type == "gather"]
    hover(
        ready, ready.find_elements("css selector", "#chart-placement .concat_1_marks path")[index]
    )
    tip = wait(lambda: ready.find_element("css selector", "#vg-tooltip-element.visible"))
    op = report.plan.ops[index]
    for part in (op.name, op.reason.sentence, op.source.line, "predicted", "1×128×16"):
        assert part in tip.text


def test_hovering_a_vertex_of_the_block(ready):
    vertex = ready.find_element("css selector", ".vertex.rewritten")
    hover(ready, vertex)
    tip = ready.find_element("css selector", "#tip")
    assert tip.is_displayed()
    assert "written by" in tip.text and "predicted on ane" in tip.text


def test_zooming_by_dragging_in_the_overview(ready):
    from selenium.webdriver import ActionChains

    def bars():
        return ready.find_elements("css selector", "#chart-placement .concat_1_marks path")

    host = ready.find_element("css selector", "#chart-placement svg")
    before = bars()[20].rect["width"]
    overview = ready.find_element("css selector", "#chart-placement .concat_2_marks")
    hover(ready, overview)
    ActionChains(ready).move_to_element(overview).click_and_hold().move_by_offset(
        host.rect["width"] // 8, 0
    ).release().perform()
    wait(lambda: max(bar.rect["width"] for bar in bars()) > 3 * before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_scheme(ready, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    ready.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    page_colour, label = ready.execute_script(
        "const label = document.querySelector('#chart-types .role-axis-label text');"
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(label).fill]"
    )
    light = [sum(map(int, colour[4:-1].split(","))) > 380 for colour in (page_colour, label)]
    assert light == ([True, False] if scheme == "light" else [False, True])


def test_long_programs_are_drawn_on_a_canvas(driver, report, tmp_path):
    """Thousands of SVG elements would be slow; colours and hints are the same."""
    times = 15
    long = replace(
        report,
        plan=replace(report.plan, ops=report.plan.ops * times),
        input_shapes=report.input_shapes * times,
    )
    path = tmp_path / "long.html"
    path.write_text(page(long), encoding="utf-8")
    driver.get_log("browser")
    opened(driver, path.as_uri())
    canvas = driver.find_element("css selector", "#chart-placement canvas")
    hover(driver, canvas)
    tip = wait(lambda: driver.find_element("css selector", "#vg-tooltip-element.visible"))
    assert "device (predicted)" in tip.text
    assert driver.get_log("browser") == []


def test_a_phone_scrolls_down_only(driver, address):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(driver, address)
        assert driver.execute_script("return document.documentElement.scrollWidth") == 390
        wide = driver.execute_script(
            "return [...document.querySelectorAll('.chart svg')]"
            ".filter((svg) => svg.getBoundingClientRect().right > 390).length"
        )
        assert wide == 0
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def pictures(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "report.html"
    outputs = replace(report.accuracy.outputs, pictures=all_looks())
    shown = replace(report, accuracy=replace(report.accuracy, outputs=outputs))
    path.write_text(page(shown), encoding="utf-8")
    return path.as_uri()


def test_pictures_stand_side_by_side(driver, pictures):
    driver.get_log("browser")
    opened(driver, pictures)
    assert driver.get_log("browser") == []
    places = driver.execute_script(
        "return [...document.querySelectorAll('.sides')].map((pair) =>"
        " [...pair.querySelectorAll('.picture')].map((p) => p.getBoundingClientRect().toJSON()))"
    )
    assert len(places) == 6
    for left, right in places:
        assert left["top"] == right["top"] and left["right"] < right["left"]
        assert left["width"] / left["height"] == pytest.approx(64 / 48, rel=0.02)
    broken = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert driver.execute_script(broken) == 0
    # A box is where it is in the picture, and the moved one is marked.
    boxes, marked = driver.execute_script(
        "const pair = document.querySelectorAll('.sides')[3];"
        "const at = (e) => e.getBoundingClientRect().toJSON();"
        "return [[...pair.querySelectorAll('svg')].map((svg) =>"
        " [at(svg), [...svg.querySelectorAll('.line')].map(at)]),"
        " pair.querySelectorAll('.box.differs').length]"
    )
    assert marked == 2
    for frame, lines in boxes:
        wide = [line["width"] / frame["width"] for line in lines]
        assert wide == pytest.approx([0.1, 0.3, 0.4], abs=0.02)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_differs_is_told_from_the_rest(driver, pictures, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(driver, pictures)
    texts = driver.execute_script(
        "const of = (s) => getComputedStyle(document.querySelector(s));"
        "return [of('.said li.differs strong').color, of('#pictures').backgroundColor,"
        " of('.said .what').color]"
    )
    word, card, plain = (sum(map(int, text[4:-1].split(",")[:3])) for text in texts)
    assert abs(word - card) > 200 and abs(plain - card) > 300


def test_nothing_is_cut_off_on_a_phone(driver, pictures):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(driver, pictures)
        assert driver.execute_script("return document.documentElement.scrollWidth") == 390
        # Tables and pictures alike: nothing is scrolled sideways, no text is cut to its cell.
        cut = driver.execute_script(
            "return [...document.querySelectorAll('.scroll, td, .said li, .picture')].filter((e) =>"
            " e.offsetParent && (e.scrollWidth > e.clientWidth + 1"
            " || e.getBoundingClientRect().right > 390)).map((e) => e.outerHTML.slice(0, 200))"
        )
        assert cut == []
        column, heads = column_of(driver, "operators", "price")
        assert heads[column].is_displayed()  # wide tables are sorted on a phone too
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_cut_off_on_paper(driver, pictures):
    opened(driver, pictures)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": 1020, "height": 700, "deviceScaleFactor": 1, "mobile": False}  # A4 landscape
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wide = driver.execute_script(
            "return [...document.querySelectorAll('td, .picture, .said li')].filter((e) =>"
            " e.offsetParent && (e.scrollWidth > e.clientWidth + 1"
            " || e.getBoundingClientRect().right > 1020)).map((e) => e.outerHTML.slice(0, 200))"
        )
        assert wide == []
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def sizes(alone, tmp_path_factory):
    path = tmp_path_factory.mktemp("sizes") / "report.html"
    path.write_text(page(replace(alone, ladder=ladder())), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(
    ("scheme", "media", "width"),
    [("light", "", 1200), ("dark", "", 1200), ("light", "print", 1020), ("dark", "", 390)],
)
def test_the_ladder_is_seen_everywhere(driver, sizes, scheme, media, width):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 1000}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get_log("browser")
        opened(driver, sizes)
        assert driver.get_log("browser") == []
        texts, right, card = driver.execute_script(
            "const svg = document.querySelector('#chart-ladder-error svg');"
            "const all = [...svg.querySelectorAll('.mark-text.role-mark text')];"
            "return [all.map((e) => [e.textContent, getComputedStyle(e).fill]),"
            " svg.getBoundingClientRect().right,"
            " getComputedStyle(document.querySelector('#ladder')).backgroundColor]"
        )
        assert [text for text, _ in texts] == ["as it was", "int8", "pal4", "pal2", "knee"]
        assert right <= width
        brightness = [sum(map(int, c[4:-1].split(",")[:3])) for c in (*(f for _, f in texts), card)]
        assert all(abs(one - brightness[-1]) > 150 for one in brightness[:-1])
        circles = driver.find_elements(
            "css selector", "#chart-ladder-error .mark-symbol.role-mark path"
        )
        assert len(circles) == 4
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_it_prints(ready):
    printed = ready.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert printed.startswith("JVBERi0")  # %PDF-
    assert len(printed) > 20_000
