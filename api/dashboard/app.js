// SPDX-License-Identifier: Apache-2.0
// Which view is shown: the part of the address behind '#', as "#/jobs?state=running". A view gets {main, parameters,
// query, signal}; the signal aborts when another view opens.
import { setKey } from "/api.js";
import { compareView } from "/compare.js";
import { graphView } from "/graph.js";
import { jobView } from "/job.js";
import { jobsView } from "/jobs.js";
import { modelView } from "/model.js";
import { newJobView } from "/new_job.js";
import { datasetsView, modelsView } from "/resources.js";
import { el, expectPage, page, problemCard } from "/ui.js";

const routes = [
  [/^\/jobs$/, jobsView],
  [/^\/jobs\/(\w+)$/, jobView],
  [/^\/new$/, newJobView],
  [/^\/compare$/, compareView],
  [/^\/models$/, modelsView],
  [/^\/models\/(\w+)$/, modelView],
  [/^\/models\/(\w+)\/graph$/, graphView],
  [/^\/datasets$/, datasetsView],
];

let open = null;

function keyForm(main) {
  const input = el("input", { type: "password", autocomplete: "off", required: true });
  page(
    main,
    "API key",
    el(
      "form",
      {
        class: "card",
        onsubmit: (event) => {
          event.preventDefault();
          setKey(input.value.trim());
          show();
        },
      },
      el("p", {}, "This server asks for a key. It is kept in this tab only."),
      el("label", {}, "API key", input),
      el("p", {}, el("button", { class: "primary" }, "Continue")),
    ),
  );
  input.focus();
}

async function show() {
  open?.abort();
  open = new AbortController();
  const { signal } = open,
    main = document.getElementById("main");
  const [path, words] = [location.hash.slice(1).split("?")[0] || "/jobs", location.hash.split("?")[1]];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${path.split("/")[1]}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const found = routes.map(([pattern, view]) => [pattern.exec(path), view]).find(([match]) => match);
  try {
    if (!found) throw new Error("There is no such page.");
    await found[1]({ main, parameters: found[0].slice(1), query: new URLSearchParams(words || ""), signal });
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.status === 401) keyForm(main);
    else page(main, "That did not work", problemCard(problem));
  }
}

// The skip link's target is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
addEventListener("hashchange", () => {
  expectPage();
  show();
});
show();
