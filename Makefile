# SPDX-License-Identifier: Apache-2.0
# pared: one non-recursive Makefile. `make help` lists the targets; MODE=asan|tsan|debug|fuzz builds beside the release; V=1 shows
# the commands.

MODE  ?= release
Q     := $(if $(V),,@)
comma := ,
BUILD := build$(if $(filter-out release,$(MODE)),/$(MODE))
GEN   := build/gen
VERSION := $(shell cat VERSION)

CC := $(if $(filter fuzz cover,$(MODE)),clang,gcc)
PKGS := libmicrohttpd jansson libuv openblas lapacke libprotobuf-c sqlite3 zlib libzstd libseccomp libarchive libjpeg libpng nettle gnutls
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wconversion -Wundef -Wno-missing-field-initializers
OPT_release := -O2 -g
OPT_debug   := -O0 -g
OPT_asan    := -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT_fuzz    := -O1 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -w -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
OPT_cover   := -O0 -g1 -fprofile-instr-generate -fcoverage-mapping -w
OPT_tsan    := -O1 -g1 -fsanitize=thread -fno-omit-frame-pointer
CFLAGS  += -std=c11 -D_GNU_SOURCE -DPARED_VERSION='"$(VERSION)"' $(WARN) $(OPT_$(MODE)) -ffp-contract=off -fno-math-errno -fstack-protector-strong -I. -I$(GEN) \
           $(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(if $(CI),-Werror)
LDFLAGS += $(if $(filter gcc,$(CC)),-fuse-ld=gold) $(filter -fsanitize% -fprofile%,$(subst fuzzer-no-link$(comma),,$(OPT_$(MODE)))) -Wl,--as-needed -Wl,-z,relro,-z,now -pthread
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm

SRC  := $(sort $(wildcard core/*/*.c server/*.c api/*.c cli/*.c))
# Some modes look into a part of the code; the rest they take from another mode, which the tests have built anyway.
# fuzz: what parses hostile bytes is built by clang, with coverage; the rest comes from MODE=asan. (gcc is done with kernels in
# seconds where clang with sanitizers takes minutes.)
LOOKED_fuzz := $(addsuffix /%.c,core/base core/tensor core/model core/engine core/data core/encode core/recipe server api)
# MODE=cover counts the lines of these alone; the rest is what MODE=release has
LOOKED_cover = $(PARSERS)
PARSERS := $(wildcard core/model/onnx_read*.c) core/model/onnx_wire.c $(wildcard core/data/dataset*.c) \
  $(patsubst %,core/data/%.c,array description picture unpack) \
  $(patsubst %,core/encode/%.c,container_read array_decode huffman rans symbols mix mix_models onnx_regions) \
  $(patsubst %,core/recipe/%.c,json_text recipe recipe_words recipe_needs params) \
  $(patsubst %,server/%.c,guard router range trace forwarded multipart digest tus_text) api/job_new.c api/recipes.c
ifneq ($(filter fuzz cover,$(MODE)),)
OTHER := build$(if $(filter fuzz,$(MODE)),/asan)
REST := $(BUILD)/librest.a
REST_OBJ := $(SRC:%.c=$(OTHER)/obj/%.o)
SRC  := $(filter $(LOOKED_$(MODE)),$(SRC))
REST_OBJ := $(filter-out $(SRC:%.c=$(OTHER)/obj/%.o) %/cli/main.o,$(REST_OBJ))
endif
OBJ  := $(SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/gen/onnx.pb-c.o $(BUILD)/obj/gen/assets.o
LIB  := $(BUILD)/libpared.a
LIBS := -Wl,--start-group $(LIB) $(REST) -Wl,--end-group
TEST_SRC := $(sort $(wildcard tests/unit/test_*.c))
TEST_BIN := $(TEST_SRC:tests/unit/%.c=$(BUILD)/tests/%)
GENERATED := $(GEN)/onnx.pb-c.h $(GEN)/op_list.inc $(GEN)/method_list.inc $(GEN)/preset_list.inc

.PHONY: all help deps clean
all: $(BUILD)/pared

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include tools/targets.mk

# ---- generated sources: registries are grepped from the rows, so that adding a row touches one file
$(GEN)/onnx.pb-c.c $(GEN)/onnx.pb-c.h &: core/model/onnx.proto
	@mkdir -p $(GEN)
	@protoc-c --proto_path=core/model --c_out=$(GEN) core/model/onnx.proto
define grep_rows # macro name, folders, output
	@mkdir -p $(GEN)
	@grep -hoE '^$(1)\([a-z0-9_]+\)' $(2) | sed -E 's/^$(1)\((.*)\)/X(\1)/' | sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
endef
$(GEN)/op_list.inc: $(wildcard core/ops/*.c)
	$(call grep_rows,OP_CLASS,core/ops/*.c)
$(GEN)/method_list.inc: $(wildcard core/*/*.c)
	$(call grep_rows,METHOD,core/*/*.c)
$(GEN)/preset_list.inc: $(wildcard core/*/*.c)
	$(call grep_rows,PRESET,core/*/*.c)

# ---- dashboard files and openapi.yaml become bytes in the binary
ASSETS := $(sort $(wildcard api/dashboard/*)) openapi.yaml
$(GEN)/assets.S: $(ASSETS) tools/embed.sh Makefile
	@mkdir -p $(GEN)
	@tools/embed.sh $(ASSETS) > $@
$(BUILD)/obj/gen/assets.o: $(GEN)/assets.S
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) -c -o $@ $<

$(BUILD)/obj/gen/%.o: $(GEN)/%.c
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) $(filter-out -W%,$(CFLAGS)) -w -MMD -MP -c -o $@ $<
$(BUILD)/obj/%.o: %.c | $(GENERATED)
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) $(CFLAGS) $(CFLAGS_$(<F)) -MMD -MP -c -o $@ $<
$(LIB): $(filter-out $(BUILD)/obj/cli/main.o,$(OBJ))
	@rm -f $@.new && ar rcs $@.new $^ && mv $@.new $@
ifdef REST
.PHONY: FORCE
$(REST): FORCE | $(GENERATED) $(GEN)/assets.S
	@$(MAKE) --no-print-directory MODE=$(if $(filter fuzz,$(MODE)),asan,release) $(OTHER)/libpared.a
	@[ $@ -nt $(OTHER)/libpared.a ] || { rm -f $@ && ar rcsT $@ $(REST_OBJ); }
endif
$(BUILD)/pared: $(BUILD)/obj/cli/main.o $(LIB) $(REST)
	@echo "  LD $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)
$(BUILD)/tests/%: tests/unit/%.c $(LIB) $(REST) | $(GENERATED)
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) $(CFLAGS) -Wno-missing-prototypes -MMD -MP $(LDFLAGS) -o $@ $< $(LIBS) -lcmocka $(LDLIBS)

$(BUILD)/tools/%: tests/tools/%.c $(LIB) | $(GENERATED)
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)

$(BUILD)/fuzz/%: tests/fuzz/%.c $(LIB) $(REST) | $(GENERATED)
	@mkdir -p $(@D)
	@echo "  CC $@"
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer -MMD -MP $(LDFLAGS) -o $@ $< $(LIBS) $(LDLIBS)

# element-wise loops: vectorize also where the trip count is not known (-O2 alone does not)
$(foreach f,Binary Unary Reduce Expand fake_quant op_copy grad_util Binary_grad Reduce_grad Variadic,$(eval CFLAGS_$f.c := $(if $(filter release,$(MODE)),-O3)))
# ISA-specific kernels: one file an instruction set, named after it, chosen at run time (core/kernels/isa.h)
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avxvnni := $(ISA_avx2) -mavxvnni
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
$(foreach i,avx2 avxvnni avx512 avx512vnni,$(foreach f,$(notdir $(wildcard core/kernels/*_$i.c)),$(eval CFLAGS_$f := $(ISA_$i) $(if $(filter release,$(MODE)),-O3))))
# loops written to be vectorised: -O2 of gcc 12 leaves most of them scalar
$(foreach f,conv conv_i8 conv_blocked_portable q8 qgemm qconv channels_last im2col depthwise pooling norm activation softmax quantize QuantizeLinear gemm_i8 LRN Clip attention gemm_packed act rows convert histogram extent bin_count recurrent block_round nbits_pack weight_view,$(eval CFLAGS_$f.c := $(if $(filter release,$(MODE)),-O3)))
$(foreach f,act_grad batchnorm conv_grad norm_grad pool_grad loss optimizer grad_run,$(eval CFLAGS_$f.c := $(if $(filter release,$(MODE)),-O3)))

clean: ## remove what was built
	rm -rf build
-include $(shell find build -path build/image -prune -o -type f -name '*.d' -print 2>/dev/null)
