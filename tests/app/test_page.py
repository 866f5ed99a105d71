"""The page in Debian's Chromium, on real runs of the embedded model. Screenshots are left in tests/artefacts."""

import io
import json
import random
import re
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image, ImageSequence

from app import training
from app.synthetic import make_run
from tests.app.browser import barriers, chromium, open_page, picture, serving, show_tab
from tests.app.conftest import PROMPTS
from tests.app.test_damage import damage_run


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "here"
    yield folder
    for run in training.trainings(folder):  # of a test that failed before it stopped them
        found = training.find_process(run)
        if found is not None:
            found.kill()


@pytest.fixture(scope="module")
def address(real_runs, trainings):
    with serving(list(real_runs.values()), trainings) as address:
        yield address


@pytest.fixture(scope="module")
def shared_page(browser, address):
    with visited(browser, address) as page:
        yield page


@pytest.fixture
def page(request, browser, address):
    """The page at its last step: one for many tests, as opening it costs more than they do, or the test's own."""
    if request.node.get_closest_marker("own_page"):
        with visited(browser, address) as page:
            yield page
    else:
        page = request.getfixturevalue("shared_page")
        show_tab(page, "Compare")
        show_tab(page, "Side by side")
        page.locator("#step input[type=range]").press("End")
        wait_for_step(page, 4)
        page.evaluate("document.activeElement.blur()")
        yield page
    assert page.strays == []  # nothing came from elsewhere, and no script failed


@contextmanager
def visited(browser, address):
    page = open_page(browser, address)
    page.wait_for_selector("#side-1 img")
    yield page
    page.context.close()


def alts(page, where="#sides"):
    return page.eval_on_selector_all(f"{where} img", "found => found.map(one => one.alt)")


def wait_for_step(page, step):
    page.wait_for_selector(f"#side-1 img[alt*='at step {step},']")


def choose(page, label, option):
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_it_opens_on_both_methods_at_their_last_step_beside_the_real_picture(page):
    assert alts(page) == [
        'Picture by LoRA at step 4, as trained, for the prompt "red apple" with seed 42',
        'Picture by ResLoRA (input) at step 4, as trained, for the prompt "red apple" with seed 42',
        'Real picture of the data set for the prompt "red apple", held out of training',
    ]
    picture(page, "compare-1440-light")


