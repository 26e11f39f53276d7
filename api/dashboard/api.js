// SPDX-License-Identifier: Apache-2.0
// The HTTP API as functions. A failed call throws a Problem: the RFC 9457 document the server answered with, or one
// made here.

const KEY = "pared.api_key",
  MOST_HELD_BYTES = 256 * 2 ** 20;

export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title || "The server gave no reason.");
    Object.assign(this, document);
  }
}

/** Whether the same call may go better later: no answer, a broken one, or one of a server that is not well. */
export const passing = (problem) =>
  problem instanceof Problem && (problem.status === 0 || problem.status >= 500 || problem.status === 429);

export const getKey = () => sessionStorage.getItem(KEY) || "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
const auth = () => (getKey() ? { Authorization: `Bearer ${getKey()}` } : {});

async function problemOf(response) {
  try {
    return new Problem({ status: response.status, ...(await response.json()) });
  } catch {
    return new Problem({
      status: response.status,
      title: "Request failed",
      detail: `The server answered ${response.status}.`,
    });
  }
}

/** What fetch says of an answer that does not come, or breaks off, as a Problem. */
function cut(error) {
  if (error.name === "AbortError") throw error;
  throw new Problem({
    status: 0,
    title: "Server not reached",
    detail: "The server does not answer. Is it still running?",
  });
}

const jsonOf = (response) => response.json().catch(cut);

async function call(path, options = {}) {
  const headers = { ...auth(), ...options.headers };
  const response = await fetch(path, { cache: "no-store", ...options, headers }).catch(cut);
  if (!response.ok && response.status !== 304) throw await problemOf(response);
  return response;
}

export const getJson = async (path, signal) => jsonOf(await call(path, { signal }));
export const postJson = async (path, body, headers) =>
  jsonOf(
    await call(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    }),
  );

/** An Idempotency-Key as no other request has; randomUUID is not there on plain HTTP. */
export const idempotencyKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export const remove = (path) => call(path, { method: "DELETE" });

const given = ([, value]) => value !== undefined && value !== null && value !== "";
const listAddress = (path, query) => `${path}?${new URLSearchParams(Object.entries(query).filter(given))}`;

/** One page of a list: {data, next_cursor}. */
export const getPage = (path, query, signal) => getJson(listAddress(path, query), signal);

/** The same if it is another than that of the etag: {etag, page}, page is null where nothing is new. */
export async function getPageAgain(path, query, etag, signal) {
  const response = await call(listAddress(path, query), { signal, headers: etag ? { "If-None-Match": etag } : {} });
  return { etag: response.headers.get("ETag") ?? etag, page: response.status === 304 ? null : await jsonOf(response) };
}

/** All rows of a list, at most `most`. */
export async function getAll(path, most = 200, signal) {
  const rows = [];
  let cursor = null;
  do {
    const page = await getJson(
      `${path}${path.includes("?") ? "&" : "?"}limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`,
      signal,
    );
    rows.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && rows.length < most);
  return rows;
}

/** The job: at once without an etag, else when it is another than that (long poll); no job means nothing new. */
export async function waitForJob(id, etag, signal) {
  const response = etag
    ? await call(`/v1/jobs/${id}?wait=20`, { signal, headers: { "If-None-Match": etag } })
    : await call(`/v1/jobs/${id}`, { signal });
  if (response.status === 304) return { etag, job: null };
  return { etag: response.headers.get("ETag"), job: await jsonOf(response) };
}

/** Send a file's bytes until the signal aborts; progress is called with a fraction. XMLHttpRequest, because fetch does
 * not report what was sent. */
export function upload(path, body, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(auth())) request.setRequestHeader(name, value);
    if (!(body instanceof FormData)) request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.onabort = () => reject(new DOMException("The upload was canceled.", "AbortError"));
    request.onerror = () => reject(new Problem({ status: 0, detail: "The upload was cut off." }));
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        /* handled by the status */
      }
      if (request.status >= 200 && request.status < 300) resolve(answer);
      else reject(new Problem({ status: request.status, detail: `The server answered ${request.status}.`, ...answer }));
    };
    request.send(body);
  });
}

const save = (href, name) => Object.assign(document.createElement("a"), { href, download: name }).click();

/** The bytes of a file as a link to them. The browser holds them all meanwhile, so a large file is refused, with the
 * command that saves it as it comes. */
async function heldLink(path) {
  const response = await call(path),
    size = Number(response.headers.get("Content-Length"));
  if (size > MOST_HELD_BYTES) {
    response.body.cancel().catch(() => {});
    throw new Problem({
      title: "Too large for the browser",
      detail:
        `The file has ${Math.ceil(size / 2 ** 20)} MiB; at most ${MOST_HELD_BYTES / 2 ** 20} MiB are downloaded here ` +
        "when there is a key. With the key in PARED_API_KEY this command saves it:",
      command: `curl -fOJ -H "Authorization: Bearer $PARED_API_KEY" '${new URL(path, location.href)}'`,
    });
  }
  return URL.createObjectURL(await response.blob().catch(cut));
}

/** Save a file. Without a key a plain link does. With one, an artifact has a link that is good for a minute; of other
 * files the bytes themselves come. */
export async function download(path, name) {
  if (!getKey()) return save(path, name);
  if (path.includes("/artifacts/")) return save((await postJson(`${path}/link`)).url, name);
  const url = await heldLink(path);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Server-sent events out of text that comes in pieces: push(text) returns the events that are whole. */
export class EventParser {
  #rest = "";
  #data = [];
  #type = "";
  #id = "";
  push(text) {
    const events = [],
      lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length)
          events.push({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
        this.#data = [];
        this.#type = "";
        continue;
      }
      const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
      if (field === "data") this.#data.push(value);
      else if (field === "event") this.#type = value;
      else if (field === "id" && !value.includes("\0")) this.#id = value;
    }
    return events;
  }
}

/** Events of a stream as they come; fetch and not EventSource, because that cannot carry a key. last: number of the
 * last one seen. */
export async function* events(path, last, signal) {
  const response = await call(path, {
    signal,
    headers: { Accept: "text/event-stream", "Last-Event-ID": String(last) },
  });
  if (!(response.headers.get("Content-Type") || "").startsWith("text/event-stream"))
    throw new Problem({ status: 406, detail: "The server streams no events." });
  const reader = response.body.getReader(),
    decoder = new TextDecoder(),
    parser = new EventParser(),
    read = () => reader.read().catch(cut);
  try {
    for (let piece = await read(); !piece.done; piece = await read())
      yield* parser.push(decoder.decode(piece.value, { stream: true }));
  } finally {
    reader.cancel().catch(() => {});
  }
}
