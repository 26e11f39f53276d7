// SPDX-License-Identifier: Apache-2.0
// A new job: model, data, and a preset or a recipe built from the catalogue of methods. Faults appear beside the field they name.
import { getAll, getJson, postJson } from "/api.js";
import { dropZone, el, problemCard, select } from "/ui.js";
import { sendDataset, sendModel } from "/resources.js";

const list = (answer) => answer.data || answer;

/** An input for one parameter; value() is undefined while it is left at its default. */
function parameterField(parameter) {
  const { name, type, choices, doc, min, max, above, below, required } = parameter;
  const fallback = parameter.default;
  const placeholder = fallback !== undefined ? JSON.stringify(fallback) : required ? "required" : "not set";
  const whole = type === "integer";
  const input = type === "boolean" ? el("select", {}, el("option", { value: "" }, `default (${fallback ?? "not set"})`), el("option", { value: "true" }, "true"), el("option", { value: "false" }, "false"))
    : type === "enum" ? el("select", {}, el("option", { value: "" }, `default (${fallback ?? "not set"})`), choices.map((c) => el("option", { value: c }, c)))
    : (type === "integer" || type === "number") && !choices ? el("input", { type: "number", step: whole ? "1" : "any", min: String(min ?? above ?? ""), max: String(max ?? below ?? ""), placeholder })
    : el("input", { type: "text", placeholder: type === "globs" ? "patterns over node names, separated by spaces" : placeholder });
  const fault = el("p", { class: "fault", hidden: true });
  const range = [min !== undefined ? `from ${min}` : above !== undefined ? `above ${above}` : "", max !== undefined ? `to ${max}` : below !== undefined ? `below ${below}` : ""].join(" ").trim();
  return {
    name,
    node: el("div", {}, el("label", {}, name, el("span", { class: "quiet small" }, ` ${doc}${range ? ` (${range})` : ""}`), input), fault),
    value() {
      const text = input.value.trim();
      if (text === "") return undefined;
      if (type === "boolean") return text === "true";
      if (choices && choices.includes(text)) return text;
      if (type === "integer" || type === "number") return Number(text);
      if (type === "object") try { return JSON.parse(text); } catch { return text; }
      if (type === "globs") return text.split(/\s+/);
      if (type === "numbers") return text.split(/[\s,\[\]]+/).filter(Boolean).map((word) => isNaN(Number(word)) ? word : Number(word));
      return text;
    },
    complain(text) { fault.textContent = text || ""; fault.hidden = !text; input.toggleAttribute("aria-invalid", Boolean(text)); },
  };
}

/** Which methods the steps inside of a step may have; none: it holds no steps. */
const inside = (methods, method) => (method.holds === "scheduled" ? methods.filter((m) => m.scheduled) : method.holds === "steps" ? methods : []);
const holdsText = { scheduled: "Steps that run while it trains, little by little:", steps: "Steps it repeats, in order:" };
const DEPTH = 4; // levels of steps that a recipe may have

/** A list of steps; inner: which methods a step of it may hold again. */
function builder(methods, all = methods, depth = 1) {
  const steps = [];
  const body = el("div");
  const draw = () => body.replaceChildren(...steps.map((s) => s.node));
  const choose = el("select", { "aria-label": depth > 1 ? "method of a nested step" : "method" }, methods.map((m) => el("option", { value: m.name }, `${m.name}: ${m.summary}`)));
  const add = () => {
    const method = methods.find((m) => m.name === choose.value);
    const fields = method.parameters.map(parameterField);
    const fault = el("p", { class: "fault", hidden: true });
    const allowed = depth < DEPTH ? inside(all, method) : [];
    const step = { method, fields, fault, inner: allowed.length ? builder(allowed, all, depth + 1) : null };
    const move = (by) => { const i = steps.indexOf(step); const j = i + by; if (j >= 0 && j < steps.length) { [steps[i], steps[j]] = [steps[j], steps[i]]; draw(); } };
    step.node = el("fieldset", { class: "step" },
      el("div", { class: "row spread" }, el("legend", {}, method.name), el("div", { class: "row" },
        el("button", { type: "button", "aria-label": "move up", onclick: () => move(-1) }, "↑"), el("button", { type: "button", "aria-label": "move down", onclick: () => move(1) }, "↓"),
        el("button", { type: "button", class: "danger", onclick: () => { steps.splice(steps.indexOf(step), 1); draw(); } }, "Remove"))),
      el("p", { class: "quiet small" }, method.summary, method.needs?.includes("data") ? " Needs a dataset." : ""), fault, el("div", { class: "grid" }, fields.map((f) => f.node)),
      step.inner ? el("div", { class: "nested" }, el("p", { class: "small" }, holdsText[method.holds]), step.inner.node) : null);
    steps.push(step);
    draw();
  };
  const list = () => steps.map((s) => {
    const out = Object.assign({ method: s.method.name }, ...s.fields.map((f) => (f.value() === undefined ? {} : { [f.name]: f.value() })));
    const nested = s.inner ? s.inner.list() : [];
    return nested.length ? { ...out, steps: nested } : out;
  });
  return {
    node: el("div", {}, body, el("div", { class: "row" }, choose, el("button", { type: "button", onclick: add }, depth > 1 ? "Add nested step" : "Add step"))),
    list,
    recipe: () => ({ steps: list() }),
    /** Put faults beside their fields; returns those that have no field here. */
    complain(errors, base = "/recipe/steps") {
      for (const s of steps) { s.fault.hidden = true; s.fields.forEach((f) => f.complain("")); }
      const own = (e) => (e.pointer.startsWith(`${base}/`) ? /^(\d+)\/?(.*)$/.exec(e.pointer.slice(base.length + 1)) : null);
      let left = errors.filter((e) => {
        const [, i, key] = own(e) || [];
        const step = steps[i];
        if (!step || (step.inner && key.startsWith("steps/"))) return true;
        const field = step.fields.find((f) => f.name === key.split("/")[0]);
        if (field) field.complain(e.detail);
        else { step.fault.textContent = e.detail; step.fault.hidden = false; }
        return false;
      });
      steps.forEach((s, i) => { if (s.inner) left = s.inner.complain(left, `${base}/${i}/steps`); });
      return left;
    },
  };
}

