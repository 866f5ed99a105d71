"""Cards, the blind test, the grid of Try it, and exported comparisons, in Debian's Chromium, on copies of real runs."""

import json
import shutil

import pytest
from PIL import Image

from app import keeping
from app.exporting import comparison
from app.synthetic import make_run, make_text_run
from reslora_sd.runs.contents import kohya_file
from reslora_sd.runs.reader import read_run
from tests.app.browser import barriers, chromium, open_page, picture, serving, show_tab


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(real_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    for method, path in real_runs.items():
        shutil.copytree(path, folder / method)
    make_text_run(folder / "text", "reslora_ms")
    return folder


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory):
    loras = tmp_path_factory.mktemp("loras")
    shutil.copy(runs / "reslora_is" / kohya_file(runs / "reslora_is"), loras / "other.safetensors")
    (loras / "broken.safetensors").write_bytes(b"no tensors")
    with serving([runs], tmp_path_factory.mktemp("server") / "here", "--loras", str(loras)) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser, address):
    """One page for all tests: what one does in its tab, another doesn't see in its own."""
    page = open_page(browser, address)
    page.wait_for_selector("#side-1 img")
    yield page
    assert page.strays == []
    page.context.close()


def test_a_blind_test_names_nobody_until_its_end(page):
    show_tab(page, "Blind test")
    page.wait_for_function("document.querySelector('#blind-variant input').value !== ''")
    page.locator("#start-blind").click()
    page.wait_for_selector("#blind-right img")
    picture(page, "blind-1440-light")
    shown = page.locator("#blind").evaluate("found => found.outerHTML") + page.locator("#blind-asked").inner_text()
    assert "lora" not in shown.replace("/tmp/reslora-page", "").lower()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#blind-asked >> text=Pair 2 of 2")
    score = page.locator("#blind-score").inner_text()
    assert score.strip() == "1 of 2 pairs are done."  # no share: it would unblind
    page.locator("#pick-neither").click()
    page.wait_for_selector("#blind-result textarea")
    said = page.locator("#blind-result textarea").input_value()
    assert "Blind test of LoRA and ResLoRA (input): 2 of 2 pairs" in said and "can't tell: 1." in said


@pytest.mark.slow
def test_a_grid_has_base_first_a_row_for_each_run_and_for_files_made_elsewhere(page):
    show_tab(page, "Try it")
    page.wait_for_selector("#draw:not([disabled])")
    page.locator("#try-grid > button").click()
    page.locator("#grid-prompts textarea").fill("rocket")
    page.locator("#grid-strengths input, #grid-strengths textarea").fill("1")
    page.locator("#grid-steps input[type=number]").fill("2")
    for name in ("other.safetensors", "broken.safetensors"):
        page.get_by_label("LoRA files of --loras").click()
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#draw-grid").click()
    page.wait_for_selector("#grid-said >> text=Done.")
    assert "broken.safetensors is no complete safetensors file" in page.locator("#grid-said").inner_text()
    page.wait_for_selector("#tried-grid img[alt^='Grid of 5 pictures: strength in columns, run in rows']")
    picture(page, "try-grid-1440-light")
    page.locator("#make-grid").click()
    page.wait_for_selector("#get-grid")
    with page.expect_download() as download:
        page.locator("#get-grid").click()
    with Image.open(download.value.path()) as sheet:
        about = json.loads(sheet.info["parameters"])
    assert (
        about["runs"] == ["LoRA", "ResLoRA (input)", "other.safetensors", "broken.safetensors"] and about["steps"] == 2
    )


@pytest.mark.slow
def test_a_grid_can_be_stopped_and_one_that_is_too_large_is_not_begun(page):
    show_tab(page, "Try it")
    page.wait_for_selector("#draw:not([disabled])")
    if not page.locator("#draw-grid").is_visible():
        page.locator("#try-grid > button").click()
    page.locator("#grid-prompts textarea").fill("rocket")
    page.locator("#grid-seeds input, #grid-seeds textarea").fill(", ".join(map(str, range(13))))
    page.locator("#draw-grid").click()
    page.wait_for_selector("#grid-said >> text=There are 13 values of seed. There may be 12.")
    page.locator("#grid-seeds input, #grid-seeds textarea").fill("1")
    page.locator("#grid-steps input[type=number]").fill("150")
    page.locator("#draw-grid").click()
    page.wait_for_selector("#grid-said progress[aria-label*=': drawing']")
    page.locator("#stop-grid").click()
    page.wait_for_selector("#grid-said >> text=Stopped.")


