#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Compress a model on a pared server: upload, run, wait, download. Node 18 or newer, nothing to install.
//
//     node compress.mjs URL model.onnx [--data train.npz] [--eval-data test.npz] [--recipe int8] [--out small.onnx]
//
// The key comes from PARED_API_KEY. Exit status: 0 done, 1 refused or failed, 3 done but a target was missed.
import { randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { basename } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";

const text = { type: "string" };
const { values: args, positionals: [url, model] } = parseArgs({
  allowPositionals: true,
  options: { data: text, "eval-data": text, recipe: { ...text, default: "int8" }, out: { ...text, default: "small.onnx" } },
});
if (!url || !model) {
  console.error("usage: compress.mjs URL model.onnx [--data FILE] [--eval-data FILE] [--recipe NAME] [--out FILE]");
  process.exit(2);
}
const key = process.env.PARED_API_KEY;

// One request. A problem of the server becomes an error with its sentence and every fault it lists.
async function call(method, path, { headers = {}, ...how } = {}) {
  const answer = await fetch(url.replace(/\/$/, "") + path, {
    method, ...how, headers: { ...(key && { Authorization: `Bearer ${key}` }), ...headers },
  }).catch((error) => { throw new Error(`${method} ${path}: ${error.message}`, { cause: error.cause }); });
  if (answer.ok) return answer;
  const body = await answer.text();
  let problem = { detail: body };
  try { problem = JSON.parse(body); } catch { /* a proxy's page, say */ }
  const faults = (problem.errors ?? []).map((f) => `\n  ${f.pointer ?? f.parameter ?? ""}: ${f.detail}`);
  throw new Error(`${method} ${path}: ${answer.status}: ${problem.detail}${faults.join("")}`);
}

// The id of the file on the server; the same bytes again give the same id. The file is streamed.
async function upload(kind, file) {
  const body = Readable.toWeb(createReadStream(file));
  const answer = await call("PUT", `/v1/${kind}?name=${encodeURIComponent(basename(file))}`, { body, duplex: "half" });
  return (await answer.json()).id;
}

async function main() {
  const request = { model: await upload("models", model), recipe: args.recipe };
  if (args.data) request.dataset = await upload("datasets", args.data);
  if (args["eval-data"]) request.eval_dataset = await upload("datasets", args["eval-data"]);

  // the key makes it safe to send the request again after a lost answer
  let job = await (await call("POST", "/v1/jobs", { body: JSON.stringify(request),
    headers: { "Content-Type": "application/json", "Idempotency-Key": randomUUID() } })).json();
  while (["queued", "running"].includes(job.state)) {
    console.error(`${job.id}: ${job.state} ${job.progress?.stage ?? ""}`);
    job = await (await call("GET", `/v1/jobs/${job.id}?wait=25`)).json();
  }
  if (job.state !== "succeeded") throw new Error(`${job.id}: ${job.state}: ${job.error?.detail ?? ""}`);

  const artifact = await call("GET", `/v1/jobs/${job.id}/artifacts/model.onnx`);
  await pipeline(Readable.fromWeb(artifact.body), createWriteStream(args.out));
  const { before, after, ratio } = await (await call("GET", `/v1/jobs/${job.id}/report`)).json();
  console.log(`${args.out}: ${after.bytes} bytes, ${ratio.bytes.toFixed(3)} of ${before.bytes}`);
  process.exitCode = job.targets_met === false ? 3 : 0;
}

main().catch((error) => {
  console.error(error.cause ? `${error.message}: ${error.cause.message || error.cause.code}` : error.message);
  process.exitCode = 1;
});
