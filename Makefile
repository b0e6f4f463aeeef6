# Building and checking muxd. Needs Go and make; `make test` gets the rest, or says what is missing.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help build run test check bench kit chaos recovery soak scale generate fuzz clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/muxd and bin/muxctl
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/muxd ./cmd/muxctl

run: build ## build, and start muxd in the foreground with config.toml
	exec bin/muxd --config config.toml

test: ## install what the tests need, then check and test everything
	tools/install-test-deps
	tools/check
	tools/test

check: ## only the checks: gofmt, vet, staticcheck, generated code
	tools/check

bench: build ## measure muxd against its peers on this machine, and plot it (ONLY=regexp, FLAGS=)
	tools/install-test-deps bench
	go build -o bin/ ./bench
	bin/bench -bin bin -plot bin/bench.svg -only '$(ONLY)' $(FLAGS)

kit: ## hold the built-in sinks and the examples to the conformance kit at full size, for half an hour (ONLY=name)
	tools/kit-full $(ONLY)

chaos: ## kill muxd's processes 1,000 times under writing children, and count every byte (KILLS=, SEED=)
	go test ./chaos -count=1 -v -timeout 30m -kills $(or $(KILLS),1000) -seed $(or $(SEED),0)

recovery: ## measure how quickly muxd is back when it is killed, and write it into ARCHITECTURE.md (ROUNDS=)
	go test ./chaos -count=1 -v -timeout 30m -run 'TestRecovery' -recovery '$(CURDIR)/ARCHITECTURE.md' -rounds $(or $(ROUNDS),20)

soak: ## have children and viewers come and go, and look for what is left of them (SOAK=10m)
	go test ./chaos -run TestSoak -count=1 -v -timeout 0 -soak $(or $(SOAK),10m)

scale: ## 4,000 children with two pipes and 1,000 consoles at once, and kills (CHILDREN=, CONSOLES=)
	go test ./chaos -run TestScale -count=1 -v -timeout 20m -scale-children $(or $(CHILDREN),4000) -scale-consoles $(or $(CONSOLES),1000)

generate: ## make the Go code of the .proto files again
	tools/generate

fuzz: ## run every fuzz target for 10 seconds
	tools/fuzz 10s

clean: ## remove what was built
	rm -rf bin
