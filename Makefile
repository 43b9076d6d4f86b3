# The two commands of the README are `make demo` and `make test`. Each installs
# what it needs, so each works alone on a machine with Go, gcc, make and git.

BIN := bin
GO  ?= go

.PHONY: build demo test bench bench-full bench-check bench-profiles test-full fuzz deps deps-test deps-bench clean

build:
	$(GO) build -o $(BIN)/chancery ./appliance
	$(GO) build -o $(BIN)/chancery-agent ./agent
	$(GO) build -o $(BIN)/chancery-simulator ./simulator/cmd/chancery-simulator

# The whole story on simulators, in under a minute.
demo: deps build
	$(BIN)/chancery demo

# All tests, also those against SoftHSM and swtpm. A simulator that is missing
# is a failure, not a skip.
test: deps-test
	@unformatted="$$(gofmt -l .)"; test -z "$$unformatted" || { echo "error: not formatted: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...
	$(GO) test -C benchmarks/plot ./...

# What takes longer: the race detector, more rounds of pulled plugs, fuzzing.
test-full: test fuzz
	CHANCERY_FULL=1 $(GO) test -race -timeout 60m ./...

# What matters most, in minutes; all of it, in hours; whether a ratio has fallen
# since it was recorded; and where the time goes.
bench: deps-test deps-bench
	$(GO) run ./benchmarks core
	$(GO) run -C benchmarks/plot . ../results

bench-full: deps-test deps-bench
	$(GO) run ./benchmarks
	$(GO) run -C benchmarks/plot . ../results

bench-check: deps-test deps-bench
	$(GO) run ./benchmarks -check core

bench-profiles: deps-test
	$(GO) run ./benchmarks -profiles

# Every fuzz target for FUZZTIME.
FUZZTIME ?= 30s
fuzz:
	FUZZTIME=$(FUZZTIME) GO="$(GO)" scripts/fuzz

deps:
	scripts/deps softhsm2 swtpm swtpm-tools

deps-test:
	scripts/deps softhsm2 swtpm swtpm-tools opensc openssl nginx curl p11-kit libnss3 libtpm2-pkcs11-1 tpm2-tools tpm2-openssl postgresql

# Peers of the benchmarks. One that is missing is named as absent.
deps-bench:
	-scripts/deps stunnel4 nginx libnginx-mod-stream openssh-client libengine-pkcs11-openssl

clean:
	rm -rf $(BIN)
