/* SPDX-License-Identifier: Apache-2.0
 * Every operator's samples: what inference says is exactly what forward makes; with one input dimension unknown the
 * inferred shape does not contradict; constants or fed values give the same result. Values are checked against ONNX
 * Runtime by tests/e2e/test_ops_ort.py over the same samples. Then hostile values: each answered by a sentence. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/engine/engine.h"
#include "tests/op_case.h"

typedef void sample_fn(const struct op_class *op, const struct op_sample *s);

static void each_sample(sample_fn *fn)
{
    for (const struct op_class *const *row = op_all(); *row; row++)
        for (const struct op_sample *s = (*row)->samples; s && s->inputs; s++)
            fn(*row, s);
}

#define SAMPLE_FMT "%s since %d, sample '%s' '%s': "
#define SAMPLE_ARGS(op, s) (op)->type, (op)->since, (s)->inputs, (s)->attrs

static void build(struct op_case *c, const struct op_class *op, const struct op_sample *s)
{
    struct err err = {0};
    if (op_case_build(c, op, s, &err) < 0)
        fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(op, s), err.msg);
}

static void run(struct op_case *c, const struct op_class *op, const struct op_sample *s, struct tensor *out)
{
    struct err err = {0};
    struct plan *plan = plan_new(c->m, NULL, &err);
    if (!plan || plan_run(plan, c->fed, out, NULL, &err) < 0)
        fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(op, s), err.msg);
    plan_free(plan);
}

static bool agrees(const struct shape *inferred, const struct shape *real)
{
    if (inferred->rank < 0)
        return true;
    if (inferred->rank != real->rank)
        return false;
    for (int i = 0; i < real->rank; i++)
        if (inferred->dim[i] >= 0 && inferred->dim[i] != real->dim[i])
            return false;
    return true;
}

/* Call the row's infer with these types and values. */
static int infer_with(struct op_case *c, const struct op_class *op, const struct type *const *in,
                      const struct tensor *const *value, struct type *out, struct err *err)
{
    struct arena *arena = arena_new();
    void *attrs = arena_alloc(arena, op->attrs_size + 1);
    const struct node *node = &c->m->nodes[c->node];
    for (int i = 0; i < c->n_out; i++)
        out[i] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    int rc = op_parse_attrs(op, c->m, node, attrs, arena, err);
    struct infer_ctx ctx = {.node = node,
                            .attrs = attrs,
                            .opset = c->opset,
                            .n_in = c->n_in,
                            .n_out = c->n_out,
                            .in = in,
                            .in_value = value,
                            .out = out,
                            .arena = arena};
    if (rc == 0)
        rc = op->infer(&ctx, err);
    arena_free(arena);
    return rc;
}

static void types_of(const struct op_case *c, struct type *types, const struct type **in, const struct tensor **value,
                     bool values)
{
    for (int i = 0; i < c->n_in; i++) {
        types[i] = (struct type){.kind = TYPE_TENSOR,
                                 .dtype = c->in[i].dtype,
                                 .has_dtype = true,
                                 .has_shape = true,
                                 .shape = c->in[i].shape};
        in[i] = c->absent[i] ? NULL : &types[i];
        value[i] = !c->absent[i] && (values || c->weight[i]) ? &c->in[i] : NULL;
    }
}

static void check_inferred(const struct op_class *op, const struct op_sample *s, const struct op_case *c,
                           const struct type *inferred, const struct tensor *out, const char *how)
{
    for (int i = 0; i < c->n_out; i++) {
        char a[SHAPE_TEXT], b[SHAPE_TEXT];
        if (inferred[i].dtype != DTYPE_NONE && inferred[i].dtype != out[i].dtype)
            fail_msg(SAMPLE_FMT "output %d is inferred %s but is %s (%s)", SAMPLE_ARGS(op, s), i,
                     dtype_name(inferred[i].dtype), dtype_name(out[i].dtype), how);
        if (!agrees(&inferred[i].shape, &out[i].shape))
            fail_msg(SAMPLE_FMT "output %d is inferred %s but is %s (%s)", SAMPLE_ARGS(op, s), i,
                     shape_text(&inferred[i].shape, a), shape_text(&out[i].shape, b), how);
    }
}

