# SPDX-License-Identifier: Apache-2.0
"""Every flow of the grown-up dashboard in headless Chromium: the list of very many jobs, one job live, the explorer and
the graph of a model, the recipe editor both ways, comparing, the report that is handed on; a server that goes away; uploads
that are let go; names that are HTML; axe-core on every view in both themes and at phone width."""

import json
import os
import signal
import sqlite3
import subprocess
import urllib.parse

import numpy
import onnx
import pytest
from browser import browser, cut_page, page, server  # noqa: F401 (fixtures)
from browser import DIGITS, axe, fits, in_every_look, playwright_only, put, shot
from pared_server import ROOT, Server

pytestmark = playwright_only
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e\U0001f600'\"&amp;"
)
MODULES = os.path.join(ROOT, "api", "dashboard")


def submit(server, recipe, wait=True, **more):
    steps = recipe if isinstance(recipe, str) else {"steps": recipe}
    body = {
        "model": put(server, "models", "digits-cnn.onnx"),
        "dataset": put(server, "datasets", "test.npz"),
        "recipe": steps,
        **more,
    }
    answer = server.post_json("/v1/jobs", body)
    assert answer.status in (200, 202), answer
    job = answer.json()["id"]
    if wait:
        assert server.wait_job(job)["state"] == "succeeded"
    return job


PRUNE = [{"method": "prune.weights", "sparsity": 0.7}]


# ---- a model made of hostile names, and a large one


