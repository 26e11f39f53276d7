// SPDX-License-Identifier: Apache-2.0
// Which view is shown: the part of the address behind '#', as "#/jobs?state=running". A view gets {main, parameters,
// query, signal}; the signal aborts when another view opens.
import { getKey, setKey } from "/api.js";
import { compareView } from "/compare.js";
import { graphView } from "/graph.js";
import { jobView } from "/job.js";
import { jobsView } from "/jobs.js";
import { persist } from "/live.js";
import { modelView } from "/model.js";
import { newJobView } from "/new_job.js";
import { datasetsView, modelsView } from "/resources.js";
import { connectionLine, el, expectPage, page, problemCard } from "/ui.js";

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

const main = document.getElementById("main"),
  changeKey = document.getElementById("change-key");
let open = null; // aborts the view that is shown

/** Ask for a key. refused: what the server said of the one it was sent; null where the reader wants to change it. */
function keyForm(refused) {
  const input = el("input", {
    type: "password",
    autocomplete: "off",
    required: true,
    pattern: "\\s*[!-~]+\\s*", // what a header can carry
    title: "A key has no spaces and no letters beyond ASCII.",
  });
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
      el(
        "p",
        { class: "row" },
        el("button", { class: "primary" }, "Continue"),
        refused ? null : el("button", { type: "button", onclick: show }, "Keep the key there is"),
      ),
    ),
    refused && getKey() ? problemCard(refused) : null,
  );
  input.focus();
}

async function show() {
  open?.abort();
  open = new AbortController();
  changeKey.hidden = !getKey();
  const { signal } = open;
  const [path, words] = [location.hash.slice(1).split("?")[0] || "/jobs", location.hash.split("?")[1]];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${path.split("/")[1]}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const found = routes.map(([pattern, view]) => [pattern.exec(path), view]).find(([match]) => match);
  const connection = connectionLine();
  const reached = (yes) => {
    if (yes || signal.aborted) return;
    if (!connection.node.isConnected) page(main, "Not connected", connection.node);
    connection.show(true);
  };
  try {
    if (!found) throw new Error("There is no such page.");
    const given = { main, parameters: found[0].slice(1), query: new URLSearchParams(words || ""), signal };
    await persist(() => found[1](given), reached, signal);
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.status === 401) keyForm(problem);
    else page(main, "That did not work", problemCard(problem));
  }
}

// The skip link's target is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
changeKey.addEventListener("click", () => {
  open.abort();
  keyForm(null);
});
addEventListener("hashchange", () => {
  expectPage();
  show();
});
show();
