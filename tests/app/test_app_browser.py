"""The demo page as a person uses it: a real headless Chromium, real keys, mouse and files. `make test-browser`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from modeling_mgvmoe.app.example_posts import sketchbook_examples
from modeling_mgvmoe.app.form import RELATION, TYPING, Fields, read_fields
from modeling_mgvmoe.app.served_model import ServedModel
from modeling_mgvmoe.evaluation.explanation import explain_post
from tests.support.from_scratch import drawing, scratch_model

# The warnings are between Gradio and pandas.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"),
]

CHROMIUM = os.environ.get("MGVMOE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SECONDS = 20_000  # milliseconds that anything may take
# An emoji counts two units in JavaScript and one character in Python.
POST = "Kelo 🙂 sails at dawn and greets Mura"
LABELS = "boat | it sails in the harbour\nbird\ncake"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed (playwright)")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or name one in MGVMOE_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not run as root, as in a container.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def served():
    return ServedModel("tiny", *scratch_model())


@pytest.fixture(scope="module")
def address(served):
    pytest.importorskip("gradio", reason="the extra app is not installed (gradio)")
    from modeling_mgvmoe.app.page import build_page, launch_page

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = build_page(served, sketchbook_examples(), least=1.0)
    _, url, share = launch_page(page, "127.0.0.1", port, prevent_thread_lock=True, quiet=True)
    assert share is None and url.startswith("http://127.0.0.1:")
    yield url
    page.close()


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def page(request, browser, address):
    """The page, opened; no request may leave the machine, nothing may fail in its scripts, nothing may overflow."""
    context = browser.new_context(viewport=request.param, has_touch=request.param is PHONE)
    context.set_default_timeout(SECONDS)
    opened = context.new_page()
    requests, errors = [], []
    opened.on("request", lambda sent: requests.append(sent.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    opened.wait_for_function("() => window.mgvmoe && document.querySelector('#mg-post textarea')")
    yield opened
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert requests and not outside, outside
    assert not errors, errors
    assert_nothing_overflows(opened)
    assert "Traceback" not in opened.content()
    context.close()


def assert_nothing_overflows(page):
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('.gradio-container *')].filter(element => {
            const box = element.getBoundingClientRect();
            return box.width > 0 && box.right > innerWidth + 1 && getComputedStyle(element).position !== 'fixed';
        }).map(element => element.className + ' ' + element.id).slice(0, 5)"""
    )
    assert not beyond, beyond


def textarea(page, name):
    return page.locator(f"#mg-{name} textarea")


def write(page, name, text):
    box = textarea(page, name)
    box.click()
    page.keyboard.insert_text(text)
    assert box.input_value() == text


def select_with_keys(page, start, length):
    """Ctrl+Home, then arrows; an emoji is one step of the cursor."""
    textarea(page, "post").focus()
    page.keyboard.press("Control+Home")
    for _ in range(start):
        page.keyboard.press("ArrowRight")
    for _ in range(length):
        page.keyboard.press("Shift+ArrowRight")


def select_word_with_mouse(page):
    """A double click on the first word."""
    box = textarea(page, "post").bounding_box()
    page.mouse.dblclick(box["x"] + 30, box["y"] + 22)


def numbers(page):
    found = []
    for name in ("first-start", "first-end", "second-start", "second-end"):
        box = page.locator(f"#mg-{name} input")
        value = box.input_value() if box.count() else ""
        found.append(int(value) if value else None)
    return found


def wait_for_numbers(page, expected):
    for _ in range(100):
        if numbers(page) == expected:
            return
        page.wait_for_timeout(50)
    assert numbers(page) == expected


def ask(page):
    page.click("#mg-ask")
    page.locator("#mg-verdict .mg-answer, #mg-verdict .mg-message").wait_for()


def bars(page):
    """Labels and scores, as shown."""
    rows = page.locator("#mg-verdict ul[aria-label='Scores of the labels'] li")
    return {row.locator(".mg-name").inner_text(): float(row.locator(".mg-figure").inner_text()) for row in rows.all()}


def open_numbers(page):
    page.locator("#mg-by-numbers button").first.click()
    page.locator("#mg-first-start input").wait_for()


def expected_scores(served, fields):
    ranking = explain_post(served.model, served.processor, **read_fields(fields)).ranking
    return {entry["label"]: round(entry["score"], 3) for entry in ranking}