def hostile_model(folder):
    """Two products whose every name is HTML."""
    from onnx import TensorProto, helper, numpy_helper

    n = HOSTILE
    w = [
        numpy_helper.from_array(numpy.random.default_rng(i).standard_normal((8, 8)).astype(numpy.float32), f"w{i}{n}")
        for i in range(2)
    ]
    nodes = [
        helper.make_node("MatMul", ["x" + n, f"w0{n}"], ["h" + n], name="first" + n),
        helper.make_node("Relu", ["h" + n], ["r" + n], name="relu" + n),
        helper.make_node("MatMul", ["r" + n, f"w1{n}"], ["y" + n], name="second" + n),
    ]
    graph = helper.make_graph(
        nodes,
        "g" + n,
        [helper.make_tensor_value_info("x" + n, TensorProto.FLOAT, [n, 8])],
        [helper.make_tensor_value_info("y" + n, TensorProto.FLOAT, [n, 8])],
        w,
    )
    path = os.path.join(folder, "hostile.onnx")
    onnx.save(
        helper.make_model(graph, producer_name=n, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def long_model(folder, count):
    """A residual chain: every third node is a sum with what was three nodes before."""
    from onnx import TensorProto, helper

    nodes, last, skip = [], "x", "x"
    for i in range(count):
        if i % 3 == 2:
            nodes.append(helper.make_node("Add", [last, skip], [f"v{i}"], name=f"/block{i // 3}/add"))
            skip = f"v{i}"
        else:
            nodes.append(
                helper.make_node("Relu" if i % 3 else "Tanh", [last], [f"v{i}"], name=f"/block{i // 3}/op{i % 3}")
            )
        last = f"v{i}"
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 4])],
    )
    path = os.path.join(folder, "long.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


# ---- live


def test_a_job_is_watched_by_its_events(page, server):
    """Progress, log and measurements come by the stream; nothing is polled while it is open."""
    job = submit(
        server, [{"method": "train.finetune", "epochs": 300, "samples": 300, "lr": 0.05, "steps": PRUNE}], wait=False
    )
    asked = []
    page.on("request", lambda r: asked.append(urllib.parse.urlsplit(r.url)) if f"/v1/jobs/{job}" in r.url else None)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.wait_for_function("() => document.querySelectorAll('#live .line.val circle').length >= 4", timeout=30000)
    assert any(url.path.endswith("/events") for url in asked)
    assert not any(url.path.endswith("/metrics") or "wait" in url.query for url in asked)
    button = page.get_by_role("button", name="Cancel job")
    button.focus()
    before = page.locator("#live .line.val circle").count()
    page.wait_for_function(
        f"() => document.querySelectorAll('#live .line.val circle').length >= {before + 3}", timeout=30000
    )
    assert page.evaluate("document.activeElement.textContent") == "Cancel job"  # news do not take the focus
    page.keyboard.press("Enter")
    page.locator(".state", has_text="canceled").wait_for(timeout=20000)
    assert page.get_by_role("status").last.text_content() == "job canceled"
    assert page.evaluate("document.activeElement.tagName") == "H1"  # its button is gone
    # done again, from its page
    page.get_by_role("button", name="Do it again").click()
    page.wait_for_url(lambda url: job not in url and "/jobs/job_" in url)
    page.get_by_role("button", name="Cancel job").click()
    page.locator(".state", has_text="canceled").wait_for(timeout=20000)


def test_a_broken_stream_is_taken_up_where_it_broke(page, server):
    job = submit(server, PRUNE)
    seen = []

    def cut(route):
        seen.append(route.request.headers.get("last-event-id"))
        if len(seen) == 1:  # two events, the second cut in the middle
            route.fulfill(
                status=200,
                content_type="text/event-stream",
                body='id: 7\nevent: metric\n'
                'data: {"epoch": 1, "loss": 2.5, "val_loss": 2, "step": 1, "method": "m"}\n\n'
                "id: 8\nevent: metric\nda",
            )
        else:
            route.fulfill(
                status=200,
                content_type="text/event-stream",
                body='id: 8\r\nevent: metric\r\ndata: {"epoch": 2, "loss": 1.5,\r\n'
                'data: "val_loss": 1, "step": 1, "method": "m"}\r\n\r\n: ping\n\n'
                'event: log\nid: 9\ndata: {"level": "info", "message": "<b>bold</b>"}\n\nevent: end\ndata: {}\n\n',
            )

    def running(route):
        value = server.get(f"/v1/jobs/{job}").json()
        route.fulfill(json={**value, "state": "running"}, headers={"ETag": '"x"'})

    page.route(f"**/v1/jobs/{job}/events*", cut)
    page.route(f"**/v1/jobs/{job}", running)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.wait_for_function("() => document.querySelectorAll('#live .line.train circle').length === 2", timeout=10000)
    page.get_by_text("Log (1 line)").wait_for()
    assert page.get_by_text("<b>bold</b>").count() == 1
    assert seen == ["0", "7"]


def test_without_events_the_job_is_polled(page, server):
    job = submit(server, PRUNE)
    page.route(
        "**/events*",
        lambda route: route.fulfill(status=404, json={"title": "no"}, content_type="application/problem+json"),
    )
    page.goto(f"{server.url}/#/jobs/{job}")
    page.get_by_role("heading", name="Before and after").wait_for(timeout=20000)


def test_estimates_follow_the_server(page, server):
    """Of a job without events: each answer's estimate is shown, though nothing else of it is new."""
    job = submit(server, PRUNE)
    value = {**server.get(f"/v1/jobs/{job}").json(), "state": "queued", "queue_position": 2}
    asked = []

    def answer(route):
        asked.append(route)
        if len(asked) < 4:
            route.fulfill(json={**value, "wait_s": 10 * len(asked)}, headers={"ETag": f'"{len(asked)}"'})

    page.route(f"**/v1/jobs/{job}/events*", lambda route: route.fulfill(status=404, json={"title": "no"}))
    page.route(f"**/v1/jobs/{job}", answer)
    page.route(f"**/v1/jobs/{job}?wait*", answer)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.get_by_text("waiting, place 2 in the queue, about 30 s").wait_for()


def test_the_log_stays_where_it_is_read(page, server):
    """New lines go to its end: the reader's place and focus stay, and who is at the end follows it."""
    job = submit(server, PRUNE)
    lines = lambda first, last: "".join(  # noqa: E731
        f'id: {i}\nevent: log\ndata: {{"level": "info", "message": "line {i}"}}\n\n' for i in range(first, last)
    )
    stream = {"status": 200, "content_type": "text/event-stream"}
    held = []

    def events(route):
        held.append(route)
        if len(held) == 1:
            route.fulfill(**stream, body=lines(1, 61))

    def running(route):
        value = server.get(f"/v1/jobs/{job}").json()
        route.fulfill(json={**value, "state": "running"}, headers={"ETag": '"x"'})

    def more(n, first, last):
        """The n-th request for events gets lines; they are there."""
        until(page, lambda: len(held) >= n)
        held[n - 1].fulfill(**stream, body=lines(first, last))
        page.get_by_text(f"Log ({last - 1} lines)").wait_for()

    page.route(f"**/v1/jobs/{job}/events*", events)
    page.route(f"**/v1/jobs/{job}", running)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.get_by_text("Log (60 lines)").wait_for()
    frame = page.get_by_role("log")
    at_end = "(f) => f.scrollHeight > f.clientHeight && f.scrollTop + f.clientHeight >= f.scrollHeight - 1"
    assert frame.evaluate(at_end)
    more(2, 61, 81)
    assert frame.evaluate(at_end) and frame.locator("li").count() == 80
    frame.focus()
    frame.evaluate("(f) => { f.scrollTop = 100; f.firstChild.firstChild.dataset.mark = 'same'; }")
    more(3, 81, 2081)
    assert frame.evaluate("(f) => f === document.activeElement")
    assert frame.locator("li").count() == 2000  # the newest
    assert frame.locator("ol").get_attribute("start") == "81"
    assert not frame.evaluate(at_end)
    shot(page, "job_log")


# ---- without an answer


def until(tab, condition, seconds=20):
    """Wait for a condition of the test, while the page's events come."""
    for _ in range(seconds * 50):
        if condition():
            return
        tab.wait_for_timeout(20)
    raise AssertionError("that did not happen")


LOST = "Not connected; trying again"


def test_the_list_comes_back_with_the_server(cut_page):
    with Server() as server:
        submit(server, PRUNE, name="the one")
        server.listen = f"127.0.0.1:{server.port}"  # so that it comes back where it was
        cut_page.goto(server.url + "/#/models")
        cut_page.get_by_role("heading", name="Models").wait_for()
        lost = cut_page.get_by_role("status").get_by_text(LOST)
        one = cut_page.get_by_role("link", name="the one")
        server.stop()
        cut_page.get_by_role("link", name="Jobs", exact=True).click()  # a first load without an answer
        lost.wait_for()
        assert one.count() == 0 and axe(cut_page) == []
        shot(cut_page, "jobs_lost")
        server.start()
        one.wait_for()
        lost.wait_for(state="detached")
        server.stop()  # later: what is there stays
        lost.wait_for()
        assert one.count() == 1
        shot(cut_page, "jobs_stale")
        cut_page.get_by_label("Label").fill("team=none")  # but not below a filter it was not asked for
        one.wait_for(state="detached")
        assert lost.count() == 1
        server.start()
        cut_page.get_by_text("No job is like that.").wait_for()
        lost.wait_for(state="detached")
        cut_page.get_by_label("Label").fill("")
        one.wait_for()
        cut_page.goto("about:blank")


def test_what_is_refused_is_said_and_forgotten(page, server):
    submit(server, PRUNE, name="refused once")
    refusal = {"title": "Not allowed", "status": 403, "detail": "The key lacks the scope jobs:read."}
    page.route("**/v1/jobs?*", lambda route: route.fulfill(status=403, json=refusal))
    page.goto(server.url + "/#/jobs")
    card = page.get_by_role("alert")
    card.wait_for()
    assert "jobs:read" in card.inner_text() and page.get_by_text(LOST).count() == 0
    with page.expect_response("**/v1/jobs?*"):
        pass
    assert card.count() == 1
    page.unroute("**/v1/jobs?*")
    page.get_by_role("link", name="refused once").first.wait_for()
    assert card.count() == 0


def test_the_page_of_a_job_comes_back_with_the_server(cut_page):
    with Server() as server:
        training = [{"method": "train.finetune", "epochs": 4000, "samples": 300, "lr": 0.01}]
        job = submit(server, training, wait=False, name="a long one")
        server.listen = f"127.0.0.1:{server.port}"
        cut_page.goto(server.url + "/#/jobs")
        cut_page.get_by_role("link", name="a long one").wait_for()
        lost = cut_page.get_by_role("status").get_by_text(LOST)
        server.stop(signal.SIGKILL)
        cut_page.get_by_role("link", name="a long one").click()  # its first request is not answered
        cut_page.get_by_role("heading", name=job).wait_for()
        lost.wait_for()
        server.start()
        cut_page.get_by_role("heading", name="a long one").wait_for()
        lost.wait_for(state="detached")
        assert cut_page.evaluate("document.activeElement.tagName") == "H1"
        server.stop(signal.SIGKILL)
        lost.wait_for()
        assert cut_page.get_by_role("heading", name="a long one").count() == 1
        shot(cut_page, "job_lost")
        server.start()
        lost.wait_for(state="detached")
        cut_page.get_by_role("button", name="Cancel job").click()
        cut_page.locator(".state", has_text="canceled").wait_for(timeout=30000)
        cut_page.goto("about:blank")


def test_every_view_comes_back_with_the_server(cut_page, server):
    """Its first load is not answered; it is tried again, and what stands there meanwhile stays."""
    model, job, other = put(server, "models", "digits-cnn.onnx"), submit(server, PRUNE), submit(server, "int8")
    lost = cut_page.get_by_role("status").get_by_text(LOST)
    cut_page.goto(server.url + "/#/nothing/here")
    for view, ready in [
        ("models", ".virtual-body .virtual-row"),
        ("datasets", ".virtual-body .virtual-row"),
        ("new", "form select"),
        (f"compare?jobs={job},{other}", "table.figures"),
        (f"models/{model}", "#layers tbody tr"),
        (f"models/{model}/graph", "svg.graph .node"),
    ]:
        cut_page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        cut_page.goto(f"{server.url}/#/{view}")
        lost.wait_for()
        assert cut_page.get_by_role("alert").count() == 0, view
        zone = cut_page.locator(".drop")
        if zone.count():
            zone.evaluate("(zone) => { zone.dataset.mark = 'same'; }")
        elif view == "new":
            assert axe(cut_page) == []
            shot(cut_page, "view_lost")
        cut_page.unroute("**/v1/**")
        cut_page.locator(ready).first.wait_for()
        lost.wait_for(state="detached")
        assert cut_page.evaluate("document.activeElement.tagName") == "H1", view
        if view in ("models", "datasets"):
            assert zone.get_attribute("data-mark") == "same"  # a file may be on its way there


# ---- the list


def clone_rows(server, count, tables, first):
    """Very many copies of one row, put straight into the catalogue; tables: {name: its column of ids}; first: how their
    ids begin."""
    server.stop()
    database = next(
        os.path.join(d, f)
        for d, _, files in os.walk(server.data)
        for f in files
        if f.endswith((".db", ".sqlite", ".sqlite3"))
    )
    with sqlite3.connect(database) as db:
        db.execute("pragma synchronous=off")
        for table, key in tables.items():
            columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
            picked = ", ".join("n.id" if c in (key, "content") else f"t.{c}" for c in columns)
            db.execute(f"""with recursive n(i, id) as (select 0, printf('{first}%018d', 0) union all
                select i + 1, printf('{first}%018d', i + 1) from n where i + 1 < {count})
                insert into {table}({", ".join(columns)})
                select {picked} from n cross join (select * from {table}) t""")
    db.close()
    server.start()


JOB_TABLES = {"job": "id", "job_input": "job_id", "job_progress": "job_id", "job_label": "job_id"}

# A slice of work that only this thread does, timed again and again: how much slower than alone the machine is just now.
CALIBRATION = """
  const calibrate = () => { const a = performance.now(); let x = 1; const all = [];
    for (let i = 0; i < 60000; i++) { x = (x * 48271) % 2147483647; all.push({ x }); }
    all.sort((p, q) => p.x - q.x); return performance.now() - a; };
  const middle = (all) => [...all].sort((a, b) => a - b)[all.length >> 1];
"""

SCROLL = (
    """async () => {"""
    + CALIBRATION
    + """
  const table = document.querySelector('.virtual'), until = performance.now() + 120000;
  const step = () => new Promise(requestAnimationFrame);
  let nodes = 0, longest = 0;
  const look = () => { nodes = Math.max(nodes, document.querySelectorAll('.virtual-body .virtual-row').length); };
  new PerformanceObserver((list) => { for (const e of list.getEntries()) longest = Math.max(longest, e.duration); })
    .observe({ type: 'longtask' });
  while (performance.now() < until && table.getAttribute('aria-rowcount') === '-1') {
    scrollTo(0, document.body.scrollHeight);
    await step();
    look();
  }
  const steps = [], units = [];
  for (let i = 0; i < 30; i++) {
    units.push(calibrate());
    await step();
    const a = performance.now();
    scrollTo(0, ((i * 7919) % 30) / 30 * document.body.scrollHeight);
    await step(); // the list is told and draws
    document.body.getBoundingClientRect();
    await step(); // what it drew is shown
    steps.push(performance.now() - a);
    look();
  }
  return { rows: table.getAttribute('aria-rowcount'), nodes, longest, step: middle(steps), unit: middle(units) };
}"""
)

QUIET_UNIT_MS = 25  # what calibrate() takes where nothing else runs


def bound(milliseconds, unit):
    """A bound for a quiet machine, stretched as far as this one is slower just now."""
    return milliseconds * max(1, unit / QUIET_UNIT_MS)


def test_ten_thousand_jobs_scroll_smoothly(page):
    with Server() as server:
        submit(server, PRUNE, labels={"team": "one"})
        clone_rows(server, 10000, JOB_TABLES, "job_00000000")
        asked = []
        page.on("request", lambda r: asked.append(r.url) if "/v1/jobs?" in r.url else None)
        page.goto(server.url + "/#/jobs")
        page.locator(".virtual-body .virtual-row").first.wait_for()
        assert page.locator(".virtual").get_attribute("aria-rowcount") == "-1"  # more than was fetched
        figures = page.evaluate(SCROLL)
        print("scroll:", figures)
        pages = [url for url in asked if "cursor=" in url]
        assert figures["rows"] == "10002"  # all, and the row of headings
        assert len(pages) == len(set(pages)) == 100  # no page twice
        assert figures["nodes"] <= 60
        assert figures["step"] <= bound(250, figures["unit"])
        # the keyboard walks on: the focus stays on its row through news
        page.evaluate("scrollTo(0, 200000)")
        page.wait_for_timeout(100)
        page.locator(".virtual .id a").nth(12).focus()
        name = page.evaluate("document.activeElement.title")
        with page.expect_response(lambda r: "/v1/jobs?" in r.url) as again:
            pass
        assert again.value.status == 304  # nothing new: nothing is sent
        page.wait_for_timeout(50)
        assert page.evaluate("document.activeElement.title") == name
        shot_viewport(page, "jobs_10000")
        # a filter is one request, and what it leaves is shown at once
        del asked[:]
        took = page.evaluate(
            """async () => {"""
            + CALIBRATION
            + """
          const list = document.querySelector('.virtual'), state = document.querySelector('select[name=state]');
          const steps = [], units = [];
          for (let i = 0; i < 6; i++) {
            units.push(calibrate());
            const a = performance.now();
            state.value = i % 2 ? '' : 'failed';
            state.dispatchEvent(new Event('change', { bubbles: true }));
            while (list.isConnected !== Boolean(i % 2)) await new Promise(requestAnimationFrame);
            steps.push(performance.now() - a);
          }
          return { step: middle(steps), unit: middle(units) }; }"""
        )
        print("filter:", took)
        assert len([url for url in asked if "state=failed" in url]) == 3
        assert took["step"] <= bound(250, took["unit"])
        page.goto("about:blank")  # the page must not miss its server


def to_the_end(tab):
    """Scroll until every page is there."""
    tab.evaluate("""async () => {
      while (document.querySelector('.virtual').getAttribute('aria-rowcount') === '-1') {
        scrollTo(0, document.body.scrollHeight); await new Promise(requestAnimationFrame); } }""")


TITLES = "[...document.querySelectorAll('.virtual-body .id [title]')].map((node) => node.title)"


@pytest.mark.parametrize(
    "what, tables, file", [("models", {"model": "id"}, "digits-cnn.onnx"), ("datasets", {"dataset": "id"}, "test.npz")]
)
def test_long_lists_of_resources_come_by_pages(page, what, tables, file):
    with Server() as server:
        put(server, what, file)
        clone_rows(server, 450, tables, f"{'mdl' if what == 'models' else 'dst'}_00000000")
        asked = []
        page.on("request", lambda r: asked.append(r.url) if f"/v1/{what}?" in r.url else None)
        page.goto(f"{server.url}/#/{what}")
        table = page.locator(".virtual")
        page.locator(".virtual-body .virtual-row").first.wait_for()
        assert len(asked) == 1 and table.get_attribute("aria-rowcount") == "-1"
        to_the_end(page)
        assert table.get_attribute("aria-rowcount") == "452" and len(asked) == 5
        assert page.locator(".virtual-body .virtual-row").count() <= 60
        page.evaluate("scrollTo(0, 0)")
        page.on("dialog", lambda dialog: dialog.accept())
        page.wait_for_function("() => document.querySelector('.virtual-body [aria-rowindex=\"2\"]')")
        gone, after = page.evaluate(TITLES)[:2]
        page.get_by_role("button", name="Delete").first.click()
        page.wait_for_function("() => document.querySelector('.virtual').getAttribute('aria-rowcount') === '451'")
        titles = page.evaluate(TITLES)
        assert gone not in titles and titles[0] == after
        active = "document.activeElement.closest('.virtual-row')"
        assert page.evaluate(f"{active}.querySelector('.id [title]').title") == after  # its button took over the focus
        shot_viewport(page, f"{what}_450")
        page.goto("about:blank")


def served(tab, path, rows):
    """Answer for the list at this path, out of rows that the test may change."""

    def answer(route):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(route.request.url).query))
        rest = [row for row in rows if row["id"] < query.get("cursor", "~")]
        route.fulfill(json={"data": rest[:100], "next_cursor": rest[99]["id"] if len(rest) > 100 else None})

    tab.route(f"**/v1/{path}?*", answer)


