/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/cgroup_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

enum { FILE_LIMIT = 1 << 16 };

/* The path behind "0::" in /proc/self/cgroup; a hybrid machine has other lines too. */
int cgroup_own(const char *mount, char path[PATH_MAX], struct err *err)
{
    char *text = file_read("/proc/self/cgroup", FILE_LIMIT, NULL, err);
    if (!text)
        return err_wrap(err, "/proc/self/cgroup: ");
    const char *line = !strncmp(text, "0::", 3) ? text : strstr(text, "\n0::");
    int rc = -1;
    if (!line) {
        err_set(err, ERR_IO, "there are no control groups of version 2");
    } else {
        line += (*line == '\n') + 3;
        const int len = (int)strcspn(line, "\n");
        const bool root = len == 1 && *line == '/';
        rc = snprintf(path, PATH_MAX, "%s%.*s", mount, root ? 0 : len, line) < PATH_MAX - 64
                 ? 0
                 : err_set(err, ERR_IO, "the path of the control group is too long");
    }
    free(text);
    return rc;
}

bool cgroup_parent(const char *mount, char path[PATH_MAX])
{
    char *slash = strrchr(path, '/');
    if (!slash || slash < path + strlen(mount))
        return false;
    *slash = 0;
    return true;
}
