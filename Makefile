# Thin verbs over scripts/setup and the CMake presets.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/thermocline
MODEL ?= $(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf
HOST ?= 127.0.0.1
PORT ?= 8000
# Where conversations outlive the server; empty: nowhere.
STORE ?= $(CACHE)/kv
# Tests with servers or threads (e2e, tsan) know time limits and run one at a time, the others two.
CTEST := ctest --output-on-failure --no-tests=error --test-dir

.PHONY: help serve test check build calibrate lint cubins sanitize bench bench-peers quality waking load sessions examples chats soak format
help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

serve:  ## build and serve MODEL on HOST:PORT, with a page to chat on
	@scripts/setup serve
	@cmake --preset serve >/dev/null
	@cmake --build --preset serve --target thermocline
	@build/release/thermocline serve "$(MODEL)" --host $(HOST) --port $(PORT) --kv-store-dir "$(STORE)"

build:  ## build everything, tests included
	@cmake --preset release >/dev/null
	@cmake --build --preset release

test:  ## set up, build and test
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@$(CTEST) build/release -LE 'e2e|tsan' -j2
	@$(CTEST) build/release -L 'e2e|tsan'

check:  ## what is slower than the tests: format, clang-tidy, kernels for GPUs, the sanitizers
	@scripts/setup test
	@scripts/check-format
	@$(MAKE) --no-print-directory build lint cubins sanitize

calibrate: build  ## what cold pages do to MODEL, layer by layer; measured once, then kept
	@build/release/thermocline calibrate "$(MODEL)"

lint:  ## clang-tidy on what is ours, after a build
	@scripts/lint

cubins:  ## compile the kernels for GPUs, without one, and hold them to their budget
	@scripts/check_cubins

# The comparisons with oracles drive the same code again, much slower: `oracle` runs without sanitizers.
sanitize:  ## the tests under ASan+UBSan (built by clang), those with threads under TSan
	@cmake --preset asan >/dev/null
	@cmake --build --preset asan
	@$(CTEST) build/asan -LE 'oracle|e2e|tsan' -j2
	@$(CTEST) build/asan -LE oracle -L 'e2e|tsan'
	@cmake --preset tsan >/dev/null
	@cmake --build --preset tsan --target tsan_tests
	@$(CTEST) build/tsan -L tsan

# Builds llama-server once, about ten minutes, and measures for an hour. Needs a quiet machine to mean anything.
bench-peers: build  ## measure beside llama-server: tables and curves into benchmarks/results
	@$(CACHE)/venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@peer=$$(benchmarks/peers/build_llama_server) && \
	  for script in compare context growth contention greedy; do \
	    $(CACHE)/venv/bin/python benchmarks/peers/$$script.py --ours build/release/thermocline --peer "$$peer" --model "$(MODEL)" || exit 1; \
	  done

bench: build  ## measure operations beside the machine's peaks
	@build/release/ops_bench
	@build/release/scheduler_bench
	@build/release/tokenizer_bench

# About an hour on two cores; goes on where it was interrupted. QUALITY_FLAGS=--size=quick: minutes.
quality:  ## what each KV cache policy does to answers, into benchmarks/results
	@scripts/setup test
	@$(CACHE)/venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target thermocline kv_quality
	@$(CACHE)/venv/bin/python benchmarks/quality/quality.py --ours build/release/thermocline \
	  --kv-quality build/release/kv_quality --model "$(MODEL)" $(QUALITY_FLAGS)

# About twenty minutes on two cores.
waking: build  ## pass keys in archived pages, before and after waking
	@$(CACHE)/venv/bin/python benchmarks/quality/waking.py --ours build/release/thermocline --model "$(MODEL)" $(WAKING_FLAGS)

# About ten minutes a policy on two quiet cores.
load: build  ## 32 sequences of 4K tokens in an arena for 8, beside the engine held to hot pages
	@$(CACHE)/venv/bin/python benchmarks/load/load.py --binary build/release/thermocline --model "$(MODEL)"

# About ten minutes on two quiet cores, after llama-server is built.
sessions: build  ## conversations that come back: from the store, computed again, beside llama-server's slots
	@peer=$$(benchmarks/peers/build_llama_server) && \
	  $(CACHE)/venv/bin/python benchmarks/sessions/returning.py --ours build/release/thermocline --peer "$$peer" \
	  --model "$(MODEL)" $(SESSIONS_FLAGS)

# Some minutes. One alone: build/release/thermocline built, examples/NAME/run.py [--quick] [--url URL].
examples: build  ## a book, a code base, an agent's memory, a log: memory and time with tiers and store on and off
	@for name in book_qa code_base agent_memory log_stream; do \
	  echo "== $$name"; \
	  THERMOCLINE_MODEL="$(MODEL)" $(CACHE)/venv/bin/python examples/$$name/run.py $(EXAMPLES_FLAGS) || exit 1; \
	done

chats: build  ## chats a second where the model takes no time: what HTTP, JSON, template, tokenizer and scheduler cost
	@$(CACHE)/venv/bin/python benchmarks/server/chats.py --instant build/release/instant_model --model "$(MODEL)"

soak: build  ## sixteen clients that come and go for a minute
	@THERMOCLINE_SOAK_SECONDS=60 $(CTEST) build/release -R e2e_soak --verbose

format:  ## format our C++ in place
	@git ls-files '*.h' '*.cc' | xargs clang-format -i
