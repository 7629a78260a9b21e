# Everything from a bare clone: the targets make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: test demo samples lint prior gates gpu-check clean

PROMPT ?= a red mushroom

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

test: $(READY) lint
	$(BIN)/python -m pytest

# PROMPT as an object: its folder below runs/ is printed.
demo: $(READY)
	$(BIN)/dream "$(PROMPT)"

# Truth and samples of the prior for PROMPT, in runs/samples.png.
samples: $(READY)
	$(BIN)/python -m toybox "$(PROMPT)" --prior toybox --out runs/samples.png

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Trains the toybox prior anew in runs/prior (hours on a CPU) and writes its fp16 copy to runs/prior-half.
prior: $(READY)
	$(BIN)/vsd fit --config configs/toybox/autoencoder.yaml
	$(BIN)/vsd fit --config configs/toybox/prior.yaml
	$(BIN)/vsd fit --config configs/toybox/prior.yaml --trainer.max_steps=1300 --model.lr=5e-4 --model.decay=1000 --model.t_power=1.4
	$(BIN)/vsd fit --config configs/toybox/image_tower.yaml
	$(BIN)/python -c "from toybox.prior.training import save_half; save_half('runs/prior', 'runs/prior-half')"

gates: $(READY)
	$(BIN)/python -m toybox.prior.gates

# What only a GPU can show, in runs/gpu-check/report.md; at most 25 minutes.
gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu_check

clean:
	rm -rf $(VENV) *.egg-info
