/* SPDX-License-Identifier: Apache-2.0
 * cgroup_path.h - the control group this process is in (version 2), whose limits are the machine as far as it goes.
 * Under systemd it lies somewhere below the mount; in a container with a namespace of its own it is the mount itself.
 * A limit of a group above holds too, so who looks for one walks up:
 *
 *     for (bool there = cgroup_own(CGROUP_MOUNT, path, NULL) == 0; there; there = cgroup_parent(CGROUP_MOUNT, path))
 */
#ifndef PARED_BASE_CGROUP_PATH_H
#define PARED_BASE_CGROUP_PATH_H

#include <limits.h>
#include <stdbool.h>

#include "core/base/err.h"

#define CGROUP_MOUNT "/sys/fs/cgroup"

/* The folder of the process's group below `mount`. -1 where there are none. */
int cgroup_own(const char *mount, char path[PATH_MAX], struct err *err);
/* `path` becomes the folder above; false at the mount. */
bool cgroup_parent(const char *mount, char path[PATH_MAX]);

#endif
