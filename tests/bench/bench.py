# SPDX-License-Identifier: Apache-2.0
"""bench.py [--quick] [SECTION]...: the figures of docs/benchmarks.md, measured on this machine; peers run in the same run, alternating. Prints
Markdown and never fails for noise: a peer that is missing is named. Sections: service catalogue forward int8 training memory growth quantize prune container conformance."""
import os
import platform
import sys
import time

import catalogue
import conformance
import container
import engine
import prune
import quantize
import service
import training

SECTIONS = {"service": service.service, "catalogue": catalogue.catalogue, "forward": engine.forward, "int8": engine.int8, "training": training.training, "memory": engine.memory,
            "growth": engine.growth, "quantize": quantize.quantize, "prune": prune.prune, "container": container.container, "conformance": conformance.conformance}


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if not a.startswith("-")]
    unknown = set(chosen) - set(SECTIONS)
    if unknown:
        sys.exit(f"bench.py: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    print(f"# Benchmarks\n\nMeasured by `make bench` on {time.strftime('%Y-%m-%d')}: {cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}."
          " Machines differ and are noisy: compare ratios.")
    for name in chosen or SECTIONS:
        SECTIONS[name]()