def test_the_whole_path_of_typing(page, served, tmp_path):
    write(page, "post", POST)
    open_numbers(page)
    select_with_keys(page, start=len("Kelo 🙂 "), length=len("sails"))
    page.click("#mg-mark-mention")
    wait_for_numbers(page, [7, 12, None, None])  # characters as Python counts them
    assert POST[7:12] == "sails" == page.locator("#mg-marked mark.mg-mention").inner_text()
    assert page.locator("#mg-marked .mg-post").inner_text() == POST

    drawing(1).save(tmp_path / "drawing.png")
    page.set_input_files("#mg-image input[type=file]", tmp_path / "drawing.png")
    page.locator("#mg-image img").wait_for()
    write(page, "labels", LABELS)
    ask(page)

    fields = Fields(POST, drawing(1), TYPING, (7, 12, None, None), LABELS)
    expected = expected_scores(served, fields)
    assert bars(page) == pytest.approx(expected, abs=0.0011)
    assert page.locator(".mg-answer").inner_text() == next(iter(expected))
    widths = [
        row.bounding_box()["width"] for row in page.locator("#mg-verdict .mg-bars:not(.mg-uncertainty) .mg-fill").all()
    ]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1] > 0
    assert page.locator("#mg-verdict .mg-uncertainty li").inner_text().startswith("uncertainty: ")
    assert page.locator("#mg-weighed .mg-post").inner_text() == POST
    assert page.locator("#mg-weighed .mg-mention").inner_text() == "sails"
    assert page.locator("#mg-weighed figure img").count() == 2
    assert all(image.evaluate("img => img.naturalWidth") > 0 for image in page.locator("#mg-weighed img").all())
    assert page.locator("#mg-experts li").count() == 3
    # The answer is in sight, on a phone too.
    page.wait_for_function(
        "() => { const { top } = document.querySelector('.mg-answer').getBoundingClientRect();"
        " return 0 <= top && top < innerHeight / 2; }"
    )

    # Other labels, other answers: edit them, ask again.
    textarea(page, "labels").fill("robot\nboat")
    ask(page)
    page.wait_for_function(
        "() => document.querySelectorAll('#mg-verdict .mg-bars:not(.mg-uncertainty) li').length === 2"
    )
    assert set(bars(page)) == {"robot", "boat"}


def test_the_whole_path_of_a_pair(page, served):
    write(page, "post", POST)
    open_numbers(page)
    page.get_by_label(RELATION).check()
    page.locator("#mg-mark-tail").wait_for()
    assert not page.locator("#mg-mark-mention").is_visible()
    select_word_with_mouse(page)
    page.click("#mg-mark-head")
    wait_for_numbers(page, [0, 4, None, None])
    assert "The tail is still to be marked" in page.locator("#mg-marked").inner_text()
    textarea(page, "post").focus()
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.click("#mg-mark-tail")
    wait_for_numbers(page, [0, 4, len(POST) - 4, len(POST)])
    assert page.locator("#mg-marked mark.mg-head").inner_text() == "Kelo"
    assert page.locator("#mg-marked mark.mg-tail").inner_text() == "Mura"
    write(page, "labels", "greets\nchases\nteaches")
    ask(page)
    fields = Fields(POST, None, RELATION, (0, 4, len(POST) - 4, len(POST)), "greets\nchases\nteaches")
    assert bars(page) == pytest.approx(expected_scores(served, fields), abs=0.0011)
    assert page.locator("#mg-weighed .mg-head").inner_text() == "Kelo"
    assert page.locator("#mg-weighed .mg-tail").inner_text() == "Mura"
    assert page.locator("#mg-weighed img").count() == 0

    page.click("#mg-clear")
    wait_for_numbers(page, [None] * 4)
    assert "Nothing is marked" in page.locator("#mg-marked").inner_text()


