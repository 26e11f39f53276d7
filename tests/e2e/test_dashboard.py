# SPDX-License-Identifier: Apache-2.0
"""The dashboard in headless Chromium: upload, build a recipe, watch the job, read the report, errors in words, phone
width, keyboard, keys."""

import os

import pytest
from browser import DIGITS, browser, fits, page, playwright_only, put, server, shot, upload  # noqa: F401 (fixtures)
from pared_server import Server

pytestmark = playwright_only


def test_empty_server_says_what_to_do(page, server):
    page.goto(server.url)
    page.get_by_text("No job yet").wait_for()
    page.get_by_role("link", name="Make the first job").click()
    page.get_by_role("heading", name="New job").wait_for()


def test_upload_preset_job_and_report(page, server):
    page.goto(server.url + "/#/new")
    upload(page, 0, os.path.join(DIGITS, "digits-cnn.onnx"))
    upload(page, 1, os.path.join(DIGITS, "test.npz"))
    page.get_by_role("radio", name="int8 8-bit weights and activations").check()
    shot(page, "new_job")
    page.get_by_role("button", name="Start job").click()
    page.get_by_role("heading", name="Before and after").wait_for(timeout=60000)
    assert page.locator(".state").first.inner_text() == "succeeded"
    tile = page.locator(".tile", has_text="Bytes").first.inner_text()
    assert "before 74.1 KB" in tile
    assert page.locator("details table tbody tr").count() >= 6  # layers
    assert page.locator(".bar.after").count() > 6
    with page.expect_download() as got:
        page.get_by_role("button", name="model.onnx").click()
    assert os.path.getsize(got.value.path()) < 74069 / 2
    assert fits(page)
    shot(page, "job")
    page.goto(server.url + "/#/jobs")
    page.get_by_role("cell", name="succeeded").first.wait_for()
    shot(page, "jobs")


def test_own_recipe_faults_beside_their_fields(page, server):
    page.goto(server.url + "/#/new")
    page.locator("main select").first.select_option(index=1)
    page.get_by_role("radio", name="own recipe").check()
    page.get_by_role("combobox", name="method").select_option("prune.weights")
    page.get_by_role("button", name="Add step").click()
    page.locator(".step input[type=number]").first.fill("2")
    page.get_by_role("button", name="Start job").click()
    fault = page.locator(".step .fault:visible").first
    fault.wait_for()
    assert len(fault.inner_text()) > 10
    shot(page, "faults")
    page.locator(".step input[type=number]").first.fill("0.5")
    page.get_by_role("button", name="Start job").click()
    page.get_by_role("heading", name="Before and after").wait_for(timeout=60000)


def test_upload_of_no_model_is_explained(page, server, tmp_path):
    bad = tmp_path / "not.onnx"
    bad.write_text("hello")
    page.goto(server.url + "/#/models")
    page.locator(".drop input[type=file]").set_input_files(str(bad))
    card = page.locator(".problem")
    card.wait_for()
    assert "not an ONNX model" in card.inner_text()


def test_strangers_names_are_text(page, server):
    name = "<img src=x onerror=alert(1)>.onnx"
    with open(os.path.join(DIGITS, "digits-cnn.onnx"), "rb") as f:
        data = f.read()
    import urllib.parse

    answer = server.request(
        "POST",
        "/v1/datasets?name=" + urllib.parse.quote(name),
        body=open(os.path.join(DIGITS, "train.npz"), "rb").read(),
    )
    assert answer.status in (200, 201) and data
    page.goto(server.url + "/#/datasets")
    page.get_by_text(name).wait_for()
    assert page.locator("main img").count() == 0


def test_groups_of_a_model(page, server):
    model = put(server, "models", "digits-cnn.onnx")
    page.goto(f"{server.url}/#/models/{model}")
    section = page.locator("#groups")
    section.get_by_text("3 of 4 groups can be pruned").wait_for()
    rows = section.locator("tbody tr")
    assert rows.count() == 4
    assert "frozen" in rows.last.inner_text() and "output" in rows.last.inner_text()
    assert rows.last.locator("td").nth(1).inner_text() == "10"
    members = rows.first.locator("details")
    assert members.locator("li").count() == 0  # written when asked for
    members.locator("summary").click()
    assert "makes the channels" in members.locator("li").first.inner_text()
    page.wait_for_timeout(100)
    assert fits(page)
    shot(page, "model_groups")


def sensitivity_job(server, target="macs:0.6"):
    model, data = put(server, "models", "digits-cnn.onnx"), put(server, "datasets", "train.npz")
    step = {"method": "analyse.sensitivity", "samples": 64, "target": target}
    job = server.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": {"steps": [step]}}).json()["id"]
    while server.get(f"/v1/jobs/{job}?wait=25").json()["state"] in ("queued", "running"):
        pass
    return job


