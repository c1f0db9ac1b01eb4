# Autopilot Unassign. `make` lists the targets. demo and test need Go and make alone; check installs its own tools, with python3 and npm.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 1m

GO      := go
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION)
# Static, without paths of the machine, and the same bytes wherever it is built. norpc leaves out a protocol that Lambda's
# provided runtimes do not speak.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '$(LDFLAGS)'
TOOL    := $(GO) tool -modfile=internal/tools/go.mod
LIMIT   := 10485760

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][A-Za-z-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## play the main job on a simulated cloud
	@bin/unassign demo

.PHONY: run
run: build ## serve a simulated cloud on 127.0.0.1:8080
	@bin/unassign

.PHONY: build
build: ## build bin/unassign for this machine
	@$(BUILD) -o bin/unassign ./function

.PHONY: test
test: ## run all tests, with the race detector
	$(GO) test -race ./...

.PHONY: check
check: lint templates reproducible servicenow ## lint, check the templates, build twice and compare, test the ServiceNow application: all that a reviewer runs

.PHONY: lint
lint: ## format, vet and lint
	$(GO) mod verify
	$(GO) mod tidy -diff
	$(TOOL) golangci-lint run ./...
	$(TOOL) actionlint

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

# cfn-lint is a Python program. It goes into a folder of its own.
PYTHON := .tools/python/bin/python
$(PYTHON): infra/aws/requirements.txt
	python3 -m venv .tools/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.PHONY: templates
templates: $(PYTHON) ## lint template.yaml, as it is and as SAM expands it (needs python3 with venv)
	$(PYTHON) infra/aws/lint.py template.yaml

.PHONY: reproducible
reproducible: ## build the packages twice, compare them bit for bit, and look at the size
	@rm -rf dist/once && $(MAKE) --no-print-directory package-azure package-lambda && mkdir -p dist/once && mv dist/azure.zip dist/lambda.zip dist/once/
	@rm -rf dist/azure dist/lambda && $(MAKE) --no-print-directory package-azure package-lambda
	@cmp dist/azure.zip dist/once/azure.zip && cmp dist/lambda.zip dist/once/lambda.zip
	@for f in dist/azure/worker dist/lambda/bootstrap; do \
		size=$$(wc -c < $$f); echo "$$f: $$size bytes"; \
		test $$size -lt $(LIMIT) || { echo "$$f is larger than $(LIMIT) bytes" >&2; exit 1; }; done
	@echo "two builds are alike"

# The application for ServiceNow. Its SDK is installed into a folder of its own, from the lock file and without install scripts.
SERVICENOW := infra/servicenow
$(SERVICENOW)/node_modules/.package-lock.json: $(SERVICENOW)/package.json $(SERVICENOW)/package-lock.json
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || a == 20 && b >= 18 ? 0 : 1)' && npm --version >/dev/null \
		|| { echo "make servicenow needs node 20.18 or newer, and npm" >&2; exit 1; }
	cd $(SERVICENOW) && npm ci --ignore-scripts --loglevel=error
	@touch $@

.PHONY: servicenow
servicenow: build $(SERVICENOW)/node_modules/.package-lock.json ## build, pack and test the ServiceNow application (needs node >= 20.18 and npm)
	cd $(SERVICENOW) && npm run --silent build && npm run --silent pack && npm test --silent
	@mkdir -p dist/servicenow && cp $(SERVICENOW)/target/*.zip $(SERVICENOW)/dist/update-set.xml dist/servicenow/ && ls dist/servicenow

# The functions of the package beside unassign and health: WITH='sweep queue'. The queue needs an extension of the host, and so
# a host.json of its own.
WITH ?=

.PHONY: package-azure
package-azure: ## make dist/azure.zip, for an Azure function app on Linux (WITH='sweep queue' for these)
	@GOOS=linux GOARCH=amd64 $(BUILD) -o dist/azure/worker ./function
	@$(GO) run ./internal/pack dist/azure.zip $(if $(filter queue,$(WITH)),,host.json) worker=dist/azure/worker infra/azure/functions $(addprefix infra/azure/,$(WITH))

.PHONY: package-lambda
package-lambda: ## make dist/lambda.zip, for Lambda on arm64
	@GOOS=linux GOARCH=arm64 $(BUILD) -o dist/lambda/bootstrap ./function
	@$(GO) run ./internal/pack dist/lambda.zip bootstrap=dist/lambda/bootstrap

# What sam build calls for the resource Function (BuildMethod: makefile).
.PHONY: build-Function
build-Function:
	GOOS=linux GOARCH=arm64 $(BUILD) -o $(ARTIFACTS_DIR)/bootstrap ./function

.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME (1m)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; done

.PHONY: vuln
vuln: ## look for known vulnerabilities (needs the Go vulnerability database)
	$(TOOL) govulncheck ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist .aws-sam $(SERVICENOW)/dist $(SERVICENOW)/target
