package main

import (
	"fmt"
	"log"
	"os/exec"
	"sync"

	"govmomi/simulator"
	"govmomi/vim25/types"
)

// What stands behind a machine follows it: the simulator keeps its own word of snapshots, power and cards, and the lab's program does
// the same to the guest that it put there. A clone has the program of its original.

var behind = struct {
	sync.Mutex
	of map[types.ManagedObjectReference]*standIn
}{of: map[types.ManagedObjectReference]*standIn{}}

type standIn struct {
	program, user, password string
}

// stand puts a program behind a machine, which is how its system is entered from then on.
func stand(vm types.ManagedObjectReference, in *standIn) {
	behind.Lock()
	behind.of[vm] = in
	behind.Unlock()
	guests.Lock()
	guests.of[vm] = &guest{user: in.user, password: in.password, enter: []string{in.program, vm.Value, "enter"}}
	guests.Unlock()
}

func behindOf(vm types.ManagedObjectReference) *standIn {
	behind.Lock()
	defer behind.Unlock()
	return behind.of[vm]
}

// follow runs the program behind a machine, if there is one: PROGRAM MACHINE WORD…, as control.go tells them.
func follow(vm types.ManagedObjectReference, words ...string) {
	in := behindOf(vm)
	if in == nil {
		return
	}
	if output, err := exec.Command(in.program, append([]string{vm.Value}, words...)...).CombinedOutput(); err != nil {
		log.Printf("behind %s: %v: %v: %s", vm.Value, words, err, output)
	}
}

// cards is a word for each card: MAC,CONNECTED,CONNECTED-AT-START.
func cards(vm *simulator.VirtualMachine) []string {
	var words []string
	for _, device := range vm.Config.Hardware.Device {
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		own := card.GetVirtualEthernetCard()
		if own.Connectable != nil {
			words = append(words, fmt.Sprintf("%s,%v,%v", own.MacAddress, own.Connectable.Connected, own.Connectable.StartConnected))
		}
	}
	return words
}
