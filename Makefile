# Every target installs what it needs first (integration/prerequisites).
#   make demo        the whole story on a lab of this machine: a mail server goes from Debian 12 to 13
#   make test        all tests; RING=unit|sim|native|jail|vsphere|dom0 for one ring; dom0: on an emulated
#                    Xen host; vsphere: with the API's large generated crate, minutes to build once
#   make soak        what takes longer than a ring may: full release upgrades, every way of every strategy;
#                    N=500: instead, so many kills of the controller at moments drawn by lot, on real guests
#   make fuzz        libFuzzer on every parser, TIME=60 seconds each; PARSERS="xl_cfg …" for some
#   make lint        format, clippy, licences and advisories
#   make bench       measures what the product costs, into target/bench.json; KEYS="status_ms …" for some,
#                    KEYS=xen for those on the emulated Xen host (the better part of an hour)
#   make build       the product to install; FEATURES= leaves VMware's API out, which is three quarters of the work
#   make lab-dom0    an emulated Xen host with LVM, libvirt and xl; says how to get in
#   make clean-lab   takes every lab down and removes its images: leaves nothing

RING ?= all
TIME ?= 60
FEATURES ?= vsphere
BIN := $(CURDIR)/target/debug/upgradectl
CARGO := cargo
# The product as the tests are built: with another choice of packages the API's large crate would be built once more.
ALIKE = $(CARGO) build --workspace --tests --features upgradectl/vsphere,integration/vsphere
export RUST_LIB_BACKTRACE = 0

.PHONY: build lab lab-dom0 test soak fuzz lint demo bench clean-lab

build:
	integration/prerequisites build
	$(CARGO) build --release $(addprefix --features ,$(FEATURES))

# The product and the lab's programs, as tests and the demo use them.
lab:
	integration/prerequisites lab
	$(CARGO) build --package upgradectl --package integration --bin upgradectl --bin lab --bin demo

lab-dom0:
	integration/prerequisites dom0
	$(CARGO) build --package upgradectl --package integration --bin upgradectl --bin lab
	target/debug/lab dom0 up
	UPGRADECTL_BIN=$(BIN) target/debug/lab dom0 product

demo: lab
	UPGRADECTL_BIN=$(BIN) target/debug/demo

test:
	integration/prerequisites test
	$(if $(filter all vsphere,$(RING)),$(ALIKE),$(CARGO) build --bin upgradectl)
	UPGRADECTL_BIN=$(BIN) RING=$(RING) integration/test

soak:
ifdef N
	integration/prerequisites test
	$(CARGO) build --bin upgradectl
	UPGRADECTL_BIN=$(BIN) UPGRADECTL_KILLS=$(N) $(CARGO) nextest run --profile kills --package integration --test native
else
	$(MAKE) test RING=soak
endif

fuzz:
	integration/prerequisites fuzz
	integration/fuzz/run $(TIME) $(PARSERS)

lint:
	integration/prerequisites lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features upgradectl/vsphere,integration/vsphere -- -D warnings
	$(CARGO) deny --workspace check bans licenses sources
	@if $(CARGO) deny --workspace fetch db > /dev/null 2>&1; then \
		$(CARGO) deny --workspace check advisories; \
	else \
		echo "lint: advisories NOT checked: their database cannot be reached from here"; \
	fi

bench: lab build
	integration/prerequisites bench
	$(CARGO) build --quiet --package integration --bin bench
	UPGRADECTL_BIN=$(CURDIR)/target/release/upgradectl target/debug/bench $(KEYS)

clean-lab:
	$(CARGO) build --quiet --package integration --bin lab
	target/debug/lab clean
