/* SPDX-License-Identifier: Apache-2.0
 * A model with 3 GiB of external data is opened in less than 200 MiB of resident memory: its weights stay in the file.
 * The file is made by tests/e2e/make_big_model.py (sparse: no disk space). `test_onnx_big FILE` measures any other
 * model. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>
/* clang-format on */

#include "core/base/file.h"
#include "core/model/inspect.h"
#include "core/model/onnx_read.h"
#include "core/model/validate.h"

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static int open_model(const char *path, int64_t *bytes)
{
    struct err err = {0};
    struct model *m = onnx_read_file(path, NULL, &err);
    if (!m || model_validate(m, &err)) {
        printf("%s\n", err.msg);
        model_free(m);
        return -1;
    }
    json_t *facts = model_inspect(m), *layers = model_layers(m, 100);
    *bytes = model_weight_bytes(m);
    json_decref(facts);
    json_decref(layers);
    model_free(m);
    return 0;
}

static void test_three_gib(void **state)
{
    (void)state;
    char folder[] = "/tmp/pared-test-XXXXXX", text[256];
    int64_t bytes = 0;
    assert_non_null(mkdtemp(folder));
    snprintf(text, sizeof text, "python3 tests/e2e/make_big_model.py %s 3", folder);
    int made = system(text);
    snprintf(text, sizeof text, "%s/big.onnx", folder);
    int rc = made == 0 ? open_model(text, &bytes) : -1;
    file_remove_tree(folder, NULL);
    if (made) {
        printf("skipped: no python3\n");
        skip();
    }
    assert_int_equal(rc, 0);
    assert_int_equal(bytes, (int64_t)3 << 30);
    printf("3 GiB of weights opened at %.1f MiB resident\n", peak_mib());
    assert_true(peak_mib() < 200);
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        int64_t bytes = 0;
        int rc = open_model(argv[1], &bytes);
        printf("%.3f GiB of weights, %.1f MiB resident\n", (double)bytes / (1 << 30), peak_mib());
        return rc ? 1 : 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_three_gib)};
    return cmocka_run_group_tests_name("onnx_big", tests, NULL, NULL);
}