/* Operators whose output sizes depend on values even when all shapes are known. */
static bool sizes_depend_on_values(const struct op_class *op)
{
    static const char *const types[] = {"NonZero", "Compress", "Unique", "NonMaxSuppression"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i], op->type) == 0)
            return true;
    return false;
}

static int samples_run;

static void infer_is_forward(const struct op_class *op, const struct op_sample *s)
{
    struct op_case c;
    struct type types[OP_CASE_INPUTS], inferred[OP_CASE_OUTPUTS];
    const struct type *in[OP_CASE_INPUTS];
    const struct tensor *value[OP_CASE_INPUTS];
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    struct err err = {0};
    build(&c, op, s);
    run(&c, op, s, out);
    types_of(&c, types, in, value, true);
    if (infer_with(&c, op, in, value, inferred, &err) < 0)
        fail_msg(SAMPLE_FMT "infer: %s", SAMPLE_ARGS(op, s), err.msg);
    check_inferred(op, s, &c, inferred, out, "everything known");
    for (int i = 0; i < c.n_out && !sizes_depend_on_values(op); i++)
        if (!shape_known(&inferred[i].shape) || inferred[i].dtype == DTYPE_NONE)
            fail_msg(SAMPLE_FMT "output %d is not inferred though everything is known", SAMPLE_ARGS(op, s), i);
    types_of(&c, types, in, value, false);
    if (infer_with(&c, op, in, value, inferred, &err) < 0)
        fail_msg(SAMPLE_FMT "infer without values: %s", SAMPLE_ARGS(op, s), err.msg);
    check_inferred(op, s, &c, inferred, out, "fed values unknown");
    for (int i = 0; i < c.n_out; i++)
        tensor_fini(&out[i]);
    op_case_free(&c);
    samples_run++;
}

/* Every dimension in turn is not known, or a symbol; every rank; every dtype. */
static void infer_never_contradicts(const struct op_class *op, const struct op_sample *s)
{
    struct op_case c;
    struct type types[OP_CASE_INPUTS], inferred[OP_CASE_OUTPUTS];
    const struct type *in[OP_CASE_INPUTS];
    const struct tensor *value[OP_CASE_INPUTS];
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    build(&c, op, s);
    run(&c, op, s, out);
    for (int k = 0; k < c.n_in; k++) {
        for (int d = -2; d < 2 * c.in[k].shape.rank && !c.absent[k]; d++) {
            struct err err = {0};
            types_of(&c, types, in, value, false);
            value[k] = NULL;
            if (d == -2)
                types[k].dtype = DTYPE_NONE;
            else if (d == -1)
                types[k].shape = SHAPE_UNKNOWN;
            else
                types[k].shape.dim[d / 2] = d % 2 ? DIM_SYMBOL(0) : DIM_UNKNOWN;
            if (infer_with(&c, op, in, value, inferred, &err) < 0)
                fail_msg(SAMPLE_FMT "input %d, dimension %d/2 unknown: %s", SAMPLE_ARGS(op, s), k, d, err.msg);
            check_inferred(op, s, &c, inferred, out, "partly unknown");
        }
    }
    for (int i = 0; i < c.n_out; i++)
        tensor_fini(&out[i]);
    op_case_free(&c);
}