def test_the_slider_moves_both_sides_and_arrow_keys_do_too(page):
    page.keyboard.press("ArrowLeft")
    wait_for_step(page, 2)
    assert "by LoRA at step 2" in alts(page)[0]
    page.locator("#step input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    wait_for_step(page, 0)
    page.wait_for_selector("#step input[type=range][aria-valuetext='Step 0, of 0 to 4']")
    page.keyboard.press("End")
    wait_for_step(page, 4)


def test_it_plays_and_pauses(page):
    page.get_by_role("button", name="Play").click()
    wait_for_step(page, 0)  # after the last one it begins anew
    wait_for_step(page, 2)
    page.wait_for_selector("#step span[aria-live=off]")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()
    page.wait_for_selector("#step span[aria-live=polite]")
    page.wait_for_timeout(1000)
    before = alts(page)
    page.wait_for_timeout(1500)
    assert alts(page) == before


@pytest.mark.own_page
def test_prompts_and_merges_can_be_chosen_and_a_prompt_is_never_html(page):
    choose(page, "Prompt", PROMPTS[1])
    page.wait_for_selector("#side-0 img[alt*='bold']")
    assert f'for the prompt "{PROMPTS[1]}" with seed 42' in alts(page)[0]
    assert len(alts(page)) == 2  # this prompt has no real picture
    choose(page, "Which pictures", "merged, as exported")
    page.wait_for_selector("#side-1 img[alt*='merged by least squares']")
    assert ", merged exactly," in alts(page)[0]
    assert page.locator("b", has_text=re.compile("^bold$")).count() == 0


@pytest.mark.own_page
def test_the_address_leads_to_what_is_shown_by_back_reload_and_link(page, browser, address):
    page.wait_for_url(
        "**/?run=lora-*&run=reslora_is-*&a=lora-*&b=reslora_is-*&prompt=red+apple&seed=42&*step=4&tab=compare"
    )
    choose(page, "Prompt", PROMPTS[1])
    page.wait_for_url("**prompt=a+*")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**step=2&*")
    show_tab(page, "Curves")
    page.wait_for_url("**tab=curves")
    page.go_back()
    page.wait_for_selector("[role=tab][aria-selected=true]:text-is('Compare')")
    wait_for_step(page, 2)
    assert "bold" in alts(page)[0]
    page.go_back()
    page.wait_for_selector("#side-0 img[alt*='red apple']")
    wait_for_step(page, 4)
    for tab in ("Runs", "Compare"):
        show_tab(page, tab)
        page.wait_for_url(f"**step=4&tab={tab.lower()}")
    page.locator("#earlier").click()
    page.wait_for_url("**step=2&*")
    page.go_back()
    page.wait_for_selector("[role=tab][aria-selected=true]:text-is('Runs')")
    page.go_back()
    wait_for_step(page, 4)  # the selection is the same, and only the step another
    there = page.url.replace("step=4", "step=2").replace("tab=compare", "tab=curves")
    other = browser.new_context().new_page()
    other.goto(there)
    other.wait_for_selector("[role=tab][aria-selected=true]:text-is('Curves')")
    other.wait_for_selector("#curve-loss .legend >> text=step 2 (chosen)")
    assert other.locator("#early").count() == 0
    show_tab(other, "Compare")
    other.wait_for_selector("#side-1 img[alt*='ResLoRA (input) at step 2,']")
    other.route("**/?*", without_what_is_chosen)
    other.reload()
    other.wait_for_selector("#address [data-address*='run=lora-']", state="attached")
    wait_for_step(other, 2)
    other.unroute("**/?*")
    other.goto(f"{address}/?run=gone&prompt=gone&seed=x&step=99999999&tab=gone&a=gone")
    other.wait_for_selector("#side-1 img[alt*='at step 4,']")
    other.context.close()


def without_what_is_chosen(route):
    """The page as a server sends it that couldn't find out what is chosen in time."""
    answer = route.fetch()
    body = re.sub(r'"address":"[^"]*","state":"[^"]*"', '"address":"","state":""', answer.text())
    assert '"address":""' in body and "data-address=" in body
    route.fulfill(response=answer, body=body.replace("data-address=", "data-none="))


@pytest.mark.own_page
def test_the_theme_that_was_chosen_is_there_again_after_a_reload_before_gradio_and_what_plays_goes_on(page):
    assert "dark" not in page.evaluate("document.body.className")
    page.get_by_role("button", name="Light or dark").click()
    assert "dark" in page.evaluate("document.body.className")
    held: list[Any] = []
    page.route("**/assets/index-*.js", lambda route: held.append(route))
    page.reload(wait_until="commit")
    page.wait_for_selector("#early #side-1 img")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(12, 10, 9)"
    page.locator("#early #play").click()
    for one in held:
        one.continue_()
    page.unroute("**/assets/index-*.js")
    page.wait_for_selector(".gradio-container #play:text-is('Pause')")
    assert "dark" in page.evaluate("document.body.className")


def test_the_wipe_has_both_pictures_with_their_texts_and_moves_by_keyboard(page):
    show_tab(page, "Wipe")
    page.wait_for_selector("#wipe img[alt*='ResLoRA (input)']")
    assert alts(page, "#wipe") == [
        'Picture by LoRA at step 4, as trained, for the prompt "red apple" with seed 42',
        'Picture by ResLoRA (input) at step 4, as trained, for the prompt "red apple" with seed 42',
    ]
    before = page.locator("#wipe").evaluate("found => found.innerHTML")
    page.locator("#wipe-at input[type=range]").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('#wipe').innerHTML !== old", arg=before)
    picture(page, "wipe-1440-light")
    ticks = page.locator("#runs input")
    for ticked in (False, True):
        for each in range(2):
            ticks.nth(each).set_checked(ticked)
        if not ticked:
            page.wait_for_selector("#wipe-text:text-is('Choose a run above')")
            assert alts(page, "#wipe") == []
            page.wait_for_url(lambda url: "run=" not in url and "step=" not in url and "tab=compare" in url)
    page.wait_for_selector("#wipe img[alt*='ResLoRA (input)']")


def test_the_grid_and_the_animation_can_be_downloaded(page):
    show_tab(page, "Grid")
    page.wait_for_selector("#grid img[alt^='Grid: LoRA and ResLoRA (input) side by side at steps 0 to 4']")
    page.wait_for_selector("#download-grid:not([disabled])")
    with page.expect_download() as download:
        page.locator("#download-grid").click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.format == "PNG" and sheet.width > 400
    page.locator("#animate").click()
    page.wait_for_selector("#moving img[alt^='Animation: LoRA and ResLoRA (input)']")
    with page.expect_download() as download:
        page.locator("#download-animation").click()
    with Image.open(download.value.path()) as moving:
        assert moving.format == "GIF" and len(ImageSequence.all_frames(moving)) == 3
    picture(page, "grid-1440-light")


def test_curves_of_all_runs_are_on_one_plot_with_the_step_and_the_figure(page):
    show_tab(page, "Curves")
    page.wait_for_selector("#reach .large")
    assert "Steps that ResLoRA (input) needs to reach LoRA's loss" in page.locator("#reach").inner_text()
    assert "loss on held-out pictures" in page.locator("#reach .rule").inner_text()
    for metric in ("loss", "validation_loss", "grad_norm", "seconds", "memory"):
        page.wait_for_selector(f"#curve-{metric} svg[aria-label*='to step 4: LoRA']")
        legend = page.locator(f"#curve-{metric} .legend").inner_text()
        assert all(name in legend for name in ("LoRA", "ResLoRA (input)", "step 4 (chosen)"))
    picture(page, "curves-1440-light")


def test_the_inside_of_the_adapter_is_drawn_and_listed(page):
    show_tab(page, "Inside the adapter")
    page.wait_for_selector("#inside-summary >> text=Reading the run")
    page.wait_for_selector("#plan svg[aria-label^='Link plan of ResLoRA (input): 88 blocks, 64 with a residual path']")
    page.wait_for_selector("#heat svg[aria-label*='in ResLoRA (input) minus that in LoRA']")
    page.wait_for_selector("#end >> text=merged by least squares (exported) >> visible=true")
    choose(page, "Merge to list", "merged by weight norms")
    page.wait_for_selector("#blocks >> text=1.0000 >> visible=true")
    picture(page, "inside-1440-light")


@pytest.mark.own_page
def test_enter_draws_and_a_prompt_that_is_cut_says_so_beside_it(page):
    show_tab(page, "Try it")
    page.locator("#try-steps input[type=number]").fill("1")
    page.locator("#draw-prompt textarea").fill("apple " * 80 + "by the sea")
    page.wait_for_selector("#draw:not([disabled])")
    page.locator("#draw-prompt textarea").press("Enter")
    page.wait_for_selector("#try-cut >> text=by the sea")
    assert len(alts(page, "#tried")) == 3
    page.locator("#draw-prompt textarea").fill("red apple")
    page.locator("#draw-prompt textarea").blur()
    page.wait_for_function("document.querySelector('#try-cut').innerText.trim() === ''")


@pytest.mark.own_page
def test_base_lora_and_reslora_draw_a_prompt_with_the_merged_adapter(page):
    show_tab(page, "Try it")
    draw(page, 2)
    page.wait_for_selector("#tried-2 img")
    assert alts(page, "#tried") == [
        'Picture by base model, for the prompt "rocket" with seed 42',
        'Picture by LoRA, step 4, merged exactly, for the prompt "rocket" with seed 42',
        'Picture by ResLoRA (input), step 4, merged by least squares, for the prompt "rocket" with seed 42',
    ]
    page.wait_for_selector("#try-said >> text=Done.")
    picture(page, "try-1440-light")


def draw(page, steps):
    show_tab(page, "Try it")
    page.wait_for_function("document.querySelector('#try-step input').value !== ''")
    page.locator("#draw-prompt textarea").fill("rocket")
    page.locator("#try-steps input[type=number]").fill(str(steps))
    page.locator("#draw").click()


@pytest.mark.own_page
def test_drawing_has_a_progress_bar_and_can_be_stopped_without_disturbing_another_visitor(page, browser, address):
    other = open_page(browser, address)
    draw(page, 150)
    page.wait_for_selector("#try-said progress[aria-label*=': drawing']")
    draw(other, 2)
    picture(page, "drawing-1440-light")
    page.locator("#stop-drawing").click()
    page.wait_for_selector("#try-said >> text=Stopped.")
    other.wait_for_selector("#try-said >> text=Done.")
    assert len(alts(other, "#tried")) == 3
    assert page.locator("#tried-2 img").count() == 0
    draw(other, 150)
    other.wait_for_selector("#try-said progress[aria-label*='drawing']")
    draw(page, 2)
    page.wait_for_timeout(500)
    page.locator("#stop-drawing").click()  # while it waits for its turn
    other.wait_for_timeout(1500)
    assert "drawing" in other.locator("#try-said").inner_text()
    other.locator("#stop-drawing").click()
    other.wait_for_selector("#try-said >> text=Stopped.")
    other.wait_for_timeout(1500)
    assert other.locator("#try-said").inner_text() == "Stopped."  # no late progress takes its place
    assert other.strays == []
    other.context.close()


@pytest.mark.own_page
def test_a_second_drawing_takes_the_place_of_the_first(page):
    draw(page, 150)
    page.wait_for_selector("#try-said progress[aria-label*=': drawing']")
    page.get_by_role("spinbutton", name="Seed").fill("7")
    draw(page, 2)
    page.wait_for_selector("#try-said >> text=Done.")
    page.wait_for_timeout(1500)
    assert page.locator("#try-said").inner_text() == "Done."
    assert [text.rsplit(" ", 1)[1] for text in alts(page, "#tried")] == ["7"] * 3


@pytest.mark.own_page
def test_uploads_are_shown_with_captions_to_edit_and_one_that_cannot_be_used_takes_none_with_it(page, tmp_path):
    for name, side in (("a", 40), ("b", 40), ("large", 400)):
        Image.effect_noise((side, side), 90).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "captions.txt").write_text("a.png: grey sand\n")
    page.evaluate("window.mostBytes = 100000")
    show_tab(page, "Train here")
    page.get_by_text("Upload pictures").click()
    page.locator("#upload input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
    page.wait_for_selector("#picked textarea >> nth=1")
    assert "large.png" in page.locator("#too-large").inner_text()
    assert "2 pictures to train on." in page.locator("#upload-said").inner_text()
    assert "'broken.png' is no whole picture" in page.locator("#upload-said").inner_text()
    captions = page.locator("#picked textarea")
    assert [captions.nth(0).input_value(), captions.nth(1).get_attribute("placeholder")] == ["grey sand", "b"]
    assert page.locator("#prompts textarea").input_value() == "grey sand\nb"
    captions.nth(1).fill("white noise")
    page.get_by_role("textbox", name="Name", exact=True).fill("own")
    page.get_by_role("button", name="More settings").click()
    page.locator("#training-resolution textarea").fill("30000")
    page.locator("#start-training").click()
    page.wait_for_selector("#train-said >> text=Resolution is 30000")
    assert barriers(page) == []
    picture(page, "upload-1440-light")


def test_stop_says_so_where_nothing_is_drawn(page):
    show_tab(page, "Try it")
    page.locator("#stop-drawing").click()
    page.wait_for_selector("#try-said >> text=Nothing is being drawn.")


@pytest.mark.own_page
def test_two_trainings_start_come_alive_and_either_can_be_stopped_while_the_page_closes(page, browser, address):
    show_tab(page, "Train here")
    page.locator("#prompts textarea").fill("red apple")
    page.locator("#training-steps input").fill("400")
    page.locator("#training-every input").fill("400")
    page.locator("#start-training").click()
    page.wait_for_selector("#train-said >> text=Started LoRA and ResLoRA (input)")
    page.wait_for_selector(".training.running >> nth=1", timeout=180_000)
    page.wait_for_selector("#live-loss >> text=Training loss", timeout=60_000)
    picture(page, "train-1440-light")
    assert page.locator("#which-training input").input_value() == "first/lora"
    page.locator("#start-training").click()  # once more
    page.wait_for_selector("#train-said .good >> text=first was started with these settings already")
    page.locator("#stop-training").click()
    page.wait_for_selector(".training.stopped >> text=first/lora", timeout=120_000)
    page.context.close()  # nothing is lost: another visitor finds both
    again = open_page(browser, address)
    show_tab(again, "Train here")
    again.wait_for_selector(".training.stopped >> text=first/lora")
    again.wait_for_selector(".training.running >> text=first/reslora_is")
    choose(again, "Training", "first/reslora_is")
    again.locator("#stop-training").click()
    again.wait_for_selector(".training.stopped >> text=first/reslora_is", timeout=120_000)
    again.wait_for_selector("#runs >> text=LoRA, first/lora")
    assert "can be resumed" in again.locator(".training").first.inner_text()
    assert again.strays == []
    again.context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1440, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1440, "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_wider_than_a_phone_or_a_desk_and_nobody_is_kept_out_light_and_dark(browser, address, width, scheme):
    page = open_page(browser, address, width, 900, scheme)
    page.wait_for_selector("#side-1 img")
    assert ("dark" in page.evaluate("document.body.className")) == (scheme == "dark")
    for tab, ready in (
        ("Compare", "#side-1 img"),
        ("Curves", "#curve-memory svg"),
        ("Inside the adapter", "#plan svg"),
        ("Try it", "#draw"),
        ("Blind test", "#start-blind"),
        ("Runs", ".card h2"),
        ("Train here", "#start-training"),
    ):
        show_tab(page, tab)
        page.wait_for_selector(ready)
        page.wait_for_function(
            "![...document.querySelectorAll('[aria-label=\"Empty value\"]')].some(one => one.offsetParent)"
        )
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        assert barriers(page) == [], tab
        picture(page, f"{tab.split()[0].lower()}-{width}-{scheme}")
    assert page.strays == []
    page.context.close()


@pytest.mark.own_page
def test_everything_is_reached_by_the_tab_key_alone_with_a_visible_focus(page):
    reached, unseen = set(), []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, text, outline, tag = page.evaluate(
            """() => { const one = document.activeElement;
            const outline = getComputedStyle(one).outlineStyle + getComputedStyle(one).outlineWidth;
            return [one.id || one.closest('[id]')?.id || '', one.getAttribute('aria-label') || one.innerText || '',
            outline, one.tagName]; }"""
        )
        reached |= {name, text.strip()}
        if tag != "BODY" and outline != "solid3px":
            unseen.append((tag, name, text.strip(), outline))
    assert unseen == []
    wanted = {"Play", "Wipe", "Grid", "Compare", "Prompt", "Seed", "Which pictures", "Step"}
    missing = {name for name in wanted if not any(name in one for one in reached)}
    assert not missing, (missing, reached)


def test_every_picture_has_a_text(page):
    visible = "found => found.filter(one => one.offsetParent).map(one => one.alt)"
    for tab, ready, count in (
        ("Side by side", "#side-1 img", 3),
        ("Wipe", "#wipe img[alt*='ResLoRA (input)']", 2),
        ("Grid", "#grid img[alt^='Grid']", 1),
    ):
        show_tab(page, tab)
        page.wait_for_selector(ready)
        texts = page.eval_on_selector_all("#sides img, #wipe img, #grid img", visible)
        assert len(texts) == count and all(texts), (tab, texts)


def test_a_damaged_run_shows_what_there_is_and_a_repeated_picture_raises_an_alarm(browser, made_up_pair, tmp_path):
    broken, whole = made_up_pair
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    index = whole / "validation" / "index.jsonl"
    rows = [{**json.loads(line), "sha256": "0" * 64} for line in index.read_text().splitlines()]
    rows = [{**row, "prompt": evil if row["prompt"] == "rocket" else row["prompt"]} for row in rows]
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (broken / "run.json").write_text(json.dumps({"method": evil}))
    (broken / "merge_report.json").write_text("{")
    (broken / "validation" / "step-000020" / "unmerged-00-42.png").write_bytes(b"no picture")
    with serving([broken, whole, tmp_path / "lora" / "validation"], tmp_path / "server" / "here") as address:
        page = open_page(browser, address)
        dialogs = []

        def dismiss(dialog):
            dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.wait_for_selector("#notes >> text=merge_report.json is no JSON")
        page.wait_for_selector("#notes [role=alert] >> text=The adapter is not active")
        assert evil in page.locator("#runs").inner_text()
        choose(page, "Prompt", "cat face")
        page.wait_for_selector("#side-0 >> text=is no whole picture")
        for tab in ("Curves", "Inside the adapter", "Try it", "Train here"):
            show_tab(page, tab)
            page.wait_for_timeout(500)
        picture(page, "damaged-1440-light")
        assert dialogs == [] and page.strays == []
        assert page.locator("#notes script, #notes img").count() == 0
        page.context.close()


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 30), marks=pytest.mark.slow)])
def test_whatever_the_files_of_runs_hold_every_tab_shows_something_and_no_error_of_ours(browser, tmp_path, seeds):
    runs = []
    for seed in seeds:
        method = ("lora", "reslora_is")[seed % 2]
        runs.append(make_run(tmp_path / "runs" / f"{seed}-{method}", method, steps=20, every=5, side=16))
        damage_run(runs[-1], random.Random(seed))
    with serving(runs, tmp_path / "server" / "here") as address:
        page = open_page(browser, address)
        ticks = page.locator("#runs input")
        for place in range(0, ticks.count(), 2):
            for each in range(ticks.count()):
                ticks.nth(each).set_checked(place <= each < place + 2)
            for tab in ("Compare", "Curves", "Inside the adapter", "Try it", "Train here"):
                show_tab(page, tab)
                page.wait_for_timeout(700)
                assert page.locator(".toast-body, .toast-wrap [role=alert]").count() == 0, (seeds, place, tab)
            page.wait_for_selector("#runs input")
        page.wait_for_function("document.querySelectorAll('.pending, .generating').length === 0")
        show_tab(page, "Compare")
        page.wait_for_selector("#side-0 >> visible=true")
        assert page.strays == []
        page.context.close()


def test_a_run_that_grows_is_shown_as_it_grows(browser, made_up, tmp_path):
    (made_up / "merge_report.json").unlink()
    with serving([made_up], tmp_path / "server" / "here") as address:
        page = open_page(browser, address)
        page.wait_for_selector("#side-0 img[alt*='at step 20,']")
        folder = made_up / "validation" / "step-000025"
        folder.mkdir()
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), "green").save(buffer, format="PNG")
        (folder / "new.png").write_bytes(buffer.getvalue())
        row = {
            "step": 25,
            "prompt": "cat face",
            "seed": 42,
            "merge_approach": "unmerged",
            "file": "step-000025/new.png",
        }
        with (made_up / "validation" / "index.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        page.wait_for_selector("#step >> text=Step 20, of 5 to 25")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#side-0 img[alt*='at step 25,']")
        page.context.close()