def test_jobs_that_come_while_pages_are_there(page, server):
    """A few push rows from the first page to the next; where more than a page came, none of them is left out."""
    job = server.get(f"/v1/jobs/{submit(server, PRUNE)}").json()
    row = lambda n: {**job, "id": f"job_{n:026d}", "state": "running"}  # noqa: E731
    rows = [row(n) for n in range(1250, 1000, -1)]
    served(page, "jobs", rows)
    page.goto(server.url + "/#/jobs")
    table = page.locator(".virtual")
    page.locator(".virtual-body .virtual-row").first.wait_for()
    to_the_end(page)
    assert table.get_attribute("aria-rowcount") == "251"
    page.evaluate("scrollTo(0, 95 * 46)")
    rows.insert(0, row(1251))
    for _ in range(2):  # what was pushed is fetched alone, as soon as it is known
        with page.expect_response(lambda r: f"cursor={row(1152)['id']}" in r.url):
            pass
    page.wait_for_timeout(50)
    assert table.get_attribute("aria-rowcount") == "252"
    numbers = [int(title[4:]) for title in page.evaluate(TITLES)]
    assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1)) and 1151 in numbers
    page.evaluate("scrollTo(0, 0)")
    rows[:0] = [row(n) for n in range(1401, 1251, -1)]
    page.get_by_role("link", name=row(1401)["id"]).wait_for()
    to_the_end(page)
    assert table.get_attribute("aria-rowcount") == "402"


