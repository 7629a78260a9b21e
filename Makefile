# Everything from a bare clone: the targets make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: test faults bad-input long-run audit demo samples lint docs prior gates gpu-check clean

PROMPT ?= a red mushroom

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "make: $(PYTHON) is too old, Python 3.10 or newer is needed; say make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

# The tests run in WORKERS processes of one thread each; 0 for one process with all threads.
WORKERS ?= 2
test: $(READY) lint
	$(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# Some 1800 broken command lines and configurations, generated from the options of every command. 20 minutes or so of a
# free core.
bad-input: $(READY)
	$(BIN)/python tests/faults/bad_input.py

# Hits FAULTS small runs of each kind at random moments and compares what they resume to. Minutes.
FAULTS ?= 10
faults: $(READY) bad-input
	for run in nerf image geometry texture two dream; do \
		$(BIN)/python tests/faults/kills.py --run $$run --count $(FAULTS) || exit 1; done

# Memory, open files and speed over LONG steps of the smallest NeRF; half an hour of a free core for the 20000 of
# the default.
LONG ?= 20000
long-run: $(READY)
	$(BIN)/python tests/faults/long_run.py --steps $(LONG)

# Known vulnerabilities of the pinned versions; asks the index of advisories on the network, and fails where that does
# not know one of them.
audit: $(READY)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# PROMPT as an object: its folder below runs/ is printed.
demo: $(READY)
	$(BIN)/dream "$(PROMPT)"

# Truth and samples of the prior for PROMPT, in runs/samples.png.
samples: $(READY)
	$(BIN)/python -m toybox "$(PROMPT)" --prior toybox --out runs/samples.png

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The documentation as a site, in site/index.html; a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Trains the toybox prior from random weights in runs/prior (hours on a CPU), one part after the other, and writes its
# half-precision copy to runs/prior-half. Interrupted, it resumes where it stopped, also on another machine with this
# one's runs/; a part that is through is not run again. DEVICE=cuda: larger batches and more pictures on a GPU; a part
# ends on the kind of device and with the PROCESSES that it began with. On a CPU each process has a core and batches of
# its own. The UNet is compiled, which on a CPU takes one to three minutes at the start and halves the steps' time;
# COMPILE=false where there is no C++ compiler. PRECISION is bf16-mixed where the processor multiplies bfloat16 itself; one
# that does not trains in float32, since bfloat16 takes it 28 times as long.
DEVICE ?= cpu
COMPILE ?= true
PROCESSES ?= $(if $(filter cuda,$(DEVICE)),1,2)
BFLOAT16 = $(filter cuda,$(DEVICE))$(shell grep -m1 -owE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null)
PRECISION ?= $(if $(BFLOAT16),bf16-mixed,32-true)
PARTS := runs/prior-training

# Else glibc gives a step's arrays back to the system at once, and page faults take a third of the time.
prior: export MALLOC_TRIM_THRESHOLD_ = 8000000000
prior: export MALLOC_MMAP_THRESHOLD_ = 8000000000
prior: runs/prior-half/model_index.json

$(PARTS)/prior/done: | $(PARTS)/autoencoder/done
$(PARTS)/image_tower/done: | $(PARTS)/prior/done
$(PARTS)/%/done: | $(READY)
	$(BIN)/vsd fit --config configs/toybox/$*.yaml $(if $(filter cuda,$(DEVICE)),--config configs/toybox/$*-cuda.yaml) \
		--trainer.precision=$(PRECISION) $(if $(filter prior,$*),--model.compile=$(COMPILE)) \
		$(if $(filter-out 1,$(PROCESSES)),--trainer.devices=$(PROCESSES) --trainer.strategy=ddp) \
		$(addprefix --ckpt_path ,$(wildcard $(@D)/last.ckpt))
	mkdir -p $(@D) && touch $@

runs/prior-half/model_index.json: | $(PARTS)/image_tower/done
	$(BIN)/python -m toybox.prior.half runs/prior runs/prior-half

gates: $(READY)
	$(BIN)/python -m toybox.prior.gates

# What only a GPU can show, in runs/gpu-check/report.md; at most 25 minutes.
gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu_check

clean:
	rm -rf $(VENV) *.egg-info
