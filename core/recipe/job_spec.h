/* SPDX-License-Identifier: Apache-2.0
 * job_spec.h - what a worker and its child process say to each other.
 * Why        The server parses no model, archive or picture; a short-lived child of the same binary does (`pared
 *            __job`). This file is the whole contract between server/child.c (parent) and cli/job.c (child).
 *
 * Start      posix_spawn("/proc/self/exe", {"pared", "__job"}). The child reads fd 3 to its end: one JSON object, the
 *            spec (at most JOB_SPEC_MAX bytes). It writes fd 4: one JSON object a line, each at most JOB_LINE_MAX
 *            bytes, to be parsed as hostile
 *            text. stdout is not used. stderr is free text for the server's log, never for a client.
 *            The child closes fd 3 once read. It keeps no other inherited descriptor in use.
 * Cancel     SIGTERM (default action) or SIGKILL; what lies in `out` and `work` is then the parent's to remove.
 *
 * Spec, common to all kinds (all paths absolute; a key that is not listed is refused: both sides are one version):
 *   "kind"           "job" | "inspect_model" | "inspect_dataset"
 *   "work"           folder for temporary files; exists, private, may hold leftovers of an earlier attempt
 *                    (`checkpoint`)
 *   "threads"        optional, 0 or absent: all cores this process may use
 *   "memory_bytes"   optional: RLIMIT_DATA (heap, stacks, BLAS buffers; mapped model files do not count); absent: no
 *                    limit
 *   "file_bytes"     optional: RLIMIT_FSIZE, largest single file it may write
 *   "cpu_s"          optional: RLIMIT_CPU
 *   "die_with_parent" optional, default true: PR_SET_PDEATHSIG (SIGKILL). Tied to the thread that spawned: it must
 *   outlive the child The child also sets no_new_privs, RLIMIT_CORE 0 and oom_score_adj 1000 for itself before it
 *   looks at any input.
 * A FILE is {"name": "weights.bin", "path": "/blobs/ab/abcd..."}: name is a plain file name (no slash), path where
 * its bytes lie. A DATASET is {"files": [FILE, ...], "main": "data.json"?, "cache": "/folder"?}: `main` is the name
 * of the file to open, default the
 *   first (hard links in `work`, symbolic ones where that fails; data.json may only name plain files of this list); or
 *   {"path": "/folder or file", "cache"?}. `cache` keeps unpacked archives for the next job (default: below `work`).
 *
 * kind "job":
 *   "model"          FILE (name: as uploaded, it becomes source.name of the report)
 *   "external"       optional [FILE, ...]: external data files, found by their names
 *   "dataset", "val_dataset", "eval_dataset"   optional DATASETs
 *   "recipe"         recipe object (core/recipe/recipe.h); checked again here
 *   "out"            empty folder: model.onnx (and external data files), report.json are written here
 *   "latency"        optional bool, default true: measure latency
 * kind "inspect_model":
 *   "model" FILE, "external" optional [FILE], "out" folder: layers.json and graph.json are written here
 * kind "inspect_dataset":
 *   "dataset" DATASET
 *
 * Lines on fd 4 ("type" first):
 *   {"type":"progress","stage":"calibrate","step":2,"steps":4,"done":37,"total":128,"method":"quantize.static"?,"eta_s":12.5?}
 *       step counts from 1, 0 before the first and steps + 1 behind the last one; total 0: not known; eta_s absent:
 *       not known. At most about ten a second, stage changes always.
 *   {"type":"log","level":"info"|"warn"|"error","message":"..."}      e.g. each warning of the report as it arises
 * The last line is one of
 *   {"type":"result","kind":"job","artifacts":[{"name":"model.onnx","media_type":"application/octet-stream","bytes":n,"sha256":hex},...,
 *        {"name":"report.json",...}],"targets_met":true|false|null,"metrics":{...}}
 *       metrics: report.json without steps, recipe and warnings' bulk:
 *       {"before","after","ratio","fidelity"?,"targets"}. null: no targets.
 *   {"type":"result","kind":"inspect_model","facts":{...}}
 *       facts: model_inspect's object plus "macs" (absent: not known), "missing_operators": ["Op (domain, opset n)
 *       x3", ...], "runnable": bool, "sha256", "bytes" (main file and external ones). Layers (GET .../layers) and
 *       drawing (GET .../graph) are
 *       the files layers.json {"data":[...]} and graph.json in `out`.
 *   {"type":"result","kind":"inspect_dataset","facts":{...}}      dataset_facts()
 *   {"type":"error","code":slug of
 *   ERR_MAP,"detail":"sentence","errors":[{"pointer":"/recipe/steps/0/ratio","detail":"..."}]}
 *       errors only for a recipe or spec that is wrong; pointers are those of POST /v1/jobs' body.
 *
 * Exit       0: a result line was written. 1: an error line was written. 75 (EX_TEMPFAIL): out of memory (an error
 *            line with code memory_limit stands before it if there was memory to write it). 70 (EX_SOFTWARE): spec or
 *            pipe unusable, reason on stderr.
 *            Anything else, or a signal: a crash. SIGXCPU: cpu_s used up. */
#ifndef PARED_RECIPE_JOB_SPEC_H
#define PARED_RECIPE_JOB_SPEC_H

enum {
    JOB_FD_SPEC = 3,
    JOB_FD_STATUS = 4,
    JOB_SPEC_MAX = 4 << 20,
    JOB_LINE_MAX = 1 << 20,
    JOB_EXIT_OK = 0,
    JOB_EXIT_REFUSED = 1,
    JOB_EXIT_SOFTWARE = 70,
    JOB_EXIT_NOMEM = 75
};

#endif