def test_sensitivity_is_plotted(page, server):
    job = sensitivity_job(server)
    page.goto(f"{server.url}/#/jobs/{job}")
    plot = page.locator("svg.plot")
    plot.wait_for()
    assert plot.locator("g.curve").count() == 3
    assert plot.locator("g.curve circle").count() == 15
    assert plot.locator("g.curve.on").count() == 1
    table = page.locator(".sensitivity table")
    assert table.locator("tbody tr").count() == 3
    assert "%" in table.locator("tbody tr").first.locator("td").nth(3).inner_text()  # labels: top-1
    assert [t.strip() for t in page.locator(".sensitivity select option").all_inner_texts()] == [
        "top-1",
        "KL divergence",
        "noise",
    ]
    # the line of the row that has the focus stands out
    last = table.locator("tbody tr").last.get_by_role("button")
    last.focus()
    assert plot.locator("g.curve.on title").text_content() == last.inner_text()
    shot(page, "sensitivity")
    page.locator(".sensitivity select").select_option("kl")
    assert "Kullback" in plot.get_attribute("aria-label")
    page.get_by_text("Ratios for macs:0.6").click()
    import json

    step = json.loads(page.locator(".sensitivity pre").inner_text())
    assert step["method"] == "prune.channels" and len(step["ratios"]) == 3
    assert fits(page)
    shot(page, "sensitivity_kl")


@pytest.mark.parametrize("page", [(375, "dark")], indirect=True)
def test_sensitivity_on_a_phone(page, server):
    job = sensitivity_job(server)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.locator("svg.plot").wait_for()
    page.wait_for_timeout(300)
    assert fits(page)
    assert page.locator("svg.plot").bounding_box()["width"] <= 375
    shot(page, "phone_sensitivity")
    model = put(server, "models", "digits-cnn.onnx")
    page.goto(f"{server.url}/#/models/{model}")
    page.locator("#groups tbody tr").first.wait_for()
    page.locator("#groups details summary").first.click()
    page.wait_for_timeout(200)
    assert fits(page)
    shot(page, "phone_groups")


@pytest.mark.parametrize("page", [(375, "dark")], indirect=True)
def test_phone_width_in_the_dark(page, server):
    for view in ["jobs", "new", "models", "datasets"]:
        page.goto(f"{server.url}/#/{view}")
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_timeout(300)
        assert fits(page), view
        shot(page, f"phone_{view}")
    page.goto(server.url + "/#/jobs")
    page.locator(".virtual .id a").first.click()
    page.get_by_role("heading", name="Before and after").wait_for()
    assert fits(page)
    shot(page, "phone_job")
    page.goto(server.url + "/#/models")
    page.locator(".virtual .id a").first.click()
    page.get_by_role("heading", name="Layers with weights").wait_for()
    assert fits(page)
    shot(page, "phone_model")


def test_keyboard_reaches_everything(page, server):
    page.goto(server.url + "/#/new")
    page.get_by_role("heading", name="New job").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "(({ tagName, type, textContent }) => tagName + ':' + (type || textContent))(document.activeElement)"
            )
        )
    assert {"A:Jobs", "SELECT:select-one", "INPUT:file", "INPUT:radio", "BUTTON:submit"} <= seen


