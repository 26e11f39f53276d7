# SPDX-License-Identifier: Apache-2.0
# Targets that people and CI call; the build itself is in the Makefile.
.PHONY: unit check-layers
unit: $(TEST_BIN) ## C unit tests (T=name for one)
	@set -e; for t in $(TEST_BIN); do case "$$t" in *$(T)*) $$t;; esac; done
check-layers: ## lower layers never include higher ones
	tools/check_layers.sh
