// SPDX-License-Identifier: Apache-2.0
// Which view is shown: the part of the address behind '#'. A view gets {main, parameters, signal}; the signal aborts when another view opens.
import { setKey } from "/api.js";
import { el, problemCard } from "/ui.js";
import { jobsView, jobView } from "/jobs.js";
import { newJobView } from "/new_job.js";
import { datasetsView, modelView, modelsView } from "/resources.js";

const routes = [
  [/^\/jobs$/, jobsView],
  [/^\/jobs\/(\w+)$/, jobView],
  [/^\/new$/, newJobView],
  [/^\/models$/, modelsView],
  [/^\/models\/(\w+)$/, modelView],
  [/^\/datasets$/, datasetsView],
];

let open = null;

function keyForm() {
  const input = el("input", { type: "password", autocomplete: "off", required: true, "aria-label": "API key" });
  return el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); setKey(input.value.trim()); show(); } },
    el("h1", {}, "API key"), el("p", {}, "This server asks for a key. It is kept in this tab only."), input,
    el("p", {}, el("button", { class: "primary" }, "Continue")));
}

async function show() {
  open?.abort();
  open = new AbortController();
  const { signal } = open;
  const main = document.getElementById("main");
  const path = location.hash.slice(1).split("?")[0] || "/jobs";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${path.split("/")[1]}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const found = routes.map(([pattern, view]) => [pattern.exec(path), view]).find(([match]) => match);
  try {
    if (!found) throw new Error("There is no such page.");
    await found[1]({ main, parameters: found[0].slice(1), signal });
  } catch (problem) {
    if (signal.aborted) return;
    main.replaceChildren(problem.status === 401 ? keyForm() : problemCard(problem));
  }
}

addEventListener("hashchange", () => { show(); document.getElementById("main").focus(); });
show();
