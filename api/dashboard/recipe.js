// SPDX-License-Identifier: Apache-2.0
// A recipe as a form and as JSON at once: what is changed in one shows in the other. The form comes from the
// catalogue of methods; every value is judged by the catalogue's rules as it is typed, and again by the server.
import { el } from "/ui.js";

const DEPTH = 4; // levels of steps that a recipe may have

/** Which methods the steps inside of a step may have; none: it holds no steps. */
const inside = (methods, method) =>
  method.holds === "scheduled" ? methods.filter((m) => m.scheduled) : method.holds === "steps" ? methods : [];
const holdsText = {
  scheduled: "Steps that run while it trains, little by little:",
  steps: "Steps it repeats, in order:",
};

const rangeText = ({ min, max, above, below }) =>
  [
    min !== undefined ? `from ${min}` : above !== undefined ? `above ${above}` : "",
    max !== undefined && max < 1e9 ? `to ${max}` : below !== undefined ? `below ${below}` : "",
  ]
    .join(" ")
    .trim();

function numberFault(p, value) {
  if (typeof value !== "number" || !Number.isFinite(value))
    return p.type === "integer" ? "must be a whole number" : "must be a number";
  if (p.type === "integer" && !Number.isInteger(value)) return "must be a whole number";
  const out =
    (p.min !== undefined && value < p.min) ||
    (p.max !== undefined && value > p.max) ||
    (p.above !== undefined && value <= p.above) ||
    (p.below !== undefined && value >= p.below);
  return out ? `must be ${rangeText(p)}, not ${value}` : "";
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** What is wrong with a value of a parameter; "" if nothing. The server has the last word. */
export function faultOf(p, value) {
  if (value === undefined) return p.required ? "is required" : "";
  if (p.choices?.includes(value)) return "";
  switch (p.type) {
    case "boolean":
      return typeof value === "boolean" ? "" : "must be true or false";
    case "enum":
      return `must be one of ${p.choices.join(", ")}`;
    case "integer":
    case "number":
      return `${numberFault(p, value)}${p.choices && numberFault(p, value) ? `, or ${p.choices.join(", ")}` : ""}`;
    case "numbers":
      return Array.isArray(value)
        ? value.map((v) => numberFault({ ...p, type: "number" }, v)).find(Boolean) || ""
        : "must be a list of numbers";
    case "globs":
      return typeof value === "string" || (Array.isArray(value) && value.every((v) => typeof v === "string"))
        ? ""
        : "must be a list of patterns";
    case "object":
      return isObject(value) ? "" : 'must be a JSON object, as {"key": value}';
    default:
      return typeof value === "string" ? "" : "must be text";
  }
}

const writers = {
  // a value as the text of its input
  object: (v) => JSON.stringify(v),
  globs: (v) => (Array.isArray(v) ? v.join(" ") : v),
  numbers: (v) => (Array.isArray(v) ? v.join(", ") : String(v)),
};
const readers = {
  // and back
  boolean: (text) => text === "true",
  integer: (text) => (Number.isNaN(Number(text)) ? text : Number(text)),
  number: (text) => (Number.isNaN(Number(text)) ? text : Number(text)),
  object: (text) => {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  },
  globs: (text) => text.split(/\s+/),
  numbers: (text) =>
    text
      .split(/[\s,[\]]+/)
      .filter(Boolean)
      .map((word) => (Number.isNaN(Number(word)) ? word : Number(word))),
};

let serial = 0; // of ids that tie a fault to its input

/** An input for one parameter; value() is undefined while it is left at its default. */
function parameterField(p, changed) {
  const fallback = p.default,
    unset = `default (${fallback ?? "not set"})`,
    id = `fault-${++serial}`;
  const list = (values) =>
    el(
      "select",
      {},
      el("option", { value: "" }, p.required ? "choose ..." : unset),
      values.map((v) => el("option", { value: v }, v)),
    );
  const input =
    p.type === "boolean"
      ? list(["true", "false"])
      : p.type === "enum"
        ? list(p.choices)
        : (p.type === "integer" || p.type === "number") && !p.choices
          ? el("input", {
              type: "number",
              step: p.type === "integer" ? "1" : "any",
              min: String(p.min ?? p.above ?? ""),
              max: String(p.max ?? p.below ?? ""),
            })
          : el("input", { type: "text" });
  if (input.tagName === "INPUT")
    input.placeholder =
      fallback !== undefined
        ? JSON.stringify(fallback)
        : p.required
          ? "required"
          : p.type === "globs"
            ? "patterns over names, separated by spaces"
            : "not set";
  if (p.required) input.required = true;
  input.setAttribute("aria-describedby", id);
  const fault = el("p", { class: "fault", id, hidden: true });
  const complain = (text) => {
    fault.textContent = text || "";
    fault.hidden = !text;
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  const value = () => {
    const text = input.value.trim();
    if (text === "" && !input.validity?.badInput) return undefined;
    if (input.validity?.badInput) return "no number";
    if (p.choices?.includes(text)) return text;
    return (readers[p.type] || ((t) => t))(text);
  };
  const judge = () => {
    const text = faultOf(p, value());
    complain(text ? `${p.name} ${text}` : "");
    return !text;
  };
  input.addEventListener("input", () => {
    if (value() === undefined) complain("");
    else judge();
    changed();
  });
  const range = rangeText(p);
  return {
    name: p.name,
    value,
    judge,
    complain,
    set(v) {
      input.value = v === undefined ? "" : (writers[p.type] || String)(v);
      if (v !== undefined) judge();
      else complain("");
    },
    node: el(
      "div",
      {},
      el(
        "label",
        {},
        p.name,
        p.required ? el("span", { class: "required" }, " (required)") : null,
        el("span", { class: "quiet small" }, ` ${p.doc}${range ? ` (${range})` : ""}`),
        input,
      ),
      fault,
    ),
  };
}

/** One step: its fields, its own steps if it holds any, and keys the catalogue does not know (kept, for the server to
 * judge). */
function stepForm(method, { all, depth, changed, move, drop }) {
  const fields = method.parameters.map((p) => parameterField(p, changed)),
    allowed = depth < DEPTH ? inside(all, method) : [];
  const inner = allowed.length ? stepList(allowed, { all, depth: depth + 1, changed }) : null;
  const fault = el("p", { class: "fault", hidden: true }),
    must = method.parameters.filter((p) => p.required).length;
  const set = el(
    "details",
    { class: "step-fields", open: true },
    el(
      "summary",
      {},
      `${fields.length} ${fields.length === 1 ? "parameter" : "parameters"}${must ? `, ${must} required` : ""}`,
    ),
    el(
      "div",
      { class: "grid" },
      fields.map((f) => f.node),
    ),
  );
  let extra = {};
  const say = (text) => {
    fault.textContent = text;
    fault.hidden = !text;
  };
  return {
    method,
    fields,
    inner,
    say,
    load(step) {
      extra = {};
      for (const [key, value] of Object.entries(step)) {
        const field = fields.find((f) => f.name === key);
        if (field) field.set(value);
        else if (key === "steps" && inner) inner.load(Array.isArray(value) ? value : []);
        else if (key !== "method") extra[key] = value;
      }
      const unknown = Object.keys(extra);
      say(
        unknown.length
          ? `${method.name} has no ${unknown.length === 1 ? "parameter" : "parameters"} ${unknown.join(", ")}`
          : "",
      );
    },
    value() {
      const out = { method: method.name, ...extra };
      for (const f of fields) if (f.value() !== undefined) out[f.name] = f.value();
      const nested = inner ? inner.value() : [];
      return nested.length ? { ...out, steps: nested } : out;
    },
    judge: () => {
      const good = fields.map((f) => f.judge()).every(Boolean),
        deep = inner ? inner.judge() : true;
      if (!good) set.open = true;
      return good && deep;
    },
    node: el(
      "fieldset",
      { class: "step" },
      el("legend", { class: "unseen" }, method.name),
      el(
        "div",
        { class: "row spread" },
        el("b", {}, method.name),
        el(
          "div",
          { class: "row" },
          el("button", { type: "button", "aria-label": `move ${method.name} up`, onclick: () => move(-1) }, "↑"),
          el("button", { type: "button", "aria-label": `move ${method.name} down`, onclick: () => move(1) }, "↓"),
          el(
            "button",
            { type: "button", class: "danger", "aria-label": `Remove ${method.name}`, onclick: drop },
            "Remove",
          ),
        ),
      ),
      el(
        "p",
        { class: "quiet small" },
        `${method.summary}.`,
        method.needs?.includes("data") ? " Needs a dataset." : "",
        method.needs?.includes("labels") ? " Needs labels." : "",
      ),
      fault,
      fields.length ? set : null,
      inner ? el("div", { class: "nested" }, el("p", { class: "small" }, holdsText[method.holds]), inner.node) : null,
    ),
  };
}

/** A list of steps; methods: what may stand in it, all: the whole catalogue. */
function stepList(methods, { all = methods, depth = 1, changed }) {
  const steps = [],
    body = el("div"),
    draw = () => body.replaceChildren(...steps.map((s) => s.node));
  const choose = el(
    "select",
    { "aria-label": depth > 1 ? "method of a nested step" : "method" },
    methods.map((m) => el("option", { value: m.name }, `${m.name}: ${m.summary}`)),
  );
  const make = (method) => {
    const move = (by) => {
      const i = steps.indexOf(step),
        j = i + by;
      if (j < 0 || j >= steps.length) return;
      [steps[i], steps[j]] = [steps[j], steps[i]];
      const active = document.activeElement;
      draw();
      active.focus();
      changed();
    };
    const step = stepForm(method, {
      all,
      depth,
      changed,
      move,
      drop: () => {
        steps.splice(steps.indexOf(step), 1);
        draw();
        choose.focus();
        changed();
      },
    });
    return step;
  };
  const add = () => {
    const step = make(methods.find((m) => m.name === choose.value));
    steps.push(step);
    draw();
    changed();
    step.node.querySelector("input, select")?.focus();
  };
  return {
    node: el(
      "div",
      {},
      body,
      el(
        "div",
        { class: "row" },
        choose,
        el("button", { type: "button", onclick: add }, depth > 1 ? "Add nested step" : "Add step"),
      ),
    ),
    value: () => steps.map((s) => s.value()),
    judge: () => steps.map((s) => s.judge()).every(Boolean),
    /** Throws a sentence for a list that no form can show. */
    load(list) {
      const made = list.map((step, i) => {
        const method = methods.find((m) => m.name === step?.method);
        if (!method)
          throw new Error(
            step?.method === undefined
              ? `step ${i + 1} has no method`
              : `step ${i + 1}: there is no method ${JSON.stringify(step.method)} that may stand here`,
          );
        const form = make(method);
        form.load(step);
        return form;
      });
      steps.splice(0, steps.length, ...made);
      draw();
    },
    /** Put faults beside their fields; returns those that have no field here. */
    complain(errors, base = "/recipe/steps") {
      for (const s of steps) {
        s.say("");
        s.fields.forEach((f) => f.complain(""));
      }
      const own = (e) =>
        e.pointer?.startsWith(`${base}/`) ? /^(\d+)\/?(.*)$/.exec(e.pointer.slice(base.length + 1)) : null;
      let left = errors.filter((e) => {
        const [, i, key] = own(e) || [],
          step = steps[i];
        if (!step || (step.inner && key.startsWith("steps/"))) return true;
        const field = step.fields.find((f) => f.name === key.split("/")[0]);
        if (field) field.complain(e.detail);
        else step.say(e.detail);
        return false;
      });
      steps.forEach((s, i) => {
        if (s.inner) left = s.inner.complain(left, `${base}/${i}/steps`);
      });
      return left;
    },
  };
}

/** Wishes for the result: {name: number}. rows: what the server judges, [{name, doc, min, max}]; empty: any name. */
function targetsForm(rows, changed) {
  const body = el("div"),
    all = [];
  const draw = () => body.replaceChildren(...all.map((t) => t.node));
  const add = (name = "", wanted = "") => {
    const key = rows.length
      ? el(
          "select",
          { "aria-label": "target" },
          rows.map((r) => el("option", { value: r.name }, `${r.name}: ${r.doc}`)),
        )
      : el("input", { "aria-label": "target", placeholder: "max_bytes_ratio" });
    if (name) key.value = name;
    const value = el("input", { type: "number", step: "any", "aria-label": "wanted", value: String(wanted) });
    const one = {
      key,
      value,
      node: el(
        "div",
        { class: "row target" },
        key,
        value,
        el(
          "button",
          {
            type: "button",
            class: "danger",
            "aria-label": "Remove target",
            onclick: () => {
              all.splice(all.indexOf(one), 1);
              draw();
              changed();
            },
          },
          "Remove",
        ),
      ),
    };
    key.addEventListener("input", changed);
    value.addEventListener("input", changed);
    all.push(one);
    draw();
    return one;
  };
  return {
    node: el(
      "div",
      {},
      body,
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            add().value.focus();
            changed();
          },
        },
        "Add target",
      ),
    ),
    value: () =>
      Object.fromEntries(
        all.filter((t) => t.key.value && t.value.value !== "").map((t) => [t.key.value, Number(t.value.value)]),
      ),
    /** Throws a sentence for a target that no form can show. */
    load(targets) {
      if (targets !== undefined && !isObject(targets)) throw new Error('"targets" is an object, as {"name": 0.5}');
      for (const [name, wanted] of Object.entries(targets || {})) {
        if (rows.length && !rows.some((r) => r.name === name))
          throw new Error(`there is no target ${JSON.stringify(name)}`);
        if (typeof wanted !== "number") throw new Error(`target ${name} must be a number`);
      }
      all.length = 0;
      for (const [name, wanted] of Object.entries(targets || {})) add(name, wanted);
      draw();
    },
  };
}

