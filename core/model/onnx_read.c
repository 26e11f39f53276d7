/* SPDX-License-Identifier: Apache-2.0
 * The way in: map, walk, parse the skeleton, build the IR. What is no ONNX file at all is recognised by its first
 * bytes, because "this is a PNG picture" helps more than "field 9 has wire type 1". */
#include "core/model/onnx_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/model/onnx_reader.h"

/* --- what a file is that is no model --- */

static const struct {
    size_t at;
    const char *magic;
    size_t len;
    const char *what;
} signatures[] = {
    {0, "\x89PNG", 4, "a PNG picture"},
    {0, "\xff\xd8\xff", 3, "a JPEG picture"},
    {0, "GIF8", 4, "a GIF picture"},
    {0, "PK\3\4", 4, "a zip archive (PyTorch and Keras save their models so; export to ONNX instead)"},
    {0, "\x1f\x8b", 2, "a gzip file; unpack it first"},
    {0, "\x28\xb5\x2f\xfd", 4, "a zstd file; unpack it first"},
    {0, "\x89HDF", 4, "an HDF5 file (Keras saves its models so; export to ONNX instead)"},
    {0, "\x93NUMPY", 6, "a NumPy array"},
    {0, "%PDF", 4, "a PDF document"},
    {0, "GGUF", 4, "a GGUF model"},
    {4, "TFL3", 4, "a TensorFlow Lite model"},
    {4, "ORTM", 4, "an ONNX Runtime .ort file; give the .onnx file it was made from"},
    {0,
     "\x7f"
     "ELF",
     4, "a program (ELF)"},
    {0, "\x80\2", 2, "a Python pickle"},
    {0, "\x80\4", 2, "a Python pickle"},
    {0, "version https://git-lfs", 23, "a git-lfs pointer; fetch the file itself with git lfs pull"},
    {0, "<!DOCTYPE", 9, "an HTML page"},
    {0, "<!doctype", 9, "an HTML page"},
    {0, "<html", 5, "an HTML page"},
    {0, "{", 1, "JSON text"},
};

static bool is_text(const unsigned char *bytes, size_t len)
{
    for (size_t i = 0; i < len && i < 512; i++)
        if ((bytes[i] < ' ' && !strchr("\t\n\r", bytes[i])) || bytes[i] == 0x7f)
            return false;
    return true;
}

static const char *recognise(const unsigned char *bytes, size_t len)
{
    for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++) {
        size_t end = signatures[i].at + signatures[i].len;
        if (len >= end && !memcmp(bytes + signatures[i].at, signatures[i].magic, signatures[i].len))
            return signatures[i].what;
    }
    return is_text(bytes, len) ? "a text file" : NULL;
}

/* A sentence for bytes that are not a model; err holds what the walk said. */
static int explain(const struct wire *w, struct err *err)
{
    const char *what = recognise(w->bytes, w->len);
    if (what) {
        *err = (struct err){0};
        return err_set(err, ERR_MODEL, "this is %s, not an ONNX model", what);
    }
    if (w->truncated && !w->foreign)
        return err_wrap(err, "the model file is cut short: ");
    if (w->truncated)
        return err_wrap(err, "not an ONNX model, or only its first bytes: ");
    return err_wrap(err, w->foreign ? "not an ONNX model: " : "the model file is damaged: ");
}

/* --- messages above the graph --- */

static int read_opsets(struct reader *r, Onnx__OperatorSetIdProto **pb, size_t count, struct opset **out, int *n_out)
{
    bool failed = false;
    *out = model_alloc(r->m, count, sizeof **out);
    if (!*out)
        return reader_nomem(r);
    for (size_t i = 0; i < count; i++)
        (*out)[i] = (struct opset){.domain = reader_text(r, pb[i]->domain, &failed),
                                   .version = pb[i]->version,
                                   .has_version = pb[i]->has_version,
                                   .unknown = reader_unknown(r, &pb[i]->base, &failed)};
    *n_out = (int)count;
    return failed ? reader_nomem(r) : 0;
}

static const char **read_names(struct reader *r, char **names, size_t count, bool *failed)
{
    const char **own = model_alloc(r->m, count, sizeof *own);
    if (!own)
        *failed = true;
    for (size_t i = 0; own && i < count; i++)
        own[i] = reader_text(r, names[i], failed);
    return own;
}