def test_a_page_on_its_way_while_a_job_comes(page, server):
    """It is of the list before: what was pushed off the first page lies between."""
    job = server.get(f"/v1/jobs/{submit(server, PRUNE)}").json()
    rows = [{**job, "id": f"job_{n:026d}"} for n in range(150, 0, -1)]
    held = []

    def late(route):
        held.append(route)
        if len(held) > 1:
            route.fallback()

    served(page, "jobs", rows)
    page.route("**/v1/jobs?*cursor=*", late)
    page.goto(server.url + "/#/jobs")
    page.locator(".virtual-body .virtual-row").first.wait_for()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    until(page, lambda: held)
    rows.insert(0, {**job, "id": f"job_{151:026d}"})
    with page.expect_response(lambda r: "/v1/jobs?" in r.url and "cursor=" not in r.url):
        pass
    page.wait_for_timeout(50)
    held[0].fallback()
    to_the_end(page)
    assert page.locator(".virtual").get_attribute("aria-rowcount") == "152"


def test_no_more_jobs_are_chosen_than_compared(page, server):
    job = server.get(f"/v1/jobs/{submit(server, PRUNE)}").json()
    served(page, "jobs", [{**job, "id": f"job_{n:026d}"} for n in range(25, 0, -1)])
    page.set_viewport_size({"width": 1280, "height": 1600})
    page.goto(server.url + "/#/jobs")
    boxes = page.get_by_role("checkbox")
    boxes.nth(20).wait_for()
    for box in boxes.all()[:21]:
        box.check()
    assert page.get_by_role("button", name="Compare 21: at most 20").is_disabled()
    boxes.first.uncheck()
    assert page.get_by_role("button", name="Compare 20", exact=True).is_enabled()


def test_theme_is_chosen_and_kept(page, server):
    page.goto(server.url + "/#/models")
    paper = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = paper()
    assert page.evaluate("getComputedStyle(document.querySelector('.brand')).textDecorationLine") == "none"
    page.get_by_label("Colours").select_option("dark")
    dark = paper()
    assert dark != light
    page.reload()
    assert paper() == dark and page.get_by_label("Colours").input_value() == "dark"
    page.emulate_media(color_scheme="dark")
    page.get_by_label("Colours").select_option("light")
    assert paper() == light
    page.get_by_label("Colours").select_option("auto")
    assert paper() == dark and page.evaluate("localStorage.length") == 0
    page.emulate_media(color_scheme="light")
    assert paper() == light


def shot_viewport(tab, name):
    shot(tab, name, full_page=False)


def test_jobs_are_filtered_by_the_server(page, server):
    one = submit(server, PRUNE, labels={"team": "red"}, name="the red one")
    submit(server, PRUNE, labels={"team": "blue"}, name="the blue one")
    page.goto(server.url + "/#/jobs")
    page.get_by_role("link", name="the blue one").wait_for()
    page.get_by_label("Label").fill("team")  # not yet key=value
    page.wait_for_timeout(600)
    assert page.get_by_label("Label").get_attribute("aria-invalid") == "true"
    page.get_by_label("Label").fill("team=red")
    page.get_by_role("link", name="the blue one").wait_for(state="detached")
    assert page.get_by_role("link", name="the red one").count() == 1
    assert "label=team" in page.url
    page.reload()
    page.get_by_role("link", name="the red one").wait_for()  # a filter is an address
    assert page.get_by_label("Label").input_value() == "team=red"
    page.get_by_label("State").select_option("failed")
    page.get_by_text("No job is like that.").wait_for()
    page.get_by_role("combobox", name="State").select_option("")
    page.get_by_label("Label").fill("")
    page.get_by_role("link", name="the blue one").wait_for()
    shot(page, "jobs_filtered")
    page.get_by_label("Model").select_option(server.get(f"/v1/jobs/{one}").json()["model"])
    page.get_by_label("Since").fill("2001-01-01")
    page.get_by_role("link", name="the blue one").wait_for()


# ---- the explorer


def test_layers_are_sorted_filtered_and_drawn(page, server):
    model = put(server, "models", "digits-cnn.onnx")
    page.goto(f"{server.url}/#/models/{model}")
    section = page.locator("#layers")
    rows = section.locator("tbody tr")
    rows.first.wait_for()
    total = rows.count()
    params = lambda: [int(r.locator("td").nth(2).inner_text()) for r in rows.all()]  # noqa: E731
    section.get_by_role("button", name="Parameters").click()
    assert params() == sorted(params(), reverse=True)
    assert section.locator("th", has_text="Parameters").get_attribute("aria-sort") == "descending"
    section.get_by_role("button", name="Parameters").click()
    assert params() == sorted(params())
    section.get_by_label("Filter").fill("gemm")
    assert rows.count() < total and "Gemm" in rows.first.inner_text()
    section.get_by_label("Filter").fill("conv2")
    section.get_by_role("button", name="weights of /conv2/Conv").click()
    page.locator("#weights svg.plot").first.wait_for()
    w = next(
        w
        for row in server.get(f"/v1/models/{model}/layers").json()["data"]
        if row["node"] == "/conv2/Conv"
        for w in row["weights"]
        if len(w["shape"]) == 4
    )
    values = next(
        onnx.numpy_helper.to_array(i)
        for i in onnx.load(os.path.join(DIGITS, "digits-cnn.onnx")).graph.initializer
        if i.name == w["name"]
    )
    h = w["histogram"]
    apart = numpy.abs(numpy.histogram(values, bins=len(h["counts"]))[0] - h["counts"])  # edges of bins are rounded otherwise
    assert sum(h["counts"]) == values.size and apart.sum() <= 0.01 * values.size, h
    assert abs(h["mean"] - values.mean()) < 1e-5 and abs(h["deviation"] - values.std()) < 1e-5
    assert (numpy.float32(h["low"]), numpy.float32(h["high"])) == (values.min(), values.max()) and w[
        "nonzero"
    ] == numpy.count_nonzero(values)
    assert page.locator("#weights svg.plot").first.locator("rect.bin").count() == len(h["counts"])
    shot(page, "model_layers")


def test_graph_of_two_thousand_nodes(page, server, tmp_path):
    with open(long_model(tmp_path, 2000), "rb") as f:
        model = server.request("POST", "/v1/models?name=long.onnx", body=f.read()).json()["id"]
    page.goto(f"{server.url}/#/models/{model}/graph")
    page.locator("svg.graph .node").first.wait_for(timeout=20000)
    assert page.locator("svg.graph .node").count() == 2002  # and what goes in and out
    took = page.evaluate(
        """async (url) => {"""
        + CALIBRATION
        + """
      const { layoutGraph } = await import('/graph_layout.js'), g = await (await fetch(url)).json();
      const t = [], units = [];
      for (let i = 0; i < 5; i++) {
        units.push(calibrate());
        const a = performance.now();
        layoutGraph(g.nodes, g.edges);
        t.push(performance.now() - a);
      }
      return { layout: middle(t), unit: middle(units) }; }""",
        f"/v1/models/{model}/graph",
    )
    print("layout of 2,000 nodes:", float(page.locator(".stage").get_attribute("data-layout-ms")), took, "ms")
    assert took["layout"] <= bound(1000, took["unit"])
    graph = page.locator("svg.graph")
    shot_viewport(page, "graph_top")
    world = page.locator("svg.graph > g")
    before = world.get_attribute("transform")
    page.get_by_role("button", name="zoom in").click()
    assert world.get_attribute("transform") != before
    page.get_by_role("button", name="Show all").click()
    page.get_by_role("searchbox", name="Find a node").or_(page.get_by_role("combobox", name="Find a node")).fill(
        "/block300/add"
    )
    page.get_by_role("button", name="Next").click()
    assert page.locator(".graph-facts h2").inner_text().replace("\n", " ") == "Add /block300/add"
    graph.focus()
    page.keyboard.press("ArrowDown")
    assert "/block301/op0" in page.locator(".graph-facts h2").inner_text()
    assert "/block301/op0" in page.get_by_role("status").last.text_content()
    page.keyboard.press("ArrowUp")
    assert "/block300/add" in page.locator(".graph-facts h2").inner_text()
    box = graph.bounding_box()
    before = world.get_attribute("transform")
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 90, steps=4)
    page.mouse.up()
    assert world.get_attribute("transform") != before
    shot_viewport(page, "graph_node")


