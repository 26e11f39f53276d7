/* SPDX-License-Identifier: Apache-2.0
 * err.h - how a function says what went wrong.
 * Why        A client who uploads a bad model deserves one sentence that names the place, what was found and what
 *            would be right; the process must survive. So no function of core/ exits, aborts or prints.
 * How        The caller owns a `struct err`, zeroed. A failing function fills it and returns -1 (or NULL); the first
 *            error wins. Callers on the way up prepend the place with err_wrap().
 * Ownership  Plain data, no allocation, may be copied. Threads: one err a thread. */
#ifndef PARED_BASE_ERR_H
#define PARED_BASE_ERR_H

/* One row an error: enum suffix, HTTP status, `code` slug of the problem document, title. */
#define ERR_MAP(X)                                                                                 \
    X(INTERNAL, 500, "internal", "Internal error")                                                 \
    X(IO, 500, "io_error", "Storage could not be read or written")                                 \
    X(CORRUPT, 500, "storage_corrupt", "Stored file is damaged")                                   \
    X(STORE, 503, "store_unavailable", "Catalogue unavailable")                                    \
    X(DISK_FULL, 507, "disk_full", "No space left")                                                \
    X(NOMEM, 503, "out_of_memory", "Out of memory")                                                \
    X(USAGE, 400, "usage", "Wrong usage")                                                          \
    X(MODEL, 422, "model_invalid", "Model is invalid")                                             \
    X(MODEL_UNREADABLE, 422, "model_unreadable", "Model could not be read")                        \
    X(MODEL_TOO_LARGE, 422, "model_too_large", "Model needs more than the limits allow")           \
    X(OPERATOR, 422, "operator_unsupported", "Operator not supported")                             \
    X(SHAPE, 422, "shape_mismatch", "Shapes do not fit")                                           \
    X(DATASET, 422, "dataset_invalid", "Dataset is invalid")                                       \
    X(DATASET_UNREADABLE, 422, "dataset_unreadable", "Dataset could not be read")                  \
    X(RECIPE, 422, "recipe_invalid", "Recipe is invalid")                                          \
    X(INVALID, 422, "invalid", "Request is well-formed but wrong")                                 \
    X(REFERENCE, 422, "reference_not_found", "Refers to something that does not exist")            \
    X(BAD_JSON, 400, "bad_json", "Body is not JSON")                                               \
    X(BAD_REQUEST, 400, "bad_request", "Bad request")                                              \
    X(UNAUTHORIZED, 401, "unauthorized", "API key required")                                       \
    X(FORBIDDEN, 403, "forbidden", "Not allowed")                                                  \
    X(NOT_FOUND, 404, "not_found", "Not found")                                                    \
    X(METHOD, 405, "method_not_allowed", "Method not allowed")                                     \
    X(NOT_ACCEPTABLE, 406, "not_acceptable", "Not acceptable")                                     \
    X(IN_USE, 409, "in_use", "In use")                                                             \
    X(WRONG_STATE, 409, "wrong_state", "Wrong state")                                              \
    X(LENGTH_REQUIRED, 411, "length_required", "Content-Length required")                          \
    X(PRECONDITION, 412, "precondition_failed", "Precondition failed")                             \
    X(TOO_LARGE, 413, "too_large", "Body too large")                                               \
    X(MEDIA_TYPE, 415, "unsupported_media_type", "Unsupported media type")                         \
    X(RANGE, 416, "range_not_satisfiable", "Range not satisfiable")                                \
    X(DIGEST, 422, "digest_mismatch", "Digest does not match")                                     \
    X(LOCKED, 423, "locked", "Locked by another request")                                          \
    X(CHECKSUM, 460, "checksum_mismatch", "Checksum does not match")                               \
    X(URI_TOO_LONG, 414, "uri_too_long", "URL too long")                                           \
    X(HEADERS, 431, "headers_too_large", "Header too large")                                       \
    X(RATE_LIMITED, 429, "rate_limited", "Too many requests")                                      \
    X(UNAVAILABLE, 503, "unavailable", "Not available now")                                        \
    X(NON_FINITE, 422, "non_finite_output", "Outputs are not finite")                              \
    X(VERIFY, 500, "verification_failed", "Artifact failed its verification")                      \
    X(CANCELED, 409, "canceled", "Canceled")                                                       \
    X(TIMEOUT, 504, "job_timed_out", "Time limit reached")                                         \
    X(CRASHED, 500, "job_crashed", "Job process crashed")                                          \
    X(MEMORY_LIMIT, 507, "job_out_of_memory", "Memory limit reached")                              \
    X(DISK_LIMIT, 507, "job_disk_limit", "Disk limit reached")                                     \
    X(FORBIDDEN_CALL, 500, "job_forbidden_call", "Job process did what no job may")                \
    X(SANDBOX, 503, "sandbox_unavailable", "Sandbox cannot be set up")                             \
    X(LOST, 500, "job_lost", "Lease lost too often")

enum err_code {
    ERR_NONE = 0,
#define X(id, status, slug, title) ERR_##id,
    ERR_MAP(X)
#undef X
        ERR_COUNT
};

struct err {
    enum err_code code;
    char msg[1000]; /* one or a few sentences for a person, UTF-8, without trailing newline */
};

/* Fill *err unless it already holds an error; always returns -1, so `return err_set(err, ERR_SHAPE, ...)`.
 * err may be NULL (nobody wants the sentence). */
int err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* As err_set with ": strerror(errno)" appended; ENOSPC, EDQUOT become ERR_DISK_FULL and ENOMEM ERR_NOMEM whatever
 * `code` says. */
int err_set_errno(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Prepend a place to the message: "node 'conv1' (Conv): ". Returns -1. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Row data of a code; "internal" and 500 for unknown ones. err_code_from_slug returns ERR_NONE when unknown. */
const char *err_slug(enum err_code code);
const char *err_title(enum err_code code);
int err_status(enum err_code code);
enum err_code err_code_from_slug(const char *slug);

/* A list of faults found in one document, each with the JSON pointer of its place: a client gets all at once. */
struct fault {
    char *pointer; /* RFC 6901, "/steps/0/sparsity"; "" is the whole document */
    char *detail;
};
struct faults {
    struct fault *at; /* owned */
    int count;
};
/* Add one fault; `pointer` and the text are copied. Beyond 100 faults nothing is added. */
void faults_add(struct faults *faults, const char *pointer, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void faults_fini(struct faults *faults);

#endif
