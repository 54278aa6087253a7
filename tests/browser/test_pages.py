"""What a person sees: MLflow's own pages at the printed addresses, and the report, in a real browser."""

import json
from pathlib import Path

import pytest

from vmamba.compare.__main__ import main

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # a minute, if nobody else is at it
METRICS = ["best/val_acc1", "result/images_per_s", "result/params", "result/gflops", "result/rss_peak_gib"]
COLUMNS = [*(f"metrics.`{name}`" for name in METRICS), "params.`norm.name`", "params.`seed`"]


def expect(target):
    """Playwright's own, with time for a slow machine."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect(target)


def test_open_starts_mlflow_and_opens_the_report_and_both_pages(site):
    report = (site.sweep / "report" / "report.html").resolve().as_uri()
    assert site.opened == [report, site.page("compare these runs"), site.page("all points in a table")]
    assert f"http://127.0.0.1:{site.port}/#/compare-runs" in site.opened[1]


def test_open_says_so_where_mlflow_is_on_another_store(site, tmp_path, capsys, monkeypatch):
    run = tmp_path / "0"
    run.mkdir()
    (run / "status.json").write_text('{"state": "finished", "uid": "u"}')
    notes = {"delivered": True, "stores": {f"sqlite:///{tmp_path}/x.db": {"run_id": "none", "experiment_id": "1"}}}
    (run / "mlflow.json").write_text(json.dumps(notes))
    (tmp_path / "x.db").touch()
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--open", "--port", str(site.port)]) == 2
    err = capsys.readouterr().err
    assert f"port {site.port} has MLflow on another store" in err and err.count("\n") == 1


def test_the_experiment_page_shows_the_points_and_the_columns_best_first(site, tabs):
    page = tabs.new_page()
    page.goto(site.page("all points in a table"))
    expect(page.get_by_text("4 matching runs")).to_be_visible()
    rows = page.locator(".ag-center-cols-container [role=row]")
    expect(rows).to_have_count(4)
    for name in COLUMNS:
        head = page.locator(f".ag-header-cell[col-id='{name}']")
        expect(head).to_be_visible()
        text = head.get_by_text(name.split("`")[1], exact=True)
        assert text.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), f"{name} is cut off"
    names = page.get_by_role("link", name="norm=")
    expect(names).to_have_count(4)
    shown = sorted(link.inner_text() for link in names.all())
    assert shown == ["0 norm=ln seed=0", "1 norm=ln seed=1", "2 norm=bn seed=0", "3 norm=bn seed=1"]
    scores = [float(row.locator(f"[col-id='{COLUMNS[0]}']").inner_text()) for row in rows.all()]
    assert scores == sorted(scores, reverse=True)


def test_the_compare_page_draws_exactly_what_was_varied(site, tabs):
    page = tabs.new_page()
    page.goto(site.page("compare these runs"))
    expect(page.get_by_role("heading", name="Comparing 4 Runs from 1 Experiment")).to_be_visible()
    tabs_shown = ["Parallel Coordinates Plot", "Scatter Plot", "Box Plot", "Contour Plot"]
    expect(page.get_by_role("tab")).to_have_text(tabs_shown)
    plot = page.locator(".js-plotly-plot:visible")
    expect(plot.locator(".parcoords")).to_be_visible()
    titles = [title.text_content() for title in plot.locator(".axis-title").all()]
    assert titles[:-1] == ["norm.name", "seed"] and len(titles) == 3  # and one metric
    for name in tabs_shown[1:]:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def test_the_models_page_names_each_best_checkpoint_and_its_run(site, tabs):
    page = tabs.new_page()
    page.goto(f"http://127.0.0.1:{site.port}/#/experiments/1/models")
    expect(page.get_by_role("link", name="vmamba_nano-best")).to_have_count(4)
    expect(page.get_by_role("link", name="3 norm=bn seed=1")).to_have_count(2)  # best and final


@pytest.mark.parametrize("way", ["the sweep's own", "the artifact beside the parent run"])
def test_the_report_draws_its_charts_with_the_network_cut_off(way, site, tabs):
    path = site.sweep / "report" / "report.html"
    if way != "the sweep's own":
        (path,) = (site.sweep.parent / "mlartifacts").rglob("report/report.html")
    page, asked, errors = _cut_off(tabs)
    page.goto(Path(path).resolve().as_uri())
    charts = page.locator(".plotly-graph-div")
    expect(charts).to_have_count(3)  # by axis, against throughput, over time
    for number in range(3):
        expect(charts.nth(number).locator("svg.main-svg").first).to_be_visible()
    expect(charts.nth(0).locator(".scatterlayer .points path.point")).to_have_count(4 + 2)  # runs, and a mean a value
    expect(charts.nth(2).locator(".scatterlayer .trace")).to_have_count(4)
    expect(page.locator("p.best")).to_contain_text("norm=")
    expect(page.locator("tr.best")).to_have_count(1)
    assert asked == [] and errors == []
    first = page.locator("table").first.locator("tbody tr td:first-child")
    page.locator("th").first.click()
    up = first.all_inner_texts()
    page.locator("th").first.click()
    assert up == first.all_inner_texts()[::-1] and sorted(up) == ["bn", "ln"]


def _cut_off(tabs):
    """A tab without a network, what it asked for all the same, and what went wrong in it."""
    page, asked, errors = tabs.new_page(), [], []
    tabs.set_offline(True)
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("file:") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    return page, asked, errors