# ---- recipes


def own_recipe(page, server):
    page.goto(server.url + "/#/new")
    page.get_by_role("radio", name="own recipe").check()
    return page.get_by_role("textbox", name="recipe as JSON")


def test_recipe_is_a_form_and_json_at_once(page, server):
    text = own_recipe(page, server)
    assert text.get_attribute("spellcheck") == "false"
    page.get_by_role("combobox", name="method", exact=True).select_option("prune.weights")
    page.get_by_role("button", name="Add step", exact=True).click()
    page.locator(".step label", has_text="sparsity").first.locator("input").fill("0.5")
    assert json.loads(text.input_value()) == {"steps": [{"method": "prune.weights", "sparsity": 0.5}]}
    text.fill(
        json.dumps(
            {
                "steps": [
                    {"method": "quantize.static", "calibrator": "minmax", "samples": 32, "exclude": ["a*", "b"]},
                    {"method": "prune.weights", "sparsity": 0.25},
                ],
                "targets": {"max_bytes_ratio": 0.5},
                "seed": 3,
            }
        )
    )
    assert page.locator(".editor .step").count() == 2
    field = lambda name: page.locator(".step label").filter(has_text=name).first.locator("input, select")  # noqa: E731
    assert (
        field("calibrator").input_value() == "minmax"
        and field("exclude").input_value() == "a* b"
        and field("samples").input_value() == "32"
    )
    page.locator(".target input[type=number]").fill("0.6")
    value = json.loads(text.input_value())
    assert (
        value["targets"] == {"max_bytes_ratio": 0.6}
        and value["seed"] == 3
        and value["steps"][0]["exclude"] == ["a*", "b"]
    )
    page.get_by_role("button", name="move prune.weights up").click()
    assert [s["method"] for s in json.loads(text.input_value())["steps"]] == ["prune.weights", "quantize.static"]
    shot(page, "recipe_editor")
    for wrong, says in [
        ("{", "not JSON"),
        ('{"steps": [{"method": "no.such"}]}', "no method"),
        ('{"steps": 1}', "list"),
        ('{"steps": [], "step": 1}', "no key step"),
        ('{"steps": [], "targets": {"max_byte_ratio": 1}}', 'no target "max_byte_ratio"'),
        ('{"steps": [], "targets": {"max_bytes_ratio": "small"}}', "max_bytes_ratio must be a number"),
        ('{"steps": [], "targets": [1]}', "is an object"),
        ('{"steps": [], "seed": "three"}', "seed must be a whole number"),
    ]:
        text.fill(wrong)
        assert says in page.locator("#json-fault").inner_text()
        assert text.get_attribute("aria-invalid") == "true"
    text.fill('{"steps": [{"method": "prune.weights", "sparsity": 0.5, "sparsty": 1}]}')
    assert "no parameter sparsty" in page.locator(".step > .fault").inner_text()


def test_values_are_judged_as_they_are_typed(page, server):
    own_recipe(page, server)
    page.get_by_role("combobox", name="method", exact=True).select_option("prune.weights")
    page.get_by_role("button", name="Add step", exact=True).click()
    field = page.locator(".step label", has_text="sparsity").first.locator("input")
    field.fill("1.5")
    fault = page.locator(".step .fault:visible").first
    assert "sparsity must be" in fault.inner_text()
    assert field.get_attribute("aria-invalid") == "true" and fault.get_attribute("id") == field.get_attribute(
        "aria-describedby"
    )
    page.get_by_role("button", name="Start job").click()
    assert "Please mend this first" in page.get_by_role("alert").inner_text()
    field.fill("0.5")
    assert page.locator(".step .fault:visible").count() == 0
    shot(page, "recipe_faults")


def test_every_method_makes_a_form_the_server_takes(page, server):
    """What a form says of its own defaults is the recipe the server has: no method of the catalogue breaks the
    editor."""
    text = own_recipe(page, server)
    methods = server.get("/v1/methods").json()["data"]
    for method in methods:
        step = {
            "method": method["name"],
            **{p["name"]: p["default"] for p in method["parameters"] if "default" in p and p["default"] is not None},
        }
        text.fill(json.dumps({"steps": [step]}))
        assert page.locator("#json-fault").is_hidden(), method["name"]
        faults = page.locator(".step .fault:visible").all_inner_texts()
        assert not faults, (method["name"], faults)
        assert page.locator(".editor .step .step-fields > .grid > div").count() == len(method["parameters"]), method[
            "name"
        ]


def test_a_preset_is_edited_and_a_job_done_again(page, server):
    job = submit(server, [{"method": "prune.weights", "sparsity": 0.35}], labels={"a": "b"})
    page.goto(f"{server.url}/#/new?job={job}")
    text = page.get_by_role("textbox", name="recipe as JSON")
    text.wait_for()
    assert json.loads(text.input_value())["steps"][0]["sparsity"] == 0.35
    page.get_by_role("radio", name="int8 8-bit").check()
    page.get_by_role("button", name="Edit the chosen recipe's steps").click()
    assert [s["method"] for s in json.loads(text.input_value())["steps"]] == ["graph.optimize", "quantize.static"]
    page.get_by_role("textbox", name="Name for people").fill("edited preset")
    page.get_by_role("textbox", name="Labels to find").fill("team=vision, run=7")
    page.get_by_role("button", name="Start job").click()
    page.get_by_role("heading", name="Before and after").wait_for(timeout=60000)
    assert page.get_by_role("heading", level=1).inner_text() == "edited preset"
    assert sorted(page.locator(".label-chip").all_inner_texts()) == ["run=7", "team=vision"]


def test_a_job_like_this_is_asked_for_as_it_was(page, server):
    """Also with inputs that the lists do not go back to, and labels the form could not write."""
    labels = {"team": "red, or blue=green", "run": "7"}
    limits = {"timeout_s": 600, "threads": 1, "memory_bytes": 2**30}
    job = submit(server, [{"method": "prune.weights", "sparsity": 0.45}], labels=labels, priority=3, **limits)
    value = server.get(f"/v1/jobs/{job}").json()
    for what in ["models", "datasets"]:
        page.route(f"**/v1/{what}?*", lambda route: route.fulfill(json={"data": [], "next_cursor": None}))
    page.goto(f"{server.url}/#/new?job={job}")
    model = page.get_by_role("combobox", name="Model", exact=True)
    model.wait_for()
    assert model.input_value() == value["model"]
    shot(page, "new_job_like")
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/v1/jobs")) as sent:
        page.get_by_role("button", name="Start job").click()
    body = sent.value.post_data_json
    assert (body["model"], body["dataset"]) == (value["model"], value["dataset"])
    assert (body["labels"], body["priority"]) == (labels, 3)
    assert {key: body[key] for key in limits} == limits
    assert body["recipe"]["steps"][0]["sparsity"] == 0.45
    page.get_by_role("heading", name="Before and after").wait_for(timeout=60000)


def test_a_lost_answer_makes_no_second_job(cut_page, server):
    job = submit(server, PRUNE)
    keys, made = [], []

    def take(route):
        keys.append(route.request.headers["idempotency-key"])
        answer = route.fetch()
        made.append(answer.json()["id"])
        if len(keys) < 3:
            route.abort("connectionreset")
        else:
            route.fulfill(response=answer)

    cut_page.route("**/v1/jobs", take)
    cut_page.goto(f"{server.url}/#/new?job={job}")
    send = cut_page.get_by_role("button", name="Start job")
    send.press("Enter")
    until(cut_page, lambda: len(keys) == 1)
    cut_page.get_by_role("alert").wait_for()
    assert cut_page.evaluate("document.activeElement.textContent") == "Start job"  # the focus is not lost
    cut_page.get_by_role("textbox", name="Name for people").fill("another")
    for n in (2, 3):
        send.click()
        until(cut_page, lambda: len(keys) == n)
    cut_page.get_by_role("heading", name="another").wait_for()
    assert keys[0] != keys[1] == keys[2] and made[0] != made[1] == made[2]


