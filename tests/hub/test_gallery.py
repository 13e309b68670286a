"""The page that compares runs: what is on it, that it loads nothing, and that a browser sorts it."""

import json
import logging
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reports import deployed, report

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.report.differing import differing, settings
from hf_compress.report.gallery import write_gallery
from hf_compress.report.scatter import pareto

NAMES = ["a", '<b>"bold"', "c & d"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def run_report(accuracy, parameters, milliseconds, **changes):
    made = report(**changes)
    last = made["rows"][-1]
    last["quality"]["accuracy"] = accuracy
    last["cost"]["parameters"] = parameters
    last["latency"]["batch_1"]["p50_ms"] = milliseconds
    return made


def save(folder, content):
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "README.md").write_text("a card")


@pytest.fixture
def page(tmp_path):
    figures = [(0.9, 3_000_000, 1.0), (0.8, 1_000_000, 2.0), (0.7, 20_000_000, 3.0)]
    for name, values in zip(NAMES, figures, strict=True):
        save(tmp_path / "runs" / name, run_report(*values))
    save(tmp_path / "runs" / "other" / "deep", run_report(0.5, 100, 1.0, path="birds"))
    output = tmp_path / "site" / "cards.html"
    output.parent.mkdir()
    assert write_gallery(str(tmp_path / "runs"), output) == 4
    return output


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_every_run_is_on_the_page_with_a_link_that_leads_to_its_card(page):
    parsed = Page(page.read_text())
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert len(links) == 4
    assert all((page.parent / unquote(link)).read_text() == "a card" for link in links)
    assert {*NAMES, "other/deep", "3.00 M", "0.9000", "photos", "birds"} <= set(parsed.texts)
    assert not any(tag == "b" for tag, _ in parsed.tags)


def test_the_page_loads_nothing(page):
    parsed = Page(page.read_text())
    assert not [tag for tag, attributes in parsed.tags if {"src", "srcset", "data", "action"} & set(attributes)]
    assert not [tag for tag, _ in parsed.tags if tag in ("link", "iframe", "img", "object", "base")]
    assert not re.search(r"url\(|@import|https?:", page.read_text())
    assert "default-src 'none'" in page.read_text()


def test_filled_points_are_the_pareto_front(page):
    _, parameters, _size, latency = page.read_text().partition("photos</h2>")[2].split("<svg")
    points = [re.findall(r'style="fill: var\(--(best|panel)\); stroke', plot) for plot in (parameters, latency)]
    assert points == [
        ["best", "best", "panel"],
        ["best", "panel", "panel"],
    ], "two on parameters, one on latency, by which the lines are sorted"


def test_the_columns_tell_what_differs_between_recipes(tmp_path):
    common = {"data": {"path": "photos"}, "teacher": {"model": "t"}, "measure": {"repeats": 3}}
    recipes = [
        {"seed": 0, "steps": [{"distill": {"loss": "mse", "epochs": 3}}, {"prune": {"amount": 0.5}}]},
        {"seed": 0, "steps": [{"distill": {"loss": "kl", "epochs": 3}}, {"prune": {"amount": 0.25}}]},
        {"seed": 0, "steps": [{"finetune": {"epochs": 9}}], "measure": {"repeats": 30}},
    ]
    for number, recipe in enumerate(recipes):
        save(tmp_path / str(number), run_report(0.9 - number / 10, 100, 1.0 + number))
        (tmp_path / str(number) / "recipe.yaml").write_text(yaml.safe_dump(common | recipe, sort_keys=False))
    save(tmp_path / "without", run_report(0.5, 100, 9.0))
    (tmp_path / "without" / "recipe.yaml").write_text("&a [*a")
    found = [settings(tmp_path / name) for name in ("0", "1", "2", "without")]
    assert found[0]["prune.amount"] == "0.5" and found[3] == {}
    assert differing(found) == ["distill.loss", "prune.amount"]
    write_gallery(str(tmp_path), tmp_path / "cards.html")
    page = (tmp_path / "cards.html").read_text()
    assert "distill.<wbr>loss" in page and "finetune" not in page and "repeats" not in page
    assert re.findall(r'<td class="text given">([^<]*)</td>', page)[:8] == ["mse", "0.5", "kl", "0.25", "", "", "", ""]