def test_key_is_asked_for(browser, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k" * 40 + "\n")
    with Server("--api-key-file", str(keys)) as s:
        tab = browser.new_context().new_page()
        tab.goto(s.url)
        change = tab.get_by_role("button", name="Change key")
        field = tab.get_by_label("API key")
        field.wait_for()
        assert change.is_hidden() and tab.get_by_role("alert").count() == 0  # no key was refused
        field.fill("w" * 40)
        tab.get_by_role("button", name="Continue").click()
        refusal = tab.get_by_role("alert")
        refusal.wait_for()
        assert "The API key is not one of this server's." in refusal.inner_text()
        shot(tab, "key_refused")
        field.fill("k" * 40)
        tab.get_by_role("button", name="Continue").click()
        tab.get_by_text("No job yet").wait_for()
        assert refusal.count() == 0
        tab.set_viewport_size({"width": 360, "height": 800})
        assert fits(tab)
        shot(tab, "change_key")
        change.click()
        tab.get_by_role("button", name="Keep the key there is").click()
        tab.get_by_text("No job yet").wait_for()
        change.click()
        field.fill("x" * 40)
        field.press("Enter")
        refusal.wait_for()


def start(server, recipe, **more):
    with open(os.path.join(DIGITS, "digits-cnn.onnx"), "rb") as f:
        model = server.request("POST", "/v1/models?name=cnn.onnx", body=f.read()).json()["id"]
    with open(os.path.join(DIGITS, "train.npz"), "rb") as f:
        data = server.request("POST", "/v1/datasets?name=train.npz", body=f.read()).json()["id"]
    answer = server.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": {"steps": recipe}, **more})
    assert answer.status in (200, 201, 202), answer
    return answer.json()["id"]


PRUNED = {"method": "prune.weights", "sparsity": 0.8}


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_a_training_is_watched_live(page, server):
    """Curves grow while the job runs; they are there still when it was canceled."""
    job = start(server, [{"method": "train.finetune", "epochs": 400, "samples": 300, "lr": 0.05, "steps": [PRUNED]}])
    page.goto(f"{server.url}/#/jobs/{job}")
    live = page.locator("#live")
    live.get_by_role("img", name="Loss.").wait_for(timeout=30000)
    page.wait_for_function("() => document.querySelectorAll('#live .line.val circle').length >= 6", timeout=30000)
    tiles = live.locator(".tile").all_inner_texts()
    assert any(t.startswith("Epochs done") for t in tiles) and any(t.startswith("Images/s") for t in tiles)
    assert "prune.weights" in page.locator("dl").first.inner_text()
    shot(page, "training_live")
    page.get_by_role("button", name="Cancel job").click()
    page.locator(".state", has_text="canceled").wait_for(timeout=20000)
    assert page.locator("#live .line.val circle").count() >= 6


@pytest.mark.parametrize(
    "page", [(1280, "light"), (1280, "dark"), (390, "light")], indirect=True, ids=["light", "dark", "phone"]
)
def test_training_and_rounds_in_a_report(page, server, request):
    job = start(
        server,
        [
            {
                "method": "iterate",
                "until": {"max_accuracy_drop": 0.02},
                "rounds": 3,
                "from": 0.4,
                "steps": [PRUNED, {"method": "train.finetune", "epochs": 2, "samples": 400, "lr": 0.1, "batch": 32}],
            },
            {"method": "train.finetune", "epochs": 5, "samples": 400, "lr": 0.05},
        ],
    )
    assert server.wait_job(job)["state"] == "succeeded"
    page.goto(f"{server.url}/#/jobs/{job}")
    page.get_by_role("heading", name="Rounds").wait_for(timeout=20000)
    first = page.locator("details.card").first
    assert first.get_by_role("heading", name="Rounds").count() == 1
    assert first.locator("section table tbody tr").count() >= 3 and first.get_by_text("kept", exact=True).count() >= 1
    assert first.locator("details.nested").count() == 2
    last = page.locator("details.card").nth(1)
    last.get_by_role("img", name="Loss.").wait_for()
    assert last.locator(".charts figure").nth(0).locator(".line.train circle").count() == 5
    assert last.locator(".charts figure").nth(1).locator(".line.val circle").count() == 5
    last.get_by_text("5 epochs in numbers").click()
    assert last.locator(".training table tbody tr").count() == 5
    assert page.get_by_role("columnheader", name="Of the source").count() == 1
    assert fits(page)
    shot(page, "training_" + request.node.callspec.id)


def test_nested_steps_and_a_teacher_in_the_form(page, server):
    start(server, [])
    page.goto(server.url + "/#/new")
    page.locator("label", has_text="Model").first.locator("select").select_option(index=1)
    page.locator("label", has_text="Teacher").locator("select").select_option(index=1)
    page.get_by_role("radio", name="own recipe").check()
    page.get_by_role("combobox", name="method", exact=True).select_option("train.finetune")
    page.get_by_role("button", name="Add step", exact=True).click()
    inner = page.get_by_role("combobox", name="method of a nested step")
    assert set(inner.locator("option").evaluate_all("all => all.map((o) => o.value)")) >= {
        "prune.weights",
        "prune.channels",
    }
    assert inner.locator("option[value='quantize.static']").count() == 0  # it has no schedule
    inner.select_option("prune.weights")
    page.get_by_role("button", name="Add nested step").click()
    page.locator(".nested .step input[type=number]").first.fill("2")
    page.get_by_role("button", name="Start job").click()
    fault = page.locator(".nested .step .fault:visible").first
    fault.wait_for()
    assert "sparsity" in fault.inner_text()
    shot(page, "nested_form")
    page.locator(".nested .step input[type=number]").first.fill("0.5")
    page.locator("label", has_text="epochs").first.locator("input").fill("1")
    page.locator("label", has_text="samples").first.locator("input").fill("200")
    page.locator("label", has_text="Dataset").first.locator("select").select_option(index=1)
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Start job").click()
    body = sent.value.post_data_json
    assert body["teacher"] and body["recipe"]["steps"][0]["steps"] == [{"method": "prune.weights", "sparsity": 0.5}]
    page.get_by_role("heading", name="Before and after").wait_for(timeout=60000)