def test_errors_are_words_and_can_be_mended(page, tmp_path):
    def said(words):
        page.locator("#mg-verdict .mg-message", has_text=words).wait_for()

    ask(page)
    said("There is no post yet. Type or paste one.")
    write(page, "post", POST)
    ask(page)
    said("No mention is marked. Select its words in the post, then press “Mark as mention”.")
    page.click("#mg-mark-mention")  # the cursor is at the end, nothing is selected
    page.locator("#mg-marked [role=alert]", has_text="Nothing is selected in the post").wait_for()
    select_with_keys(page, 0, 4)
    page.click("#mg-mark-mention")
    page.locator("#mg-marked mark").wait_for()
    ask(page)
    said("There is no label yet. Write some, with commas or line ends between them.")
    write(page, "labels", "boat\nbird\nboat")
    ask(page)
    said("The label “boat” stands twice.")
    textarea(page, "labels").fill("boat\nbird")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    page.set_input_files("#mg-image input[type=file]", broken)
    page.wait_for_timeout(500)
    ask(page)
    said("The image cannot be read. Take another one")
    page.locator("#mg-image button[aria-label='Clear']").or_(
        page.locator("#mg-image button[aria-label='Remove Image']")
    ).first.click()
    page.wait_for_timeout(300)
    page.click("#mg-ask")
    page.locator(".mg-answer").wait_for()
    assert set(bars(page)) == {"boat", "bird"}
    assert page.locator(".mg-message").count() == 0
    # The answer goes when the question cannot be answered any more.
    textarea(page, "labels").fill("")
    page.click("#mg-ask")
    said("There is no label yet.")
    assert not page.locator("#mg-weighed").inner_text() and not page.locator("#mg-experts").inner_text()


def test_marks_follow_an_edit(page):
    write(page, "post", POST)
    open_numbers(page)
    select_with_keys(page, 7, 5)
    page.click("#mg-mark-mention")
    wait_for_numbers(page, [7, 12, None, None])
    textarea(page, "post").focus()
    page.keyboard.press("Control+Home")
    page.keyboard.type("👍 Yes, ")
    wait_for_numbers(page, [14, 19, None, None])
    assert page.locator("#mg-marked mark").inner_text() == "sails"
    page.keyboard.press("Control+End")
    page.keyboard.type("!")
    page.wait_for_timeout(200)
    wait_for_numbers(page, [14, 19, None, None])
    # An edit inside takes the mark away.
    select_with_keys(page, 16, 2)
    page.keyboard.press("Delete")
    wait_for_numbers(page, [None] * 4)
    assert "Nothing is marked" in page.locator("#mg-marked").inner_text()


def test_marks_by_numbers_alone(page):
    write(page, "post", POST)
    # A new post sets the numbers too, and nothing is seen of it while nothing is marked.
    page.wait_for_timeout(1000)
    open_numbers(page)
    page.locator("#mg-first-start input").fill("21")
    page.locator("#mg-first-end input").fill("24")
    page.keyboard.press("Tab")
    assert POST[21:24] == "and"
    page.locator("#mg-marked mark", has_text="and").wait_for()
    write(page, "labels", LABELS)
    ask(page)
    assert page.locator("#mg-weighed .mg-mention").inner_text() == "and"


def test_white_space_around_a_selection_is_left_out(page):
    write(page, "post", POST)
    open_numbers(page)
    select_with_keys(page, 6, 7)  # " sails "
    page.click("#mg-mark-mention")
    wait_for_numbers(page, [7, 12, None, None])


def test_none_of_these_without_asking_again(page):
    write(page, "post", POST)
    select_with_keys(page, 0, 4)
    page.click("#mg-mark-mention")
    page.locator("#mg-marked mark").wait_for()
    write(page, "labels", LABELS)
    ask(page)
    answer, before = page.locator(".mg-answer").inner_text(), bars(page)
    field = page.locator("#mg-threshold input[type=number]")
    field.fill("50")
    field.press("Enter")
    page.locator(".mg-answer.mg-none", has_text="None of these").wait_for()
    assert bars(page) == before
    field.fill("1")
    field.press("Enter")
    page.locator(".mg-answer", has_text=re.compile(f"^{answer}$")).wait_for()


def test_labels_are_shown_as_they_are_read(page):
    def read():
        return page.locator("#mg-chips li").all_inner_texts()

    write(page, "labels", 'boat, bird\n"a cake, with cream"')
    page.wait_for_function("document.querySelectorAll('#mg-chips li').length === 3")
    assert read() == ["boat", "bird", "a cake, with cream"]
    textarea(page, "labels").fill("boat, bird, boat")
    page.locator("#mg-chips", has_text="The label “boat” stands twice.").wait_for()
    assert not read()
    textarea(page, "labels").fill("boat, bird")
    page.wait_for_function("document.querySelectorAll('#mg-chips li').length === 2")
    write(page, "post", POST)
    select_with_keys(page, 0, 4)
    page.click("#mg-mark-mention")
    page.locator("#mg-marked mark").wait_for()
    ask(page)
    assert set(bars(page)) == {"boat", "bird"}


