.PHONY: demo test test-long test-litert mutants lint docs bench bench-peers bench-distillation bench-int8
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/hf-compress run quickstart --overwrite

test test-long test-litert mutants: export PYTHONDONTWRITEBYTECODE =  # the processes that tests start would compile everything again

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-long: .venv/installed
	$(BIN)/python -m pytest -m long --numprocesses auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/data/test_random_layouts.py --hypothesis-profile=thorough

test-litert: .venv-litert/installed  # LiteRT's converter and ExecuTorch want other versions of typing-extensions
	.venv-litert/bin/python -m pytest -m '' -k litert tests/runtimes tests/models/test_exporting.py tests/tools/test_export.py tests/device

mutants: .venv/installed  # PART=2/3 tries a third
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(addprefix --part ,$(PART))

BENCHMARKS := start_up distillation_step distillation_peers cached_distillation input_pipeline selection_of_weights channel_removal

bench: .venv/installed
	mkdir -p benchmarks/results
	set -e; for name in machine $(BENCHMARKS); do \
		OMP_NUM_THREADS=$$(nproc) $(BIN)/python benchmarks/$$name.py > benchmarks/results/$$name.md; \
		cat benchmarks/results/$$name.md; done

bench-peers: .venv-peers/installed  # hours without a GPU; PEERS="--quick --case resnet56" tries it in minutes
	.venv-peers/bin/python benchmarks/pruning_peers.py --all --out runs/pruning-peers $(PEERS)
	.venv-peers/bin/python benchmarks/pruning_peers.py --table runs/pruning-peers $(PEERS)

bench-distillation: .venv-peers/installed  # two minutes; PEERS="--data DATA --teacher MODEL --images N" takes other models
	mkdir -p benchmarks/results
	.venv-peers/bin/python benchmarks/distillation_quality.py $(PEERS) > benchmarks/results/distillation_quality.md
	cat benchmarks/results/distillation_quality.md

bench-int8: .venv-optimum/installed  # ten minutes; PEERS="MODEL DATA FILE.onnx ..." names what is compared
	mkdir -p benchmarks/results
	.venv-optimum/bin/python benchmarks/int8_peers.py $(PEERS) > benchmarks/results/int8_peers.md
	cat benchmarks/results/int8_peers.md

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed  # into build/site
	$(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

BESIDE := import site; here = site.getsitepackages()[0]; there = here.replace(".venv-litert", ".venv")
.venv-litert/installed: .venv/installed  # sees .venv, too, behind what is installed here: pip tells of that conflict
	$(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -c '$(BESIDE); open(f"{here}/beside.pth", "w").write(f"import site; site.addsitedir({there!r})")'
	.venv-litert/bin/python -m pip install --quiet --editable '.[litert]'
	touch $@

.venv-peers/installed: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet torch torchvision
	.venv-peers/bin/python -m pip install --quiet --editable . torch-pruning==1.6.1 nvidia-modelopt==0.47.0 torchprofile==0.0.4 torchdistill==1.1.5 requests
	touch $@

.venv-optimum/installed: pyproject.toml
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet torch torchvision
	.venv-optimum/bin/python -m pip install --quiet 'optimum-onnx[onnxruntime]==0.1.0' 'datasets<5' 'huggingface-hub<1' pillow
	touch $@