/* Weights become inputs and inputs weights: the same bytes. */
static void constants_are_inputs(const struct op_class *op, const struct op_sample *s)
{
    struct op_case c, d;
    struct tensor a[OP_CASE_OUTPUTS] = {0}, b[OP_CASE_OUTPUTS] = {0};
    char inputs[1000];
    size_t n = 0;
    if (op->nondeterministic || strlen(s->inputs) > 400 || strstr(s->inputs, "none"))
        return;
    for (const char *p = s->inputs; *p;
         p++) { /* "a !b" -> "!a b" would reseed random values, so compare by bytes fed below */
        bool start = p == s->inputs || p[-1] == ' ';
        if (start && *p != '!')
            inputs[n++] = '!';
        if (!(start && *p == '!'))
            inputs[n++] = *p;
    }
    inputs[n] = 0;
    struct op_sample flipped = *s;
    flipped.inputs = inputs;
    build(&c, op, s);
    build(&d, op, &flipped);
    int fed = 0;
    for (int i = 0; i < c.n_in; i++) { /* the values of c everywhere */
        if (d.weight[i])
            assert_int_equal(value_set_weight(d.m, d.m->nodes[d.node].input[i], &c.in[i]), 0);
        else
            d.fed[fed++] = c.in[i];
    }
    run(&c, op, s, a);
    run(&d, op, &flipped, b);
    for (int i = 0; i < c.n_out; i++) {
        if (!tensor_equal(&a[i], &b[i]))
            fail_msg(SAMPLE_FMT "output %d differs when constants are fed", SAMPLE_ARGS(op, s), i);
        tensor_fini(&a[i]);
        tensor_fini(&b[i]);
    }
    op_case_free(&c);
    op_case_free(&d);
}

static void test_infer_is_forward(void **state)
{
    (void)state;
    samples_run = 0;
    each_sample(infer_is_forward);
    print_message("%d samples\n", samples_run);
    assert_true(samples_run > 200);
}
static void test_infer_never_contradicts(void **state)
{
    (void)state;
    each_sample(infer_never_contradicts);
}
static void test_constants_are_inputs(void **state)
{
    (void)state;
    each_sample(constants_are_inputs);
}