function presetChoices(presets) {
  const box = (value, title, text, checked) => el("label", { class: "choice" }, el("input", { type: "radio", name: "recipe", value, checked }), el("span", {}, el("b", {}, title), el("span", { class: "quiet small" }, text)));
  return el("fieldset", {}, el("legend", {}, "What should happen"), el("div", { class: "grid" },
    presets.map((p, i) => box(p.name, p.name, p.summary || "", i === 0)), box("", "own recipe", "Steps of your choice, from the catalogue of methods.", presets.length === 0)));
}

export async function newJobView({ main, signal }) {
  const [models, datasets, methods, presets] = await Promise.all([
    getAll("/v1/models", 500, signal), getAll("/v1/datasets", 500, signal), getJson("/v1/methods", signal).then(list), getJson("/v1/recipes", signal).then(list)]);
  const model = select("Model", models, { none: "choose ..." });
  const data = select("Dataset", datasets, { none: "none", hint: "for calibration and comparison" });
  const evaluation = select("Evaluation dataset", datasets, { none: "same as dataset", hint: "to measure accuracy before and after" });
  const validation = select("Validation dataset", datasets, { none: "a tenth of the dataset", hint: "for decisions on the way: which epoch, how far" });
  const teacher = select("Teacher", models, { none: "the model as it comes in", hint: "what distillation learns from" });
  const wanted = new URLSearchParams(location.hash.split("?")[1] || "").get("model");
  if (wanted) model.box.value = wanted;
  const choices = presetChoices(presets);
  const own = builder(methods);
  const problems = el("div");
  const submit = el("button", { class: "primary" }, "Start job");
  const chosen = () => choices.querySelector("input:checked").value;
  const toggle = () => { own.node.hidden = chosen() !== ""; };
  choices.addEventListener("change", toggle);
  toggle();

  const start = async (event) => {
    event.preventDefault();
    problems.replaceChildren();
    submit.disabled = true;
    const body = { model: model.box.value, recipe: chosen() || own.recipe() };
    if (data.box.value) body.dataset = data.box.value;
    if (validation.box.value) body.val_dataset = validation.box.value;
    if (teacher.box.value) body.teacher = teacher.box.value;
    if (evaluation.box.value) body.eval_dataset = evaluation.box.value;
    try {
      const job = await postJson("/v1/jobs", body);
      location.hash = `#/jobs/${job.id}`;
    } catch (problem) {
      problem.errors = own.complain(problem.errors || []);
      problems.replaceChildren(problemCard(problem));
    }
    submit.disabled = false;
  };

  main.replaceChildren(el("h1", {}, "New job"), el("form", { onsubmit: start, novalidate: true },
    el("div", { class: "grid" },
      el("div", { class: "card" }, model.node, teacher.node, el("p"), dropZone("ONNX model", ".onnx", async (f, p) => { const made = await sendModel(f, p); model.add(made); teacher.box.append(el("option", { value: made.id }, made.name || made.id)); return made; })),
      el("div", { class: "card" }, data.node, validation.node, evaluation.node, el("p"), dropZone("Dataset", "", async (f, p) => { const made = await sendDataset(f, p); data.add(made); for (const other of [validation, evaluation]) other.box.append(el("option", { value: made.id }, made.name || made.id)); return made; }))),
    el("div", { class: "card" }, choices, el("p"), own.node), problems, submit));
}
