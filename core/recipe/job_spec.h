/* SPDX-License-Identifier: Apache-2.0
 * job_spec.h - what a worker and its child process say to each other.
 * Why        The server parses no model, archive or picture; a short-lived child of the same binary does
 *            (`pared __job`). This is the whole contract between server/child.c (parent) and cli/job.c (child).
 *
 * Start      posix_spawn("/proc/self/exe", {"pared", "__job"}). The child reads fd 3 to its end and closes it: one
 *            JSON object, the spec, at most JOB_SPEC_MAX bytes. It writes fd 4: one JSON object a line, each at most
 *            JOB_LINE_MAX bytes, to be parsed as hostile text. stdout is not used. stderr is free text for the
 *            server's log, never for a client. No other inherited descriptor is used.
 * Cancel     SIGTERM (default action) or SIGKILL; what lies in `out` and `work` is then the parent's to remove.
 *
 * Spec, common to all kinds (paths are absolute; a key that is not listed is refused: both sides are one version):
 *   "kind"            "job" | "inspect_model" | "inspect_dataset"
 *   "work"            folder for temporary files; exists, private, of this attempt alone
 *   "threads"         optional, 0 or absent: all cores this process may use
 *   "memory_bytes"    optional: RLIMIT_DATA (heap, stacks, BLAS buffers; mapped model files do not count), on top of
 *                     what the process holds when it starts; absent: no limit
 *   "file_bytes"      optional: RLIMIT_FSIZE, largest single file it may write
 *   "cpu_s"           optional: RLIMIT_CPU
 *   "die_with_parent" optional, default true: PR_SET_PDEATHSIG (SIGKILL). Tied to the thread that spawned, which must
 *                     outlive the child
 *   "sandbox"         optional, default "off": "strict", "best-effort" or "off" (server/sandbox.h). Inputs of the spec
 *                     may then be read, work, out, checkpoint and caches be written, and nothing else
 *   "cgroup"          optional folder of a control group that the child enters first
 * The child also sets no_new_privs, RLIMIT_CORE 0, nice JOB_NICE and oom_score_adj 1000 for itself before it looks at
 * any input.
 *
 * A FILE is {"name": "weights.bin", "path": "/blobs/ab/abcd..."}: name is a plain file name (no slash), path is where
 * its bytes lie.
 * A DATASET is {"files": [FILE, ...], "main": "data.json"?, "cache": "/folder"?}: the files are put side by side in
 * `work` (symbolic links; data.json may only name plain files of this list) and `main`, default the first, is opened.
 * Or it is {"path": "/folder or file", "cache"?}. `cache` keeps unpacked archives for the next job (default: below
 * `work`).
 *
 * kind "job":
 *   "model"           FILE (name: as uploaded, it becomes source.name of the report)
 *   "external"        optional [FILE, ...]: external data files, found by their names
 *   "dataset", "val_dataset", "eval_dataset"   optional DATASETs
 *   "teacher"         optional FILE: the model that training steps learn from; "teacher_external" as "external"
 *   "checkpoint"      optional folder for the state of long steps; kept by the parent for the next attempt of the same
 *                     job, removed when the job has ended
 *   "recipe"          recipe object (core/recipe/recipe.h); checked again here
 *   "out"             empty folder: model.onnx, external data files, what steps add (model.pared) and report.json are
 *                     written here
 *   "latency"         optional bool, default true: measure latency
 * kind "inspect_model":
 *   "model" FILE, "external" optional [FILE], "out" folder: layers.json and graph.json are written here
 * kind "inspect_dataset":
 *   "dataset" DATASET
 *
 * Lines on fd 4:
 *   {"type": "progress", "stage": "calibrate", "step": 2, "steps": 4, "done": 37, "total": 128,
 *    "method": "quantize.static"?, "eta_s": 12.5?}
 *       step counts from 1: 0 is before the first, steps + 1 behind the last. total 0: not known; eta_s absent: not
 *       known. At most about ten a second, changes of stage always.
 *   {"type": "metric", "step": 2, "method": "train.finetune", "epoch": 3, "loss": 0.12, ...}
 *       a measurement on the way, as the step made it; a nested step gives the number of the step that holds it
 *   {"type": "sandbox", "landlock": 7, "calls": true, "missing": ""}
 *       which walls stand (ABI of landlock, 0: none; seccomp) and what is missing; unless sandbox is off
 *   {"type": "log", "level": "info" | "warn", "message": "..."}      warnings of the report as they arise
 * The last line is one of
 *   {"type": "result", "kind": "job", "artifacts": [{"name": "model.onnx", "media_type": "...", "bytes": n,
 *    "sha256": hex}, ..., {"name": "report.json", ...}], "targets_met": true | false | null, "metrics": {...}}
 *       targets_met null: no targets. metrics: {"before", "after", "ratio", "fidelity"?, "targets"} of the report.
 *   {"type": "result", "kind": "inspect_model", "facts": {...}}
 *       facts: struct inspect_result of cli/inspect.h; "missing_operators": ["Op (domain, opset n) x3", ...]. Rows of
 *       layers and the drawing are the files layers.json {"data": [...]} and graph.json in `out`.
 *   {"type": "result", "kind": "inspect_dataset", "facts": {...}}      dataset_facts()
 *   {"type": "error", "code": slug of ERR_MAP, "detail": "sentence",
 *    "errors": [{"pointer": "/recipe/steps/0/ratio", "detail": "..."}]}
 *       errors only for a recipe that is wrong; pointers are those of POST /v1/jobs' body.
 *
 * Exit       0: a result line was written. 1: an error line was written. 75 (EX_TEMPFAIL): out of memory (an error
 *            line with code job_out_of_memory stands before it if there was memory to write it). 70 (EX_SOFTWARE): spec
 *            or pipe unusable, reason on stderr. Anything else, or a signal: a crash. SIGXCPU: cpu_s used up. SIGXFSZ:
 *            file_bytes. SIGSYS: a forbidden call; an error line with code job_forbidden_call that names it stands
 *            before. */
#ifndef PARED_RECIPE_JOB_SPEC_H
#define PARED_RECIPE_JOB_SPEC_H

enum {
    JOB_FD_SPEC = 3,
    JOB_FD_STATUS = 4,
    JOB_SPEC_MAX = 4 << 20,
    JOB_LINE_MAX = 1 << 20,
    JOB_NICE = 10,
    JOB_EXIT_OK = 0,
    JOB_EXIT_REFUSED = 1,
    JOB_EXIT_SOFTWARE = 70,
    JOB_EXIT_NOMEM = 75
};

#endif
