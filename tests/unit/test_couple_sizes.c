/* SPDX-License-Identifier: Apache-2.0
 * Coupling rules by numbers counted by hand, so that none freezes more than it must; and rules of operators whose sizes
 * are computed while running (couple_bench.h). */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/couple_bench.h"

/* ---- that no rule freezes more than it must ---- */
static int free_classes(struct bench *b)
{
    bool frozen[MAX_ELEMENTS] = {false};
    int n = 0;
    for (int i = 0; i < b->n; i++)
        frozen[find(b, i)] = frozen[find(b, i)] || b->fixed[i];
    for (int i = 0; i < b->n; i++)
        n += find(b, i) == i && !frozen[i];
    return n;
}

/* Classes that can go, counted by hand; of a fold the last part lives. */
static const struct {
    const char *type;
    struct op_sample sample;
    int classes;
} counts[] = {
    {"Add", {"f32[2,3,4] f32[3,1]", ""}, 2 + 3 + 4},
    {"Add", {"f32[2,3,4] f32[3]", "broadcast=1 axis=1", 1, 6}, 2 + 3 + 4},
    {"Relu", {"f32[2,3]", ""}, 5},
    {"Where", {"b[2,1] f32[3] f32[]", ""}, 5},
    {"PRelu", {"f32[2,3,4,5] !f32[3,1,1]", ""}, 14},
    {"Cast", {"f32[2,3]", "to=7"}, 5},
    {"CastLike", {"f32[2,3] i64[4]", ""}, 5 + 4},
    {"Shape", {"f32[2,3,4]", ""}, 9},
    {"Transpose", {"f32[2,3,4,5]", "perm=0,2,3,1"}, 14},
    {"Identity", {"f32[2,3]", ""}, 5},
    {"Squeeze", {"f32[1,3,1] !i64[1]=0", ""}, 3},
    {"Unsqueeze", {"f32[3,4] !i64[2]=0,3", ""}, 7},
    {"Flatten", {"f32[2,3,4]", ""}, 2 + 4},
    {"Reshape", {"f32[2,12,5] !i64[4]=0,3,4,-1", ""}, 2 + 4 + 5},
    {"Reshape", {"f32[2,3,4,5] !i64[3]=2,-1,5", ""}, 2 + 4 + 5},
    {"Reshape", {"f32[2,3,1,4] !i64[4]=2,1,3,4", ""}, 2 + 3 + 4},
    {"Reshape", {"f32[4,6] !i64[2]=12,2", ""}, 4 + 2}, /* (4, 3, 2): the middle stays */
    {"Reshape", {"f32[4,6] !i64[2]=3,8", ""}, 0},
    {"Reshape", {"f32[3,2,12] !i64[3]=3,8,3", ""}, 3 + 2 + 3},
    {"Concat", {"f32[2,3] f32[2,1] f32[2,2]", "axis=1"}, 2 + 3 + 2}, /* all of the second stays */
    {"Split", {"f32[2,6]", "axis=1", 3, 11}, 2 + 6},
    {"Split", {"f32[2,7] !i64[3]=1,2,4", "axis=1", 3}, 2 + 6},
    {"Slice", {"f32[4,5] !i64[2]=1,0 !i64[2]=3,-1", ""}, 4 + 5},
    {"Slice", {"f32[4,5] !i64[1]=-1 !i64[1]=-100 !i64[1]=1 !i64[1]=-1", ""}, 4 + 5},
    {"Slice", {"f32[4,5] !i64[1]=0 !i64[1]=5 !i64[1]=1 !i64[1]=2", ""}, 4},
    {"Gather", {"f32[2,5,3] !i64[3]=1,0,-5", "axis=1"}, 2 + 5 + 3}, /* output elements 1 and 2 are the same */
    {"Gather", {"!f32[5,3] i64[2,2]=0,4,-1,2", ""}, 2 + 2 + 3},
    {"Gather", {"f32[2,5] i32[]=2", "axis=-1"}, 2},
    {"GatherElements", {"f32[3,3] i64[2,3]=1,2,0,2,0,0", ""}, 2 + 3},
    {"GatherND", {"f32[2,2,3] i64[2,1]=1,0", "batch_dims=1"}, 2 + 3},
    {"ScatterElements", {"f32[3,2] i64[3,2]=1,1,1,0,2,2 f32[3,2]", ""}, 2},
    {"ScatterND", {"f32[4,4,2] i64[2,1]=0,2 f32[2,4,2]", ""}, 4 + 2},
    {"Pad", {"f32[2,3] !i64[4]=0,1,0,2 f32[]=1.5", ""}, 2 + 6},
    {"Pad", {"f32[3,4] !i64[4]=-1,1,1,-2", ""}, 4 + 5},
    {"Pad", {"f32[2,3,4] !i64[6]=0,0,1,0,0,1", "mode=reflect"}, 2 + 3},
    {"Expand", {"f32[3,1] !i64[3]=2,1,6", ""}, 2 + 3 + 6},
    {"Tile", {"f32[2,3] !i64[2]=2,1", ""}, 2 + 3},
    {"Tile", {"f32[2,1] !i64[2]=2,5", ""}, 2 + 5},
    {"ConstantOfShape", {"!i64[2]=2,3", ""}, 5},
    {"MaxPool", {"f32[2,3,7,8]", "kernel_shape=3,3"}, 5},
    {"GlobalAveragePool", {"f32[2,3,4,5]", ""}, 5},
    {"ReduceMean", {"f32[2,3,4] !i64[1]=1", "keepdims=0"}, 6},
    {"ArgMax", {"f32[2,3,4]", "axis=1 keepdims=0"}, 6},
    {"TopK", {"f32[3,4,2] !i64[1]=3", "axis=1", 2}, 5},
    {"CumSum", {"f32[2,3] !i64[]=1", ""}, 2},
    {"Softmax", {"f32[2,3,40]", ""}, 5},
    {"Softmax", {"f32[2,3,4]", "axis=1", 1, 11}, 2},
    {"Resize", {"f32[2,3,4,5] none !f32[4]=1,1,2,3", "mode=nearest"}, 5},
    {"Resize", {"f32[2,3,4,5] none none !i64[4]=2,3,8,5", "mode=linear"}, 5 + 5},
    {"Resize", {"f32[2,3,4,5] none none !i64[2]=8,9", "mode=linear axes=2,3"}, 5},
    {"Upsample", {"f32[2,3,4,5]", "mode=nearest scales=1f,1f,2f,3f", 1, 8}, 5},
    {"DepthToSpace", {"f32[2,8,2,3]", "blocksize=2"}, 2 + 2},
    {"DepthToSpace", {"f32[2,8,2,3]", "blocksize=2 mode=CRD"}, 2 + 2},
    {"SpaceToDepth", {"f32[2,3,4,6]", "blocksize=2"}, 2 + 3},
    {"Col2Im", {"f32[2,8,9] !i64[2]=4,4 !i64[2]=2,2", ""}, 2 + 2},
    {"GridSample", {"f32[2,3,4,5] f32[2,3,6,2]", ""}, 2 + 3 + 3 + 6},
    {"RoiAlign", {"f32[2,3,8,9] f32[3,4]=0,0,7,7,1.5,2.5,6,5,3,3,9,9 i64[3]=0,1,0", ""}, 3 + 3},
    {"Trilu", {"f32[4,3,3]", ""}, 4},
    {"OneHot", {"i64[3]=0,2,-1 !i64[]=4 f32[2]=0,1", ""}, 3},
    {"BiasGelu", {"f32[2,3,40] !f32[40]", ""}, 45},
    {"BiasSplitGelu", {"f32[2,3,8] !f32[8]", ""}, 2 + 3 + 4},
};