def test_a_comparison_is_made_in_the_page_and_works_from_a_disk_without_any_request(page, browser, tmp_path):
    show_tab(page, "Runs")
    page.wait_for_selector(".card h2")
    page.locator("#share > button").click()
    page.locator("#share-title input, #share-title textarea").fill("Mine & <i>yours</i>")
    page.locator("#make-share").click()
    page.wait_for_selector("#get-share")
    with page.expect_download() as download:
        page.locator("#get-share").click()
    file = tmp_path / "comparison.html"
    shutil.copy(download.value.path(), file)
    other, asked = open_file(browser, file)
    assert other.locator("h1").inner_text() == other.title() == "Mine & <i>yours</i>"
    assert other.locator("#sides img").count() == 3
    assert (
        other.locator("#sides img").first.get_attribute("alt")
        == 'LoRA, step 4, for the prompt "red apple" with seed 42'
    )
    other.locator("#step").focus()
    other.keyboard.press("ArrowLeft")
    assert other.locator("#step-text").inner_text() == "Step 2, of 0 to 4"
    assert other.locator("#wipe img").last.get_attribute("alt") == "ResLoRA (input), step 2"
    other.locator("#place").fill("80")
    assert other.locator("#wipe img").last.evaluate("one => one.style.clipPath") == "inset(0px 0px 0px 80%)"
    assert all(other.eval_on_selector_all("img", "found => found.map(one => one.complete && one.naturalWidth > 0)"))
    assert asked == [file.as_uri()]
    picture(other, "exported-1440-light")
    other.close()


def open_file(browser, file, width=1440):
    """A page of a file, and what it has asked for that is not in it."""
    page, asked = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.on("pageerror", lambda error: asked.append(f"script: {error}"))
    page.goto(file.as_uri())
    page.wait_for_selector("#sides figure")
    return page, asked


def test_an_exported_prompt_is_never_html_and_no_run_makes_it_wider_than_a_phone(browser, tmp_path):
    evil = "</script><img src=x onerror=alert(1)><!--<script>" + "x" * 300
    runs = {f"{name} {evil}": read_run(make_run(tmp_path / name, prompts=(evil,), steps=3)) for name in "ab"}
    file = tmp_path / "evil.html"
    file.write_text(comparison(runs, evil), encoding="utf-8")
    page, asked = open_file(browser, file, 390)
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.wait_for_timeout(300)
    assert page.locator("h1").inner_text() == evil and page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert asked == [file.as_uri()]
    page.close()


@pytest.mark.slow  # tests/app/test_runs_tab.py calls what its buttons call
def test_a_card_has_downloads_a_name_a_note_and_a_way_to_the_trash_and_back(page, runs):
    show_tab(page, "Runs")
    page.wait_for_selector(".card h2:text-is('LoRA')")
    for what, ending in (("diffusers", ".safetensors"), ("settings", ".json")):  # PEFT's is tested without a browser
        with page.expect_download() as download:
            page.locator(f"#get-{what}").click()
        assert download.value.suggested_filename.endswith(ending)
    assert page.locator(".card img").count() >= 4
    picture(page, "runs-1440-light")
    page.locator("#run-title input, #run-title textarea").fill("First try")
    page.locator("#note textarea").fill("too dark")
    page.locator("#keep").click()
    page.wait_for_selector(".card h2:text-is('First try')")
    page.wait_for_selector("#runs >> text=First try")
    assert "too dark" in page.locator("#run-list").inner_text()
    assert keeping.read_kept(runs / "lora").title == "First try"
    page.locator("#delete-run").click()
    page.wait_for_selector("#card-said >> text=First try is in")
    page.wait_for_selector(".card h2:text-is('ResLoRA (input)')")
    assert not (runs / "lora").exists()
    page.locator("#bring-back").click()
    page.wait_for_selector("#card-said >> text=First try is back")
    page.wait_for_selector(".card h2:text-is('First try')")
    assert (runs / "lora" / "run.json").is_file()
    keeping.write_kept(runs / "lora", keeping.Kept())


def test_a_text_run_beside_runs_of_pictures_shows_its_answers_and_no_error(page):
    show_tab(page, "Compare")
    page.locator("#runs").get_by_label("ResLoRA (middle)").check()
    page.wait_for_selector("#side-2 >> text=is a text run, which has no pictures")
    show_tab(page, "Text")
    page.wait_for_selector("#text-said >> text=1 to 10 of 25 questions.")
    assert page.locator(".asked").count() == 10 and page.locator("#text-answers b >> text=Ann").count() == 0
    page.locator("#text-forth").click()
    page.wait_for_selector("#text-said >> text=11 to 20 of 25 questions.")
    page.locator("#text-words input, #text-words textarea").press_sequentially("25")
    page.wait_for_selector("#text-said >> text=1 to 1 of 1 questions.")
    page.wait_for_selector(".answers .mark.wrong")
    assert "merged by least squares" in page.locator("#text-results").inner_text()
    assert page.locator(".toast-body").count() == 0 and barriers(page) == []
    picture(page, "text-1440-light")
    page.locator("#runs").get_by_label("ResLoRA (middle)").uncheck()