/* ---- hostile and odd values: what is said, or what comes out ---- */
static const struct {
    const char *type, *inputs, *attrs, *says; /* part of the sentence; "= 1,2": the values that come out */
    int opset;
} odd[] = {
    {"Div", "i32[2]=1,2 i32[2]=1,0", "", "integer division by zero: element 1", 13},
    {"Mod", "i64[1]=5 i64[1]=0", "", "integer division by zero", 13},
    {"Div", "i32[1]=-2147483648 i32[1]=-1", "", "= -2147483648", 13},
    {"Div", "i64[1]=-9223372036854775808 i64[1]=-1", "", "= -9223372036854775808", 13},
    {"Mod", "i64[1]=-9223372036854775808 i64[1]=-1", "", "= 0", 13},
    {"Mod", "i8[1]=-128 i8[1]=-1", "fmod=1", "= 0", 13},
    {"Mod", "f32[1] f32[1]", "", "floats need the attribute fmod = 1", 13},
    {"BitShift", "u8[2]=1,255 u8[2]=8,200", "direction=LEFT", "= 0,0", 13},
    {"BitShift", "u64[2]=1,255 u64[2]=64,200", "direction=RIGHT", "= 0,0", 13},
    {"Add", "f32[2,3] f32[4]", "", "shapes [2,3] and [4] do not broadcast", 13},
    {"Add", "f32[2] i32[2]", "", "input #0 is float32 but input #1 is int32", 13},
    {"Add", "f32[2,3] f32[3]", "", "before opset 7 shapes must be equal unless broadcast is 1", 6},
    {"Pow", "i32[1]=0 i32[1]=-1", "", "= 0", 13},
    {"Abs", "i8[1]=-128", "", "= -128", 13},
    {"Tile", "f32[2] !i64[1]=4611686018427387904", "", "would have", 13},
    {"Tile", "f32[2] !i64[1]=-1", "", "must not be negative", 13},
    {"Tile", "f32[2] !i64[1]=1000000000000000", "", "", 13},
    {"Expand", "f32[1] !i64[2]=1000000000000,1000000000000", "", "", 13},
    {"Expand", "f32[1] i64[2]=1000000,1000000000", "", "", 13},
    {"ConstantOfShape", "!i64[1]=1000000000000000", "", "", 13},
    {"ConstantOfShape", "i64[2]=4611686018427387904,4", "", "2^63", 13},
    {"ConstantOfShape", "i64[1]=-4", "", "must not be negative", 13},
    {"Range", "i64[]=0 i64[]=1000000000000000 i64[]=1", "", "", 13},
    {"Range", "!i64[]=0 !i64[]=5 !i64[]=0", "", "delta is 0", 13},
    {"Range", "i64[]=-9223372036854775808 i64[]=9223372036854775807 i64[]=1", "", "2^63", 13},
    {"Range", "f32[]=0 f32[]=inf f32[]=1", "", "would have inf elements", 13},
    {"Range", "f32[]=0 f32[]=nan f32[]=1", "", "elements", 13},
    {"Gather", "f32[3] i64[1]=3", "", "index 3 (element 0) is out of range; the axis has 3 elements", 13},
    {"Gather", "f32[3] i64[1]=-4", "", "index -4", 13},
    {"Gather", "f32[3] f32[1]", "", "must be int32 or int64", 13},
    {"Gather", "f32[0,2] i64[1]=0", "", "out of range", 13},
    {"GatherElements", "f32[2,2] i64[2,2]=0,1,2,0", "", "index 2", 13},
    {"GatherND", "f32[2,2] i64[1,2]=0,5", "", "index 5", 13},
    {"GatherND", "f32[2,2] i64[1,3]=0,0,0", "", "the indices name 3 axes", 13},
    {"ScatterElements", "f32[3] i64[1]=3 f32[1]", "", "index 3", 13},
    {"ScatterElements", "f32[3] i64[2]=0,1 f32[1]", "", "indices and updates have different shapes", 13},
    {"ScatterND", "f32[3] i64[1,1]=-9 f32[1]", "", "index -9", 13},
    {"ScatterND", "f32[3] i64[1,1]=0 f32[2]", "", "the updates are [2]; they must be [1]", 13},
    {"Slice", "f32[3] i64[1]=0 i64[1]=3 i64[1]=0 i64[1]=0", "", "step 0 is 0", 13},
    {"Slice", "f32[3]=1,2,3 i64[1]=-9223372036854775808 i64[1]=9223372036854775807", "", "= 1,2,3", 13},
    {"Slice",
     "f32[3]=1,2,3 i64[1]=9223372036854775807 i64[1]=-9223372036854775808 i64[1]=0 i64[1]=-9223372036854775808", "",
     "= 3", 13},
    {"Slice", "f32[3]=1,2,3 i64[1]=0 i64[1]=3 i64[1]=0 i64[1]=9223372036854775807", "", "= 1", 13},
    {"Slice", "f32[3] i64[2]=0,0 i64[1]=3", "", "they must agree", 13},
    {"Slice", "f32[3] i64[1]=0 i64[1]=3 i64[1]=7", "", "axis 7 is out of range", 13},
    {"Reshape", "f32[2,3] i64[2]=4,-1", "", "does not divide", 13},
    {"Reshape", "f32[2,3] i64[2]=-1,-1", "", "two -1", 13},
    {"Reshape", "f32[2,3] i64[3]=1,2,0", "", "to be copied from the input, which has only 2 axes", 13},
    {"Reshape", "f32[2,3] i64[2]=7,1", "", "cannot take the shape [7,1]", 13},
    {"Reshape", "f32[2,3] i64[2]=-2,3", "", "must be -1 or not negative", 13},
    {"Reshape", "f32[2,3] i64[17]", "", "at most 16", 13},
    {"Squeeze", "f32[2,1] i64[1]=0", "", "only axes of one can be squeezed", 13},
    {"Unsqueeze", "f32[2] i64[2]=0,0", "", "named twice", 13},
    {"Transpose", "f32[2,3]", "perm=0,0", "named twice", 13},
    {"Transpose", "f32[2,3]", "perm=0", "perm has 1 elements but the input has 2 axes", 13},
    {"Concat", "f32[2,3] f32[3,2]", "axis=0", "only axis 0 may differ", 13},
    {"Split", "f32[2,3] i64[1]=1", "", "split adds up to 1 but the axis has 2 elements", 13},
    {"Split", "f32[2,3] i64[2]=3,-1", "", "split has 2 sizes but there are 1 outputs", 13},
    {"Pad", "f32[2] i64[2]=-3,0", "", "cut more", 13},
    {"Pad", "f32[2] i64[2]=9223372036854775807,9223372036854775807", "", "too large", 13},
    {"Pad", "f32[0] i64[2]=1,1", "mode=reflect", "nothing to repeat", 13},
    {"Pad", "f32[3]=1,2,3 i64[2]=5,4", "mode=reflect", "= 2,1,2,3,2,1,2,3,2,1,2,3", 13},
    {"OneHot", "i64[1]=0 i64[]=-3 f32[2]", "", "depth is -3", 13},
    {"TopK", "f32[3] i64[1]=4", "", "k is 4 but axis 0 has only 3 elements", 13},
    {"ArgMax", "f32[2,0]", "axis=1", "no elements to choose from", 13},
    {"ReduceSum", "f32[2,3] i64[2]=1,1", "", "named twice", 13},
    {"ReduceMax", "f32[2,0]", "axes=1 keepdims=0", "= -inf,-inf", 13},
    {"ReduceMean", "f32[3]=1,nan,2", "keepdims=0", "= nan", 13},
    {"Cast", "f32[1]", "to=14", "cast from float32 to complex64 is not supported", 13},
    {"Cast", "f32[1]", "to=99", "must be the number of a type", 13},
    {"Cast", "f32[3]=nan,inf,-inf", "to=9", "= 1,1,1", 13},
    {"CumSum", "f32[2] i32[]=5", "", "axis 5 is out of range", 13},
    {"Max", "f32[2]=nan,1 f32[2]=1,nan", "", "= nan,nan", 13},
    {"ReverseSequence", "f32[2,1] i64[1]=5", "", "length 5", 13},
    {"Compress", "f32[2] b[3]", "", "the condition has 3 elements but the axis only 2", 13},
    {"Trilu", "f32[2,2]=1,2,3,4 i64[]=9223372036854775807", "", "= 0,0,0,0", 14},
    {"Trilu", "f32[2,2]=1,2,3,4 i64[]=-9223372036854775808", "", "= 1,2,3,4", 14},
    {"EyeLike", "f32[2,2]", "k=-9223372036854775808", "= 0,0,0,0", 13},
    {"NonZero", "f32[]=3", "", "=", 13},
};

