"""The site in a real browser: `make test-site`. Without one these tests fail, they are not skipped."""

import functools
import http.server
import json
import math
import shutil
import statistics
import threading
from pathlib import Path

import pytest
from scipy import stats as scipy_stats

from harness import reference
from harness.publish import build
from harness.record import read
from harness.refutation import Refutation, name
from tests import worlds
from tests.records import make_record, write_run

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EVIL = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "javascript:window.pwned=1",
    "</script><script>window.pwned=1</script>",
    "a\u202egnp.exe\u2066",
    "z" + "\u0301" * 40,
    "x" * 3000,
    "'-alert(1)-'${7*7}{{7*7}}",
)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed: pip install -e '.[browser]', or make test-site", pytrace=False)
    with sync_playwright() as p:
        found = next((path for b in BROWSERS if (path := shutil.which(b))), None)
        try:
            made = p.chromium.launch(
                executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
        except Exception as error:
            line = str(error).splitlines()[0]
            pytest.fail(
                f"no Chromium: install Debian's `chromium`, or `playwright install chromium` ({line})", pytrace=False
            )
        yield made
        made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three budgets on pocket, another suite, a refuted run, and records whose every text is hostile."""
    root = tmp_path_factory.mktemp("site")
    made = worlds.world(root / "results", 5, budgets=(1.0, 0.5, 2.0))
    worlds.world(root / "results", 3, suite="bbh", model="Qwen/Qwen2.5-0.5B")
    first = next(r for r in made if r.identity.strategy == "cadft" and r.identity.budget.multiple == 1)
    again, _ = worlds.make_run("cadft", first.identity.seed, 0.5)
    folder = next((root / "results").rglob(f"*-{first.id[:8]}.json")).parent
    refuted = Refutation(refutes=first.id, record=again)
    (folder / name(again, first.id)).write_text(refuted.model_dump_json(), encoding="utf-8")
    for k, evil in enumerate(EVIL):
        odd = make_record(evil, k, {evil: 0.5, "a": 0.4}, suite=evil, model=evil, passed={evil: evil}, error=evil)
        matrix = {"tasks": [evil, "a"], "S": [[1, 0], [0, 1]]}
        event = worlds.record.Event(billed_flops=1, verb=evil, note=evil, data=matrix)
        odd = odd.model_copy(update={"events": [event]})
        write_run(odd, root / "runs")
        write_run(make_record(evil, k, status="failed", error=evil), root / "runs")
        write_run(make_record(evil, k, dict.fromkeys(worlds.TASKS, 0.6), n=100), root / "runs")
    lm_eval = Path(__file__).parent / "fixtures" / "lm_eval_0.4.13.json"
    brought = reference.bring(lm_eval, "pocket", "Some model", "https://example.org/it", root / "results").path
    for k, evil in enumerate(EVIL):
        odd = json.loads(brought.read_text()) | ({"name": evil} if k % 2 else {"source": evil})
        (brought.parent / f"x{k}.reference-0000000{k}.json").write_text(json.dumps(odd), encoding="utf-8")
    build([root / "results", root / "runs"], root / "dist")
    return root / "dist"


@pytest.fixture
def page(browser):
    """A page that fails the test on an error, a dialog, or a request that leaves the files."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    made = context.new_page()
    wrong = watched(made)
    yield made
    assert wrong == []
    context.close()


def watched(page):
    wrong = []
    page.on("pageerror", lambda e: wrong.append(f"error {e}"))
    page.on("console", lambda m: wrong.append(f"console {m.text}") if m.type in ("error", "warning") else None)
    page.on("dialog", lambda d: (wrong.append(f"dialog {d.message}"), d.dismiss()))
    page.on("request", lambda r: None if r.url.startswith("file://") else wrong.append(f"request {r.url}"))
    return wrong


def board(site):
    """The pocket board's file: the first, since it has most rows."""
    return next(p for p in sorted((site / "boards").glob("pocket-pocket-full-*.html")) if "msft" in p.read_text())


def open_(page, path, state=""):
    page.goto(f"file://{path}{state}")
    return page


def labels(page):
    """Strategies of the visible board, in its order."""
    return page.eval_on_selector_all(
        "section.budget:not([hidden]) table.board tbody tr:not([hidden])", "rows => rows.map(r => r.dataset.label)"
    )


def numbers(page, column):
    """What the visible rows sort by in a column."""
    return [float(x) for x in page.eval_on_selector_all(
        "section.budget:not([hidden]) table.board tbody tr:not([hidden])",
        "(rows, k) => rows.map(r => r.cells[k].dataset.v).filter(x => x !== '')", column,
    )]  # fmt: skip


def head(page, words):
    return page.locator("section.budget:not([hidden]) thead button", has_text=words).first


def test_sorting_by_mouse_is_kept_in_the_address(page, site):
    open_(page, board(site))
    ours = [x for x in labels(page) if x in worlds.SKILLS]
    assert set(ours) == set(worlds.SKILLS)
    head(page, "score").click()
    assert numbers(page, 2) == sorted(numbers(page, 2), reverse=True)
    head(page, "score").click()
    assert numbers(page, 2) == sorted(numbers(page, 2))
    assert page.locator("section.budget:not([hidden]) th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert "dir=asc" in here(page)
    order = labels(page)
    page.reload()
    assert labels(page) == order
    head(page, "strategy").click()
    plain = [x for x in labels(page) if x in worlds.SKILLS]
    assert plain == sorted(plain)


def test_everything_works_from_the_keyboard(page, site):
    open_(page, board(site))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    head(page, "billed").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    page.keyboard.press("/")
    page.keyboard.type("msft")
    assert set(labels(page)) == {"msft", "msft+cadft"}
    assert page.locator("[data-status]").inner_text() == "2 rows"
    page.keyboard.press("Escape")
    assert len(labels(page)) > 2
    page.locator("tr[data-label='msft'] button.pick").first.focus()
    page.keyboard.press("Enter")
    assert "hl=" in here(page)
    page.locator("section.budget:not([hidden]) tr[data-label='msft'] summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("section.budget:not([hidden]) tr[data-label='msft'] details a").count() == 5
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_filter_and_budget_are_state_of_the_address(page, site):
    open_(page, board(site), "#q=taskpgm&budget=2")
    assert labels(page) == ["taskpgm"]
    assert page.locator("[data-budget='2']").get_attribute("aria-pressed") == "true"
    page.locator("[data-budget='0.5']").click()
    assert "budget=0.5" in here(page)
    assert page.locator("section.budget:not([hidden])").count() == 1
    page.locator("[data-filter]").fill("")
    assert set(labels(page)) >= set(worlds.SKILLS)


def test_highlighting_a_row_dims_the_rest_of_the_picture(page, site):
    open_(page, board(site))
    page.locator("section.budget:not([hidden]) tr[data-label='cadft'] td").nth(3).click()
    lit = page.eval_on_selector_all(".picture .lit", "marks => marks.map(m => m.getAttribute('aria-label'))")
    assert len(lit) >= 3 * 2  # a point and an interval for each budget
    assert all(words == "cadft" or words.startswith("cadft: ") for words in lit)
    other = page.locator(".picture svg [aria-label^='proportional: ']").first
    assert float(other.evaluate("m => getComputedStyle(m).opacity")) < 0.5
    address = here(page)
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("tr.lit").count() == 3


def test_pointing_at_a_mark_says_what_it_is(page, site):
    open_(page, board(site))
    mark = page.locator(".picture path[aria-label^='cadft: '][aria-roledescription='point']").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tip = page.locator(".tip").inner_text()
    assert tip == mark.get_attribute("aria-label")
    assert "95 % interval" in tip


def curves(page, which):
    """The lines of the large plot: all, or those of a class."""
    return page.locator(f"svg.plot path.curve{which}")


def run_page(site, strategy):
    """A run's page and its record."""
    for path in sorted((site / "runs").glob("*.json")):
        found = read(path)
        if found.identity.strategy == strategy and found.curves:
            return path.with_suffix(".html"), found
    raise AssertionError(strategy)


def here(page):
    """The page's address; `page.url` learns of a script's changes some time later."""
    return page.evaluate("location.href")


def shown_values(page):
    return {
        key.locator("bdi").inner_text(): key.locator(".value").inner_text()
        for key in page.locator(".keys button").all()
    }


def test_curves_say_their_values_where_one_points_and_stand_out_when_chosen(page, site):
    path, found = run_page(site, "msft")
    open_(page, path)
    plot = page.locator("svg.plot")
    plot.scroll_into_view_if_needed()
    assert curves(page, "").count() == len(worlds.TASKS)
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.999, "y": box["height"] / 2})
    last = max(p.billed_flops for p in found.curves)
    truth = {p.task: 100 * p.exact_match for p in found.curves if p.billed_flops == last}
    for task, text in shown_values(page).items():
        assert float(text) == pytest.approx(truth[task], rel=0.006, abs=0.05), task
    page.locator(".keys button", has_text="colours").click()
    assert curves(page, ".lit").locator("title").evaluate_all("found => found.map(t => t.textContent)") == ["colours"]
    assert curves(page, ".dim").count() == len(worlds.TASKS) - 1
    assert "curve=colours" in here(page)
    page.locator("button[data-view='loss']").click()
    plot.hover(position={"x": box["width"] * 0.999, "y": box["height"] / 2})
    losses = {p.task: p.loss for p in found.curves if p.billed_flops == last}
    assert {t: float(x) for t, x in shown_values(page).items()} == pytest.approx(losses, rel=0.006)
    page.reload()
    assert curves(page, ".lit").count() == 1
    assert page.locator("button[data-view='loss']").get_attribute("aria-pressed") == "true"


def test_a_stretch_of_the_curves_is_zoomed_by_dragging_and_by_the_keyboard(page, site):
    path, found = run_page(site, "msft")
    open_(page, path)
    plot = page.locator("svg.plot")
    plot.scroll_into_view_if_needed()
    total = max(p.billed_flops for p in found.curves)
    box = plot.bounding_box()
    unit = box["width"] / 760
    at = [box["x"] + unit * (52 + share * (760 - 52 - 14)) for share in (0.25, 0.75)]
    page.mouse.move(at[0], box["y"] + 60)
    page.mouse.down()
    page.mouse.move(at[1], box["y"] + 90, steps=4)
    page.mouse.up()
    seen = dict(x.split("=") for x in here(page).split("#")[1].split("&"))
    assert (float(seen["from"]) / total, float(seen["to"]) / total) == pytest.approx((0.25, 0.75), abs=0.01)
    outline = curves(page, "").first.get_attribute("d")
    page.reload()
    assert curves(page, "").first.get_attribute("d") == outline
    page.locator("button[aria-label='Show all']").click()
    assert "from=" not in here(page)
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert set(shown_values(page).values()) != {""}
    page.keyboard.press("+")
    assert "to=" in here(page)
    page.keyboard.press("0")
    assert "to=" not in here(page)
    assert "arrow keys" in plot.get_attribute("aria-label")


def test_profiles_are_drawn_large_in_the_place_of_the_still_picture(page, tmp_path):
    for suite in ("pocket", "bbh"):
        worlds.world(tmp_path / "results", 2, suite=suite, n=20)
    build([tmp_path / "results"], tmp_path / "dist")
    open_(page, tmp_path / "dist" / "workloads.html")
    assert not page.locator("#profiles-still").is_visible()
    names = set(shown_values(page))
    assert names == set(worlds.SKILLS)
    plot = page.locator("svg.plot")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.999, "y": box["height"] / 2})
    rows = [line.split(",") for line in page.locator("#profiles-data").text_content().strip().splitlines()]
    last = dict(zip(rows[0], rows[-1], strict=True))
    assert all(float(shown_values(page)[n]) == pytest.approx(100 * float(last[n]), abs=0.1) for n in names)
    page.locator("[data-filter]").fill("cadft")
    page.locator(".keys button", has_text="uniform").first.click()
    assert "q=cadft" in here(page)
    assert "curve=uniform" in here(page)


