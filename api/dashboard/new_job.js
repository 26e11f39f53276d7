// SPDX-License-Identifier: Apache-2.0
// A new job: model, data, and a preset or a recipe of one's own. "#/new?model=ID" starts with that model,
// "#/new?job=ID" as that job was asked for, without its name. Faults appear beside the field they name.
import { getAll, getJson, idempotencyKey, passing, postJson } from "/api.js";
import { recipeEditor } from "/recipe.js";
import { sendDataset, sendModel } from "/resources.js";
import { announce, dropZone, el, once, page, sayIn, select } from "/ui.js";

function presetChoices(presets, edit) {
  const box = (value, title, text, checked) =>
    el(
      "label",
      { class: "choice" },
      el("input", { type: "radio", name: "recipe", value, checked }),
      el("span", {}, el("b", {}, title), el("span", { class: "quiet small" }, text)),
    );
  return el(
    "fieldset",
    {},
    el("legend", {}, "What should happen"),
    el(
      "div",
      { class: "grid" },
      presets.map((p, i) => box(p.name, p.name, p.summary || "", i === 0)),
      box("", "own recipe", "Steps of your choice, from the catalogue of methods.", presets.length === 0),
    ),
    presets.length
      ? el("p", {}, el("button", { type: "button", onclick: edit }, "Edit the chosen recipe's steps"))
      : null,
  );
}

/** "a=1, b=2" as an object; null for text that is no such list. */
function labelsOf(text) {
  const out = {};
  for (const part of text
    .split(",")
    .map((p) => p.trim())
    .filter(Boolean)) {
    const at = part.indexOf("=");
    if (at < 1) return null;
    out[part.slice(0, at).trim()] = part.slice(at + 1).trim();
  }
  return out;
}

const ROLES = [
  ["model", "Model"],
  ["teacher", "Teacher"],
  ["dataset", "Dataset"],
  ["val_dataset", "Validation dataset"],
  ["eval_dataset", "Evaluation dataset"],
];

const LIMITS = [
  ["timeout_s", "Time limit", "seconds"],
  ["threads", "Threads", "to compute with"],
  ["memory_bytes", "Memory", "bytes"],
];

function roleSelects(models, datasets) {
  return {
    model: select("Model", models, { none: "choose ..." }),
    teacher: select("Teacher", models, { none: "the model as it comes in", hint: "what distillation learns from" }),
    dataset: select("Dataset", datasets, { none: "none", hint: "for calibration and comparison" }),
    val_dataset: select("Validation dataset", datasets, {
      none: "a tenth of the dataset",
      hint: "for decisions on the way: which epoch, how far",
    }),
    eval_dataset: select("Evaluation dataset", datasets, {
      none: "same as dataset",
      hint: "to measure accuracy before and after",
    }),
  };
}

/** A new resource is chosen where it was sent to and can be chosen elsewhere. */
function taken(made, chosen, others) {
  chosen.add(made);
  for (const other of others) other.box.append(el("option", { value: made.id }, made.name || made.id));
  return made;
}

const labelsText = (labels) =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");

function startLike(job, roles, own, choices) {
  for (const [role] of ROLES) if (job[role]) roles[role].choose(job[role]);
  const preset = choices.querySelector(`input[value="${CSS.escape(job.recipe_name || "\u0000")}"]`);
  if (preset) preset.checked = true;
  else {
    choices.querySelector("input[value='']").checked = true;
    own.load(job.recipe);
  }
}