/* "1,2,nan" against a tensor's values. */
static void check_values(const char *label, const char *text, const struct tensor *t)
{
    int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        char *end;
        double want = strtod(text, &end), got = dtype_get(t->dtype, t->data, i);
        if (end == text || !(want == got || (want != want && got != got)))
            fail_msg("%s: element %d is %g, expected '%s'", label, (int)i, got, text);
        text = *end == ',' ? end + 1 : end;
    }
    if (*text && *text != ' ')
        fail_msg("%s: fewer elements than expected: %s", label, text);
}

static void odd_values_get_an_answer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        const struct op_class *op = op_find(odd[i].type, "", odd[i].opset);
        struct op_sample s = {odd[i].inputs, odd[i].attrs, strcmp(odd[i].type, "TopK") == 0 ? 2 : 1, odd[i].opset};
        struct tensor out[OP_CASE_OUTPUTS] = {0};
        struct op_case c;
        struct err err = {0};
        char label[300];
        assert_non_null(op);
        snprintf(label, sizeof label, SAMPLE_FMT, SAMPLE_ARGS(op, &s));
        build(&c, op, &s);
        struct plan_opts opts = {.max_memory_bytes = 1 << 20};
        struct plan *plan = plan_new(c.m, &opts, &err);
        int rc = plan ? plan_run(plan, c.fed, out, NULL, &err) : -1;
        if (odd[i].says[0] == '=') {
            if (rc < 0)
                fail_msg("%s%s", label, err.msg);
            if (odd[i].says[1])
                check_values(label, odd[i].says + 2, &out[0]);
        } else {
            if (rc == 0)
                fail_msg("%sexpected a refusal", label);
            if (!strstr(err.msg, odd[i].says))
                fail_msg("%sexpected '%s', got '%s'", label, odd[i].says, err.msg);
            assert_true(strncmp(err.msg, "node 'node'", 11) == 0);
        }
        for (int k = 0; k < c.n_out; k++)
            tensor_fini(&out[k]);
        plan_free(plan);
        op_case_free(&c);
    }
}

