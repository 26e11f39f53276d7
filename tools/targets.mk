# SPDX-License-Identifier: Apache-2.0
# Targets that people and CI call; the build itself is in the Makefile.
VENV := build/venv

.PHONY: deps unit test e2e asan tsan check-layers docs docs-check conformance fuzz-smoke bench image demo cppcheck format
deps: ## install the Debian packages that building needs (root or sudo)
	@tools/deps.sh build

.PHONY: unit-build tools chaos grad-check
grad-check: $(BUILD)/tests/test_grad_check ## gradients of every operator against finite differences in float64 (T=Conv for some)
	@GRAD_CHECK_TYPE="$(T)" $<

TOOLS := $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))
tools: $(TOOLS)
unit-build: $(TEST_BIN)
UNITS := $(strip $(foreach t,$(TEST_BIN:$(BUILD)/tests/%=%),$(if $(T),$(if $(strip $(foreach w,$(T),$(findstring $w,$t))),unit-$t),unit-$t)))
.PHONY: $(UNITS)
unit: $(UNITS) ## C unit tests (T=name for some)
	@$(if $(UNITS),:,echo "no unit test has '$(T)' in its name" >&2; exit 1)
$(UNITS): unit-%: $(BUILD)/tests/%
	@echo "== $<"; $<

$(VENV)/ok: tests/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

# npm packages of the browser's tests
NPM := build/npm
$(NPM)/ok: tests/package.json
	@mkdir -p $(NPM) && cp $< $(NPM)/ && npm install --prefix $(NPM) --no-audit --no-fund --silent
	@touch $@

test: ## all tests: units, then the real binary over real HTTP and against ONNX Runtime
	@tools/deps.sh test
	@$(MAKE) --no-print-directory -j2 -Otarget all tools unit $(VENV)/ok $(NPM)/ok
	@$(MAKE) --no-print-directory e2e

e2e: all tools $(BUILD)/tests/test_onnx_write $(VENV)/ok $(NPM)/ok ## end-to-end tests only (T=name for some; SANDBOX=strict: all behind the walls of docs/security.md)
	$(if $(SANDBOX),PARED_SANDBOX=$(SANDBOX) )$(VENV)/bin/python -m pytest -q -p no:cacheprovider $(if $(T),-k $(T),-n 3 --dist worksteal) tests/e2e