def test_a_lost_answer_does_a_job_again_only_once(cut_page, server):
    job = submit(server, [{"method": "train.finetune", "epochs": 300, "samples": 300, "lr": 0.05}], wait=False)
    server.request("POST", f"/v1/jobs/{job}/cancel")
    until(cut_page, lambda: server.request("GET", f"/v1/jobs/{job}").json()["state"] == "canceled")
    made = []

    def take(route):
        answer = route.fetch()
        made.append(answer.json()["id"])
        if len(made) == 1:
            route.abort("connectionreset")
        else:
            route.fulfill(response=answer)

    cut_page.route(f"**/v1/jobs/{job}/retry", take)
    cut_page.goto(f"{server.url}/#/jobs/{job}")
    again = cut_page.get_by_role("button", name="Do it again")
    again.click()
    cut_page.get_by_role("alert").wait_for()
    again.click()
    cut_page.wait_for_url(lambda url: made[0] in url)
    assert made[0] == made[1] != job
    server.request("POST", f"/v1/jobs/{made[0]}/cancel")


def test_what_is_refused_of_a_preset_is_seen(page, server):
    """The editor is out of sight then."""
    job = submit(server, PRUNE)
    fault = {"pointer": "/recipe/steps/0/sparsity", "detail": "too bold"}
    refusal = {"status": 422, "detail": "No.", "errors": [fault]}
    page.route("**/v1/jobs", lambda route: route.fulfill(status=422, json=refusal))
    page.goto(f"{server.url}/#/new?job={job}")
    page.get_by_role("radio", name="int8 8-bit").check()
    send, card = page.get_by_role("button", name="Start job"), page.get_by_role("alert")
    send.click()
    card.get_by_text("too bold").wait_for()
    page.get_by_role("radio", name="own recipe").check()
    send.click()
    page.locator(".step .fault").get_by_text("too bold").wait_for()
    assert card.get_by_text("too bold").count() == 0


# ---- files that are sent


@pytest.mark.parametrize("leave", [False, True], ids=["button", "leaving"])
def test_an_upload_is_let_go(cut_page, server, leave):
    held, failed = [], []
    cut_page.route("**/v1/datasets?name=*", lambda route: held.append(route))
    cut_page.on("requestfailed", lambda r: failed.append(r.url) if r.method == "POST" else None)
    cut_page.goto(server.url + "/#/datasets")
    field = cut_page.locator(".drop input[type=file]")
    field.set_input_files(os.path.join(DIGITS, "test.npz"))
    cancel = cut_page.get_by_role("button", name="Cancel upload")
    cancel.wait_for()
    until(cut_page, lambda: held)
    assert field.is_disabled() and axe(cut_page) == []
    shot(cut_page, "upload")
    if leave:
        cut_page.get_by_role("link", name="Models", exact=True).click()
        cut_page.get_by_role("heading", name="Models").wait_for()
        until(cut_page, lambda: failed)
        return
    cancel.press("Enter")
    cut_page.get_by_text("The upload of test.npz was canceled.").wait_for()
    until(cut_page, lambda: failed)
    assert cancel.is_hidden() and cut_page.locator(".problem").count() == 0
    assert cut_page.evaluate("document.activeElement.type") == "file"  # the focus is not lost
    cut_page.unroute("**/v1/datasets?name=*")
    field.set_input_files(os.path.join(DIGITS, "test.npz"))  # the same file again
    cut_page.get_by_text("test.npz is ready").wait_for()


def test_what_was_sent_is_there_though_the_list_is_not(cut_page, server, tmp_path):
    put(server, "datasets", "test.npz")
    with numpy.load(os.path.join(DIGITS, "test.npz")) as whole:
        numpy.savez(tmp_path / "fresh.npz", **{name: part[:50] for name, part in whole.items()})
    cut_page.goto(server.url + "/#/datasets")
    cut_page.locator(".virtual-body .virtual-row").first.wait_for()
    cut_page.route("**/v1/datasets?limit=*", lambda route: route.abort("connectionreset"))
    cut_page.locator(".drop input[type=file]").set_input_files(str(tmp_path / "fresh.npz"))
    cut_page.get_by_text("fresh.npz is ready").wait_for()
    row = cut_page.locator(f".virtual-body [title={cut_page.locator('.drop .mono').inner_text()}]")
    lost = cut_page.get_by_role("status").get_by_text(LOST)
    lost.wait_for()
    assert cut_page.get_by_role("alert").count() == 0 and row.count() == 0
    cut_page.unroute("**/v1/datasets?limit=*")
    row.wait_for()
    lost.wait_for(state="detached")


def test_the_last_row_leaves_its_focus_to_the_heading(page, server):
    row = server.get("/v1/models/" + put(server, "models", "digits-cnn.onnx")).json()
    served(page, "models", [row])
    page.route(f"**/v1/models/{row['id']}", lambda route: route.fulfill(status=204))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(server.url + "/#/models")
    page.get_by_role("button", name="Delete").press("Enter")
    page.get_by_text("No model yet").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_a_refusal_is_forgotten_at_the_next_try(page, server):
    job = submit(server, PRUNE)
    held = []
    page.route(
        f"**/v1/jobs/{job}", lambda route: held.append(route) if route.request.method == "DELETE" else route.fallback()
    )
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{server.url}/#/jobs/{job}")
    page.get_by_role("button", name="Delete job").focus()
    for _ in range(2):
        page.keyboard.press("Enter")
        until(page, lambda: held)
        assert page.get_by_role("alert").count() == 0
        held.pop().fulfill(status=409, json={"status": 409, "detail": "Something needs it."})
        page.get_by_role("alert").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "Delete job"  # the focus is not lost


def test_a_refused_delete_is_said_once(page, server):
    with open(os.path.join(DIGITS, "test.npz"), "rb") as f:
        made = server.request("POST", "/v1/datasets?name=to%20delete.npz", body=f.read()).json()
    row = f"**/v1/datasets/{made['id']}"
    page.route(row, lambda route: route.fulfill(status=409, json={"status": 409, "detail": "A job needs it."}))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(server.url + "/#/datasets")
    button = page.get_by_role("button", name=f"Delete {made['name']}", exact=True)
    for _ in range(2):
        with page.expect_response(row):
            button.click()
        page.get_by_text("A job needs it.").wait_for()
    assert page.get_by_role("alert").count() == 1
    page.unroute(row)
    page.route(row, lambda route: route.fulfill(status=204))
    button.click()
    button.wait_for(state="detached")
    assert page.get_by_role("alert").count() == 0


# ---- results


def test_confusion_heat_map_and_downloads(page, server, tmp_path):
    job = submit(server, "int8")
    page.goto(f"{server.url}/#/jobs/{job}")
    page.locator("#confusion table.confusion").wait_for(timeout=20000)
    report = server.get(f"/v1/jobs/{job}/report").json()
    matrix = report["after"]["metrics"]["confusion"]
    assert len(matrix) == 10 and sum(map(sum, matrix)) == report["after"]["metrics"]["samples"]
    assert (
        abs(sum(matrix[i][i] for i in range(10)) / sum(map(sum, matrix)) - report["after"]["metrics"]["top1"]) < 1e-12
    )
    shown = [
        [0 if t == "·" else int(t) for t in row.locator("td").all_inner_texts()]
        for row in page.locator("#confusion table.confusion tbody tr").all()
    ]
    assert shown == matrix
    noisy = [l for s in report["steps"] for l in s["layers"] if "sqnr_db" in l]
    assert page.locator("#heat rect.shade").count() == len(noisy) > 3
    assert f"{min(l['sqnr_db'] for l in noisy):.1f} dB" in page.locator("#heat").inner_text()
    for name in ["report.html", "model.onnx"]:
        with page.expect_download() as got:
            page.get_by_role("button", name=name).click()
        assert got.value.suggested_filename == name
        got.value.save_as(tmp_path / name)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    assert "metrics" in server.get(f"/v1/jobs/{job}").json() and "confusion" not in json.dumps(
        server.get(f"/v1/jobs/{job}").json()["metrics"]
    )
    shot(page, "job_confusion")


