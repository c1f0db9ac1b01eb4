# Autopilot Unassign. `make` lists the targets. demo and test need Go and make alone; check installs its own tools, with python3 and npm.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ifndef VERSION
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || cat VERSION 2>/dev/null || echo dev)
endif
FUZZTIME ?= 1m
SOAKTIME ?= 30m
SOAKSEED ?= 0

GO      := go
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION)
# Static, without paths of the machine, and the same bytes wherever it is built. norpc leaves out a protocol that Lambda's
# provided runtimes do not speak, noaws the code without a use outside of AWS.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -tags lambda.norpc
TOOL    := $(GO) tool -modfile=internal/tools/go.mod
# These two do not build beside the other tools.
ACTIONLINT := $(GO) tool -modfile=internal/tools/actionlint/go.mod actionlint
SBOM    := $(GO) tool -modfile=internal/tools/sbom/go.mod cyclonedx-gomod
COMPONENTS := $(SBOM) bin -json -std -licenses -assert-licenses -noserial -notimestamp -version '$(VERSION)'
LIMIT   := 10485760
# The linted packages of bench/. The others would compile Microsoft's library for Graph.
BENCHMARK := . ./floor ./lambdafloor ./webhook

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
	$(GO) test -race -parallel 4 -timeout 30m ./...

.PHONY: check
check: lint templates docs-commands workflows power-automate servicenow servicenow-test powershell reproducible integration ## lint, check the templates, the connector and the application, build twice and compare, and prove it against others' programs: all that a reviewer runs

.PHONY: lint
lint: ## format, vet and lint the code, and hold the prose to its budgets
	$(GO) mod verify
	$(GO) mod tidy -diff
	$(TOOL) golangci-lint run ./...
	$(GO) vet -tags noaws ./function
	cd bench && $(GO) tool -modfile=../internal/tools/go.mod golangci-lint run $(BENCHMARK)
	$(GO) run ./internal/cmd/prose

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

# Programs of PyPI get a virtual environment for each lock file. The lock files are complete, so pip resolves nothing. The file that shows
# that an environment is complete is pyvenv.cfg: bin/python is a link to a program of the system.
define venv
	@command -v python3 >/dev/null || { echo "make $(MAKECMDGOALS) needs python3 (3.11 or later) with venv: install it" >&2; exit 1; }
	python3 -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps --requirement $<
	@touch $@
endef

.tools/zizmor/pyvenv.cfg: internal/tools/requirements.txt
	$(venv)

.PHONY: workflows
workflows: .tools/zizmor/pyvenv.cfg ## look for weaknesses in the workflows (needs python3 with venv)
	$(ACTIONLINT)
	.tools/zizmor/bin/zizmor --offline --quiet --persona pedantic --min-severity low .github

# Programs of the integration tests, pinned with their dependencies: integration/requirements.txt and
# integration/node/package-lock.json.
.tools/integration/pyvenv.cfg: integration/requirements.txt
	$(venv)

