// SPDX-License-Identifier: Apache-2.0
// A job in words: what its recipe does, how far it is.
export const ended = (job) => !["queued", "running"].includes(job.state);
const stepsText = (steps) => (steps || []).map((s) => (Array.isArray(s.steps) && s.steps.length ? `${s.method} (${stepsText(s.steps)})` : s.method)).join(" → ");
export const recipeText = (recipe) => (typeof recipe === "string" ? recipe : stepsText(recipe?.steps) || "no steps");

/** How much of it is done, 0 to 1; null: not known. */
export function fraction(job) {
  const p = job.progress;
  if (!p || !p.steps) return null;
  const within = p.total ? p.done / p.total : 0;
  return Math.min(1, Math.max(0, p.step - 1 + within) / p.steps);
}

export function progressLine(job) {
  const p = job.progress || {};
  if (job.state === "queued") return job.queue_position ? `waiting, place ${job.queue_position} in the queue` : "waiting in the queue";
  if (job.state !== "running") return "";
  const step = p.step && p.step <= p.steps ? `step ${p.step} of ${p.steps}: ` : "";
  const amount = p.total ? ` ${p.done} of ${p.total}` : "";
  const eta = typeof p.eta_s === "number" ? `, about ${Math.ceil(p.eta_s)} s left` : "";
  return `${step}${p.stage || "starting"}${amount}${eta}`;
}
