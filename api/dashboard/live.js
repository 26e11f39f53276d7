// SPDX-License-Identifier: Apache-2.0
// A job as it changes. Its events come as a stream that is taken up again where it broke; a page in the background
// lets go of it, because a browser has few connections to one server. Where there is no stream the job is asked for
// again and again.
import { events, getJson, passing, waitForJob } from "/api.js";

const ended = (job) => !["queued", "running"].includes(job.state);
const RETRY_MS = [500, 1000, 2000, 5000, 10000],
  MOST_LOG = 2000;

export const sleep = (milliseconds, signal) =>
  new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done, { once: true });
  });

const visible = (signal) =>
  new Promise((resolve) => {
    if (!document.hidden) return resolve();
    const look = () => {
      if (!document.hidden || signal.aborted) {
        document.removeEventListener("visibilitychange", look);
        resolve();
      }
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
  });

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
};

/** What a stream and a page of measurements both fill: every event once, in order. */
class Record {
  lines = [];
  log = []; // the newest of them
  logged = 0; // how many there were
  last = 0;
  take(type, data, seq) {
    if (seq && seq <= this.last) return false;
    if (seq) this.last = seq;
    if (type === "metric" && data) this.lines.push({ ...data, seq });
    if (type === "log" && data) {
      this.log.push(data);
      this.logged++;
      if (this.log.length > MOST_LOG) this.log.shift();
    }
    return true;
  }
}

/** Read the stream until it ends; true: the job has ended and told everything. */
async function stream(id, job, record, show, signal) {
  const inner = new AbortController(),
    stop = () => inner.abort();
  const hide = () => {
    if (document.hidden) stop();
  };
  signal.addEventListener("abort", stop, { once: true });
  document.addEventListener("visibilitychange", hide);
  try {
    for await (const event of events(`/v1/jobs/${id}/events`, record.last, inner.signal)) {
      const data = parsed(event.data),
        seq = Number(event.id) || 0;
      if (event.type === "end") return true;
      if (event.type === "state" && !ended(job) && data?.state !== job.state)
        job = await getJson(`/v1/jobs/${id}`, inner.signal);
      else if (event.type === "progress" && data) job = { ...job, progress: { ...job.progress, ...data } };
      record.take(event.type, data, seq);
      show(job, record);
    }
    return false;
  } catch (problem) {
    if (inner.signal.aborted && !signal.aborted) return false; // out of sight
    throw problem;
  } finally {
    signal.removeEventListener("abort", stop);
    document.removeEventListener("visibilitychange", hide);
  }
}

/** The answer of ask(), which is called until there is one; reached(whether the server answers) is told of every try.
 * Throws what will not go better by itself. */
export async function persist(ask, reached, signal) {
  for (let failures = 0; ; failures++) {
    try {
      const answer = await ask();
      reached(true);
      return answer;
    } catch (problem) {
      if (signal.aborted || !passing(problem)) throw problem;
      reached(false);
      await sleep(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], signal);
    }
  }
}

async function takeMetrics(id, record, signal) {
  for (let page; !page || page.next_cursor;) {
    page = await getJson(`/v1/jobs/${id}/metrics?cursor=${record.last}`, signal);
    for (const row of page.data) record.take("metric", row, row.seq);
  }
}

async function poll(id, record, show, reached, signal) {
  let etag = null;
  while (!signal.aborted) {
    const answer = await persist(() => waitForJob(id, etag, signal), reached, signal);
    if (!answer.job) continue;
    etag = answer.etag;
    if (answer.job.state !== "queued") await persist(() => takeMetrics(id, record, signal), reached, signal);
    show(answer.job, record);
    if (ended(answer.job)) return;
  }
}

/** Call show(job, record) whenever something is new, until the job has ended, and reached(whether the server answers)
 * on the way. Throws what will not go better by itself. */
export async function watchJob(id, show, reached, signal) {
  const record = new Record(),
    ask = () => persist(() => getJson(`/v1/jobs/${id}`, signal), reached, signal);
  let job = await ask(),
    failures = 0;
  show(job, record);
  while (!signal.aborted) {
    await visible(signal);
    try {
      const seen = record.last;
      if (
        await stream(
          id,
          job,
          record,
          (now, all) => {
            job = now;
            show(now, all);
          },
          signal,
        )
      )
        break;
      failures = record.last > seen ? 0 : failures + 1;
    } catch (problem) {
      if (signal.aborted) return;
      if ([404, 405, 406].includes(problem.status)) return poll(id, record, show, reached, signal);
      if (!passing(problem)) throw problem;
      failures++;
    }
    await sleep(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], signal);
    job = await ask();
    show(job, record);
    if (ended(job) && failures > 2) return;
  }
  if (signal.aborted) return;
  show(await ask(), record);
}