def test_the_table_begins_with_the_front_the_cheapest_first(tmp_path):
    for name, accuracy, milliseconds in (("costly", 0.9, 2.0), ("beaten", 0.7, 2.0), ("cheap", 0.8, 1.0)):
        save(tmp_path / name, run_report(accuracy, 100, milliseconds))
    write_gallery(str(tmp_path), tmp_path / "cards.html")
    table = (tmp_path / "cards.html").read_text().partition("<tbody")[2]
    assert sorted(("costly", "beaten", "cheap"), key=table.index) == ["cheap", "costly", "beaten"]


def test_where_less_is_better_the_least_is_the_front_and_comes_first(tmp_path):
    for name, error, milliseconds in (("exact", 0.1, 2.0), ("beaten", 0.3, 2.0), ("cheap", 0.2, 1.0)):
        made = run_report(0.9, 100, milliseconds, task="depth")
        for row in made["rows"]:
            row["quality"] = {"abs_rel": error, "delta_1": 1 - error}
            for key in ("classes", "reliability", "details"):
                row.pop(key, None)
        save(tmp_path / name, made)
    write_gallery(str(tmp_path), tmp_path / "cards.html")
    page = (tmp_path / "cards.html").read_text()
    table = page.partition("<tbody")[2]
    assert sorted(("exact", "beaten", "cheap"), key=table.index) == ["cheap", "exact", "beaten"]
    assert "relative error to the teacher&#39;s depth at most <input" in page and 'data-least="yes"' not in page
    latency = page.split("<svg")[-1]
    assert re.findall(r'style="fill: var\(--(best|panel)\); stroke', latency) == ["best", "best", "panel"]


def test_latencies_of_two_devices_make_no_front(tmp_path):
    for name, accuracy, milliseconds, parameters in (("slow device", 0.9, 9.0, 100), ("fast device", 0.8, 1.0, 200)):
        made = run_report(accuracy, parameters, milliseconds)
        made["environment"]["processor"] = name
        save(tmp_path / name, made)
    write_gallery(str(tmp_path), tmp_path / "cards.html")
    page = (tmp_path / "cards.html").read_text()
    assert "does not compare across them: fast device" in page and "against latency" not in page
    assert page.count("<svg") == 2 and "9.00 ms" in page and "1.00 ms" in page
    assert "at most" in page and not re.search(r"latency, one image, p50[^<]*</label>", page)


def test_the_teacher_is_in_the_plots(page):
    plots = page.read_text().partition("photos</h2>")[2].split("<svg")[1:]
    assert [plot.count(">teacher<") for plot in plots] == [1, 1, 1]


def test_runs_on_other_images_are_compared_apart(page):
    assert page.read_text().count("<section>") == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_beats_every_other_point(points):
    front = pareto(points)
    assert front

    def beaten_by(one, other):
        return other[0] <= one[0] and other[1] >= one[1] and other != one

    for index, point in enumerate(points):
        assert any(beaten_by(point, points[best]) for best in front) == (index not in front)


def test_a_report_that_is_no_runs_is_left_out_with_a_warning(tmp_path, caplog):
    save(tmp_path / "good", run_report(0.9, 100, 1.0))
    save(tmp_path / "foreign", {"rows": [], "hello": 1})
    save(tmp_path / "list", [1, 2])
    (tmp_path / "list" / "broken").mkdir()
    (tmp_path / "list" / "broken" / "report.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert write_gallery(str(tmp_path), tmp_path / "cards.html") == 1
    assert len([line for line in caplog.messages if line.startswith("left out")]) == 3


def test_no_runs_and_no_place_to_write_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="has no runs"):
        write_gallery(str(tmp_path), tmp_path / "cards.html")
    save(tmp_path / "good", run_report(0.9, 100, 1.0))
    with pytest.raises(UsageError, match="cannot be written"):
        write_gallery(str(tmp_path), tmp_path / "missing" / "cards.html")
    with pytest.raises(RunError, match="no folder, and the Hub is out of reach"):
        write_gallery("somebody", tmp_path / "cards.html")