@pytest.mark.parametrize("page", [(1280, "light"), (360, "dark")], indirect=True, ids=["light", "phone-dark"])
def test_report_page_stands_alone(page, server, tmp_path, request):
    job = submit(
        server,
        [
            {"method": "prune.weights", "sparsity": 0.6},
            {"method": "train.finetune", "epochs": 3, "samples": 300},
            {"method": "analyse.sensitivity", "samples": 64},
        ],
    )
    answer = server.get(f"/v1/jobs/{job}/artifacts/report.html")
    assert answer.headers["content-disposition"].startswith("attachment")
    (tmp_path / "report.html").write_bytes(answer.body)
    asked = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(f"file://{tmp_path}/report.html")
    assert len(asked) == 1 and "<script" not in answer.body.decode()
    assert page.locator("figure svg").count() >= 3 and page.get_by_role("heading", name="Confusion").count() == 1
    assert page.locator("table.layers tbody tr").count() >= 5
    assert fits(page) and axe(page) == []
    shot(page, "report_" + request.node.callspec.id)


@pytest.mark.parametrize("page", [(1280, "light"), (360, "dark")], indirect=True, ids=["light", "phone-dark"])
def test_jobs_are_compared(page, server, request):
    jobs = [
        submit(server, "int8", name="int8"),
        submit(server, PRUNE, name="sparse"),
        submit(server, [{"method": "prune.channels", "ratio": 0.5}], name="half the channels"),
    ]
    page.goto(server.url + "/#/jobs")
    for job in jobs:
        page.get_by_role("checkbox", name=f"compare {job}").check()
    page.get_by_role("button", name="Compare 3").click()
    page.get_by_role("heading", name="Compare 3 jobs").wait_for()
    plots = page.locator("svg.plot")
    plots.first.wait_for()
    assert plots.count() == 2 and plots.first.locator("g.point").count() == 4  # three results and their source
    facts = [server.get(f"/v1/jobs/{j}").json()["metrics"] for j in jobs]
    points = [(facts[0]["before"]["bytes"], facts[0]["before"]["metrics"]["top1"], "S1")] + [
        (f["after"]["bytes"], f["after"]["metrics"]["top1"], str(i + 1)) for i, f in enumerate(facts)
    ]
    front = [p[2] for p in sorted(points) if not any(q[0] <= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points)]
    assert set(front) >= {g.locator("text").text_content() for g in plots.first.locator("g.point.best").all()} and front
    figures = page.locator("table.figures tbody tr", has_text="Bytes").first
    assert figures.locator("td").count() == 4 and figures.locator("b").count() >= 1
    assert fits(page)
    shot(page, "compare_" + request.node.callspec.id)


def test_a_comparison_goes_on_without_a_deleted_job(page, server):
    jobs = [submit(server, [{"method": "prune.weights", "sparsity": s}]) for s in (0.3, 0.6)]
    gone = submit(server, PRUNE)
    assert server.request("DELETE", f"/v1/jobs/{gone}").status == 204
    page.goto(f"{server.url}/#/compare?jobs={jobs[0]},{gone},{jobs[1]}")
    page.get_by_role("heading", name="Compare 2 jobs").wait_for()
    assert f"{gone} is gone" in page.locator(".note").inner_text()
    assert page.locator("table.figures").count() == 1
    shot(page, "compare_gone")
    page.goto(f"{server.url}/#/compare?jobs={','.join([*jobs, gone, *(f'{gone}{n}' for n in range(20))])}")
    page.get_by_text("The first 20 of 23 jobs.").wait_for()
    page.goto(f"{server.url}/#/compare?jobs={gone},{gone}x")
    page.get_by_role("heading", name="Compare 0 jobs").wait_for()
    assert page.locator("table.figures").count() == 0


def test_pareto_front_by_hand(page, server):
    page.goto(server.url + "/#/jobs")
    got = page.evaluate("""async () => { const { paretoFront } = await import('/charts.js');
      const points = [[3, 0.9], [1, 0.5], [2, 0.5], [2, 0.8], [4, 0.9], [5, 0.95]];
      return paretoFront(points.map(([x, y]) => ({ x, y }))).map((p) => [p.x, p.y]); }""")
    assert got == [[1, 0.5], [2, 0.8], [3, 0.9], [5, 0.95]]


def test_layout_keeps_nodes_apart_and_edges_down(page, server):
    """Any graph, cycles and doubles too: no two nodes of a layer overlap, edges go down but for those that close a
    cycle."""
    page.goto(server.url + "/#/jobs")
    got = page.evaluate("""async () => { const { layoutGraph, NODE } = await import('/graph_layout.js');
      let seed = 1; const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
      const out = [];
      for (let round = 0; round < 40; round++) {
        const n = 1 + Math.floor(random() * 60), nodes = [...Array(n).keys()].map((id) => ({ id: id * 3 })), edges = [];
        for (let i = 0; i < n * 1.5; i++) {
          const a = 3 * Math.floor(random() * n), b = 3 * Math.floor(random() * n);
          edges.push(round % 4 ? { from: Math.min(a, b), to: Math.max(a, b) } : { from: a, to: b });
        }
        edges.push({ from: 999999, to: 0 });
        const l = layoutGraph(nodes, edges);
        let bad = 0, up = 0;
        for (const row of l.rows) {
          const xs = row.map((i) => l.at[i][0]).sort((a, b) => a - b);
          for (let i = 1; i < xs.length; i++) if (xs[i] - xs[i - 1] < NODE.width) bad++;
        }
        edges.forEach((e, i) => { const r = l.routes[i]; if (round % 4 && r && r[0][1] >= r.at(-1)[1]) up++; });
        const finite = l.at.every((p) => p.every(Number.isFinite));
        out.push([bad, up, finite && l.at.length === n && l.routes.at(-1) === null]);
      }
      return out; }""")
    assert all(g == [0, 0, True] for g in got), got


# ---- strangers' text


def test_hostile_names_are_text_everywhere(page, server, tmp_path):
    with open(hostile_model(tmp_path), "rb") as f:
        answer = server.request("POST", "/v1/models?name=" + urllib.parse.quote(HOSTILE[:150]), body=f.read())
    if answer.status not in (200, 201):  # the name itself may be refused; then only what is inside is hostile
        with open(tmp_path / "hostile.onnx", "rb") as f:
            answer = server.request("POST", "/v1/models?name=hostile.onnx", body=f.read())
    model = answer.json()["id"]
    body = {"model": model, "recipe": {"steps": PRUNE}, "labels": {"note": HOSTILE[:60]}, "name": HOSTILE[:100]}
    answer = server.post_json("/v1/jobs", body)
    if answer.status != 202:
        answer = server.post_json("/v1/jobs", {k: v for k, v in body.items() if k not in ("labels", "name")})
    job = answer.json()["id"]
    server.wait_job(job)
    other = submit(server, PRUNE)
    for view, ready in [
        ("jobs", ".virtual-body .virtual-row"),
        (f"jobs/{job}", "#heat, table.cards"),
        ("models", ".virtual-body .virtual-row"),
        (f"models/{model}", "#layers tbody tr"),
        (f"models/{model}/graph", "svg.graph .node"),
        ("new", "form select"),
        (f"compare?jobs={job},{other}", "table.figures"),
        ("compare", "tbody tr"),
    ]:
        page.goto(f"{server.url}/#/{view}")
        page.locator(ready).first.wait_for(timeout=20000)
        page.wait_for_timeout(150)
        assert page.locator("main img, main script, header img[src='x']").count() == 0, view
        assert "owned" not in page.evaluate("document.title.split('<')[0]"), view
    page.goto(f"{server.url}/#/models/{model}")
    button = page.locator("#layers tbody button").first
    button.wait_for()
    assert "<img src=x onerror=" in button.inner_text()
    button.click()
    assert "<script>" in page.locator("#weights").inner_text()
    shot(page, "hostile_model")
    answer = server.get(f"/v1/jobs/{job}/artifacts/report.html")
    (tmp_path / "report.html").write_bytes(answer.body)
    page.goto(f"file://{tmp_path}/report.html")
    assert page.locator("img, script").count() == 0 and "<img src=x" in page.locator("body").inner_text()