NODE := .tools/node/package-lock.json
$(NODE): $(wildcard integration/node/*)
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "make integration needs node (20.19 or later) and npm: install them" >&2; exit 1; }
	@rm -rf .tools/node && mkdir -p .tools/node && cp $^ .tools/node/
	cd .tools/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

.PHONY: integration
integration: .tools/integration/pyvenv.cfg $(NODE) ## test the program against others' programs (needs python3 with venv, node and npm)
	$(GO) test -count=1 -timeout 15m -tags integration ./integration

.PHONY: hostile
hostile: ## send 100000 hostile requests beside 1000 honest ones, directly and through each kind of Functions host, and print the figures (Linux)
	$(GO) test -count=1 -timeout 15m -v -tags hostile ./integration

# The Node programs that the benchmark compares with, pinned with their dependencies.
BENCHNODE := .tools/bench/package-lock.json
$(BENCHNODE): $(wildcard bench/node/*)
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "make bench needs node (20.19 or later) and npm: install them" >&2; exit 1; }
	@rm -rf .tools/bench && mkdir -p .tools/bench && cp $^ .tools/bench/
	cd .tools/bench && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# BENCH=-write writes the tables into docs/performance.md, BENCH='-rounds 3 -only floor,ours' takes less time.
BENCH ?= -limits

# The function is built as package-azure and package-lambda do, but for this machine. Microsoft's library for Graph takes minutes to
# compile the first time.
.PHONY: bench
bench: $(BENCHNODE) ## measure the function beside a floor and Microsoft's libraries, and hold it to its limits (Linux; needs node 20.19 and npm)
	@$(BUILD),noaws,nosim -o bin/bench/ours ./function
	@$(BUILD),nosim -o bin/bench/ours-lambda ./function
	@cd bench && $(BUILD) -o ../bin/bench/ . ./floor ./lambdafloor ./sdk
	@bin/bench/bench $(BENCH)

# Options: MUTANTS='-only T3', or '-changed REVISION' for the packages that changed since.
MUTANTS ?=

# In simulated time. SCALE=-full runs every combination.
SCALE ?=

.PHONY: scale
scale: ## drain 10,000 devices through both queues with 1 to 80 processes, and print the table
	@cd function && $(GO) test -count=1 -timeout 60m -tags scale -run TestScale -args $(SCALE)

.PHONY: mutants
mutants: ## remove each control and fail unless the test named in docs/security.md notices
	@$(GO) run ./internal/cmd/mutants $(MUTANTS)

# A seed of an earlier soak (SOAKSEED) has the same faults come in the same order.
.PHONY: soak
soak: ## serve 500 requests a second for SOAKTIME (30m) under faults, rotations and freezes, and print the figures (Linux)
	$(GO) test -count=1 -timeout 0 -v -tags soak ./integration -args -soaktime $(SOAKTIME) -soakseed $(SOAKSEED)

# cfn-lint, the SAM CLI, the AWS CLI and moto.
AWS := .tools/aws/bin/python
.tools/aws/pyvenv.cfg: infra/aws/requirements.txt
	$(venv)

# checkov needs other versions of boto3 and pydantic than these.
CHECKOV := .tools/checkov/bin/python
.tools/checkov/pyvenv.cfg: infra/azure/requirements.txt
	$(venv)

# Microsoft's parser of KQL, pinned in infra/azure/kql.
KQL := .tools/kql/node_modules/.package-lock.json
$(KQL): infra/azure/kql/package-lock.json
	@mkdir -p .tools/kql && cp infra/azure/kql/package*.json .tools/kql/
	cd .tools/kql && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

BICEP := $(firstword $(wildcard ../shared/tools/bicep/bicep) $(shell command -v bicep) $(wildcard $(HOME)/.azure/bin/bicep))

.PHONY: templates
templates: .tools/aws/pyvenv.cfg .tools/checkov/pyvenv.cfg $(KQL) ## compile and lint the templates of both clouds and the scripts (needs python3 with venv, npm; Bicep if it is there)
	@$(if $(BICEP),,echo "no Bicep compiler: the Bicep files are not compiled (az bicep install --version v0.49.2)")
	$(GO) test -count=1 -timeout 30m -tags templates -run 'Bicep|AzureDeploy|KQL|Grant' ./infra
	$(AWS) infra/aws/lint.py template.yaml
	$(CHECKOV) infra/azure/lint.py infra/azure/azuredeploy.json template.yaml
	.tools/checkov/bin/shellcheck infra/azure/grant.sh infra/azure/rehearse.sh infra/release/try.sh .ci/run

PWSH := $(firstword $(wildcard $(CURDIR)/../shared/tools/pwsh) $(shell command -v pwsh))

.PHONY: docs-commands
docs-commands: .tools/aws/pyvenv.cfg ## run the pages' commands, and have the real aws and sam check them (needs python3 with venv, bash; PowerShell if it is there)
	$(AWS) infra/aws/commands.py --pwsh '$(PWSH)' docs/aws.md docs/operations.md docs/schedules.md
	$(GO) test -count=1 -timeout 30m -tags templates -run PagesRun ./docs

# The real az parses the commands of docs/ and runs none. It is 730 MB, so that check does without it and the weekly workflow has it.
.tools/az/pyvenv.cfg: docs/check/requirements.txt
	$(venv)

.PHONY: docs-az
docs-az: .tools/az/pyvenv.cfg ## have the real az check the pages' commands (needs python3 with venv, bash)
	$(GO) test -count=1 -timeout 30m -tags templates -run AzTakes ./docs

# After a change of a Bicep file or of infra/azure/release.json: look at the difference before you commit it.
.PHONY: azuredeploy
azuredeploy: ## write azuredeploy.json, the snapshots and the deploy button anew (needs Bicep)
	@$(if $(BICEP),,$(error no Bicep compiler: az bicep install --version v0.49.2))
	$(GO) test -count=1 -tags templates -run 'AzureDeploy|BicepSnapshots' ./infra -update

.PHONY: reproducible
reproducible: ## build the packages twice, compare them bit for bit, and look at the size
	@rm -rf dist/once && $(MAKE) --no-print-directory VERSION='$(VERSION)' package-azure package-lambda && mkdir -p dist/once && mv dist/*.zip dist/once/
	@rm -rf dist/azure dist/lambda && $(MAKE) --no-print-directory VERSION='$(VERSION)' package-azure package-lambda
	@for f in azure azure-events lambda; do cmp dist/$$f.zip dist/once/$$f.zip || exit 1; done
	@for f in dist/azure/worker dist/lambda/bootstrap; do \
		size=$$(wc -c < $$f); echo "$$f: $$size bytes"; \
		test $$size -lt $(LIMIT) || { echo "$$f is larger than $(LIMIT) bytes" >&2; exit 1; }; done
	@echo "two builds are alike"

# The connector and the flows, as a maker imports them. The connector's definition is generated from handler/openapi.yaml. node reads
# it with an independent library.
.PHONY: power-automate
power-automate: infra/power-automate/check/node_modules/.package-lock.json ## make dist/power-automate: the connector, the flows and the solution (needs node 20.19 and npm)
	@npm --prefix infra/power-automate/check --silent run check
	@rm -rf dist/power-automate && mkdir -p dist/power-automate
	@cd infra/power-automate/connector && cp apiDefinition.swagger.json apiProperties.json icon.png $(CURDIR)/dist/power-automate/
	@$(GO) run ./internal/cmd/flows dist/power-automate
	@ls dist/power-automate

infra/power-automate/check/node_modules/.package-lock.json: infra/power-automate/check/package-lock.json
	npm --prefix infra/power-automate/check ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Run it after a change of the drawing (needs rsvg-convert).
infra/power-automate/connector/icon.png: infra/power-automate/connector/icon.svg
	rsvg-convert --width 230 --height 230 $< --output $@

# The application for ServiceNow. npm installs its SDK into a folder of its own, from the lock file and without install scripts.
# dist/servicenow is for a ServiceNow administrator without this repository. The SDK's own package stays out: its bytes
# differ in every build.
SERVICENOW := infra/servicenow
$(SERVICENOW)/node_modules/.package-lock.json: $(SERVICENOW)/package.json $(SERVICENOW)/package-lock.json
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || a == 20 && b >= 18 ? 0 : 1)' && npm --version >/dev/null \
		|| { echo "the ServiceNow application needs node 20.18 or newer, and npm" >&2; exit 1; }
	cd $(SERVICENOW) && npm ci --ignore-scripts --loglevel=error
	@touch $@

.PHONY: servicenow
servicenow: $(SERVICENOW)/node_modules/.package-lock.json ## make dist/servicenow: the update sets and the sources (needs node 20.18 and npm)
	cd $(SERVICENOW) && npm run --silent build
	@rm -rf dist/servicenow && mkdir -p dist/servicenow/sources && cp $(SERVICENOW)/dist/update-set*.xml dist/servicenow/
	@cd $(SERVICENOW) && cp -R src .npmrc now.config.json package.json package-lock.json setscope.mjs updateset.mjs $(CURDIR)/dist/servicenow/sources/
	@ls dist/servicenow

# It builds the application a second time, in another scope: minutes on a busy machine.
.PHONY: servicenow-test
servicenow-test: build servicenow ## test the ServiceNow application against bin/unassign (needs node 20.18 and npm)
	cd $(SERVICENOW) && npm test --silent

# It takes pwsh from beside the repository or from the PATH. Without one it tests nothing.
.PHONY: powershell
powershell: build ## test the PowerShell module against bin/unassign (needs pwsh with Pester 5)
	@pwsh=$$(command -v ../shared/tools/pwsh || command -v pwsh) || { echo "pwsh is not installed: the PowerShell module was not tested"; exit 0; }; \
		UNASSIGN_PROGRAM=$(CURDIR)/bin/unassign timeout 600 "$$pwsh" -NonInteractive -File infra/powershell/test.ps1

# authLevel of unassign, doctor and devices: anonymous (the program authenticates every caller), or function (the host wants a key as well).
AUTHLEVEL ?= anonymous

# Two packages, because the host starts 0.3 to 0.7 s slower with the sweep and the queue, even while they are disabled. The queue needs
# an extension of the host, and with it a host.json of its own.
.PHONY: package-azure
package-azure: ## make dist/azure.zip and dist/azure-events.zip (with sweep and queue), for an Azure function app on Linux
	$(if $(filter anonymous function,$(AUTHLEVEL)),,$(error AUTHLEVEL is anonymous or function))
	@rm -rf dist/azure/functions && mkdir -p dist/azure && cp -R infra/azure/functions dist/azure/
	@for f in $(filter-out health,$(notdir $(wildcard infra/azure/functions/*))); do \
		sed 's/"anonymous"/"$(AUTHLEVEL)"/' infra/azure/functions/$$f/function.json >dist/azure/functions/$$f/function.json; done
	@GOOS=linux GOARCH=amd64 $(BUILD),noaws,nosim -o dist/azure/worker ./function
	@$(GO) run ./internal/cmd/pack dist/azure.zip host.json worker=dist/azure/worker dist/azure/functions
	@$(GO) run ./internal/cmd/pack dist/azure-events.zip worker=dist/azure/worker dist/azure/functions infra/azure/sweep infra/azure/queue

# The program for Lambda, without the simulated cloud.
LAMBDA := GOOS=linux GOARCH=arm64 $(BUILD),nosim

.PHONY: package-lambda
package-lambda: ## make dist/lambda.zip, for Lambda on arm64
	@$(LAMBDA) -o dist/lambda/bootstrap ./function
	@$(PACK) dist/lambda.zip bootstrap=dist/lambda/bootstrap

# sam build calls these for the resources of the same names (BuildMethod: makefile).
.PHONY: build-Function build-QueueFunction
build-Function build-QueueFunction:
	$(LAMBDA) -o $(ARTIFACTS_DIR)/bootstrap ./function

# Every file that a person downloads. release fails when one is missing, and when another one is there.
PROGRAMS := darwin-amd64.tar.gz darwin-arm64.tar.gz linux-amd64.tar.gz linux-arm64.tar.gz windows-amd64.zip windows-arm64.zip
DEPLOYED := azure-linux-amd64.zip azure-linux-amd64-events.zip azuredeploy.json createUiDefinition.json grant.ps1 grant.sh lambda-linux-arm64.zip aws-sam.zip powershell.zip
IMPORTED := power-automate.zip servicenow.zip
SBOMS    := $(addsuffix .cdx.json,azure-linux-amd64 lambda-linux-arm64 $(addprefix unassign-,$(basename $(PROGRAMS:.tar.gz=.tar))))
RELEASED := $(addprefix unassign-,$(PROGRAMS)) $(DEPLOYED) $(IMPORTED) $(SBOMS) licenses.txt

PACK     := $(GO) run ./internal/cmd/pack
OUT      := dist/release
# Semantic, as the Serverless Application Repository wants it.
SEMVER   := $(shell printf '%s\n' '$(VERSION)' | sed -nE 's/^v?([0-9]+\.[0-9]+\.[0-9]+([-+].*)?)$$/\1/p')

.PHONY: release
release: release-programs release-imports ## make every file of a release in dist/release (needs node 20.19 and npm)
	@cd $(OUT) && rm -f SHA256SUMS && ls | sort > ../released.txt
	@printf '%s\n' $(RELEASED) | sort | diff - dist/released.txt || { echo "dist/release has not the files of RELEASED" >&2; exit 1; }
	@cd $(OUT) && sha256sum * > SHA256SUMS && cat SHA256SUMS

# Programs, packages and templates: Go builds them alone, so that no package of npm or PyPI runs beside them.
.PHONY: release-programs
release-programs: package-azure package-lambda
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@for target in $(PROGRAMS); do platform=$${target%%.*}; os=$${platform%-*}; arch=$${platform#*-}; exe=; test $$os = windows && exe=.exe; \
		GOOS=$$os GOARCH=$$arch $(BUILD) -o dist/programs/$$platform/unassign$$exe ./function && \
		$(PACK) $(OUT)/unassign-$$target unassign$$exe=dist/programs/$$platform/unassign$$exe LICENSE infra/release/README.txt && \
		$(COMPONENTS) -output $(OUT)/unassign-$$platform.cdx.json dist/programs/$$platform/unassign$$exe || exit 1; done
	@cp dist/azure.zip $(OUT)/azure-linux-amd64.zip && cp dist/azure-events.zip $(OUT)/azure-linux-amd64-events.zip
	@cp dist/lambda.zip $(OUT)/lambda-linux-arm64.zip && cp infra/azure/azuredeploy.json infra/azure/createUiDefinition.json infra/azure/grant.sh infra/azure/grant.ps1 $(OUT)/
	@rm -rf dist/sam && mkdir -p dist/sam && cp LICENSE samconfig.toml infra/aws/README.md $(OUT)/lambda-linux-arm64.zip dist/sam/
	@sed -E -e 's|CodeUri: \.$$|CodeUri: lambda-linux-arm64.zip|' -e '/^    Metadata:$$/,/^      BuildMethod:/d' -e 's|infra/aws/README.md|README.md|' \
		-e 's|^#   sam build && sam deploy|#   sam deploy|' -e 's|SemanticVersion: .*|SemanticVersion: $(or $(SEMVER),0.0.0-g$(VERSION))|' template.yaml > dist/sam/template.yaml
	@$(PACK) $(OUT)/aws-sam.zip dist/sam
	@rm -rf dist/powershell && mkdir -p dist/powershell && cp -R infra/powershell/AutopilotUnassign dist/powershell/
	@$(PACK) $(OUT)/powershell.zip dist/powershell LICENSE
	@$(COMPONENTS) -output $(OUT)/azure-linux-amd64.cdx.json dist/azure/worker
	@$(COMPONENTS) -output $(OUT)/lambda-linux-arm64.cdx.json dist/lambda/bootstrap
	@$(GO) list -deps -tags lambda.norpc -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./function | sort -u | \
		while read -r path version dir; do printf '%s %s\n\n' "$$path" "$$version"; cat "$$dir"/LICENSE*; printf '\n\n'; done > $(OUT)/licenses.txt
	@cat "$$($(GO) env GOROOT)/LICENSE" >> $(OUT)/licenses.txt

# The files that makers and administrators import. Tools from npm build them.
.PHONY: release-imports
release-imports: power-automate servicenow
	@mkdir -p $(OUT)
	@$(PACK) $(OUT)/power-automate.zip dist/power-automate LICENSE && $(PACK) $(OUT)/servicenow.zip dist/servicenow LICENSE

.PHONY: release-try
release-try: .tools/aws/pyvenv.cfg ## try dist/release without Go, make and Node: the demo in an empty root, the templates with the real tools (Linux)
	@infra/release/try.sh $(OUT) $(CURDIR)/$(AWS) $(PWSH)

# Every prompt but the names gets Enter.
.PHONY: sam-try
sam-try: .tools/aws/pyvenv.cfg ## build and deploy a copy of HEAD with the SAM CLI, as far as that goes without an account (needs git)
	@rm -rf dist/sam-try && mkdir -p dist/sam-try && git archive HEAD | tar -x -C dist/sam-try && printf '%s\n' '$(VERSION)' > dist/sam-try/VERSION
	@$(AWS) infra/aws/deploy.py dist/sam-try

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
