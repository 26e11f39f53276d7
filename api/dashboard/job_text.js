// SPDX-License-Identifier: Apache-2.0
// A job in words: what its recipe does, how far it is.
export const ended = (job) => !["queued", "running"].includes(job.state);
const stepsText = (steps) =>
  (steps || [])
    .map((s) => (Array.isArray(s.steps) && s.steps.length ? `${s.method} (${stepsText(s.steps)})` : s.method))
    .join(" → ");
export const recipeText = (recipe) => (typeof recipe === "string" ? recipe : stepsText(recipe?.steps) || "no steps");

export const seconds = (s) =>
  s < 100 ? `${Math.ceil(s)} s` : s < 6000 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;

/** A time that has passed. */
export const took = (s) =>
  s < 10 ? `${Number(s.toFixed(s < 1 ? 2 : 1))} s` : s < 100 ? `${Math.round(s)} s` : seconds(s);

/** How much of it is done, 0 to 1; null: not known. */
export function fraction(job) {
  const p = job.progress;
  if (!p || !p.steps) return null;
  const within = p.total ? p.done / p.total : 0;
  return Math.min(1, Math.max(0, p.step - 1 + within) / p.steps);
}

export function progressLine(job) {
  const p = job.progress || {};
  const wait = typeof job.wait_s === "number" ? `, about ${seconds(job.wait_s)}` : "";
  if (job.state === "queued")
    return `waiting${job.queue_position ? `, place ${job.queue_position}` : ""} in the queue${wait}`;
  if (job.state !== "running") return "";
  const step = p.step && p.step <= p.steps ? `step ${p.step} of ${p.steps}: ` : "";
  const amount = p.total ? ` ${p.done} of ${p.total}` : "";
  const left = p.eta_s ?? job.eta_s,
    eta = typeof left === "number" ? `, about ${seconds(left)} left` : "";
  return `${step}${p.stage || "starting"}${amount}${eta}`;
}