/* ---- shapes with symbols ---- */
static void symbols_survive(void **state)
{
    (void)state;
    static const int64_t N = DIM_SYMBOL(0);
    static const struct {
        const char *type, *inputs, *attrs;
        int64_t want[4];
        int rank, opset;
    } cases[] = {
        {"Reshape", "f32[2,3,4] !i64[2]=0,-1", "", {DIM_SYMBOL(0), 12}, 2, 13},
        {"Reshape", "f32[2,3,4] !i64[2]=-1,12", "", {DIM_SYMBOL(0), 12}, 2, 13},
        {"Reshape", "f32[2,3,4] !i64[2]=-1,6", "", {DIM_UNKNOWN, 6}, 2, 13},
        {"Reshape", "f32[2,3,4] !i64[3]=0,4,-1", "", {DIM_SYMBOL(0), 4, 3}, 3, 13},
        {"Flatten", "f32[2,3,4]", "", {DIM_SYMBOL(0), 12}, 2, 13},
        {"Transpose", "f32[2,3,4]", "perm=1,0,2", {3, DIM_SYMBOL(0), 4}, 3, 13},
        {"Add", "f32[2,3] f32[1,3]", "", {DIM_SYMBOL(0), 3}, 2, 13},
        {"Concat", "f32[2,3] f32[2,4]", "axis=1", {2, 7}, 2, 13},
        {"Slice", "f32[2,8] !i64[1]=2 !i64[1]=6 !i64[1]=1", "", {DIM_SYMBOL(0), 4}, 2, 13},
        {"ReduceMean", "f32[2,3,4,4]", "axes=2,3", {DIM_SYMBOL(0), 3, 1, 1}, 4, 13},
        {"Unsqueeze", "f32[2,3] !i64[1]=0", "", {1, DIM_SYMBOL(0), 3}, 3, 13},
        {"Squeeze", "f32[2,1,3] !i64[1]=1", "", {DIM_SYMBOL(0), 3}, 2, 13},
        {"Gather", "f32[2,3] !i64[2]=0,1", "axis=1", {DIM_SYMBOL(0), 2}, 2, 13},
        {"Pad", "f32[2,3] !i64[4]=0,1,0,1", "", {DIM_SYMBOL(0), 5}, 2, 13},
        {"Tile", "f32[2,3] !i64[2]=1,2", "", {DIM_SYMBOL(0), 6}, 2, 13},
        {"Cast", "f32[2,3]", "to=7", {DIM_SYMBOL(0), 3}, 2, 13},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct op_sample s = {cases[i].inputs, cases[i].attrs, 1, cases[i].opset};
        const struct op_class *op = op_find(cases[i].type, "", cases[i].opset);
        struct type types[OP_CASE_INPUTS], out[OP_CASE_OUTPUTS];
        const struct type *in[OP_CASE_INPUTS];
        const struct tensor *value[OP_CASE_INPUTS];
        struct op_case c;
        struct err err = {0};
        build(&c, op, &s);
        types_of(&c, types, in, value, false);
        types[0].shape.dim[0] = N;
        if (infer_with(&c, op, in, value, out, &err) < 0)
            fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(op, &s), err.msg);
        assert_int_equal(out[0].shape.rank, cases[i].rank);
        for (int d = 0; d < cases[i].rank; d++)
            if (out[0].shape.dim[d] != cases[i].want[d])
                fail_msg(SAMPLE_FMT "dimension %d is %lld, expected %lld", SAMPLE_ARGS(op, &s), d,
                         (long long)out[0].shape.dim[d], (long long)cases[i].want[d]);
        op_case_free(&c);
    }
}

/* ---- samples spoiled at random ---- */
static int64_t nasty(struct rng *rng)
{
    static const int64_t values[] = {0,         1,          -1,         2,         -2,        3,
                                     16,        17,         -17,        INT32_MAX, INT32_MIN, INT64_MAX,
                                     INT64_MIN, 1LL << 62,  -(1LL << 62), 1LL << 40, 100000,  4611686018427387905};
    return values[rng_below(rng, sizeof values / sizeof values[0])];
}

