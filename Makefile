# make train: set up what is missing and learn Pong.  make test: set up and run the tests.
# Everything lives in .venv; nothing is installed outside this folder.

PYTHON ?= python3
GAME ?= Pong-v5
ARGS ?=
EXTRAS ?= train,plot,video,clients,dev

BIN := .venv/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml constraints.txt
PYTHON_FILES := fastdqn benchmarks tests examples docs/make_dashboard_picture.py docs/conf.py docs/lines.py .ci/set_address.py
MODULES := $(sort $(shell find fastdqn -name '*.py'))

.PHONY: setup train test lint format bench docs test-cpp test-embed help FORCE

help:
	@echo "make train [GAME=Breakout-v5] [ARGS='--preset nature --seed 2']   set up and train"
	@echo "make test [ARGS='-k replay']   set up and run the tests"
	@echo "make setup | lint | format | docs | bench | test-cpp | test-embed"

setup: .venv/.installed

# An editable install knows the modules that were there when it was made: written only when the list changes.
.venv/.modules: FORCE
	@mkdir -p .venv
	@echo '$(MODULES)' | cmp -s - $@ || echo '$(MODULES)' > $@

# Built again whenever the C++ sources, the requirements or the list of modules change.
.venv/.installed: $(SOURCES) .venv/.modules
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Setting up .venv: PyTorch and EnvPool are downloaded once, then the C++ extension is built."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

train: setup
	$(BIN)/fastdqn train $(GAME) $(ARGS)

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: setup
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/python docs/lines.py --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastdqn._core
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests benchmarks -name '*.hpp' -o -name '*.cpp' -o -name '*.inl')

format: setup
	$(BIN)/ruff check --fix $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/python docs/lines.py
	$(BIN)/clang-format -i $(shell find csrc tests benchmarks -name '*.hpp' -o -name '*.cpp' -o -name '*.inl')

# The core's own tests, optimised and under the sanitizers. Each is a CMake preset in csrc/.
test-cpp: test-cpp-release test-cpp-asan test-cpp-tsan

test-cpp-%: setup
	cd csrc && ../$(BIN)/cmake --preset $* -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja >/dev/null
	cd csrc && ../$(BIN)/cmake --build --preset $*
	cd csrc && ../$(BIN)/ctest --preset $*

# The wheel with numpy alone, find_package from it, and add_subdirectory without Python.
test-embed: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/embed/run $(CURDIR)/$(BIN)/python

# The site, in build/docs. A warning (a dead link, a docstring that does not parse) fails it; nothing is fetched.
docs: setup
	$(BIN)/python -c 'import furo, myst_parser' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . build/docs
	@echo "$(CURDIR)/build/docs/index.html"

bench: setup
	$(BIN)/python benchmarks/env.py
	$(BIN)/python benchmarks/update.py
	$(BIN)/python benchmarks/train.py
