# Everything runs in .venv, made on first use; PYTHON names the interpreter it is made with (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.dev
LOAD := .venv/.load
BENCH := .venv/.bench
NOTEBOOKS := .venv/.notebooks
DOCS := .venv/.docs
PEERS := tests/peers/node_modules/.ready
PROMETHEUS := .peers/.ready
SERVERS := .servers/.ready
MAKEFLAGS += --jobs=3  # what is fetched from different places need not wait for each other
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: drill load load-headless notebooks docs reference test tests check compiled mutants prove peers servers browser bench clean

drill: $(READY)  ## storm the embedded runtime with the quick set of drills and say go or no-go
	$(BIN)/stormgate drill run --quick

load: $(LOAD)  ## open Locust's page on the embedded runtime; it tells its address
	$(BIN)/python -m locustfiles.load.start

load-headless: $(LOAD)  ## storm the embedded runtime with Locust for about two minutes and say go or no-go
	$(BIN)/locust -f locustfiles/reconnect_storm.py --headless --only-summary --pattern waves --steady-s 30 --fault-s 75

notebooks: $(NOTEBOOKS)  ## open the planners' notebooks
	$(BIN)/jupyter lab --ip 127.0.0.1 --notebook-dir notebooks --allow-root  # only here, and with a token: containers know no other user

docs: $(DOCS)  ## build the documentation and serve it on a free port of this machine; it prints the address
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr "127.0.0.1:$$($(BIN)/python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')"

reference: $(READY)  ## write the reference pages again from the code
	$(BIN)/python -m drills.cli.reference

test: check tests  ## style, types, and all tests

tests: $(DEV) $(PEERS) $(PROMETHEUS) $(SERVERS) browser compiled  # many wait more than they work: what `check` takes fits in between
	$(BIN)/pytest -n 4 --dist worksteal --durations 25 -p tests.processor_time

compiled: $(DEV)  # once: the hundreds of processes that tests start, and each worker of pytest, need not do it
	$(BIN)/python -m compileall -q sim drills locustfiles tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --collect-only -qq > /dev/null
	$(BIN)/stormgate drill run reconnect_storm --engine fleet --clients 10 --out .venv/compiled > /dev/null || test $$? -eq 2

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: $(DEV)  ## change one line at a time in the code that decides; fast tests must kill 95 % of these mutants
	$(BIN)/python -m tests.mutants

prove: $(DEV) $(SERVERS)  ## show on real sockets that whatever is wrong on purpose is caught by name, and that healthy servers are not blamed: hours
	$(BIN)/python -m tests.prove
	$(BIN)/python -m tests.prove_healthy
	$(BIN)/pytest -m long -n 2

peers: $(PEERS) $(PROMETHEUS) browser  ## fetch the foreign programs that tests connect to the embedded runtime

servers: $(SERVERS)  ## install the third-party servers that drills run against: Go, Node.js and some minutes are needed

browser:  ## find or install the browser that looks at the reports, and jq
	@bash tests/peers/programs.sh > /dev/null

bench: $(BENCH) $(SERVERS)  ## measure mock, engine and load tests side by side with plain clients
	$(BIN)/python -m tests.bench

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	@touch $(READY)

$(DEV): $(READY)
	$(INSTALL) '.[dev,load]'
	@touch $(DEV) $(LOAD) $(DOCS)

$(NOTEBOOKS): $(READY)
	$(INSTALL) '.[notebooks]'
	@touch $(NOTEBOOKS)

$(DOCS): $(READY)
	$(INSTALL) '.[docs]'
	@touch $(DOCS)

$(LOAD): $(READY)
	$(INSTALL) '.[load]'
	@touch $(LOAD)

$(BENCH): $(READY)
	$(INSTALL) '.[load,bench]'
	@touch $(BENCH) $(LOAD)

# Exact versions of packages that need no others stand in the package.json: that is lock enough.
$(PEERS): tests/peers/package.json
	@command -v npm > /dev/null || { echo "Node.js 18 or newer with npm is needed for the tests; install it first." >&2; exit 1; }
	npm install --prefix tests/peers --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $(PEERS)

$(PROMETHEUS): tests/peers/prometheus.sh | browser  # apt serves one at a time
	@rm -f .peers/prometheus
	@bash tests/peers/prometheus.sh
	@touch $(PROMETHEUS)

$(SERVERS): drills/third_party/installed.py drills/third_party/programs/package.json | $(READY)
	$(BIN)/python -m drills.third_party.installed
	@touch $(SERVERS)

clean:
	rm -rf .peers .servers tests/peers/node_modules .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