/** The editor: node, value(), load(recipe), judge(), complain(errors). */
export function recipeEditor(methods, targetRows = []) {
  const fault = el("p", { class: "fault", id: "json-fault", hidden: true });
  const json = el("textarea", {
    rows: 14,
    spellcheck: "false",
    class: "mono",
    "aria-label": "recipe as JSON",
    "aria-describedby": "json-fault",
  });
  const seed = el("input", { type: "number", min: "0", step: "1", placeholder: "0", class: "narrow" });
  let quiet = false; // the form follows the JSON just now
  const value = () => {
    const out = { steps: list.value() },
      wanted = targets.value();
    if (Object.keys(wanted).length) out.targets = wanted;
    if (seed.value !== "") out.seed = Number(seed.value);
    return out;
  };
  const say = (text) => {
    fault.textContent = text;
    fault.hidden = !text;
    json.toggleAttribute("aria-invalid", Boolean(text));
    if (text) json.setAttribute("aria-invalid", "true");
  };
  const write = () => {
    if (quiet) return;
    json.value = JSON.stringify(value(), null, 2);
    say("");
  };
  const list = stepList(methods, { changed: write }),
    targets = targetsForm(targetRows, write);
  const load = (recipe) => {
    quiet = true;
    try {
      if (!isObject(recipe) || !Array.isArray(recipe.steps))
        throw new Error('a recipe is an object with a list "steps"');
      const unknown = Object.keys(recipe).filter((k) => !["steps", "targets", "seed"].includes(k));
      if (unknown.length) throw new Error(`a recipe has no key ${unknown.join(", ")}`);
      if (recipe.seed !== undefined && !Number.isInteger(recipe.seed))
        throw new Error("the seed must be a whole number");
      list.load(recipe.steps);
      targets.load(recipe.targets);
      seed.value = recipe.seed || "";
    } finally {
      quiet = false;
    }
  };
  const read = () => {
    try {
      load(JSON.parse(json.value));
      say("");
    } catch (problem) {
      say(problem instanceof SyntaxError ? `This is not JSON yet: ${problem.message}` : problem.message);
    }
  };
  json.addEventListener("input", read);
  seed.addEventListener("input", write);
  write();
  return {
    value,
    judge: () => fault.hidden && list.judge(),
    /** What cannot be shown is a fault beside the JSON. */
    load(recipe) {
      json.value = JSON.stringify(recipe, null, 2);
      read();
    },
    complain: (errors) => list.complain(errors),
    node: el(
      "div",
      { class: "editor" },
      el(
        "div",
        {},
        list.node,
        el("h2", {}, "Targets"),
        el(
          "p",
          { class: "quiet small" },
          "Wishes that the result is judged by; a missed one is reported, not refused.",
        ),
        targets.node,
        el("p", {}, el("label", { class: "inline" }, "Seed", seed)),
      ),
      el(
        "details",
        { class: "json-pane", open: true },
        el("summary", {}, "The same as JSON: either side may be edited"),
        json,
        fault,
      ),
    ),
  };
}