/* The body is a graph whose inputs and outputs have names only. */
static int read_body(struct reader *r, uint32_t body, const Onnx__FunctionProto *pb)
{
    Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
    size_t count = pb->n_input + pb->n_output;
    Onnx__ValueInfoProto *infos = arena_calloc(r->scratch, count, sizeof *infos);
    Onnx__ValueInfoProto **list = arena_calloc(r->scratch, count, sizeof *list);
    if (!infos || !list)
        return reader_nomem(r);
    for (size_t i = 0; i < count; i++) {
        onnx__value_info_proto__init(&infos[i]);
        infos[i].name = i < pb->n_input ? pb->input[i] : pb->output[i - pb->n_input];
        list[i] = &infos[i];
    }
    graph.input = list;
    graph.n_input = pb->n_input;
    graph.output = list + pb->n_input;
    graph.n_output = pb->n_output;
    graph.node = pb->node;
    graph.n_node = pb->n_node;
    graph.value_info = pb->value_info;
    graph.n_value_info = pb->n_value_info;
    return read_graph(r, body, &graph);
}

static int read_function(struct reader *r, const Onnx__FunctionProto *pb, struct function *f)
{
    bool failed = false;
    *f = (struct function){.name = reader_text(r, pb->name, &failed),
                           .domain = reader_text(r, pb->domain, &failed),
                           .overload = reader_text(r, pb->overload, &failed),
                           .doc = reader_text(r, pb->doc_string, &failed),
                           .inputs = read_names(r, pb->input, pb->n_input, &failed),
                           .outputs = read_names(r, pb->output, pb->n_output, &failed),
                           .attrs = read_names(r, pb->attribute, pb->n_attribute, &failed),
                           .n_inputs = (int)pb->n_input,
                           .n_outputs = (int)pb->n_output,
                           .n_attrs = (int)pb->n_attribute,
                           .body = model_add_graph(r->m, GRAPH_NONE, NODE_NONE),
                           .unknown = reader_unknown(r, &pb->base, &failed)};
    if (failed || f->body == GRAPH_NONE)
        return reader_nomem(r);
    if (read_attrs(r, f->body, NODE_NONE, pb->attribute_proto, pb->n_attribute_proto, &f->attr_defaults) ||
        read_opsets(r, pb->opset_import, pb->n_opset_import, &f->opsets, &f->n_opsets) ||
        read_entries(r, pb->metadata_props, pb->n_metadata_props, &f->metadata) || read_body(r, f->body, pb))
        return err_wrap(r->err, "function '%.200s': ", pb->name ? pb->name : "");
    f->n_attr_defaults = (int)pb->n_attribute_proto;
    return 0;
}

int read_model(struct reader *r, Onnx__ModelProto *pb)
{
    struct model *m = r->m;
    bool failed = false;
    m->ir_version = pb->ir_version;
    m->has_ir_version = pb->has_ir_version;
    m->model_version = pb->model_version;
    m->has_model_version = pb->has_model_version;
    m->producer_name = reader_text(r, pb->producer_name, &failed);
    m->producer_version = reader_text(r, pb->producer_version, &failed);
    m->domain = reader_text(r, pb->domain, &failed);
    m->doc = reader_text(r, pb->doc_string, &failed);
    m->training = reader_fields(r, pb->training_info, pb->n_training_info, &failed);
    m->unknown = reader_unknown(r, &pb->base, &failed);
    m->functions = model_alloc(m, pb->n_functions, sizeof *m->functions);
    if (failed || !m->functions)
        return reader_nomem(r);
    if (read_opsets(r, pb->opset_import, pb->n_opset_import, &m->opsets, &m->n_opsets) ||
        read_entries(r, pb->metadata_props, pb->n_metadata_props, &m->metadata) || read_graph(r, 0, pb->graph))
        return -1;
    for (size_t i = 0; i < pb->n_functions; i++, m->n_functions++)
        if (read_function(r, pb->functions[i], &m->functions[i]))
            return -1;
    return 0;
}

/* --- entry points --- */

typedef int parsed_fn(struct reader *r, ProtobufCMessage *message, void *arg);

static int build_model(struct reader *r, ProtobufCMessage *message, void *arg)
{
    Onnx__ModelProto *pb = (Onnx__ModelProto *)(void *)message;
    (void)arg;
    if (pb->graph)
        return read_model(r, pb);
    const char *what = recognise(r->w->bytes, r->w->len);
    if (what)
        return err_set(r->err, ERR_MODEL, "this is %s, not an ONNX model", what);
    return err_set(r->err, ERR_MODEL, "not an ONNX model: it has no graph (field 7 of ModelProto)");
}

struct tensor_out {
    struct tensor *t;
    char *name;
    size_t name_size;
};

