// SPDX-License-Identifier: Apache-2.0
// node tus_upload.mjs MODULE ENDPOINT FILE CHUNK CUT: uploads FILE with tus-js-client in pieces of CHUNK bytes. With CUT the first attempt is
// aborted in the middle of a request, and a second Upload resumes it from its URL. Prints {"url", "offsets": [of the attempts]}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const [, , module, endpoint, file, chunk, cut] = process.argv;
const tus = createRequire(import.meta.url)(module);
const data = readFileSync(file);
const starts = [];

function run(options, stopAt) {
  return new Promise((resolve, reject) => {
    let first = true;
    const upload = new tus.Upload(data, {
      endpoint,
      chunkSize: Number(chunk) || Infinity,
      metadata: { filename: "m.onnx", note: "müsli 🥣" },
      retryDelays: [100, 300, 1000],
      storeFingerprintForResuming: false,
      onError: reject,
      onSuccess: () => resolve(upload.url),
      onBeforeRequest: (r) => { if (r.getMethod() === "PATCH" && first) { first = false; starts.push(Number(r.getHeader("Upload-Offset"))); } },
      onProgress: (sent, total) => { if (stopAt && sent >= stopAt && sent < total) upload.abort().then(() => resolve(upload.url)); },
      ...options,
    });
    upload.start();
  });
}

let url = await run({}, cut ? data.length / 3 : 0);
if (cut) url = await run({ uploadUrl: url });
console.log(JSON.stringify({ url, offsets: starts }));