def test_the_page_says_which_model_answers(page):
    assert page.locator("#mg-model").inner_text() == ("Model: tiny, what it was trained on is not written beside it.")


def test_examples_fill_the_form(page):
    """Also after another one, of the other kind and without an image; the last answer goes."""
    examples = {example.name: example.fields for example in sketchbook_examples()}
    for name in ("pair 1", "without an image"):
        page.get_by_role("button", name=name, exact=True).click()
        own = examples[name]
        page.wait_for_function("text => document.querySelector('#mg-post textarea').value === text", arg=own.text)
        marked = page.locator("#mg-marked mark.mg-tail" if own.kind == RELATION else "#mg-marked mark.mg-mention")
        start, end = own.numbers[2:] if own.kind == RELATION else own.numbers[:2]
        page.wait_for_function(
            "text => [...document.querySelectorAll('#mg-marked mark')].some(mark => mark.textContent === text)",
            arg=own.text[start:end],
        )
        assert marked.inner_text() == own.text[start:end]
        assert textarea(page, "labels").input_value() == own.labels
        page.wait_for_function(
            "there => !!document.querySelector('#mg-image img') === there", arg=own.image is not None
        )
        assert page.locator(".mg-answer").count() == 0
        ask(page)
        assert len(bars(page)) == 12


def test_a_whole_post_is_drawn_as_a_graph(page):
    page.get_by_role("button", name="pair 1", exact=True).click()
    (own,) = (example.fields for example in sketchbook_examples() if example.name == "pair 1")
    page.wait_for_function("text => document.querySelector('#mg-post textarea').value === text", arg=own.text)
    page.locator("#mg-whole button").first.click()
    page.wait_for_function("text => document.querySelector('#mg-mentions textarea')?.value === text", arg=own.mentions)
    page.click("#mg-draw")
    page.locator("#mg-graph svg").wait_for()
    assert page.locator("#mg-graph svg rect").count() == 2
    assert page.locator("#mg-graph ul[aria-label='Types'] li").count() == 2
    textarea(page, "mentions").fill("nobody")
    page.click("#mg-draw")
    page.locator("#mg-graph .mg-message", has_text="The mentions cannot be used").wait_for()


def test_nothing_that_is_written_runs(page):
    evil = "<img src=x onerror='window.pwned=1'>"
    write(page, "post", f"Kelo {evil} <script>window.pwned=1</script>")
    select_with_keys(page, 5, 8)
    page.click("#mg-mark-mention")
    page.locator("#mg-marked mark").wait_for()
    write(page, "labels", f"{evil}\nbird")
    ask(page)
    assert evil in bars(page)
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert page.locator("#mg-marked img, #mg-verdict img, #mg-weighed script").count() == 0
    assert evil in page.locator("#mg-weighed .mg-post").inner_text()


def test_a_dropped_image(page, tmp_path):
    drawing(2).save(tmp_path / "dropped.png")
    content = list((tmp_path / "dropped.png").read_bytes())
    page.evaluate(
        """bytes => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], 'dropped.png', {type: 'image/png'}));
            const target = document.querySelector('#mg-image button') || document.querySelector('#mg-image');
            for (const kind of ['dragenter', 'dragover', 'drop'])
                target.dispatchEvent(new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true}));
        }""",
        content,
    )
    page.locator("#mg-image img").wait_for()


def test_a_space_runs_by_itself(browser, tmp_path):
    """Its own copy of the package, in a process that knows no other; as the Hub starts it."""
    pytest.importorskip("gradio", reason="the extra app is not installed (gradio)")
    from modeling_mgvmoe.app.space import write_space

    for part in scratch_model():
        part.save_pretrained(tmp_path / "model")
    write_space(tmp_path / "space", str(tmp_path / "model"), sketchbook_examples()[:1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=tmp_path / "space", env=known | settings, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_role("button", name="type 1", exact=True).click()
        page.wait_for_function("document.querySelector('#mg-post textarea').value !== ''")
        ask(page)
        assert len(bars(page)) == 12
        page.close()
    finally:
        process.terminate()
        process.wait(30)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert not list((tmp_path / "space").rglob("*.pyi"))  # Gradio writes stubs beside its components' subclasses