static int build_tensor(struct reader *r, ProtobufCMessage *message, void *arg)
{
    struct tensor_out *out = arg;
    struct weight *w = model_new_weight(r->m);
    if (!w)
        return reader_nomem(r);
    if (read_tensor(r, (Onnx__TensorProto *)(void *)message, w))
        return err_wrap(r->err, "tensor '%.200s': ", w->name ? w->name : "");
    if (w->opaque.len || (!w->tensor.data && w->storage == STORAGE_EXTERNAL))
        return err_set(r->err, ERR_MODEL, "tensor '%.200s' is of a kind that cannot be held", w->name ? w->name : "");
    if (out->name && out->name_size)
        snprintf(out->name, out->name_size, "%s", w->name ? w->name : "");
    tensor_ref(out->t, &w->tensor);
    return 0;
}

/* Walk and parse `bytes` as a `root` message and build a model from it. */
static struct model *read_message(struct tbuf *bytes, size_t len, const char *dir, const struct onnx_read_opts *opts,
                                  const ProtobufCMessageDescriptor *root, parsed_fn *build, void *arg, struct err *err)
{
    struct err local = {0};
    struct wire w;
    struct reader r = {.w = &w, .file = bytes, .dir = dir, .opts = opts, .err = &local};
    ProtobufCMessage *message;
    int rc = -1;
    if (wire_walk(&w, tbuf_data(bytes), len, root, &local)) {
        if (local.code == ERR_MODEL && root == &onnx__model_proto__descriptor)
            explain(&w, &local);
        goto out;
    }
    r.m = model_new();
    r.scratch = arena_new();
    if (!r.m || !r.scratch || model_keep_file(r.m, tbuf_ref(bytes))) {
        reader_nomem(&r);
        goto out;
    }
    message = wire_unpack(&w, root, r.scratch, &local);
    if (message)
        rc = build(&r, message, arg);
out:
    wire_fini(&w);
    arena_free(r.scratch);
    if (rc == 0)
        return r.m;
    model_free(r.m);
    err_set(err, local.code, "%s", local.msg);
    return NULL;
}

static void unmap(void *data, size_t bytes)
{
    struct file_map map = {data, bytes};
    file_map_close(&map);
}

/* The file as a buffer whose last reference unmaps it. */
static struct tbuf *map_path(const char *path, const char *what, size_t *len, struct err *err)
{
    struct file_map map;
    struct err local = {0};
    if (file_map_open(&map, path, &local)) {
        err_set(err, local.code, "the %s file: %s", what, local.msg);
        return NULL;
    }
    *len = map.size;
    if (!map.size) {
        err_set(err, ERR_MODEL, "the %s file is empty (0 bytes)", what);
        return NULL;
    }
    struct tbuf *bytes = tbuf_wrap((void *)(uintptr_t)map.data, map.size, unmap, err);
    if (bytes)
        tbuf_set_mapped(bytes);
    else
        file_map_close(&map);
    return bytes;
}

struct model *onnx_read_bytes(struct tbuf *bytes, size_t len, const struct onnx_read_opts *opts, struct err *err)
{
    if (!len) {
        err_set(err, ERR_MODEL, "the model file is empty (0 bytes)");
        return NULL;
    }
    return read_message(bytes, len, opts ? opts->external_dir : NULL, opts, &onnx__model_proto__descriptor, build_model,
                        NULL, err);
}

struct model *onnx_read_file(const char *path, const struct onnx_read_opts *opts, struct err *err)
{
    size_t len;
    struct model *m = NULL;
    const char *slash = strrchr(path, '/');
    char *own = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    const char *dir = opts && opts->external_dir ? opts->external_dir : own;
    struct tbuf *bytes = own ? map_path(path, "model", &len, err) : NULL;
    if (!own)
        err_set(err, ERR_NOMEM, "out of memory");
    if (bytes)
        m = read_message(bytes, len, dir, opts, &onnx__model_proto__descriptor, build_model, NULL, err);
    tbuf_unref(bytes);
    free(own);
    return m;
}

int onnx_read_tensor_bytes(struct tensor *t, char *name, size_t name_size, struct tbuf *bytes, size_t len,
                           struct err *err)
{
    struct tensor_out out = {t, name, name_size};
    *t = (struct tensor){0};
    struct model *m = read_message(bytes, len, NULL, NULL, &onnx__tensor_proto__descriptor, build_tensor, &out, err);
    model_free(m);
    return m ? 0 : -1;
}

int onnx_read_tensor_file(struct tensor *t, char *name, size_t name_size, const char *path, struct err *err)
{
    size_t len;
    *t = (struct tensor){0};
    struct tbuf *bytes = map_path(path, "tensor", &len, err);
    if (!bytes)
        return -1;
    int rc = onnx_read_tensor_bytes(t, name, name_size, bytes, len, err);
    tbuf_unref(bytes);
    return rc;
}
