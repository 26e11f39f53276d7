// SPDX-License-Identifier: Apache-2.0
// The HTTP API as functions. A failed call throws a Problem: the RFC 9457 document the server answered with, or one made here.

const KEY = "pared.api_key";

export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title || "The server gave no reason.");
    Object.assign(this, document);
  }
}

export const getKey = () => sessionStorage.getItem(KEY) || "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
const auth = () => (getKey() ? { Authorization: `Bearer ${getKey()}` } : {});

async function problemOf(response) {
  try {
    return new Problem({ status: response.status, ...(await response.json()) });
  } catch {
    return new Problem({ status: response.status, title: "Request failed", detail: `The server answered ${response.status}.` });
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers: { ...auth(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, title: "Server not reached", detail: "The server does not answer. Is it still running?" });
  }
  if (!response.ok && response.status !== 304) throw await problemOf(response);
  return response;
}

export const getJson = async (path, signal) => (await call(path, { signal })).json();
export const postJson = async (path, body) =>
  (await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body) })).json();
export const remove = (path) => call(path, { method: "DELETE" });

/** All rows of a list, at most `most`. */
export async function getAll(path, most = 200, signal) {
  const rows = [];
  let cursor = null;
  do {
    const page = await getJson(`${path}${path.includes("?") ? "&" : "?"}limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, signal);
    rows.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && rows.length < most);
  return rows;
}

/** The job: at once without an etag, else when it is another than that (long poll); no job means nothing new. */
export async function waitForJob(id, etag, signal) {
  const response = etag ? await call(`/v1/jobs/${id}?wait=20`, { signal, headers: { "If-None-Match": etag } }) : await call(`/v1/jobs/${id}`, { signal });
  if (response.status === 304) return { etag, job: null };
  return { etag: response.headers.get("ETag"), job: await response.json() };
}

/** Send a file's bytes; progress is called with a fraction. XMLHttpRequest, because fetch does not report what was sent. */
export function upload(path, body, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(auth())) request.setRequestHeader(name, value);
    if (!(body instanceof FormData)) request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onerror = () => reject(new Problem({ status: 0, detail: "The upload was cut off." }));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* handled by the status */ }
      if (request.status >= 200 && request.status < 300) resolve(answer);
      else reject(new Problem({ status: request.status, detail: `The server answered ${request.status}.`, ...answer }));
    };
    request.send(body);
  });
}

/** Save a file that needs the key in a header, which a plain link cannot carry. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await call(path)).blob());
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