# ---- for everyone


def every_view(server):
    """(name, address, what shows that it is there) of every view, with something in it."""
    iterate = {
        "method": "iterate",
        "until": {"max_accuracy_drop": 0.5},
        "rounds": 2,
        "from": 0.4,
        "steps": [
            {"method": "prune.weights", "sparsity": 0.8},
            {"method": "train.finetune", "epochs": 1, "samples": 200},
        ],
    }
    job = submit(
        server,
        [
            iterate,
            {"method": "analyse.sensitivity", "samples": 64, "target": "macs:0.7"},
            {"method": "quantize.static", "samples": 32},
        ],
    )
    other = submit(server, PRUNE)
    model = put(server, "models", "digits-cnn.onnx")
    half = {"steps": [{"method": "prune.channels", "ratio": 0.5}], "targets": {}}
    failed = server.post_json("/v1/jobs", {"model": model, "recipe": half, "timeout_s": 60}).json()["id"]
    server.wait_job(failed)
    return [
        ("jobs", "jobs", ".virtual-body .virtual-row"),
        ("jobs_failed", "jobs?state=failed", "main p, .virtual-row"),
        ("job", f"jobs/{job}", "#confusion"),
        ("new", "new", "form select"),
        ("models", "models", ".virtual-body .virtual-row"),
        ("datasets", "datasets", ".virtual-body .virtual-row"),
        ("model", f"models/{model}", "#groups tbody tr"),
        ("graph", f"models/{model}/graph", "svg.graph .node"),
        ("compare", "compare", "tbody tr"),
        ("compare_two", f"compare?jobs={job},{other}", "svg.plot"),
        ("nothing", "nothing/here", ".problem"),
    ]


EDITED = {
    "steps": [{"method": "train.finetune", "epochs": 0, "steps": [{"method": "prune.weights", "sparsity": 0.5}]}],
    "targets": {"max_bytes_ratio": 1},
}


def unfold(page, name):
    """Open what a view keeps folded."""
    if name == "new":
        page.get_by_role("radio", name="own recipe").check()
        page.get_by_role("textbox", name="recipe as JSON").fill(json.dumps(EDITED))
    if name == "model":
        page.locator("#layers tbody button").first.click()
        page.locator("#groups details summary").first.click()
    for details in page.locator("main details:not([open]) > summary").all()[:6]:
        if details.is_visible():
            details.click()


def test_axe_finds_nothing_on_any_view(page, server):
    """Every view in light and dark, wide and narrow; none is loaded twice."""
    for name, view, ready in every_view(server):
        page.goto(f"{server.url}/#/{view}")
        page.locator(ready).first.wait_for(timeout=20000)
        unfold(page, name)
        for look, only in in_every_look(page):
            assert axe(page, only) == [], (name, look)
            assert fits(page), (name, look)
            shot(page, f"view_{name}_{look}")


def test_axe_finds_nothing_while_a_job_runs(page, server):
    job = submit(server, [{"method": "train.finetune", "epochs": 400, "samples": 300, "lr": 0.05}], wait=False)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.wait_for_function("() => document.querySelectorAll('#live .line.val circle').length >= 3", timeout=30000)
    assert axe(page) == []
    shot(page, "job_live")
    server.request("POST", f"/v1/jobs/{job}/cancel")
    page.locator(".state", has_text="canceled").wait_for(timeout=20000)


def test_focus_goes_with_the_view(page, server):
    put(server, "models", "digits-cnn.onnx")
    page.goto(server.url + "/#/jobs")
    page.get_by_role("heading", level=1, name="Jobs").wait_for()
    for link, heading in [("Models", "Models"), ("New job", "New job"), ("Compare", "Compare jobs"), ("Jobs", "Jobs")]:
        page.get_by_role("navigation").get_by_role("link", name=link, exact=True).click()
        page.get_by_role("heading", level=1, name=heading).wait_for()
        assert page.evaluate("document.activeElement.tagName + document.activeElement.textContent") == "H1" + heading
        assert page.title().startswith(heading)
        assert page.locator("nav [aria-current=page]").inner_text() == link
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")  # on into the view


def test_less_motion_where_it_is_asked_for(browser, server):  # noqa: F811
    context = browser.new_context(reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(server.url + "/#/models/" + put(server, "models", "digits-cnn.onnx"))
    tab.locator(".bar").first.wait_for()
    assert tab.evaluate("getComputedStyle(document.querySelector('.bar')).transitionDuration") == "0s"
    context.close()


def test_downloads_work_with_a_key(browser, tmp_path):  # noqa: F811
    keys = tmp_path / "keys"
    keys.write_text("k" * 40 + "\n")
    auth = {"Authorization": "Bearer " + "k" * 40}
    with Server("--api-key-file", str(keys)) as s:
        with open(os.path.join(DIGITS, "digits-cnn.onnx"), "rb") as f:
            model = s.request("POST", "/v1/models?name=m.onnx", body=f.read(), headers=auth).json()["id"]
        job = s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": PRUNE}}, headers=auth).json()["id"]
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"{s.url}/#/jobs/{job}")
        tab.get_by_label("API key").fill("k" * 40)
        assert axe(tab) == []
        tab.get_by_role("button", name="Continue").click()
        tab.get_by_role("heading", name="Before and after").wait_for(timeout=30000)
        for name in ["model.onnx", "report.html"]:
            with tab.expect_download() as got:
                tab.get_by_role("button", name=name).click()
            got.value.save_as(tmp_path / name)
            rows = s.get(f"/v1/jobs/{job}/artifacts", headers=auth).json()["data"]
            assert os.path.getsize(tmp_path / name) == next(r["bytes"] for r in rows if r["name"] == name)
        tab.goto(f"{s.url}/#/models/{model}")
        with tab.expect_download() as got:
            tab.get_by_role("button", name="Download").click()
        got.value.save_as(tmp_path / "source.onnx")
        assert os.path.getsize(tmp_path / "source.onnx") == os.path.getsize(os.path.join(DIGITS, "digits-cnn.onnx"))
        # what the browser would have to hold whole is refused, with the command that does it
        large = {"Content-Length": str(300 * 2**20), "Content-Type": "application/octet-stream"}
        tab.route(f"**/v1/models/{model}/content", lambda route: route.fulfill(headers=large, body=b"x"))
        tab.get_by_role("button", name="Download").click()
        card = tab.get_by_role("alert")
        card.wait_for()
        assert "The file has 300 MiB; at most 256 MiB" in card.inner_text()
        command = card.locator("pre").inner_text()
        assert command.startswith("curl ") and f"{s.url}/v1/models/{model}/content" in command
        assert "k" * 40 not in command and axe(tab) == []
        shot(tab, "too_large")
        saved = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PARED_API_KEY": "k" * 40}, capture_output=True
        )
        assert saved.returncode == 0, saved.stderr
        assert os.path.getsize(tmp_path / "m.onnx") == os.path.getsize(tmp_path / "source.onnx")
        tab.unroute(f"**/v1/models/{model}/content")
        with tab.expect_download():
            tab.get_by_role("button", name="Download").click()
        assert card.count() == 0
        context.close()


def test_no_inline_script_or_style(server):  # noqa: F811
    answer = server.get("/")
    assert (
        "default-src 'self'" in answer.headers["content-security-policy"]
        and "unsafe" not in answer.headers["content-security-policy"]
    )
    html = answer.body.decode()
    assert (
        "<style" not in html
        and " style=" not in html
        and html.count("<script")
        == html.count('<script type="module" src="/app.js"></script>') + html.count('<script src="/theme.js"></script>')
        == 2
    )
    for name in os.listdir(MODULES):
        if not name.endswith(".js"):
            continue
        with open(os.path.join(MODULES, name)) as f:
            code = f.read()
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "createContextualFragment",
        ]:
            assert word not in code, (name, word)
        assert server.get("/" + name).status == 200