@pytest.mark.long
def test_a_users_models_are_read_from_the_hub(hub, client):
    tagged = b"---\ntags: [hf-compress]\n---\n"
    for name, accuracy, card in (("first", 0.75, tagged), ("second", 0.5, tagged), ("untagged", 0.25, b"# x\n")):
        content = json.dumps(run_report(accuracy, 100, 1.0)).encode()
        hub.add(f"bob/{name}", {"report.json": content, "README.md": card})
    hub.add("bob/without-report", {"README.md": tagged})
    output = client.folder / "cards.html"
    result = client.cli("cards", "bob", "--output", output)
    assert result.code == 0, result.err
    assert "2 runs" in result.out
    assert "left out bob/without-report" in result.err
    parsed = Page(output.read_text())
    links = {attributes["href"] for tag, attributes in parsed.tags if tag == "a"}
    assert links == {f"{hub.url}/bob/first", f"{hub.url}/bob/second"}
    assert {"0.7500", "0.5000"} <= set(parsed.texts)
    assert "0.2500" not in parsed.texts
    assert "'nobody' has no runs" in client.cli("cards", "nobody", "--output", output).error


def browse(page, folder, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1280,1000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_and_sorts_the_page(page, tmp_path):
    click = "<script>document.querySelectorAll('section')[1].querySelectorAll('th button')[INDEX].click()</script>"
    text = page.read_text()
    headings = re.findall(r"<button type=\"button\">(.*?)</button>", text.partition("photos</h2>")[2])
    test_page = page.with_name("clicked.html")
    test_page.write_text(text + 2 * click.replace("INDEX", str(headings.index("parameters"))))
    dom = browse(test_page, tmp_path, "--dump-dom")
    table = dom.partition("photos</h2>")[2]
    assert re.findall(r'<tr><td data-value="(\d)"', table) == ["3", "1", "2"], "20 M, 3 M, 1 M: by number, not by text"
    assert 'aria-sort="descending"><button type="button">parameters' in table
    colours = {}
    for scheme, setting in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{scheme}.png"
        browse(page, tmp_path, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={setting}")
        with Image.open(shot) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
            colours[scheme] = picture.convert("RGB").getpixel((5, 5))
    assert min(colours["light"]) > 200 > 60 > max(colours["dark"])


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_filters_and_compares(page, tmp_path):
    """Of accuracies 0.9, 0.8, 0.7 at 1, 2, 3 ms two are left, and the third is faint in the plots."""
    done = """<script>
    const all = document.querySelectorAll("section")[1], set = (heading, value) => {
      const input = all.querySelector(`[data-heading="${heading}"][data-scale]`);
      input.value = value;
      input.dispatchEvent(new Event("input"));
    };
    set("accuracy", "0.75");
    all.querySelectorAll(".pick")[0].click();
    all.querySelectorAll(".pick")[1].click();
    const lines = [...all.querySelectorAll(".compare tr")].map(row => [...row.cells].map(cell => cell.textContent));
    const faint = [...all.querySelectorAll("[data-point]")].filter(point => point.style.opacity < 1).length;
    set("latency, one image, p50", "1.5");
    document.title = JSON.stringify([lines, faint, all.querySelector("output").textContent,
      Math.max(...[document.documentElement, ...document.querySelectorAll(".scroll")].map(
        box => box.scrollWidth - box.clientWidth))]);
    </script>"""
    test_page = page.with_name("filtered.html")
    test_page.write_text(page.read_text() + done)
    dom = browse(test_page, tmp_path, "--dump-dom")
    lines, faint, left, hidden = json.loads(unescape(re.search("<title>(.*?)</title>", dom).group(1)))
    lines = {heading: cells for heading, *cells in lines}
    assert lines["parameters"] == ["3.00 M", "1.00 M", "0.33x"]
    assert lines["accuracy"] == ["0.9000", "0.8000", "-0.1000"]
    assert lines["run"][0] == "a"
    assert (faint, left) == (6, "1 of 3"), "a mark and a number in each of three plots"
    assert hidden == 0, "pixels of the page, or of a table in it, that 1280 do not show"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_runs_that_differ_in_much_fit_1280_pixels_and_no_word_is_cut(tmp_path):
    sure = {"against": "teacher", "ratio": 1.0, "low": 0.87, "high": 1.16}
    lost = {"metric": "accuracy", "against": "teacher", "difference": -0.0056, "low": -0.0333, "high": 0.0222}
    for name, values in (
        ("quickstart", (0, 0.25, "teacher", "mse")),
        ("auto", (1e-3, 1.0, "microsoft/resnet-50", "kl")),
    ):
        drop, width, model, loss = values
        made = run_report(0.9, 874_380, 12.46, deployed=[deployed(quality={"accuracy": 0.9})])
        made["rows"][-1]["latency"]["batch_1"]["speedup"] = sure
        made["rows"][-1]["differences"] = [lost]
        save(tmp_path / "runs" / name, made)
        recipe = {
            "teacher": {"model": model, "width": width},
            "student": {"model": model, "width": width},
            "steps": [{"prune": {"importance": loss, "max_drop": drop}}, {"distill": {"loss": loss}}],
        }
        (tmp_path / "runs" / name / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    output = tmp_path / "cards.html"
    write_gallery(str(tmp_path / "runs"), output)
    asked = """<script>
    const box = document.querySelector(".scroll"), range = document.createRange();
    const cut = [...box.querySelectorAll("td, small")].flatMap(cell => [...cell.childNodes])
      .filter(node => node.nodeType === 3).flatMap(node => [...node.data.matchAll(/[a-z]+/g)].filter(word => {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        return range.getClientRects().length > 1;
      }).map(word => word[0]));
    document.title = JSON.stringify([box.scrollWidth - box.clientWidth, cut]);
    </script>"""
    output.write_text(output.read_text() + asked)
    dom = browse(output, tmp_path, "--dump-dom")
    hidden, cut = json.loads(unescape(re.search("<title>(.*?)</title>", dom).group(1)))
    assert "recommended" in dom and "(0.87 to" in dom and "teacher.<wbr>width" in dom
    assert hidden == 0, "pixels of the table that 1280 do not show"
    assert cut == []


THERE = {
    "a page": (None, True),
    "a text": ("years of work", False),
    "another page": ("<!doctype html><title>mine</title>", False),
    "a page of ours within": ("x" * 2000 + '<meta name="generator" content="hf-compress cards">', False),
    "a link to a page": ("link", False),
    "a folder": ("folder", False),
}


@pytest.mark.parametrize("case", THERE)
def test_only_a_page_is_replaced_unasked(case, page, tmp_path):
    text, replaced = THERE[case]
    output = tmp_path / "site" / "other.html"
    if text is None:
        shutil.copy(page, output)
    elif text == "link":
        output.symlink_to(page)
    elif text == "folder":
        output.mkdir()
    else:
        output.write_text(text)
    if replaced:
        assert write_gallery(str(tmp_path / "runs"), output) == 4
        return
    before = output.is_symlink(), output.is_dir() or output.read_text()
    with pytest.raises(UsageError, match=r"is no page of `hf-compress cards`: .*--overwrite"):
        write_gallery(str(tmp_path / "runs"), output)
    assert (output.is_symlink(), output.is_dir() or output.read_text()) == before
    if not output.is_dir():
        assert write_gallery(str(tmp_path / "runs"), output, overwrite=True) == 4