def test_two_strategies_are_compared_on_their_shared_seeds(page, site):
    rows = {}
    for path in (site / "runs").glob("*.json"):
        r = read(path)
        if r.identity.suite == "pocket" and r.identity.budget.multiple == 1 and "addition" in r.scores:
            rows.setdefault(r.identity.strategy, {})[r.identity.seed] = r
    open_(page, board(site).parent.parent / "compare" / board(site).name)
    page.locator("[data-a]").select_option(label="uniform (1x)")
    page.locator("[data-b]").select_option(label="cadft (1x)")
    a, b = rows["uniform"], rows["cadft"]
    for task, pick in (("addition", lambda r: r.scores["addition"].value), ("macro mean", lambda r: r.macro)):
        line = page.locator("[data-pair] tr", has_text=task).first.locator("td").all_inner_texts()
        differences = [pick(b[s]) - pick(a[s]) for s in sorted(a)]
        half = scipy_stats.t.ppf(0.975, 4) * statistics.stdev(differences) / math.sqrt(5)
        shown = [float(x.replace("−", "-")) for x in line[:4]]
        truth = [statistics.mean(map(pick, a.values())), statistics.mean(map(pick, b.values()))]
        assert shown == pytest.approx(
            [100 * truth[0], 100 * truth[1], 100 * statistics.mean(differences), 100 * half], abs=0.051
        )
    page.locator("[data-swap]").click()
    assert page.locator("[data-a] option:checked").inner_text() == "cadft (1x)"
    assert "a=" in here(page)
    said = page.locator("[data-verdict]").inner_text()
    page.reload()
    assert page.locator("[data-verdict]").inner_text() == said