export async function newJobView({ main, query, signal }) {
  const jobId = /^\w+$/.test(query.get("job") || "") ? query.get("job") : null;
  const [models, datasets, methods, presets, like] = await Promise.all([
    getAll("/v1/models", 500, signal),
    getAll("/v1/datasets", 500, signal),
    getJson("/v1/methods", signal),
    getAll("/v1/recipes", 200, signal),
    jobId ? getJson(`/v1/jobs/${jobId}`, signal) : null,
  ]);
  const roles = roleSelects(models, datasets),
    own = recipeEditor(methods.data, methods.targets);
  const problems = el("div"),
    say = sayIn(problems),
    submit = el("button", { class: "primary" }, "Start job");
  const likeLabels = labelsText(like?.labels || {});
  const name = el("input", { maxlength: "200" }),
    labels = el("input", { placeholder: "team=vision, run=7", value: likeLabels }),
    priority = el("input", { type: "number", step: "1", placeholder: "0", value: like?.priority || null });
  const limits = LIMITS.map(([key, label, unit]) => ({
    key,
    label,
    unit,
    box: el("input", { type: "number", min: "1", step: "1", placeholder: "the server's", value: like?.[key] }),
  }));
  const chosen = () => choices.querySelector("input:checked").value,
    toggle = () => {
      own.node.hidden = chosen() !== "";
    };
  const edit = () => {
    const preset = presets.find((p) => p.name === chosen());
    if (preset?.recipe) own.load(preset.recipe);
    choices.querySelector("input[value='']").checked = true;
    toggle();
    announce("the recipe's steps are in the editor");
  };
  const choices = presetChoices(presets, edit);
  choices.addEventListener("change", toggle);
  if (query.get("model")) roles.model.choose(query.get("model"));
  if (like) startLike(like, roles, own, choices);
  toggle();

  let sent = null; // the last request and its key: sent once more after a lost answer, it makes no second job
  const send = async (body) => {
    const text = JSON.stringify(body);
    if (sent?.text !== text) sent = { text, key: idempotencyKey() };
    try {
      const job = await postJson("/v1/jobs", body, { "Idempotency-Key": sent.key });
      sent = null;
      location.hash = `#/jobs/${job.id}`;
    } catch (problem) {
      if (!passing(problem)) sent = null;
      if (typeof body.recipe !== "string") problem.errors = own.complain(problem.errors || []);
      throw problem;
    }
  };
  const start = (event) => {
    event.preventDefault();
    say(null);
    const body = { recipe: chosen() || own.value() },
      same = likeLabels && labels.value === likeLabels, // then they may hold commas
      words = same ? like.labels : labelsOf(labels.value);
    for (const [role] of ROLES) if (roles[role].box.value) body[role] = roles[role].box.value;
    if (words && Object.keys(words).length) body.labels = words;
    if (name.value.trim()) body.name = name.value.trim();
    if (priority.value) body.priority = Number(priority.value);
    for (const { key, box } of limits) if (box.value) body[key] = Number(box.value);
    const errors = [
      !body.model && { pointer: "/model", detail: "choose a model, or send one" },
      !words && { pointer: "/labels", detail: "labels are written as key=value, separated by commas" },
      chosen() === "" &&
        !own.judge() && { pointer: "/recipe", detail: "some values of the recipe are wrong; they are marked" },
    ].filter(Boolean);
    if (errors.length)
      return say({ title: "Not sent", detail: "Please mend this first.", errors });
    once(submit, () => send(body), say);
  };

  page(
    main,
    "New job",
    el(
      "form",
      { onsubmit: start, novalidate: true },
      el(
        "div",
        { class: "grid" },
        el(
          "div",
          { class: "card" },
          roles.model.node,
          roles.teacher.node,
          el("p"),
          dropZone("ONNX model", ".onnx", signal, async (...file) =>
            taken(await sendModel(...file), roles.model, [roles.teacher]),
          ),
        ),
        el(
          "div",
          { class: "card" },
          roles.dataset.node,
          roles.val_dataset.node,
          roles.eval_dataset.node,
          el("p"),
          dropZone("Dataset", "", signal, async (...file) =>
            taken(await sendDataset(...file), roles.dataset, [roles.val_dataset, roles.eval_dataset]),
          ),
        ),
      ),
      el("div", { class: "card" }, choices, own.node),
      el(
        "div",
        { class: "card grid" },
        el("label", {}, "Name", el("span", { class: "quiet small" }, " for people"), name),
        el("label", {}, "Labels", el("span", { class: "quiet small" }, " to find the job again"), labels),
        el("label", {}, "Priority", el("span", { class: "quiet small" }, " higher goes first"), priority),
        limits.map(({ label, unit, box }) =>
          el("label", {}, label, el("span", { class: "quiet small" }, ` ${unit}`), box),
        ),
      ),
      problems,
      submit,
    ),
  );
}