static const struct op_class *row_of(const char *type, int opset)
{
    const struct op_class *op = op_find(type, "", opset ? opset : 24);
    op = op ? op : op_find(type, "com.microsoft", 1);
    if (!op)
        fail_msg("no operator %s", type);
    return op;
}

static void test_counts(void **state)
{
    (void)state;
    complaints = 0;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct bench *b = solve(row_of(counts[i].type, counts[i].sample.opset), &counts[i].sample, NULL, 1);
        if (free_classes(b) != counts[i].classes)
            complain(b, "%d classes can go, expected %d", free_classes(b), counts[i].classes);
        bench_close(b);
        check_sample(row_of(counts[i].type, counts[i].sample.opset), &counts[i].sample, NULL);
    }
    assert_int_equal(complaints, 0);
}

/* ---- sizes computed while running ---- */
/* The sizes are fed as they were before the cut: what the rule rewrites must hold all the same. */
static const struct {
    const char *type;
    struct op_sample sample;
    struct computed computed;
    int classes; /* that can go, for the last part of folds */
    bool corrected; /* by a Where, not by a constant */
} computed_cases[] = {
    {"Reshape", {"f32[2,12,5] i64[4]=2,3,4,5", ""},
     {1, {ANY, 3, 4, ANY}, {DIM_SYMBOL(0), 12, DIM_SYMBOL(1)}}, 0, false},
    {"Reshape", {"f32[2,12,5] i64[4]=2,3,4,5", ""},
     {1, {DIM_SYMBOL(0), 3, 4, DIM_SYMBOL(1)}, {DIM_SYMBOL(0), 12, DIM_SYMBOL(1)}}, 4, false},
    {"Reshape", {"f32[2,12,5] i64[4]=2,3,4,5", ""}, {1, {ANY, 3, 4, 5}, {DIM_SYMBOL(0), 12, 5}}, 4 + 5, false},
    {"Reshape", {"f32[2,12,5] i64[4]=2,3,4,5", ""}, {1, {-1, 3, 4, ANY}, {DIM_SYMBOL(0), 12, 5}}, 0, false},
    {"Reshape", {"f32[2,5,12] i64[4]=5,2,3,4", ""}, {1, {ANY, ANY, 3, 4}, {DIM_SYMBOL(0), DIM_SYMBOL(1), 12}}, 4, true},
    {"Reshape", {"f32[2,5,12] i64[4]=5,2,3,4", "", 1, 8},
     {1, {ANY, ANY, 3, 4}, {DIM_SYMBOL(0), DIM_SYMBOL(1), 12}}, 0, false},
    {"Reshape", {"f32[2,5,12] i64[3]=2,15,4", ""}, {1, {ANY, ANY, 4}, {DIM_SYMBOL(0), DIM_SYMBOL(1), 12}}, 4, true},
    {"Reshape", {"f32[6,2,12] i64[3]=6,8,3", ""}, {1, {6, ANY, 3}, {6, DIM_SYMBOL(0), 12}}, 6 + 3, false},
    {"Expand", {"f32[1,1,8] i64[3]=2,3,8", ""}, {1, {ANY, 3, 8}, {1, 1, 8}}, 3 + 8, true},
    {"Expand", {"f32[1,1,8] i64[3]=2,3,1", ""}, {1, {ANY, ANY, 1}, {1, 1, 8}}, 8, false},
    {"ConstantOfShape", {"i64[2]=2,6", "value=f32[1]=3"}, {0, {ANY, 6}, {0}}, 6, true},
    {"Tile", {"f32[4,1] i64[2]=2,5", ""}, {1, {ANY, 5}, {4, 1}}, 5, true},
    {"Resize", {"f32[2,4,3,3] none none i64[4]=2,4,6,6", "mode=nearest"},
     {3, {ANY, 4, ANY, ANY}, {DIM_SYMBOL(0), 4, DIM_SYMBOL(1), DIM_SYMBOL(2)}}, 4, true},
};

static void test_computed(void **state)
{
    (void)state;
    complaints = 0;
    for (size_t i = 0; i < sizeof computed_cases / sizeof *computed_cases; i++) {
        const struct op_sample *s = &computed_cases[i].sample;
        const struct op_class *op = row_of(computed_cases[i].type, s->opset);
        struct bench *b = solve(op, s, &computed_cases[i].computed, 1);
        const int before = seen.corrected, found = free_classes(b);
        if (found != computed_cases[i].classes)
            complain(b, "%d classes can go, expected %d", found, computed_cases[i].classes);
        if (check_sample(op, s, &computed_cases[i].computed) == 0 && found > 0)
            complain(b, "nothing was cut");
        if ((seen.corrected > before) != computed_cases[i].corrected)
            complain(b, "%d lists of sizes were corrected while running", seen.corrected - before);
        bench_close(b);
    }
    assert_int_equal(complaints, 0);
}

int main(void)
{
    engine_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_computed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