# The server under a sanitizer: all of test_http.py; any report, also of a child, is a failure. Sanitizers trace their own process
# and write reports, which the sandbox forbids.
define sanitized_server # mode, variable of the sanitizer's options, options
	@rm -f build/$(1)/report.*
	PARED_BINARY=$(CURDIR)/build/$(1)/pared PARED_SANDBOX=off $(2)=$(3):log_path=$(CURDIR)/build/$(1)/report PARED_INSPECT_MEMORY_BYTES=1000t PARED_JOB_MEMORY_BYTES=1000t \
	  $(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_http.py
	@if ls build/$(1)/report.* >/dev/null 2>&1; then cat build/$(1)/report.*; exit 1; fi
endef
asan: $(VENV)/ok ## unit tests and the server under AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer
	@$(MAKE) --no-print-directory MODE=asan -j2 -Otarget unit all
	$(call sanitized_server,asan,ASAN_OPTIONS,detect_leaks=1)
tsan: $(VENV)/ok ## server, worker pool and thread pool under ThreadSanitizer
	@$(MAKE) --no-print-directory MODE=tsan unit-threads all
	$(call sanitized_server,tsan,TSAN_OPTIONS,halt_on_error=0)
.PHONY: unit-threads unit-threads-build
THREAD_TESTS := base id sqlstore store_conformance blob_disk tus auth http child worker loader
unit-threads-build: $(patsubst %,$(BUILD)/tests/test_%,$(THREAD_TESTS))
unit-threads: $(patsubst %,$(BUILD)/tests/test_%,$(THREAD_TESTS))
	@set -e; for t in $^; do echo "== $$t"; TSAN_OPTIONS=halt_on_error=1 $$t; done

check-layers: ## lower layers never include higher ones
	@tools/check_layers.sh
cppcheck: ## static analysis
	cppcheck --quiet -j2 --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 -I. -I$(GEN) --suppress='*:build/*' --suppress=unknownMacro core server api cli

CLI_DOCS := man:pared.1 bash:completion/pared.bash zsh:completion/_pared
docs: all $(BUILD)/tools/op_doc ## write the generated documents
	$(BUILD)/tools/op_doc > docs/OPS.md
	$(BUILD)/pared serve --markdown > docs/CONFIG.md
	@mkdir -p docs/completion
	$(foreach d,$(CLI_DOCS),python3 tools/cli_doc.py $(BUILD)/pared $(subst :, > docs/,$d) &&) :
docs-check: all $(BUILD)/tools/op_doc ## generated documents are what the binary prints
	@$(BUILD)/tools/op_doc | cmp - docs/OPS.md && $(BUILD)/pared serve --markdown | cmp - docs/CONFIG.md && \
	  $(foreach d,$(CLI_DOCS),python3 tools/cli_doc.py $(BUILD)/pared $(subst :, | cmp - docs/,$d) &&) echo "documents: ok" || { echo "run: make docs"; exit 1; }

# peers: the test environment, and PyTorch (4 GB) where `make bench-peers` has been called
.PHONY: bench-peers
BENCH_VENV := build/bench-venv
bench-peers: ## PyTorch and ONNX Runtime of pinned versions for `make bench` (4 GB)
	python3 -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install -q --disable-pip-version-check -r tests/bench/requirements.txt
bench: all tools $(VENV)/ok ## the figures of docs/benchmarks.md, on this machine, peers in the same run (T="forward int8" for some tables)
	@tools/deps.sh bench
	@$(if $(wildcard $(BENCH_VENV)/bin/python),$(BENCH_VENV),$(VENV))/bin/python tests/bench/bench.py $(T)

.PHONY: load
load: all $(VENV)/ok ## the service under load (1,000 waiting clients, 200 uploads, jobs) and beside nginx (QUICK=1: a short try)
	@tools/deps.sh bench
	@$(VENV)/bin/python tests/bench/service_load.py $(if $(QUICK),--quick)

.PHONY: quant-accuracy
quant-accuracy: all $(VENV)/ok ## accuracy of quantize.static on whole test sets, beside ONNX Runtime's own quantizer (T=name for some)
	$(VENV)/bin/python tests/e2e/quant_accuracy.py $(T)

.PHONY: prune-accuracy
prune-accuracy: all $(VENV)/ok ## what pruning gives and costs, judged by ONNX Runtime, beside published figures (T=--tables=recovery for some)
	$(VENV)/bin/python tests/e2e/prune_accuracy.py $(T)

.PHONY: train-accuracy
train-accuracy: all $(VENV)/ok ## what training gives, judged by ONNX Runtime, beside published figures and controls (FULL=1: all, about an hour)
	$(VENV)/bin/python tests/e2e/train_accuracy.py $(T)

# CHAOS=full: 2,000 jobs and 100 kills, about half an hour
CHAOS ?= small
CHAOS_small := --jobs 200 --kills 20
CHAOS_full := --jobs 2000 --kills 100 --limit 7200
chaos: all $(BUILD)/tools/faulty $(VENV)/ok ## jobs while the server is killed, its catalogue fails and clients hang up: every job ends exactly once (CHAOS=full)
	$(VENV)/bin/python tests/e2e/chaos.py $(CHAOS_$(CHAOS))

.PHONY: soak
SOAK_SECONDS ?= 60
SOAK_MODE ?= asan
soak: $(VENV)/ok ## mixed load for SOAK_SECONDS (60; an hour before a release) under SOAK_MODE=asan or tsan: clean, memory flat
	@$(MAKE) --no-print-directory MODE=$(SOAK_MODE) all
	$(VENV)/bin/python tests/e2e/soak.py --mode $(SOAK_MODE) --seconds $(SOAK_SECONDS)

FUZZ_SECONDS ?= 15
FUZZ_RUNS ?= 10000000
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
.PHONY: $(FUZZERS:%=fuzz-%) fuzz-build fuzz
fuzz-smoke: ## every fuzzer for FUZZ_SECONDS (15), two at a time, from seeds made by tests/fuzz/seeds.py and the kept regressions
	@tools/deps.sh test
	@$(MAKE) --no-print-directory MODE=fuzz -j2 fuzz-build
	@$(MAKE) --no-print-directory MODE=fuzz -j2 -Otarget $(FUZZERS:%=fuzz-%)
fuzz: ## every fuzzer for FUZZ_RUNS (10 million) executions: hours (T=name for some)
	@tools/deps.sh test
	@$(MAKE) --no-print-directory MODE=fuzz -j2 fuzz-build
	@$(MAKE) --no-print-directory MODE=fuzz -j2 -Otarget FUZZ_LIMIT=-runs=$(FUZZ_RUNS) $(foreach f,$(FUZZERS),$(if $(T),$(if $(findstring $(T),$f),fuzz-$f),fuzz-$f))
FUZZ_LIMIT = -max_total_time=$(FUZZ_SECONDS)
# the longest input: what its parser can do with it, in an execution of about a millisecond at most
FUZZ_LENGTH = $(or $(FUZZ_LENGTH_$*),16384)
FUZZ_LENGTH_http := 4096
FUZZ_LENGTH_json := 4096
FUZZ_LENGTH_multipart := 4096
FUZZ_LENGTH_onnx_read := 4096
FUZZ_LENGTH_ops := 1024
FUZZ_LENGTH_recipe := 4096
FUZZ_LENGTH_tus := 4096
# whose words it shares
FUZZ_WORDS_recipe := json
fuzz-build: $(FUZZERS:%=$(BUILD)/fuzz/fuzz_%)
fuzz-seeds: $(FUZZERS:%=fuzz-seeds-%)
$(FUZZERS:%=fuzz-seeds-%): fuzz-seeds-%: $(VENV)/ok
	@mkdir -p build/corpus/$* build/seeds/$* tests/fuzz/regression/$*
	@PYTHONDONTWRITEBYTECODE=1 $(VENV)/bin/python tests/fuzz/seeds.py $* build/seeds/$*
$(FUZZERS:%=fuzz-%): fuzz-%: $(BUILD)/fuzz/fuzz_% fuzz-seeds-%
	@echo "== fuzz_$*"; ASAN_OPTIONS=quarantine_size_mb=16 $< $(FUZZ_LIMIT) -timeout=25 -rss_limit_mb=2048 -max_len=$(FUZZ_LENGTH) -print_final_stats=0 -verbosity=0 \
	    $(patsubst %,-dict=%,$(wildcard tests/fuzz/$(or $(FUZZ_WORDS_$*),$*).dict)) -artifact_prefix=build/corpus/crash-$*- build/corpus/$* build/seeds/$* tests/fuzz/regression/$*

.PHONY: fuzz-seeds fuzz-coverage $(FUZZERS:%=fuzz-seeds-%)
fuzz-coverage: ## lines of each parser that seeds, kept regressions and the corpus of former runs reach
	@tools/deps.sh fuzz
	@$(MAKE) --no-print-directory MODE=cover -j2 fuzz-build fuzz-seeds
	@$(VENV)/bin/python tests/fuzz/coverage.py $(FUZZERS) -- $(PARSERS)

# the contract against a running server, by tools of their own environment
API_VENV := build/api-venv
$(API_VENV)/ok: tests/api-requirements.txt
	python3 -m venv $(API_VENV)
	$(API_VENV)/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@
.PHONY: schemathesis
schemathesis: all $(API_VENV)/ok ## requests made from openapi.yaml against a server, all checks (T="--phases stateful" for some)
	$(API_VENV)/bin/python tests/e2e/run_schemathesis.py $(T)

demo: ## install, build, serve, compress the example, show before and after (KEEP=1: leave the server running)
	@tools/deps.sh build
	@$(MAKE) --no-print-directory -s -j2 all
	@KEEP=$(KEEP) tools/demo.sh

image: ## build the container image without a daemon, and start it once (root)
	@tools/deps.sh image
	tools/image.sh

# the node tests that the onnx package generates itself, as files
NODE_CASES := build/onnx-node-tests
$(NODE_CASES)/VERSION: tests/tools/onnx_node_cases.py $(VENV)/ok
	@$(VENV)/bin/python $< $(NODE_CASES)
	@touch $@
conformance: $(BUILD)/tools/conformance $(NODE_CASES)/VERSION ## the ONNX backend tests of libonnx-testdata and of the onnx package, counted (V=1: every failure; T=name for some)
	@$(if $(T),$< $(if $(V),-v) $(T); $< $(if $(V),-v) -d $(NODE_CASES) $(T),$(VENV)/bin/python tests/tools/conformance.py $(if $(V),-v) $<)
.PHONY: conformance-doc
conformance-doc: $(BUILD)/tools/conformance $(NODE_CASES)/VERSION ## write docs/CONFORMANCE.md
	@$(VENV)/bin/python tests/tools/conformance.py --write $<

# the reader's test that lets every allocation fail in turn
$(BUILD)/tests/test_onnx_chaos: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
