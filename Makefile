# Thin verbs over CMake's presets and scripts/; `make help` lists them. Variables: PREFIX (install), T and F (fuzz).
# Nothing here asks a question; what is missing is installed by `make deps`.
.POSIX:
PREFIX ?= /usr/local
T ?= 60
F ?=

all: release ## the program: build/optimum

release: deps
	@cmake --preset release && cmake --build --preset release --target optimum

deps: ## install and build what is missing (system packages, llama.cpp, HiGHS); seconds when nothing is
	@scripts/deps.sh

tools: ## also llama-quantize, llama-imatrix, llama-perplexity, which tests and benchmarks compare with
	@scripts/deps.sh --tools

dev: deps ## build-dev/optimum: assertions, debug information, warnings are errors
	@cmake --preset dev && cmake --build --preset dev

demo: release ## everything on a real 135M model: build/demo/report.html in about 5 minutes
	@scripts/demo.sh build/optimum build/demo

test: tools ## all of it: lint, release build, sanitizers on the quick tests, then the full test suite
	@scripts/test.sh

check: deps ## the quick tests on the release build: for the edit loop
	@cmake --preset release && cmake --build --preset release
	@ctest --preset quick

asan: deps ## the quick tests with address and undefined-behaviour sanitizers
	@cmake --preset asan && cmake --build --preset asan
	@ctest --preset asan

fuzz: deps ## T=60 seconds of libFuzzer for each target (F=name: only that one); needs clang
	@cmake --preset fuzz && cmake --build --preset fuzz
	@scripts/fuzz.sh build-fuzz $(T) $(F)

lint: deps ## layers, headers, formatting: what needs no build
	@scripts/lint.sh

tidy: deps ## clang-tidy, not part of `make test`
	@cmake --preset dev && run-clang-tidy -quiet -p build-dev "src/.*\.c$$"

format: ## clang-format all sources
	@scripts/format.sh

format-check:
	@scripts/format.sh --check

bench: tools release ## seconds and memory beside llama.cpp's tools: build/bench/bench.json (bench/README.md)
	@scripts/bench.sh build/optimum build/bench

install: release ## to PREFIX (default /usr/local): bin/optimum, lib/optimum
	@cmake --install build --prefix "$(PREFIX)"

clean: ## remove the build folders; the cache of dependencies stays
	rm -rf build build-dev build-asan build-fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: all release deps tools dev demo test check asan fuzz lint tidy format format-check bench install clean help