static void spoil_attr(struct attr *a, struct rng *rng)
{
    if ((a->type == ATTR_INT || a->type == ATTR_INTS) && a->count)
        a->ints[rng_below(rng, (uint64_t)a->count)] = nasty(rng);
    if (a->type == ATTR_INTS && a->count > 1 && rng_below(rng, 4) == 0)
        a->count--;
    if (a->type == ATTR_FLOAT)
        a->floats[0] = rng_below(rng, 2) ? (float)nasty(rng) : (float)NAN;
}

/* Another extent for one axis; the bytes follow (zeros). */
static void spoil_shape(struct op_case *c, int k, struct rng *rng)
{
    struct shape s = c->fed[k].shape;
    struct err err = {0};
    int slot = c->fed_slot[k];
    if (s.rank == 0 || rng_below(rng, 4) == 0)
        s = rng_below(rng, 2) ? SHAPE(2) : SHAPE_SCALAR;
    else
        s.dim[rng_below(rng, (uint64_t)s.rank)] = (int64_t)rng_below(rng, 5);
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, c->in[slot].dtype, &s, &err), 0);
    tensor_fini(&c->in[slot]);
    c->in[slot] = t;
    c->fed[k] = t;
    model_main(c->m)->inputs[k].type.shape = s;
}

static void spoil_value(struct tensor *t, struct rng *rng)
{
    int64_t n = tensor_count(t), v = nasty(rng);
    if (n == 0 || dtype_bits(t->dtype) < 8)
        return;
    char *at = (char *)t->data + (size_t)rng_below(rng, (uint64_t)n) * (size_t)(dtype_bits(t->dtype) / 8);
    dtype_convert(t->dtype, at, DTYPE_INT64, &v, 1);
}

static struct rng spoil_rng;

/* Whatever is refused is refused with a sentence; the sanitizers watch the rest. */
static void spoiled_samples_survive(const struct op_class *op, const struct op_sample *s)
{
    for (int round = 0; round < 40; round++) {
        struct op_case c;
        struct err err = {0};
        struct tensor out[OP_CASE_OUTPUTS] = {0};
        build(&c, op, s);
        struct node *node = &c.m->nodes[c.node];
        uint64_t what = rng_below(&spoil_rng, 3);
        if (what == 0 && node->n_attr)
            spoil_attr(&node->attr[rng_below(&spoil_rng, (uint64_t)node->n_attr)], &spoil_rng);
        if (what == 1 && c.n_fed)
            spoil_shape(&c, (int)rng_below(&spoil_rng, (uint64_t)c.n_fed), &spoil_rng);
        for (int k = 0; k < c.n_in; k++)
            if (!c.absent[k] && !dtype_is_float(c.in[k].dtype) && rng_below(&spoil_rng, 2))
                spoil_value(&c.in[k], &spoil_rng);
        struct plan_opts opts = {.max_memory_bytes = 1 << 20};
        struct plan *plan = plan_new(c.m, &opts, &err);
        if ((!plan || plan_run(plan, c.fed, out, NULL, &err) < 0) && err.msg[0] == 0)
            fail_msg(SAMPLE_FMT "refused without a sentence", SAMPLE_ARGS(op, s));
        for (int k = 0; k < c.n_out; k++)
            tensor_fini(&out[k]);
        plan_free(plan);
        op_case_free(&c);
    }
}

static void test_spoiled_samples_survive(void **state)
{
    (void)state;
    const char *seed = getenv("OPS_SEED");
    rng_init(&spoil_rng, seed ? strtoull(seed, NULL, 10) : 1, 0);
    each_sample(spoiled_samples_survive);
}

int main(void)
{
    engine_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_infer_is_forward),     cmocka_unit_test(test_infer_never_contradicts),
        cmocka_unit_test(test_constants_are_inputs), cmocka_unit_test(odd_values_get_an_answer),
        cmocka_unit_test(symbols_survive),           cmocka_unit_test(test_spoiled_samples_survive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
