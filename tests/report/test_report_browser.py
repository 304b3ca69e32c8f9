"""The page in a real Chromium: figures draw, tables sort, nothing is loaded, nothing of a run is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ropewalk


@dataclass
class Watched:
    """A page with everything that it said and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report_file(
    sample_runs: dict[str, Path], make: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Every kind of run, and runs whose every text is hostile."""
    from sample_runs import HOSTILE

    root = tmp_path_factory.mktemp("browser")
    hostile = [
        make["eval"](root, HOSTILE, "h1"),
        make["compare"](root, HOSTILE, "h2"),
        make["verify"](root, "h3", HOSTILE),
    ]
    with pytest.raises(ValueError, match="window"):
        _fail(root / "h4", HOSTILE)
    output = root / "report.html"
    ropewalk.report([*sample_runs.values(), *hostile, root / "h4"], output, title=f"Everything {HOSTILE}")
    return output


def _fail(path: Path, text: str) -> None:
    from ropewalk.runs import create_run

    with create_run("eval", {"model": text}, path=path):
        raise ValueError(text)


def open_page(browser: Any, file: Path, width: int, scheme: str) -> Watched:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched = Watched(context.new_page())
    watched.page.on("console", lambda message: watched.complaints.append(f"{message.type}: {message.text}"))
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.goto(file.as_uri())
    watched.page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    return watched


@pytest.fixture(scope="module")
def wide(browser: Any, report_file: Path) -> Iterator[Watched]:
    watched = open_page(browser, report_file, 1400, "light")
    yield watched
    watched.page.context.close()


@pytest.fixture(scope="module")
def narrow(browser: Any, report_file: Path) -> Iterator[Watched]:
    watched = open_page(browser, report_file, 390, "dark")
    yield watched
    watched.page.context.close()


def test_every_figure_draws(wide: Watched) -> None:
    found = wide.page.evaluate(
        """() => [...document.querySelectorAll('.plot')].map((place) => ({
            kind: place.closest('figure').dataset.kind,
            drawn: place.dataset.drawn === 'yes',
            marks: place.querySelectorAll('path.js-line, .point path, .hm image, .bars path, g.text, text').length,
            width: place.getBoundingClientRect().width,
        }))"""
    )
    kinds = {plot["kind"] for plot in found}
    assert kinds >= {
        "loss-length", "loss-position", "retrieval", "trade", "entropy", "training", "wavelength", "profile", "angles",
        "spread", "decay", "resolution",
    }  # fmt: skip
    for plot in found:
        assert plot["drawn"], plot
        assert plot["marks"] > 3, plot
        assert plot["width"] > 200, plot


def test_nothing_is_complained_of_and_nothing_is_asked_for(
    wide: Watched, narrow: Watched, report_file: Path
) -> None:
    for watched in (wide, narrow):
        watched.page.hover(".plot .nsewdrag >> nth=0")
        assert watched.complaints == []
        outside = [url for url in watched.requests if not url.startswith(("data:", "blob:"))]
        assert outside == [report_file.as_uri()]


def test_hostile_text_is_shown_and_not_run(wide: Watched) -> None:
    assert wide.page.evaluate("window.hacked") is None
    assert wide.page.locator("img").count() == 0
    shown = wide.page.inner_text("body")
    assert shown.count("<script>window.hacked = 1</script>") > 5
    legends = wide.page.evaluate(
        "[...document.querySelectorAll('.legendtext')].map((text) => text.textContent)"
    )
    assert any("<script>window.hacked = 1</script>" in text and "$x^2$ %{x}" in text for text in legends)


def column(page: Any, number: int) -> list[str]:
    cells: list[str] = page.evaluate(
        "(n) => [...document.querySelectorAll('[data-test] tbody tr')].map((row) => row.cells[n].textContent)",
        number,
    )
    return cells


def test_tables_sort(wide: Watched) -> None:
    page = wide.page
    page.evaluate(
        """() => { const titles = [...document.querySelectorAll('h4')];
        titles.find((title) => title.textContent === 'Methods').parentElement.dataset.test = 'yes'; }"""
    )
    before = column(page, 0)
    assert before == ["yarn", "ntk", "by-parts", "linear", "unmodified", "cropped"]
    button = page.locator("[data-test] th button").nth(1)
    button.click()
    ascending = [float(value) for value in column(page, 1)]
    assert ascending == sorted(ascending)
    assert page.locator("[data-test] th").nth(1).get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(value) for value in column(page, 1)] == sorted(ascending, reverse=True)
    page.locator("[data-test] th button").nth(0).focus()
    page.keyboard.press("Enter")
    assert column(page, 0) == sorted(before)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert column(page, 0) == before


def test_a_narrow_window_needs_no_sideways_scrolling(wide: Watched, narrow: Watched) -> None:
    for watched, width in ((wide, 1400), (narrow, 390)):
        assert watched.page.evaluate("document.documentElement.scrollWidth") == width
        too_wide = watched.page.evaluate(
            """() => [...document.querySelectorAll('h1, h2, h4, p, .plot, .tile, dd, pre')]
            .filter((item) => item.getBoundingClientRect().right > innerWidth + 1)
            .map((item) => item.outerHTML.slice(0, 80))"""
        )
        assert too_wide == []


def test_light_and_dark(browser: Any, sample_runs: dict[str, Path], tmp_path: Path) -> None:
    ropewalk.report(sample_runs["train"], tmp_path / "t.html")
    watched = open_page(browser, tmp_path / "t.html", 900, "dark")
    page = watched.page
    color = "getComputedStyle(document.querySelector('.xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = (page.evaluate(color), page.evaluate(ground))
    assert page.inner_text("#theme") == "Light"
    page.click("#theme")
    page.wait_for_function(f"{color} !== {dark[0]!r}")
    assert page.evaluate(ground) != dark[1]
    page.emulate_media(color_scheme="light")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert watched.complaints == []
    page.context.close()


def test_a_figure_can_be_saved(wide: Watched) -> None:
    figure = wide.page.locator("figure[data-kind=loss-length] .plot").first
    figure.hover()
    buttons = figure.locator(".modebar-btn").evaluate_all(
        "(found) => found.map((button) => button.dataset.title)"
    )
    assert len(buttons) == 6, buttons
    assert not [title for title in buttons if "loud" in title or "tudio" in title or "hare" in title]
    with wide.page.expect_download(timeout=20_000) as download:
        figure.locator(".modebar-btn").first.click()
    assert download.value.suggested_filename == "ropewalk.svg"
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("<svg")
    assert wide.complaints == []


def test_the_legend_hides_a_curve(wide: Watched) -> None:
    page = wide.page
    figure = page.locator("figure[data-kind=trade] .plot, figure[data-kind=wavelength] .plot").last
    figure.scroll_into_view_if_needed()
    shown = "(place) => place.querySelectorAll('.scatterlayer .trace').length"
    before = figure.evaluate(shown)
    figure.locator(".legendtoggle").first.click()
    page.wait_for_function("([place, count]) => place.querySelectorAll('.scatterlayer .trace').length < count",
                           arg=[figure.element_handle(), before])  # fmt: skip
    assert figure.evaluate(shown) < before
    assert wide.complaints == []
