/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/cgroup_path.h"

static void up_to_the_mount(void **state)
{
    char path[PATH_MAX] = "/m/system.slice/pared.service/server";
    (void)state;
    assert_true(cgroup_parent("/m", path));
    assert_string_equal(path, "/m/system.slice/pared.service");
    assert_true(cgroup_parent("/m", path));
    assert_true(cgroup_parent("/m", path));
    assert_string_equal(path, "/m");
    assert_false(cgroup_parent("/m", path));
    assert_string_equal(path, "/m");
}

static void below_the_mount(void **state)
{
    char path[PATH_MAX], line[PATH_MAX] = "";
    struct err err = {0};
    (void)state;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3) != 0)
        line[0] = 0;
    if (f)
        fclose(f);
    line[strcspn(line, "\n")] = 0;
    if (!line[0]) {
        assert_int_equal(cgroup_own("/m", path, &err), -1);
        assert_true(err.msg[0]);
        return;
    }
    assert_int_equal(cgroup_own("/m", path, &err), 0);
    assert_memory_equal(path, "/m", 2);
    assert_string_equal(path + 2, strcmp(line + 3, "/") == 0 ? "" : line + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(up_to_the_mount), cmocka_unit_test(below_the_mount)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