def test_without_a_script_every_table_is_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    open_(page, site / "index.html")
    assert page.locator("section.budget:visible").count() == 3
    assert page.locator("tr[data-label='cadft']:visible").count() == 3
    assert not page.locator("[data-tools]").is_visible()
    assert page.locator(".picture svg:visible").count() == 2
    page.locator("tr[data-label='msft'] summary").first.click()
    page.locator("tr[data-label='msft'] details a").first.click()
    assert page.locator("text=Where the FLOPs went").is_visible()
    assert page.locator(".panel").count() == 2 * len(worlds.TASKS)
    assert page.locator(".stream").is_visible()
    assert not page.locator("[data-plot]").is_visible()
    context.close()


CONTRAST = """(wanted) => {
  const linear = (x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((x) => linear(Number(x) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const query of wanted) {
    const node = document.querySelector(query);
    if (!node) { found[query] = null; continue; }
    const ink = light(getComputedStyle(node).color);
    found[query] = (Math.max(page, ink) + 0.05) / (Math.min(page, ink) + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_readable(browser, site, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    open_(page, board(site))
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    found = page.evaluate(CONTRAST, ["body", ".quiet", "a.name", ".mark", ".mark.alarm", "thead th", "caption"])
    assert all(ratio is not None and ratio >= 4.5 for ratio in found.values()), found
    button = page.locator("button.scheme")
    other = "dark" if scheme == "light" else "light"
    while button.inner_text() != other:
        button.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    context.close()


def kinds(site):
    """Pages of every kind, those of hostile records among them."""
    yield from sorted(site.glob("*.html"))
    for folder in ("boards", "compare", "strategies"):
        yield from sorted((site / folder).glob("*.html"))[:: 1 if folder != "strategies" else 4]
    odd = [
        p for p in sorted((site / "runs").glob("*.json")) if json.loads(p.read_text())["identity"]["strategy"] in EVIL
    ]
    yield from (p.with_suffix(".html") for p in odd)
    yield next(p for p in sorted((site / "runs").glob("*.html")) if p.with_suffix(".json") not in odd)


def test_hostile_text_never_runs_and_no_page_is_wider_than_the_screen(browser, site):
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = context.new_page()
    wrong = watched(page)
    seen = 0
    for path in kinds(site):
        open_(page, path)
        assert page.evaluate("window.pwned") is None, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
        assert page.locator("img, iframe, object, embed").count() == 0, path
        links = page.eval_on_selector_all("a[href]", "links => links.map(a => a.protocol)")
        assert set(links) <= {"file:", "https:"}, path
        seen += 1
    assert seen > 40
    assert wrong == []
    context.close()


def test_a_name_that_turns_the_text_around_stays_within_itself(page, site):
    open_(page, site / "strategies.html")
    assert not page.evaluate("[...document.body.innerText].some(c => '\\u202e\\u2066\\u200b'.includes(c))")


def test_the_refuted_row_says_so(page, site):
    open_(page, board(site))
    page.locator("tr[data-label='cadft'] .mark.alarm").first.click()
    assert page.locator("#disputes li").count() == 1
    page.locator("#disputes a").first.click()
    assert page.locator(".note.alarm").inner_text().startswith("Refuted: the same run")


def test_scores_from_elsewhere_stand_apart_and_those_that_do_not_verify_nowhere(page, site):
    open_(page, board(site))
    rows = page.locator("#references tbody tr")
    assert rows.count() == 1
    assert rows.locator("td").nth(2).inner_text() == "unknown"
    assert rows.locator("th a").get_attribute("href") == "https://example.org/it"
    assert not {"Some model"} & set(labels(page))


def test_the_site_works_under_a_sub_path(browser, site, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "where").symlink_to(site)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        answers = []
        page.on("response", lambda r: answers.append((r.url, r.status)))
        root = f"http://127.0.0.1:{server.server_port}/some/where/"
        page.goto(root)
        head(page, "score").click()
        assert numbers(page, 2) == sorted(numbers(page, 2), reverse=True)
        page.locator("tr[data-label='msft'] th a").first.click()
        page.wait_for_load_state()
        assert page.locator("pre.code").is_visible()
        wrong = [a for a in answers if not a[0].startswith(root) or a[1] >= 400]
        assert [a for a in wrong if not a[0].endswith("favicon.ico")] == []
        page.close()
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_scrolls_sideways_has_a_shadow_where_there_is_more(browser, site, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    open_(page, board(site))
    region = page.locator("section.budget:not([hidden]) .wide").first
    region.scroll_into_view_if_needed()
    region.evaluate("region => { region.firstElementChild.style.visibility = 'hidden'; }")
    box = region.bounding_box()

    def edge(left):
        clip = {"x": left, "y": box["y"] + 40, "width": 10, "height": 60}
        return page.screenshot(clip=clip, animations="disabled")

    right, plain = box["x"] + box["width"] - 11, edge(box["x"] + box["width"] / 2)
    assert edge(right) != plain, "there is more to the right"
    region.evaluate("region => { region.scrollLeft = region.scrollWidth; }")
    page.wait_for_timeout(100)
    assert edge(right) == plain, "this is the end"
    region.evaluate("region => { region.firstElementChild.style.visibility = ''; }")
    name = page.locator("section.budget:not([hidden]) tr[data-label='cadft'] th")
    assert abs(name.bounding_box()["x"] - box["x"]) < 1, "the first column stays"
    context.close()


def test_the_board_fits_beside_a_scroll_bar_and_its_picture_on_a_phone(browser, tmp_path):
    worlds.world(tmp_path / "results", 2, {"proportional": 0.7, "continual_sft": 0.6, "msft": 0.5}, (1.0, 2.0), n=20)
    index = build([tmp_path / "results"], tmp_path / "dist")
    for width in (1265, 390):
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        open_(page, index)
        over = page.locator(".wide").first.evaluate("region => region.scrollWidth - region.clientWidth")
        assert (over <= 0) == (width == 1265)
        for svg in page.locator(".picture svg").all():
            box = svg.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        context.close()


def test_numbers_and_names_of_metrics_stay_on_one_line(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    for path in (run_page(site, "msft")[0], board(site)):
        open_(page, path)
        broken = page.eval_on_selector_all(
            "td.n, td.whole, .events td:first-child",
            """cells => cells.filter(cell => !cell.querySelector('details, svg')).map(cell => {
              const range = document.createRange();
              range.selectNodeContents(cell);
              const tops = [...range.getClientRects()].filter(r => r.width > 0).map(r => r.bottom);
              return [cell.textContent, Math.max(...tops) - Math.min(...tops)];
            }).filter(([, apart]) => apart > 6)""",
        )
        assert broken == [], path
    open_(page, run_page(site, "msft")[0])
    assert page.locator("td.whole", has_text="exact_match").count() == len(worlds.TASKS)
    context.close()


LONG = {"greats": {"eta_select": 1.0, "normalize": True}, "taskpgm+partitionsel": {"pool": 4}, "random_select": {}}
BROKEN = """cells => cells.flatMap(cell => {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), range = document.createRange(), found = [];
  let last = "", line = null;
  for (let node; (node = walker.nextNode()); )
    for (let i = 0; i < node.length; i++) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const box = range.getClientRects()[0];
      if (box && box.width) {
        if (line !== null && box.top > line && /[a-zA-Z0-9.,]{2}/.test(last + node.data[i])) found.push(cell.textContent);
        line = box.bottom;
      }
      last = node.data[i];
    }
  return found;
})"""


def test_names_break_at_their_joints_and_are_copied_whole(browser, tmp_path):
    """On a phone's width; the last name has none, and breaks where it must."""
    tasks = {"logical_deduction_three_objects": 0.5, "tracking_shuffled_objects_seven_objects": 0.4}
    for strategy, options in {"proportional": {}, "o" * 30: {}, **LONG}.items():
        for multiple in (1, 0.25, 0.5, 0.825, 0.845, 0.853, 2, 5):
            made = make_record(strategy, 0, tasks, passed=options, multiple=multiple)
            write_run(made, tmp_path / "runs")
    site = build([tmp_path / "runs"], tmp_path / "dist").parent
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    several, broken = 0, set()
    for path in (
        *site.glob("boards/*"),
        *site.glob("compare/*"),
        site / "strategies.html",
        run_page(site, "greats")[0],
    ):
        open_(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        broken |= {x.strip(" ◦").split()[0] for x in page.eval_on_selector_all(".stick", BROKEN)}
        several += page.locator(".stick wbr").count()
    assert broken == {"o" * 30}
    assert several > 20
    open_(page, *site.glob("compare/*"))
    for row, told in (
        (".bytask tbody tr", "greats eta_select=1.0, normalize=True"),
        ("[data-pair] tbody tr", next(iter(tasks))),
    ):
        cell = page.locator(row).filter(has_text=told).locator("th")
        assert cell.bounding_box()["height"] > 2 * 21, "it has several lines"
        copied = cell.evaluate("cell => { getSelection().selectAllChildren(cell); return getSelection().toString(); }")
        assert copied == told
    label = page.locator(".bytask th", has_text="eta_select").first
    for width in range(180, 300, 10):
        label.evaluate("(cell, width) => { cell.style.maxWidth = cell.style.minWidth = `${width}px`; }", width)
        heights = label.locator(".word").evaluate_all("words => words.map(word => word.offsetHeight)")
        assert len(heights) == 2
        assert max(heights) <= 21, "an option that has room on a line of its own stays whole"
    context.close()


def test_what_prints_is_the_table(page, site):
    open_(page, board(site))
    page.emulate_media(media="print")
    assert not page.locator("[data-tools]").is_visible()
    assert page.locator("table.board").first.is_visible()
